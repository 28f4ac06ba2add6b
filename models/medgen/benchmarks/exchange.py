"""Are exported objects conformant, and do other programs read back what was written? On twelve geometries.

Needs the Debian packages dicom3tools (dciodvfy), dcmtk and plastimatch, and dcmqi from PyPI; says which are missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from scipy import ndimage

from medgen.benchmarks import exchange_sources as sources
from medgen.exchange import rtstruct, seg, series
from medgen.exchange.grid import corners
from medgen.exchange.reading import Series, read_dicom_folder
from medgen.spec import Code, Label, Terminology

TOOLS = ("dciodvfy", "dcmdump", "plastimatch", "segimage2itkimage")
PROVENANCE = {"method": "bench", "method_version": "1", "weights_sha256": "0f" * 32, "seed": 3, "device": "cpu"}


def _coded(value: str, meaning: str) -> Terminology:
    return Terminology(Code("SCT", "123037004", "Anatomical Structure"), Code("SCT", value, meaning))


LABELS = (
    Label(1, "Shell", (220, 80, 60), _coded("64033007", "Kidney")),
    Label(2, "Islands", (80, 200, 90), _coded("181216001", "Lung")),
    Label(7, "Bead", (60, 90, 220), Terminology(Code("SCT", "49755003", "Morphologically Altered Structure"),
                                               Code("SCT", "4147007", "Mass"))),
)  # fmt: skip


def tool(name: str) -> str | None:
    """Where a program is: on the path, or beside this Python."""
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if beside.exists() else None)


def missing_tools() -> list[str]:
    return [name for name in TOOLS if tool(name) is None]


def _call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool(name) or name, *map(str, arguments)], capture_output=True, text=True, errors="replace")


def phantom(image: sitk.Image) -> sitk.Image:
    """Label map on the image's grid: a shell around a cavity, two islands, a sphere of 4 mm."""
    size = np.array(image.GetSize())
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist()))
    indices = np.indices(image.GetSize()[::-1])[::-1].reshape(3, -1).T
    axes = np.reshape(image.GetDirection(), (3, 3))
    points = np.array(image.GetOrigin()) + (indices * image.GetSpacing()) @ axes.T
    # offsets along the image's own axes, so that every geometry holds the whole phantom
    local = (points - middle) @ axes

    def ball(offset: tuple[float, float, float], diameter: float) -> np.ndarray:
        return ((local - offset) ** 2).sum(1) <= (diameter / 2) ** 2

    values = np.zeros(len(points), np.uint8)
    values[ball((-12, 0, 0), 34) & ~ball((-12, 0, 0), 13)] = 1
    values[ball((17, -14, 0), 15) | ball((17, 14, 0), 15)] = 2
    bead = local[np.abs(local - (16, 0, 0)).sum(1).argmin()]
    values[ball(tuple(bead), 4.0)] = 7
    made = sitk.GetImageFromArray(values.reshape(image.GetSize()[::-1]))
    made.CopyInformation(image)
    return made


@dataclass
class Tally:
    """What the bench counts over all sources."""

    objects: int = 0
    dicom_errors: int = 0
    error_lines: list[str] = field(default_factory=list)
    seg_differing_voxels: int = 0
    dice_over_1ml: list[float] = field(default_factory=list)
    dice_bead: list[float] = field(default_factory=list)
    shapes_changed: list[str] = field(default_factory=list)
    ct_hu_error: float = 0.0
    ct_geometry_error_mm: float = 0.0
    ct_uid_faults: int = 0
    worst: dict[str, float] = field(default_factory=dict)

    def conform(self, path: Path) -> None:
        """Counts what dciodvfy calls an error."""
        done = _call("dciodvfy", path)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        self.objects += 1
        self.dicom_errors += len(errors) + (0 if path.exists() else 1)
        self.error_lines += [f"{path.parent.name}/{path.name}: {line}" for line in errors][:3]


# ----------------------------------------------------------------------------------------------------------------- SEG


def _frames_by_pydicom(path: Path, image: sitk.Image) -> dict[int, np.ndarray]:
    """{segment number: mask on the image's grid}, from the bare attributes."""
    data = pydicom.dcmread(path)
    stored = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    found = {item.SegmentNumber: np.zeros(image.GetSize()[::-1], stored.dtype) for item in data.SegmentSequence}
    for plane, group in zip(stored, data.PerFrameFunctionalGroupsSequence, strict=True):
        place = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        k = image.TransformPhysicalPointToIndex(place)[2]
        # one segment only: its number may stand among what all frames share
        holder = group if "SegmentIdentificationSequence" in group else data.SharedFunctionalGroupsSequence[0]
        found[holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber][k] = plane
    return found


