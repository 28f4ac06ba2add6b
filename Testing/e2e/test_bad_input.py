"""What a user can do wrong at the command line: one sentence on stderr, exit code 2, and nothing left behind.

Every case runs the real command line in a process of its own, with the real worker where it gets that far.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "Testing" / "plugins"

# The command line with a worker that also knows the misbehaving methods, or runs in another Python.
SPECIAL_WORKER = """
import functools, sys
sys.path.append({plugins!r})
import medgen.worker.local as local
local.LocalWorker = functools.partial(local.LocalWorker, python={python!r}, extra_paths=[{plugins!r}])
from medgen.cli import main
main()
"""


def medgen(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return _run([sys.executable, "-m", "medgen.cli", *map(str, arguments)], environment)


def medgen_with(python: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    code = SPECIAL_WORKER.format(plugins=str(PLUGINS), python=python)
    return _run([sys.executable, "-c", code, *map(str, arguments)], {})


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {**os.environ, "PYTHONPATH": str(ROOT / "models"), "COLUMNS": "200"}
    return subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL
    )


def volume(shape: tuple[int, ...] = (20, 24, 28), dtype: type = np.int16) -> sitk.Image:
    return sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, shape).astype(dtype))


def refused(done: subprocess.CompletedProcess[str], words: str, out: Path | None = None) -> None:
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.endswith("%)")]  # stages
    assert done.returncode == 2, done.stderr
    assert lines and words in lines[-1], done.stderr
    assert len(lines) == 1, f"one sentence is enough: {lines}"
    assert "Traceback" not in done.stderr
    assert not done.stdout.strip()
    if out is not None:
        assert not out.exists(), f"left behind: {list(out.rglob('*'))}"


def test_a_good_input_is_run_and_written_exactly(tmp_path: Path) -> None:
    image = volume()
    image.SetSpacing((0.9, 1.1, 2.5))
    image.SetOrigin((-10.0, 20.0, 5.0))
    sitk.WriteImage(image, str(tmp_path / "in.nrrd"))
    done = medgen("run", "identity", "-i", f"image={tmp_path / 'in.nrrd'}", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == ["image.nii.gz", "provenance.json"]
    back = sitk.ReadImage(str(tmp_path / "out" / "image.nii.gz"))
    assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(image)).all()
    assert np.allclose(back.GetSpacing(), image.GetSpacing()) and np.allclose(back.GetOrigin(), image.GetOrigin())
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["method"] == "identity"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"image.nii.gz", "provenance.json"}
    again = medgen("run", "identity", "-i", f"image={tmp_path / 'in.nrrd'}", "-o", tmp_path / "out")
    refused(again, "holds an earlier result")
    replaced = medgen("run", "identity", "-i", f"image={tmp_path / 'in.nrrd'}", "-o", tmp_path / "out", "--overwrite")
    assert replaced.returncode == 0, replaced.stderr


def _bad_image(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.nii.gz"
    if kind == "unreadable":
        path.write_bytes(b"\x1f\x8b not an image at all")
    elif kind == "no_image":
        path = folder / "notes.docx"
        path.write_text("hello")
    elif kind == "no_dicom":
        path = folder / "empty folder"
        path.mkdir()
    elif kind == "one_voxel":
        sitk.WriteImage(volume((1, 1, 1)), str(path))
    elif kind == "empty":
        path = folder / "empty.nii"
        path.write_bytes(b"")
    elif kind == "nan":
        values = sitk.GetArrayFromImage(volume(dtype=np.float32))
        values[3, 4, 5] = np.nan
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    elif kind == "infinite":
        values = sitk.GetArrayFromImage(volume(dtype=np.float32))
        values[3, 4, 5] = np.inf
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    elif kind == "4d":
        sitk.WriteImage(sitk.JoinSeries([volume(), volume()]), str(path))
    elif kind == "2d":
        path = folder / "flat.png"
        sitk.WriteImage(volume((20, 24), np.uint8), str(path))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "There is no file"),
        ("unreadable", "cannot be read as an image"),
        ("no_image", "is no image file that MedGen reads"),
        ("no_dicom", "no DICOM image"),
        ("empty", "cannot be read as an image"),
        ("one_voxel", "has only one voxel"),
        ("nan", "contains NaN or infinite values"),
        ("infinite", "contains NaN or infinite values"),
        ("4d", "is 4D; 3D is needed"),
        ("2d", "is 2D; 3D is needed"),
    ],
)
def test_bad_images(kind: str, words: str, tmp_path: Path) -> None:
    done = medgen("run", "identity", "-i", f"image={_bad_image(kind, tmp_path)}", "-o", tmp_path / "out")
    refused(done, words, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "-i", "image={good}"], "There is no method 'nothing'"),
        (["identity", "-i", "image={good}", "-p", "sconds=1"], "has no parameter 'sconds' (it has: seconds)"),
        (["identity", "-i", "image={good}", "-p", "seconds=-1"], "must be a number from 0 to 3600 s"),
        (["identity", "-i", "image={good}", "-p", "seconds=many"], "must be a number from 0 to 3600 s"),
        (["identity", "-i", "picture={good}"], "has no input 'picture'"),
        (["identity", "-i", "{good}"], "as NAME=VALUE"),
        (["identity"], "Input 'image' (Image) is missing"),
        (["identity", "-i", "image={good}", "-i", "image={good}"], "is given twice"),
        (["identity", "-i", "image={good}", "--device", "cuda:9"], "cuda:9"),
        (["multiplanar_unet", "-i", "image={good}", "--weights", "lost.safetensors"], "are missing"),
    ],
)
def test_bad_words(arguments: list[str], words: str, tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "good.nrrd"))
    filled = [text.format(good=tmp_path / "good.nrrd") for text in arguments]
    refused_after_doubts(medgen("run", *filled, "-o", tmp_path / "out"), words, tmp_path / "out")


def refused_after_doubts(done: subprocess.CompletedProcess[str], words: str, out: Path) -> None:
    """As `refused`, but the method may have voiced its doubts about the input before."""
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("Doubtful:"))
    refused(done, words, out)


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    done = medgen("run", "identity", "-i", "image=nowhere.nii", "-o", tmp_path / "out", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and done.stderr.rstrip().endswith("There is no file or folder 'nowhere.nii'.")


def test_wrong_usage_exits_with_2_too() -> None:
    assert medgen("run").returncode == 2
    assert medgen("fly").returncode == 2


def test_a_ct_is_not_taken_for_an_mr(tmp_path: Path) -> None:
    ct = sitk.GetImageFromArray(np.where(np.indices((30, 30, 30)).sum(0) < 40, -1000, 40).astype(np.int16))
    ct.SetSpacing((6, 6, 6))
    sitk.WriteImage(ct, str(tmp_path / "ct.nii.gz"))
    done = medgen("run", "multiplanar_unet", "-i", f"image={tmp_path / 'ct.nii.gz'}", "-o", tmp_path / "out")
    refused(done, "must be MR, but its values are a CT's", tmp_path / "out")


def test_the_dicom_header_tells_the_modality(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(3):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.PatientID, data.InstanceNumber = "US", "test", index + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, index], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], 1
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PixelData = np.arange(64, dtype=np.uint16).tobytes()
        data.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    done = medgen("run", "multiplanar_unet", "-i", f"image={folder}", "-o", tmp_path / "out")
    refused(done, "must be MR, but its header says US", tmp_path / "out")


def test_inputs_that_lie_apart(tmp_path: Path) -> None:
    image, painted = volume(), sitk.Cast(volume() > 800, sitk.sitkUInt8)
    painted.SetOrigin((500.0, 0.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "image.nrrd"))
    sitk.WriteImage(painted, str(tmp_path / "painted.nrrd"))
    (tmp_path / "planes.json").write_text(json.dumps([{"origin": [0, 0, 5], "normal": [0, 0, 1]}]))
    given = [f"{name}={tmp_path / file}" for name, file in
             (("image", "image.nrrd"), ("painted", "painted.nrrd"), ("planes", "planes.json"))]  # fmt: skip
    done = medgen("run", "multiplanar_unet_few_planes", *(x for g in given for x in ("-i", g)), "-o", tmp_path / "out")
    refused(done, "does not overlap", tmp_path / "out")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "good.nrrd"))
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        refused(medgen("run", "identity", "-i", f"image={tmp_path / 'good.nrrd'}", "-o", out), "cannot be written to")
    assert (tmp_path / "file").read_text() == "in the way"


def test_full_disk(tmp_path: Path) -> None:
    """A file system of 300 kB, where the compressed result needs more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    sitk.WriteImage(volume((80, 80, 80)), str(tmp_path / "good.nrrd"))
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        done = medgen("run", "identity", "-i", f"image={tmp_path / 'good.nrrd'}", "-o", disk / "out")
        left = list(disk.rglob("*"))
    finally:
        subprocess.run(["umount", disk], check=True)
    done.stderr = "\n".join(x for x in done.stderr.splitlines() if not x.startswith(("** ERROR", "MetaImage")))  # ITK's
    refused(done, "is full: nothing was written")
    assert not left


