"""Sliding-window segmentation of a head in air on the CPU, against MONAI's `SlidingWindowInferer`.

Both sides get the same network, volume, windows, overlap, Gaussian blending, one thread and the batch that is fastest
for the network, and both end with a label map. Each run is a fresh process, in turns; times are the best of each.
Processor seconds are given too: unlike the clock they do not count other programs. Memory is the highest resident size
above that of the process with libraries, volume and a warm network. Our time and memory include the foreground mask.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk

TIME_BAR, MEMORY_BAR, DIFFERENCE_BAR = 0.6, 0.5, 1e-4
CLASSES = 20
OVERLAP = 0.25  # MONAI's default
THREADS = 1


def run(quick: bool) -> dict[str, Any]:
    """256^3 voxels of 1 mm in windows of 32^3; quick: 128^3 of 2 mm, 16^3. Two runs of each side.

    What is saved hangs on the window's size: `window_share_by_patch` tells how much of the work is left for others.
    """
    patch = 16 if quick else 32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_volume(folder / "volume.nii", 2.0 if quick else 1.0)
        compared = _in_new_process("compare", folder, patch, 0)
        runs: dict[str, list[dict[str, float]]] = {"medgen": [], "monai": []}
        for _ in range(2):
            for side, results in runs.items():
                results.append(_in_new_process(side, folder, patch, compared["batch"]))
    seconds = {side: min(r["seconds"] for r in results) for side, results in runs.items()}
    cpu = {side: min(r["cpu_seconds"] for r in results) for side, results in runs.items()}
    extra = {side: max(r["extra_bytes"] for r in results) for side, results in runs.items()}
    time_ratio, memory_ratio = seconds["medgen"] / seconds["monai"], extra["medgen"] / extra["monai"]
    return {
        "name": "sliding_window",
        "passed": time_ratio <= TIME_BAR
        and memory_ratio <= MEMORY_BAR
        and compared["max_difference"] <= DIFFERENCE_BAR,
        "details": {
            "time_ratio": time_ratio,
            "memory_ratio": memory_ratio,
            "seconds": seconds["medgen"],
            "monai_seconds": seconds["monai"],
            "cpu_time_ratio": cpu["medgen"] / cpu["monai"],
            "cpu_seconds": cpu["medgen"],
            "monai_cpu_seconds": cpu["monai"],
            "all_seconds": {side: [r["seconds"] for r in results] for side, results in runs.items()},
            "extra_mb": extra["medgen"] / 2**20,
            "monai_extra_mb": extra["monai"] / 2**20,
            **compared,
            "patch": patch,
            "overlap": OVERLAP,
            "classes": CLASSES,
            "threads": THREADS,
            "bars": {"time_ratio": TIME_BAR, "memory_ratio": MEMORY_BAR, "max_difference": DIFFERENCE_BAR},
        },
    }


def _make_volume(path: Path, spacing_mm: float) -> None:
    """The analytic head, as T1, amid a cube of 256 mm of noisy air."""
    from medgen.imaging.geometry import pad
    from medgen.imaging.phantoms import analytic_head, render_mr

    rng = np.random.default_rng(0)
    labels = analytic_head(rng, spacing_mm)
    missing = [round(256 / spacing_mm) - n for n in labels.GetSize()]
    cube = pad(labels, [n // 2 for n in missing], [n - n // 2 for n in missing])
    sitk.WriteImage(render_mr(cube, "T1", rng), str(path))


def _in_new_process(task: str, folder: Path, patch: int, batch: int) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, task, str(folder / "volume.nii"), str(patch), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------- inside the fresh processes


class _Task:
    """What both sides start from, warm: image, volume [1, z, y, x], network."""

    def __init__(self, path: str, patch: int, batch: int) -> None:
        import torch
        from monai.networks.nets import UNet

        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.patch, self.batch = (patch,) * 3, batch
        self.network = UNet(3, 1, CLASSES, (16, 32, 64, 128), (2, 2, 2), num_res_units=1).eval()
        self.image = sitk.ReadImage(path)
        self.volume = torch.from_numpy(sitk.GetArrayFromImage(self.image))[None]
        self.predict(max(1, batch))

    def predict(self, batch: int) -> Any:
        import torch

        with torch.no_grad():
            return self.network(torch.zeros(batch, 1, *self.patch))

    def foreground(self) -> Any:
        import torch

        from medgen.imaging.foreground import foreground_mask

        return torch.from_numpy(sitk.GetArrayFromImage(foreground_mask(self.image)) > 0)

    def medgen(self, reduce: Any, foreground: Any, progress: Any = None) -> Any:
        from medgen.imaging.sliding_window import sliding_window

        return sliding_window(
            self.volume, self.network, self.patch, OVERLAP,
            batch=self.batch, foreground=foreground, reduce=reduce, progress=progress,
        )  # fmt: skip

    def monai(self) -> Any:
        import torch
        from monai.inferers import SlidingWindowInferer

        with torch.no_grad():
            return SlidingWindowInferer(self.patch, self.batch, OVERLAP, mode="gaussian")(
                self.volume[None], self.network
            )[0]


def _measured(segment: Any) -> dict[str, float]:
    before, start, cpu_start = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    segment()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "extra_bytes": peak - before}


def _best_batch(task: _Task) -> int:
    """Of 1, 2 and 4, the batch that takes least time for each window; the best of five tries."""

    def seconds(batch: int) -> float:
        start = time.perf_counter()
        task.predict(batch)
        return (time.perf_counter() - start) / batch

    return min((1, 2, 4), key=lambda batch: min(seconds(batch) for _ in range(5)))


def _compared(task: _Task) -> dict[str, Any]:
    """Largest difference of the blended scores, and the share of equal labels, in the foreground; windows run."""
    import torch

    fractions: list[float] = []
    inside = task.foreground()
    ours, theirs = task.medgen("logits", inside, fractions.append), task.monai()
    same = (ours.argmax(0) == theirs.argmax(0))[inside].float().mean()
    difference = max(float((a - b)[inside].abs().max()) for a, b in zip(ours, theirs, strict=True))
    return {
        "batch": task.batch,
        "max_difference": difference,
        "equal_labels": float(same),
        "foreground_share": float(inside.float().mean()),
        "window_share_by_patch": {n: _window_share(inside, n) for n in (16, 24, 32, 48, 64, 96)},
        "size": list(inside.shape),
        "torch": torch.__version__,
    }


def _window_share(inside: Any, patch: int) -> float:
    """Part of all windows that hold foreground: the time ratio that skipping alone gives."""
    import itertools

    from medgen.imaging.sliding_window import window_starts

    starts = list(itertools.product(*(window_starts(n, patch, OVERLAP) for n in inside.shape)))
    return sum(bool(inside[tuple(slice(s, s + patch) for s in start)].any()) for start in starts) / len(starts)


def _main(name: str, path: str, patch: str, batch: str) -> dict[str, Any]:
    import medgen.imaging.foreground
    import medgen.imaging.sliding_window  # noqa: F401 (loaded before the clock starts, as MONAI is)

    task = _Task(path, int(patch), int(batch))
    if name == "compare":
        task.batch = _best_batch(task)
        return _compared(task)
    if name == "medgen":
        return _measured(lambda: task.medgen("argmax", task.foreground()))
    import monai.inferers  # noqa: F401
    import torch

    return _measured(lambda: task.monai().argmax(0).to(torch.uint8))


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
