"""What the way to a method and back costs: warm worker and shared memory, against a process per run and NIfTI files.

The baseline does what Slicer extensions do today: write the volume uncompressed, start a Python that imports torch and
MONAI, let it read the file and write the result, read that. Neither side computes anything.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.errors import MedGenError
from medgen.worker.client import JobRequest, WorkerReady
from medgen.worker.local import LocalWorker

SIZE = 256
RATIO_BAR = 40.0
OVERHEAD_BAR_SECONDS = 0.15
PROCESS_PER_RUN = """
import sys
for name in sys.argv[3:]:
    __import__(name)
import SimpleITK as sitk
sitk.WriteImage(sitk.ReadImage(sys.argv[1]), sys.argv[2], useCompression=False)
"""


def run(quick: bool) -> dict[str, Any]:
    """Medians of 15 warm runs and of 5 process-per-run runs of each kind (quick: 7 and 2)."""
    if importlib.util.find_spec("monai") is None:
        raise MedGenError("This bench needs MONAI as its baseline: pip install 'medgen[test]'.")
    voxels = np.random.default_rng(0).integers(-1024, 3071, (SIZE,) * 3).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    warm = _warm_seconds(image, 7 if quick else 15)
    repeats = 2 if quick else 5
    with_monai = _timed(lambda folder: _process_per_run(image, folder, "torch", "monai"), repeats)
    torch_only = _timed(lambda folder: _process_per_run(image, folder, "torch"), repeats)
    ratio = median(with_monai) / median(warm)
    return {
        "name": "roundtrip",
        "passed": ratio >= RATIO_BAR and median(warm) <= OVERHEAD_BAR_SECONDS,
        "details": {
            "ratio": ratio,
            "ratio_torch_only": median(torch_only) / median(warm),
            "overhead_seconds": median(warm),
            "overhead_seconds_range": [min(warm), max(warm)],
            "process_per_run_seconds": median(with_monai),
            "process_per_run_torch_only_seconds": median(torch_only),
            "bars": {"ratio": RATIO_BAR, "overhead_seconds": OVERHEAD_BAR_SECONDS},
        },
    }


def _warm_seconds(image: sitk.Image, repeats: int) -> list[float]:
    """From the request to the image in hand, in a worker that has PyTorch loaded. Every answer is compared."""
    sent = sitk.GetArrayViewFromImage(image)
    seconds = []
    with LocalWorker() as worker:
        worker.run(JobRequest("identity", {"image": image}))
        while not any(isinstance(event, WorkerReady) for event in worker.pump()):
            pass  # said a second time when PyTorch is loaded
        for _ in range(repeats):
            start = time.perf_counter()
            outputs, _ = worker.run(JobRequest("identity", {"image": image}))
            seconds.append(time.perf_counter() - start)
            if not np.array_equal(sitk.GetArrayViewFromImage(outputs["image"]), sent):
                raise MedGenError("The image came back changed.")
    return seconds


def _process_per_run(image: sitk.Image, folder: Path, *imports: str) -> None:
    there, back = str(folder / "in.nii"), str(folder / "out.nii")
    sitk.WriteImage(image, there, useCompression=False)
    subprocess.run([sys.executable, "-c", PROCESS_PER_RUN, there, back, *imports], check=True, capture_output=True)
    sitk.ReadImage(back)


def _timed(action: Callable[[Path], None], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            action(Path(folder))
            seconds.append(time.perf_counter() - start)
    return seconds
