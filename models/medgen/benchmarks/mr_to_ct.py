"""Synthetic CT of a whole head on the CPU: how long and how much memory, and against MONAI's `SlidingWindowInferer`.

The head is an analytic one, T1, in a cube of 256 mm of noisy air. 'seconds' and 'peak_gb' are of a whole run in a fresh
process with two threads (or OMP_NUM_THREADS), bias correction and all. Against MONAI: the starter weights, the same
z-scores on the same grid and windows as large, overlap 0.5, Gaussian blending; MONAI goes over the whole volume with
the network as it comes (float32, PyTorch's default layout), as its users do; 'monai_tuned' gives it our layout and
number format. Each once, after a window to warm up; clock and processor seconds, since other programs disturb the
clock. 'time_ratio' is of both in a plain environment, 'time_ratio_in_worker' of ours in that of the worker in which
users run it (its memory settings halve the time) to MONAI's in the plain one. The mean difference is over the head;
'rounding_hu' is that of the two number formats in MONAI's own hands.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.worker.processes import worker_environment

SECONDS_BAR, PEAK_BAR_GB, TIME_BAR, DIFFERENCE_BAR_HU = 90.0, 3.0, 0.5, 1.0
PIECE, AIR_VOXELS = (144, 96, 96), 16  # of 1 mm: two windows
THREADS = int(os.environ.get("OMP_NUM_THREADS", 2))


def run(quick: bool) -> dict[str, Any]:
    """quick: a piece of that head, where only the time against MONAI and the difference say something."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "head.nii"
        _make_volume(path, quick)
        worker, plain = worker_environment(os.environ), dict(os.environ)
        whole = _in_new_process("whole", path, worker)
        ours = _in_new_process("medgen", path, worker)
        theirs = _in_new_process("compare", path, plain)
    ratio = theirs["seconds"]["medgen"] / theirs["seconds"]["monai"]
    return {
        "name": "mr_to_ct",
        "passed": whole["seconds"] <= SECONDS_BAR
        and whole["peak_gb"] <= PEAK_BAR_GB
        and ratio <= TIME_BAR
        and theirs["mean_difference_hu"] <= DIFFERENCE_BAR_HU,
        "details": {
            **whole,
            "time_ratio": ratio,
            "time_ratio_in_worker": ours["seconds"] / theirs["seconds"]["monai"],
            "cpu_time_ratio": theirs["cpu_seconds"]["medgen"] / theirs["cpu_seconds"]["monai"],
            "medgen_in_worker_seconds": ours["seconds"],
            **{f"{side}_seconds": value for side, value in theirs["seconds"].items()},
            "mean_difference_hu": theirs["mean_difference_hu"],
            "rounding_hu": theirs["rounding_hu"],
            "threads": THREADS,
            "bars": {
                "seconds": SECONDS_BAR,
                "peak_gb": PEAK_BAR_GB,
                "time_ratio": TIME_BAR,
                "mean_difference_hu": DIFFERENCE_BAR_HU,
            },
        },
    }


