"""`./medgen demo`: everything that it promises lies in the folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.demo import mni152_file, run_demo
from medgen.worker.jobs import Event, JobRequest

ROOT = Path(__file__).resolve().parents[2]
FILES = {"planes.png", "surfaces.png", "segmentation.nii.gz", "segmentation.seg.nrrd", "uncertainty.nii.gz",
         "volumes.csv", "provenance.json"}  # fmt: skip


class PlayedWorker:
    """Knows the answer: the atlas's own grey and white matter."""

    def run(self, request: JobRequest, on_event: Callable[[Event], None]) -> tuple[dict[str, Any], dict[str, Any]]:
        assert request.method_id == "multiplanar_unet"
        image = request.inputs["image"]
        white, grey = (sitk.ReadImage(str(mni152_file(kind))) > 127 for kind in ("wm", "gm"))
        marks = sitk.Cast(sitk.And(grey, sitk.Not(white)) * 2 + white, sitk.sitkUInt8)
        uncertain = sitk.Cast(image * 0, sitk.sitkFloat32)
        volumes = {"structure": ["Cerebral white matter"], "volume_ml": [500.0]}
        return {"segmentation": marks, "uncertainty": uncertain, "volumes": volumes}, {"method": request.method_id}


def check(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    marks, image = (sitk.ReadImage(str(p)) for p in (folder / "segmentation.nii.gz", mni152_file("t1")))
    assert marks.GetSize() == image.GetSize() and np.allclose(marks.GetOrigin(), image.GetOrigin())
    named = sitk.ReadImage(str(folder / "segmentation.seg.nrrd"))
    assert named.GetMetaData("Segment0_Name") == "Cerebral white matter"
    assert (sitk.GetArrayFromImage(named) == sitk.GetArrayFromImage(marks)).all()
    assert (folder / "volumes.csv").read_text().startswith("structure,volume_ml\n")
    for name in ("planes.png", "surfaces.png"):
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))).std() > 20, f"{name} is blank"


def test_everything_is_written_over_an_earlier_demo(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in FILES:
        (tmp_path / "out" / name).write_text("old")
    described = run_demo(tmp_path / "out", PlayedWorker(), lambda event: None)  # type: ignore[arg-type]
    assert {path.name for path in described} == FILES and all(described.values())
    check(tmp_path / "out")


@pytest.mark.slow
def test_the_command_does_it_with_the_real_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medgen.cli", "demo", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT / "models", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "planes.png" in done.stdout
    check(tmp_path / "out")
