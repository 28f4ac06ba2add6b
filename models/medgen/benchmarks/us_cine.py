"""A cine through the two ultrasound methods, in the worker as a panel runs it: how long it is silent, how soon it
ends after a cancel, and what memory a long cine leaves. The cine is the SonoSite one of the pydicom package. The issue
asks for progress, cancel and flat memory; the bars put that in numbers. (The worker joins reports that follow one
another fast, so fewer of them arrive than frames were done.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk

from medgen.errors import Cancelled
from medgen.imaging.geometry import from_array
from medgen.imaging.ultrasound import bounding_box, fan_mask, grey_frame
from medgen.training.ultrasound_frames import PYDICOM_FILES, pydicom_example
from medgen.worker.client import JobFinished, JobProgress, JobRequest
from medgen.worker.local import LocalWorker

FRAMES, LONG = 30, 500
CANCEL_AT = 0.5  # of the progress bar
GAP_BAR, CANCEL_BAR, MEMORY_BAR = 2.0, 2.0, 30.0  # seconds, seconds, MB
METHODS: dict[str, dict[str, Any]] = {
    "us_inpainting": {"samples": 1},
    "us_style_transfer": {"style": "map", "samples": 1, "size": "256"},
}


def run(quick: bool) -> dict[str, Any]:
    """quick: the long cine has 60 frames."""
    frames = _cine()
    details: dict[str, Any] = {}
    passed = True
    for method, parameters in METHODS.items():
        found = _measured(method, parameters, frames, 60 if quick else LONG)
        details |= {f"{method}: {name}": value for name, value in found.items()}
        passed &= (
            found["longest silence, s"] <= GAP_BAR
            and found["from cancel to end, s"] <= CANCEL_BAR
            and found["memory left beside the result, MB"] <= MEMORY_BAR
        )
    bars = f"silence {GAP_BAR} s, cancel {CANCEL_BAR} s, memory {MEMORY_BAR} MB"
    return {"name": "us_cine", "passed": bool(passed), "details": {**details, "bars": bars}}


def _cine() -> list[sitk.Image]:
    """The fan in grey, volumes of one slice as Slicer gives them."""
    found = [grey_frame(image) for image in pydicom_example(PYDICOM_FILES["pydicom SonoSite cine"])]
    box = bounding_box(fan_mask(found[0]))
    return [sitk.GetImageFromArray(np.rint(255 * grey[box]).astype(np.uint8)[None]) for grey in found]


def _request(method: str, parameters: dict[str, Any], frames: list[sitk.Image], count: int) -> JobRequest:
    inputs: dict[str, Any] = {"frames": [frames[i % len(frames)] for i in range(count)]}
    if method == "us_inpainting":
        columns, rows, _slices = frames[0].GetSize()
        mask = np.zeros((1, rows, columns), np.uint8)
        mask[:, rows // 2 - 10 : rows // 2 + 10, columns // 2 - 10 : columns // 2 + 10] = 1
        inputs["mask"] = from_array(mask, frames[0])
    return JobRequest(method, inputs, parameters, device="cpu")


@dataclass
class _Watch:
    """What a run's events say; asks the worker to cancel once the bar has reached `cancel_at`."""

    worker: LocalWorker
    cancel_at: float = 2.0
    started: float = field(default_factory=time.monotonic)
    times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    cancelled: float | None = None

    def __call__(self, event: Any) -> None:
        if not isinstance(event, (JobProgress, JobFinished)):
            return
        self.times.append(time.monotonic())
        if isinstance(event, JobFinished):
            return
        pid = self.worker.transport.pid
        assert pid is not None
        self.memory.append(psutil.Process(pid).memory_info().rss)
        if event.fraction >= self.cancel_at and self.cancelled is None:
            self.cancelled = time.monotonic()
            self.worker.client.cancel(event.job_id)


def _measured(method: str, parameters: dict[str, Any], frames: list[sitk.Image], long: int) -> dict[str, Any]:
    with LocalWorker() as worker:
        worker.run(_request(method, parameters, frames, 1))  # libraries and weights are loaded
        whole = _Watch(worker)
        worker.run(_request(method, parameters, frames, FRAMES), whole)
        cut = _Watch(worker, CANCEL_AT)
        try:
            worker.run(_request(method, parameters, frames, FRAMES), cut)
            waited = float("nan")  # it ended before the cancel reached it
        except Cancelled:
            assert cut.cancelled is not None
            waited = time.monotonic() - cut.cancelled
        lasting = _Watch(worker)
        outputs = worker.run(_request(method, parameters, frames, long), lasting)[0]
    size = sum(sitk.GetArrayViewFromImage(image).nbytes for image in _images(outputs))
    settled = len(lasting.memory) // 10  # the first frames fill caches
    grown = lasting.memory[-1] - lasting.memory[settled] - size * (1 - settled / len(lasting.memory))
    times = [whole.started, *whole.times]
    return {
        f"{FRAMES} frames, s": times[-1] - times[0],
        "progress reports": len(whole.times) - 1,
        "longest silence, s": max(b - a for a, b in zip(times, times[1:], strict=False)),
        "from cancel to end, s": waited,
        f"{long} frames, s": lasting.times[-1] - lasting.started,
        "memory left beside the result, MB": grown / 1e6,
    }


def _images(outputs: dict[str, Any]) -> list[sitk.Image]:
    values = [item for value in outputs.values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, sitk.Image)]