def _make_volume(path: Path, quick: bool) -> None:
    from medgen.imaging.geometry import pad
    from medgen.imaging.phantoms import analytic_head, render_mr

    rng = np.random.default_rng(0)
    labels = analytic_head(rng, 1.0)
    missing = [256 - n for n in labels.GetSize()]
    cube = pad(labels, [n // 2 for n in missing], [n - n // 2 for n in missing])
    sitk.WriteImage(render_mr(_piece(cube) if quick else cube, "T1", rng), str(path))


def _piece(labels: sitk.Image) -> sitk.Image:
    """PIECE voxels at the side of the head: air, skin, skull and brain."""
    middle = [n // 2 for n in labels.GetSize()]
    skin = int(np.argmax(sitk.GetArrayViewFromImage(labels)[middle[2], middle[1]] != 0))
    start = [skin - AIR_VOXELS, middle[1] - PIECE[1] // 2, middle[2] - PIECE[2] // 2]
    return sitk.RegionOfInterest(labels, PIECE, start)


def _in_new_process(task: str, path: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, task, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------- inside the fresh processes


def _context() -> Any:
    from medgen.method import Context
    from medgen.methods.frequency_mr_to_ct.spec import FREQUENCY
    from medgen.weights import checked_weights

    return Context(weights=checked_weights(FREQUENCY.id, FREQUENCY.weights[0])[0])


def _timed(task: Callable[[], Any]) -> tuple[float, float, Any]:
    start, cpu_start = time.perf_counter(), time.process_time()
    result = task()
    return time.perf_counter() - start, time.process_time() - cpu_start, result


def _whole(path: str) -> dict[str, Any]:
    from medgen.methods.frequency_mr_to_ct.infer import run as synthesise
    from medgen.methods.frequency_mr_to_ct.spec import FREQUENCY

    image = sitk.ReadImage(path)
    seconds, cpu, _ = _timed(lambda: synthesise({"mr": image}, FREQUENCY.check_parameters({}), _context()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"size": list(image.GetSize()), "seconds": seconds, "cpu_seconds": cpu, "peak_gb": peak / 2**30}


def _warm_up(network: Any, side: int) -> None:
    import torch

    from medgen.nets.half_precision import half_precision

    with torch.no_grad(), half_precision("cpu"):
        network(torch.zeros(1, 1, side, side, side).contiguous(memory_format=torch.channels_last_3d))


def _prepared(path: str) -> Any:
    from medgen.imaging.head_preparation import prepare_head
    from medgen.methods.frequency_mr_to_ct.loss import SPACING_MM

    return prepare_head(sitk.ReadImage(path), None, SPACING_MM, remove_bias=False, cut=False)


def _ours(path: str) -> dict[str, Any]:
    from medgen.methods.frequency_mr_to_ct.infer import load_network, predict
    from medgen.methods.frequency_mr_to_ct.spec import FREQUENCY

    head, context = _prepared(path), _context()
    network, parameters = load_network(context), FREQUENCY.check_parameters({})
    _warm_up(network, int(parameters["patch"]))
    seconds, cpu, _ = _timed(lambda: predict(head, network, parameters, context))
    return {"seconds": seconds, "cpu_seconds": cpu}


def _compare(path: str) -> dict[str, Any]:
    import torch
    from monai.inferers import SlidingWindowInferer

    from medgen.imaging.geometry import to_array
    from medgen.methods.frequency_mr_to_ct.infer import load_network, predict
    from medgen.methods.frequency_mr_to_ct.loss import LOWEST_HU, RANGE_HU
    from medgen.methods.frequency_mr_to_ct.spec import FREQUENCY
    from medgen.nets.half_precision import half_precision

    context, parameters = _context(), FREQUENCY.check_parameters({})
    head = _prepared(path)
    mask, volume = to_array(head.mask) != 0, torch.from_numpy(to_array(head.image))[None, None]
    tuned = load_network(context)
    plain = load_network(_context()).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inferer = SlidingWindowInferer((int(parameters["patch"]),) * 3, 1, float(parameters["overlap"]), mode="gaussian")

    def ours() -> Any:
        return predict(head, tuned, parameters, context)["ct"]

    def monai(network: Any, half: bool) -> Any:
        def forward(windows: torch.Tensor) -> torch.Tensor:
            if not half:
                return network(windows).ct
            with half_precision(windows.device):
                return network(windows.contiguous(memory_format=torch.channels_last_3d)).ct

        with torch.no_grad():
            scores: Any = inferer(volume, forward)
            return (scores[0, 0].clamp(0, 1) * RANGE_HU + LOWEST_HU).numpy()

    sides = {"medgen": ours, "monai": lambda: monai(plain, False), "monai_tuned": lambda: monai(tuned, True)}
    _warm_up(tuned, int(parameters["patch"]))
    results = {side: _timed(task) for side, task in sides.items()}

    def apart(one: str, other: str) -> float:
        return float(np.abs(results[one][2] - results[other][2])[mask].mean())

    return {
        "seconds": {side: found[0] for side, found in results.items()},
        "cpu_seconds": {side: found[1] for side, found in results.items()},
        "mean_difference_hu": apart("medgen", "monai"),
        "rounding_hu": apart("monai_tuned", "monai"),
    }


def _main(task: str, path: str) -> dict[str, Any]:
    import torch

    torch.set_num_threads(THREADS)
    return {"whole": _whole, "medgen": _ours, "compare": _compare}[task](path)


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
