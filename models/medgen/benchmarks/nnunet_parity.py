"""Does an imported nnU-Net v2 give what nnU-Net's own predictor gives, in less time and memory?

Toy models of every configuration, trained for a few steps by nnU-Net's trainer (extra `parity`); one phantom at twice
the networks' resolution. Both sides get the same arrays and one thread. Time and memory are of fresh processes with a
large case, once for a 2D and once for a 3D network; the sides take turns, the smallest of three counts, and the ratios
are those of the network that fares worse.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from medgen.benchmarks.nnunet_models import make_results, phantom

SHAPE, SPACING = (32, 160, 152), (1.3, 0.5, 0.55)  # several windows along each axis, also in 2D
COST_SHAPE, COST_SPACING = (96, 256, 256), (1.0, 0.5, 0.5)
COST_KINDS, COST_RUNS = ("2d", "thick_slices_transposed"), 3
KINDS: dict[str, dict[str, Any]] = {
    "2d": {"configuration": "2d"},
    "thick_slices_transposed": {"configuration": "3d_thick", "transpose": (1, 0, 2)},
    "fullres_2_folds_2_channels": {"configuration": "3d_fullres", "channels": 2, "folds": 2},
    "lowres_regions": {"configuration": "3d_lowres", "regions": True},
    "cascade": {"configuration": "3d_cascade_fullres"},
}


def _images(array: np.ndarray, spacing: tuple[float, ...]) -> list[sitk.Image]:
    images = [sitk.GetImageFromArray(channel) for channel in array]
    for image in images:
        image.SetSpacing(spacing[::-1])
    return images


def _ours(folder: Path) -> tuple[Callable[[np.ndarray, tuple[float, ...], bool], np.ndarray], Any]:
    """Imports the folder; returns a function of an array, its spacing and whether to mirror."""
    from medgen.exchange.nnunet import run
    from medgen.exchange.nnunet_import import import_nnunet
    from medgen.method import Context
    from medgen.weights import checked_weights

    spec = import_nnunet(folder)
    context = Context(weights=checked_weights(spec.id, spec.weights[0])[0])

    def predict(array: np.ndarray, spacing: tuple[float, ...], mirror: bool) -> np.ndarray:
        inputs = {p.name: image for p, image in zip(spec.inputs, _images(array, spacing), strict=True)}
        outputs = run(inputs, spec.check_parameters({"mirroring": mirror}), context)
        return sitk.GetArrayFromImage(outputs["segmentation"])

    return predict, context.weights


def _predictor(folder: Path, mirror: bool) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=mirror)
        predictor.initialize_from_trained_model_folder(str(folder), None)
    return predictor


def _theirs(folder: Path, mirror: bool) -> Callable[[np.ndarray, tuple[float, ...]], np.ndarray]:
    """nnU-Net's predictor; before a cascade, the predictor of its first stage."""
    last, before = _predictor(folder, mirror), None
    previous = last.configuration_manager.previous_stage_name
    if previous:
        before = _predictor(folder.with_name(folder.name.rsplit("__", 1)[0] + f"__{previous}"), mirror)

    def predict(array: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        first = None
        with contextlib.redirect_stdout(io.StringIO()):
            if before is not None:
                first = before.predict_single_npy_array(array, {"spacing": list(spacing)})[None].astype(np.float32)
            return last.predict_single_npy_array(array, {"spacing": list(spacing)}, first)

    return predict


def _probability_gap(folder: Path, weights: Path, array: np.ndarray) -> float:
    """Largest difference of probabilities on the network's grid, mirrored; for one-stage models."""
    from medgen.exchange import nnunet
    from medgen.exchange.nnunet_case import prepare
    from medgen.method import Context

    predictor, model = _predictor(folder, True), nnunet.read_model(weights)
    stage = model["stages"][-1]
    with contextlib.redirect_stdout(io.StringIO()):
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        data, _, _ = preprocessor.run_case_npy(
            array, None, {"spacing": list(SPACING)}, predictor.plans_manager, predictor.configuration_manager,
            predictor.dataset_json,
        )  # fmt: skip
        theirs = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).float()
    case = prepare(array, SPACING, stage, model["transpose"])
    networks = [lambda fold=fold: nnunet._network(weights, model, 0, fold, "cpu") for fold in stage["folds"]]
    scores = nnunet.predict_scores(case.data, networks, stage, Context(), mirror=True, overlap=0.5)
    ours = torch.from_numpy(scores).float()
    if model["regions"]:
        return float((ours.sigmoid() - theirs.sigmoid()).abs().max())
    return float((ours.softmax(0) - theirs.softmax(0)).abs().max())