def _frames_by_highdicom(path: Path, image: sitk.Image) -> dict[int, np.ndarray]:
    data = hd.seg.segread(path)
    found = {}
    for number in data.segment_numbers:
        mask = np.zeros(image.GetSize()[::-1], np.uint8)
        volume = data.get_volume(segment_numbers=[number], allow_missing_positions=True)
        array = volume.array[..., 0] if volume.array.ndim == 4 else volume.array
        for index, plane in enumerate(array):
            place = volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0]
            mask[image.TransformPhysicalPointToIndex(place.tolist())[2]] = plane
        found[number] = mask
    return found


def _frames_by_dcmqi(path: Path, image: sitk.Image) -> dict[int, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        _call("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd")
        found = {}
        for file in Path(folder).glob("*.nrrd"):
            part = sitk.Resample(sitk.ReadImage(str(file)), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
            found[int(file.stem.split("-")[-1])] = sitk.GetArrayFromImage(part)
    return found


def _check_seg(source: Series, labelmap: sitk.Image, folder: Path, tally: Tally) -> None:
    path = seg.export_seg(labelmap, LABELS, source, folder / "seg.dcm", PROVENANCE)
    tally.conform(path)
    array = sitk.GetArrayFromImage(labelmap)
    for read in (_frames_by_pydicom, _frames_by_highdicom, _frames_by_dcmqi):
        found = read(path, labelmap)
        for number, label in enumerate(LABELS, 1):
            mask = found.get(number, np.zeros_like(array))
            tally.seg_differing_voxels += int(((mask > 0) != (array == label.value)).sum())
    soft = sitk.Cast(labelmap == 1, sitk.sitkFloat32)
    soft = sitk.SmoothingRecursiveGaussian(soft, 1.0) if min(labelmap.GetSize()) > 3 else soft * 0.6
    soft = sitk.Clamp(soft, sitk.sitkFloat32, 0, 1)
    path = seg.export_seg(soft, LABELS[:1], source, folder / "fractional.dcm", PROVENANCE, edited=True)
    tally.conform(path)
    stored = _frames_by_pydicom(path, soft)[1] / 255
    tally.seg_differing_voxels += int((np.abs(stored - sitk.GetArrayFromImage(soft)) > 0.51 / 255).sum())


# ------------------------------------------------------------------------------------------------------------ RTSTRUCT


def _plastimatch_grid(path: Path, labelmap: sitk.Image, source: Series) -> sitk.Image:
    """Where plastimatch fills the contours: the source's grid if its slices hold them, else axial planes half as far
    apart as the source's smallest voxel edge."""
    planes, note = rtstruct.axial_planes(source, labelmap)
    if not note and source.follows_slices and np.allclose(np.abs(labelmap.GetDirection()), np.eye(3).ravel()):
        return labelmap
    ends = corners(labelmap)
    heights = np.array([plane.z for plane in planes])
    step = min(labelmap.GetSpacing()) / 2
    gap = float(np.diff(heights).min()) if len(heights) > 1 else 1.0
    size = [int(np.ptp(ends[:, a]) / step) + 3 for a in (0, 1)]
    grid = sitk.Image([*size, round(float(np.ptp(heights)) / gap) + 1], sitk.sitkUInt8)
    grid.SetOrigin([float(ends[:, 0].min()) - step, float(ends[:, 1].min()) - step, float(heights.min())])
    grid.SetSpacing([step, step, gap])
    return grid


def _masks_by_plastimatch(path: Path, labelmap: sitk.Image, source: Series, folder: Path) -> dict[str, np.ndarray]:
    grid = _plastimatch_grid(path, labelmap, source)
    # plastimatch fills along the axes of the patient: an image with turned axes is filled on its unturned copy
    plain = sitk.DICOMOrient(grid, "LPS")
    sitk.WriteImage(sitk.Cast(plain, sitk.sitkUInt8), str(folder / "grid.nrrd"))
    _call("plastimatch", "convert", "--input", path, "--fixed", folder / "grid.nrrd", "--output-prefix",
          folder / "masks", "--prefix-format", "nrrd")  # fmt: skip
    found = {}
    for file in (folder / "masks").glob("*.nrrd"):
        mask = sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkFloat32)
        level = sitk.Resample(mask, labelmap, sitk.Transform(), sitk.sitkLinear, 0.0)
        found[file.stem] = sitk.GetArrayFromImage(level) >= 0.5
    return found


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def _parts(mask: np.ndarray) -> tuple[int, int]:
    """Number of islands and of cavities."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1))) if mask.shape[0] == 1 else np.pad(mask, 1)
    return ndimage.label(padded)[1], ndimage.label(~padded)[1] - 1


def _slices_with_contours(labelmap: sitk.Image, source: Series) -> np.ndarray:
    """Which slices of the label map to compare: all, or those that an uneven reference has."""
    planes, note = rtstruct.axial_planes(source, labelmap)
    heights = np.array([labelmap.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in range(labelmap.GetSize()[2])])
    if note:
        return np.ones(len(heights), bool)
    return np.abs(heights[:, None] - [plane.z for plane in planes]).min(1) < 0.01


def _check_rtstruct(source: Series, labelmap: sitk.Image, folder: Path, tally: Tally) -> None:
    path = folder / "rtstruct.dcm"
    rtstruct.export_rtstruct(labelmap, LABELS, source, path, PROVENANCE)
    tally.conform(path)
    found = _masks_by_plastimatch(path, labelmap, source, folder)
    kept = _slices_with_contours(labelmap, source)
    array, voxel_ml = sitk.GetArrayFromImage(labelmap), float(np.prod(labelmap.GetSpacing())) / 1000
    for label in LABELS:
        truth = (array == label.value)[kept]
        mask = found.get(label.name, np.zeros(array.shape, bool))[kept]
        value = dice(mask, truth)
        tally.worst[f"{folder.name} {label.name}"] = round(value, 4)
        if label.name == "Bead":
            tally.dice_bead.append(value)
            continue
        if truth.sum() * voxel_ml > 1:
            tally.dice_over_1ml.append(value)
        if _parts(mask) != _parts(truth):
            tally.shapes_changed.append(f"{folder.name}: {label.name} {_parts(truth)} became {_parts(mask)}")


# ------------------------------------------------------------------------------------------------------------------ CT


def _check_ct(source: Series, folder: Path, tally: Tally) -> None:
    image = source.image
    assert isinstance(image, sitk.Image)
    sharp = sitk.Cast(image, sitk.sitkFloat32) + 0.3  # not whole: the stored step is 1 HU
    files = series.export_ct(sharp, source, folder / "ct", PROVENANCE)
    for file in files[:: max(1, len(files) // 3)]:
        tally.conform(file)
    names = [str(file) for file in files]
    back = sitk.ReadImage(names if len(names) > 1 else names[0])
    truth = np.rint(sitk.GetArrayFromImage(sharp))
    tally.ct_hu_error = max(tally.ct_hu_error, float(np.abs(sitk.GetArrayFromImage(back) - truth).max()))
    ends = [(0, 0, 0), tuple(n - 1 for n in image.GetSize())]
    for end in ends:
        gap = np.subtract(back.TransformIndexToPhysicalPoint(end), image.TransformIndexToPhysicalPoint(end))
        tally.ct_geometry_error_mm = max(tally.ct_geometry_error_mm, float(np.abs(gap).max()))
    _check_uids(files, source, tally)
    _check_raw_pixels(files[0], truth[0], folder, tally)
    spr = sitk.Cast(image, sitk.sitkFloat32) * 0.0005 + 1
    for file in series.export_ct(spr, source, folder / "spr", PROVENANCE, unit="SPR")[:2]:
        tally.conform(file)
    tally.conform(series.export_parametric_map(spr, source, folder / "map.dcm", PROVENANCE))


def _check_uids(files: list[Path], source: Series, tally: Tally) -> None:
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    instances = {h.SOPInstanceUID for h in headers} | {h.file_meta.MediaStorageSOPInstanceUID for h in headers}
    tally.ct_uid_faults += int(len(instances) != len(files)) + len(instances & set(source.instance_uids))
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        tally.ct_uid_faults += int(len({h[keyword].value for h in headers}) != 1)
    tally.ct_uid_faults += int(headers[0].StudyInstanceUID != source.study_uid)
    tally.ct_uid_faults += int(headers[0].SeriesInstanceUID == source.uid)
    tally.ct_uid_faults += int(headers[0].FrameOfReferenceUID != source.frame_of_reference_uid)


def _check_raw_pixels(file: Path, truth: np.ndarray, folder: Path, tally: Tally) -> None:
    """dcmtk's own parser writes the stored values of one slice."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    done = _call("dcmdump", "+W", raw, file)
    line = next(line for line in done.stdout.splitlines() if line.startswith("(0028,1052)"))
    intercept = float(line.split("[")[1].split("]")[0])
    stored = np.fromfile(next(raw.iterdir()), "<u2")
    tally.ct_hu_error = max(tally.ct_hu_error, float(np.abs(stored.reshape(truth.shape) + intercept - truth).max()))


# ----------------------------------------------------------------------------------------------------------- ultrasound


def _check_pictures(folder: Path, tally: Tally) -> None:
    kinds: dict[str, dict[str, Any]] = {"still": {}, "cine": {"frames": 4}, "colour": {"frames": 3, "colour": True}}
    for name, options in kinds.items():
        pixels = sources.write_ultrasound(folder / name / "source.dcm", **options)
        [source] = read_dicom_folder(folder / name)
        for kind in ("us", "capture"):
            source.modality = "US" if kind == "us" else "OT"
            path = series.export_picture(source.image, source, folder / name / f"{kind}.dcm", PROVENANCE)
            tally.conform(path)
            back = pydicom.dcmread(path).pixel_array.reshape(pixels.shape)
            tally.seg_differing_voxels += int((back != pixels).sum())


# ----------------------------------------------------------------------------------------------------------------- run


def _left_handed(image: sitk.Image) -> sitk.Image:
    made = sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[::-1])
    made.SetSpacing(image.GetSpacing())
    made.SetOrigin(image.TransformIndexToPhysicalPoint((0, 0, image.GetSize()[2] - 1)))
    made.SetDirection((np.reshape(image.GetDirection(), (3, 3)) @ np.diag([1, 1, -1])).ravel().tolist())
    return made