def test_weights_with_a_wrong_hash(tmp_path: Path) -> None:
    folder = tmp_path / "Weights" / "multiplanar_unet"
    folder.mkdir(parents=True)
    (folder / "own.safetensors").write_bytes(b"not what the card says")
    (folder / "card.json").write_text(json.dumps({"files": {"own.safetensors": {"sha256": "0" * 64}}}))
    sitk.WriteImage(volume((40, 40, 40)), str(tmp_path / "good.nrrd"))
    command = ("run", "multiplanar_unet", "-i", f"image={tmp_path / 'good.nrrd'}", "--weights", "own.safetensors")
    done = medgen(*command, "-o", tmp_path / "out", MEDGEN_DATA=str(tmp_path))
    refused_after_doubts(done, "wrong SHA-256", tmp_path / "out")


def test_a_worker_without_its_packages(tmp_path: Path) -> None:
    """A Python with nothing installed, as after a set-up that broke off."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    sitk.WriteImage(volume(), str(tmp_path / "good.nrrd"))
    command = ("run", "identity", "-i", f"image={tmp_path / 'good.nrrd'}", "-o", tmp_path / "out")
    refused(medgen_with(str(tmp_path / "bare" / "bin" / "python"), *command), "run 'medgen setup'", tmp_path / "out")


def test_a_package_that_only_the_method_needs_is_missing(tmp_path: Path) -> None:
    done = medgen_with(sys.executable, "run", "faulty", "-p", "fault=missing_package", "-o", tmp_path / "out")
    refused(done, "lacks the package 'a_package_that_nobody_has'", tmp_path / "out")


def test_a_worker_of_another_version(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\necho \'{"v": 0, "type": "ready", "info": {}}\'\nsleep 60\n')
    old.chmod(0o755)
    sitk.WriteImage(volume(), str(tmp_path / "good.nrrd"))
    command = ("run", "identity", "-i", f"image={tmp_path / 'good.nrrd'}", "-o", tmp_path / "out")
    refused(medgen_with(str(old), *command), "of different versions", tmp_path / "out")


def test_a_failure_inside_a_method_exits_with_1_and_leaves_nothing(tmp_path: Path) -> None:
    done = medgen_with(sys.executable, "run", "faulty", "-p", "fault=segfault", "-o", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