def _seconds(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU seconds of this process, which other processes on the machine do not change much, and the result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def _check(root: Path, name: str) -> dict[str, Any]:
    options = dict(KINDS[name])
    configuration, channels = options.pop("configuration"), options.get("channels", 1)
    if "cascade" in configuration:
        make_results(root / name, "3d_lowres", **options)
    folder = make_results(root / name, configuration, **options)
    predict, weights = _ours(folder)
    array = phantom(SHAPE, channels)
    theirs, their_plain = _theirs(folder, True), _theirs(folder, False)
    same = [predict(array, SPACING, False) == their_plain(array, SPACING)]  # warms both sides up, too
    ours_s, ours_labels = _seconds(lambda: predict(array, SPACING, True))
    theirs_s, their_labels = _seconds(lambda: theirs(array, SPACING))
    same.append(ours_labels == their_labels)
    return {
        "agreement": float(min(s.mean() for s in same)),
        "labels_present": np.unique(their_labels).tolist(),
        "probability_gap": None if "cascade" in configuration else _probability_gap(folder, weights, array),
        "seconds": round(ours_s, 3),
        "nnunet_seconds": round(theirs_s, 3),
        "time_ratio": round(ours_s / theirs_s, 3),
    }


def _cost_of(side: str, folder: Path) -> dict[str, float]:
    """Of a fresh process: CPU seconds of one prediction, and the highest resident memory above what was held before."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "medgen.benchmarks.nnunet_parity", side, str(folder)],
        env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _cost(root: Path, name: str, runs: int) -> dict[str, Any]:
    """The cheapest of several runs of each side, which take turns, so that a busy machine is busy for both."""
    folder = next((root / name).glob("*/nnUNetTrainer*"))
    measured: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(runs):
        for side, runs_of_side in measured.items():
            runs_of_side.append(_cost_of(side, folder))
    best = {side: {key: min(run[key] for run in of) for key in of[0]} for side, of in measured.items()}
    return {
        **best,
        "time_ratio": round(best["ours"]["seconds"] / best["theirs"]["seconds"], 3),
        "memory_ratio": round(best["ours"]["peak_mb"] / best["theirs"]["peak_mb"], 3),
    }


def _status_mb(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key + ":"))
    return int(line.split()[1]) / 1024


def measure_cost(side: str, folder: Path) -> dict[str, float]:
    """One mirrored prediction of a case of clinical size (Linux: the peak is read from /proc)."""
    torch.set_num_threads(1)
    array = phantom(COST_SHAPE, 1)
    if side == "ours":
        ours = _ours(folder)[0]
        predict = lambda: ours(array, COST_SPACING, True)  # noqa: E731
    else:
        theirs = _theirs(folder, True)
        predict = lambda: theirs(array, COST_SPACING)  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status_mb("VmRSS")
    seconds, _ = _seconds(predict)
    return {"seconds": round(seconds, 2), "peak_mb": round(_status_mb("VmHWM") - before, 1)}


def run(quick: bool) -> dict[str, Any]:
    """quick: two configurations instead of five, and each side's cost from one run instead of three."""
    if importlib.util.find_spec("nnunetv2") is None:
        return {
            "name": "nnunet_parity",
            "passed": False,
            "details": {"missing": "the package nnunetv2 (extra 'parity')"},
        }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    kept = os.environ.get("MEDGEN_DATA")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            os.environ["MEDGEN_DATA"] = str(root / "data")
            names = COST_KINDS if quick else tuple(KINDS)
            each = {name: _check(root, name) for name in names}
            cost = {name: _cost(root, name, 1 if quick else COST_RUNS) for name in COST_KINDS}
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("MEDGEN_DATA") if kept is None else os.environ.update(MEDGEN_DATA=kept)
    details = {
        "agreement": min(e["agreement"] for e in each.values()),
        "probability_gap": max(e["probability_gap"] or 0.0 for e in each.values()),
        "time_ratio": max(c["time_ratio"] for c in cost.values()),
        "memory_ratio": max(c["memory_ratio"] for c in cost.values()),
        "cost_of_a_large_case": cost,
        "each": each,
    }
    passed = (
        details["agreement"] >= 0.9999
        and details["probability_gap"] <= 1e-4
        and details["time_ratio"] <= 0.7
        and details["memory_ratio"] <= 0.6
    )
    return {"name": "nnunet_parity", "passed": passed, "details": details}


if __name__ == "__main__":
    print(json.dumps(measure_cost(sys.argv[1], Path(sys.argv[2]))))