def measure(geometries: tuple[sources.Geometry, ...], report: Callable[[str], None] = lambda _: None) -> Tally:
    """Exports every kind of object from each source into a temporary folder and reads it back."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as temporary:
        for geometry in geometries:
            report(geometry.name)
            folder = Path(temporary) / geometry.name
            [source] = read_dicom_folder(sources.write_source(geometry, folder / "source"))
            assert isinstance(source.image, sitk.Image)
            labelmap = phantom(source.image)
            if geometry.name == "flipped":  # as other programs give it: the same voxels on a left-handed grid
                labelmap = _left_handed(labelmap)
            _check_seg(source, labelmap, folder, tally)
            _check_rtstruct(source, labelmap, folder, tally)
            _check_ct(source, folder, tally)
        _check_pictures(Path(temporary) / "pictures", tally)
    return tally


def run(quick: bool) -> dict[str, Any]:
    """quick: four geometries instead of twelve."""
    missing = missing_tools()
    if missing:
        return {"name": "exchange", "passed": False, "details": {"missing_tools": missing}}
    geometries = tuple(
        g for g in sources.GEOMETRIES if not quick or g.name in ("axial", "oblique", "flipped", "enhanced")
    )
    tally = measure(geometries)
    details = {
        "sources": len(geometries),
        "objects": tally.objects,
        "dicom_errors": tally.dicom_errors,
        "error_lines": sorted(set(tally.error_lines))[:20],
        "seg_differing_voxels": tally.seg_differing_voxels,
        "rtstruct_dice": min(tally.dice_over_1ml),
        "rtstruct_dice_4mm_sphere": min(tally.dice_bead),
        "rtstruct_shapes_changed": tally.shapes_changed,
        "rtstruct_dice_each": tally.worst,
        "ct_hu_error": tally.ct_hu_error,
        "ct_geometry_error_mm": tally.ct_geometry_error_mm,
        "ct_uid_faults": tally.ct_uid_faults,
    }
    passed = (
        tally.dicom_errors == 0
        and tally.seg_differing_voxels == 0
        and min(tally.dice_over_1ml) >= 0.99
        and min(tally.dice_bead) >= 0.95
        and not tally.shapes_changed
        and tally.ct_hu_error == 0
        and tally.ct_geometry_error_mm <= 1e-4
        and tally.ct_uid_faults == 0
    )
    return {"name": "exchange", "passed": passed, "details": details}
