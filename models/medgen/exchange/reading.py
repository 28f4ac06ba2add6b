"""DICOM files to images with exact geometry: classic and enhanced, tilted gantries, uneven slices, pictures, cines.

Headers are read at once, pixels when `Series.image` is first asked for. Geometry: DICOM PS3.3 C.7.6.2 (image plane) and
C.7.6.16 (functional groups); ultrasound calibration C.8.5.5. Coordinates are LPS mm, as in SimpleITK.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset

from medgen.errors import BadInput
from medgen.exchange.stack import Stack, level_slices, stack_of

NOT_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "FID", "RWV"}
# What tells several volumes in one series apart, tried in this order where slices share a position.
TELLS_VOLUMES_APART = (
    "TemporalPositionIndex", "TemporalPositionIdentifier", "EchoTime", "EffectiveEchoTime", "DiffusionBValue",
    "AcquisitionNumber", "TriggerTime", "ImageType", "FrameType", "StackID", "AcquisitionTime",
)  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One plane. position: LPS mm of the first pixel's centre; axes: 2x3, direction along a row, then along a column;
    spacing_mm: along a row (between columns), then along a column. position and axes are None outside patient space."""

    header: Dataset
    index: int
    position: np.ndarray | None
    axes: np.ndarray | None
    spacing_mm: tuple[float, float] | None
    groups: tuple[Dataset, ...] = ()

    def find(self, keyword: str) -> Any:
        """An attribute of this frame: from its functional groups, or from the file's header; None if absent."""
        for group in self.groups:
            if keyword in group:
                return group[keyword].value
        return self.header.get(keyword)


@dataclass
class Series:
    """One image of a DICOM series: a volume, a picture, or a cine (`image` is then a list of 2D images).

    headers: of each file (no pixels), in the order of the slices; notes: what the user should know, one sentence each;
    follows_slices: False where the grid of `image` is not that of the files (tilted gantry, variable spacing).
    """

    uid: str
    modality: str
    description: str
    frames: list[Frame]
    stack: Stack | None
    notes: list[str] = field(default_factory=list)

    @property
    def headers(self) -> list[Dataset]:
        return list({id(frame.header): frame.header for frame in self.frames}.values())

    @property
    def first(self) -> Dataset:
        return self.frames[0].header

    @property
    def instance_uids(self) -> list[str]:
        return [str(header.SOPInstanceUID) for header in self.headers]

    @property
    def study_uid(self) -> str:
        return str(self.first.get("StudyInstanceUID", ""))

    @property
    def patient_id(self) -> str:
        return str(self.first.get("PatientID") or "")

    @property
    def frame_of_reference_uid(self) -> str:
        return str(self.first.get("FrameOfReferenceUID") or "")

    @property
    def follows_slices(self) -> bool:
        return self.stack is None or self.stack.is_regular

    @cached_property
    def image(self) -> sitk.Image | list[sitk.Image]:
        """Values are after rescale (HU for CT). int16 or int32 where they are whole numbers, else float32; colour is
        RGB uint8. Raises BadInput when the pixels cannot be decoded."""
        with _damage_named():
            pixels = _pixels(self.frames)
        if self.stack is None:
            pictures = [_picture(plane, self.frames[0]) for plane in pixels]
            return pictures if len(pictures) > 1 else pictures[0]
        image = sitk.GetImageFromArray(level_slices(pixels, self.stack), isVector=pixels.ndim == 4)
        self.stack.set_geometry(image)
        return image


# ------------------------------------------------------------------------------------------------------------- headers


def _headers(paths: Iterable[Path]) -> list[Dataset]:
    found: list[Dataset] = []
    for path in paths:
        try:
            # files without the 128-byte preamble are DICOM too, but only when they name a SOP class
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            usable = "SOPClassUID" in header and "Rows" in header and int(header.Rows) * int(header.Columns) > 0
            if usable and str(header.get("Modality")) not in NOT_IMAGES:
                found.append(header)
        except Exception:  # pydicom raises many kinds for damaged files; a folder often holds other files too
            continue
    return found


def _once(headers: Sequence[Dataset]) -> list[Dataset]:
    """Without the copies of a file, which would make a second volume. A UID alone does not tell: some anonymisers give
    all slices the same."""
    seen: dict[str, Dataset] = {}
    kept = []
    for header in headers:
        twin = seen.setdefault(str(header.get("SOPInstanceUID")), header)
        if twin is header or not filecmp.cmp(str(twin.filename), str(header.filename), shallow=False):
            kept.append(header)
    return kept


def _numbers(value: Any, count: int) -> np.ndarray | None:
    if value is None or len(value) != count:
        return None
    numbers = np.array([float(v) for v in value])
    return numbers if np.isfinite(numbers).all() else None


def _frames(header: Dataset) -> list[Frame]:
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    per_frame = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    count = max(1, int(header.get("NumberOfFrames") or 1))
    if count > 1 and not per_frame:
        return [Frame(header, index, None, None, None) for index in range(count)]
    return [_frame(header, index, [*per_frame[index : index + 1], *shared]) for index in range(count)]


def _frame(header: Dataset, index: int, groups: Sequence[Dataset]) -> Frame:
    items = tuple(element.value[0] for group in groups for element in group if element.VR == "SQ" and element.value)
    frame = Frame(header, index, None, None, None, items)
    position = _numbers(frame.find("ImagePositionPatient"), 3)
    cosines = _numbers(frame.find("ImageOrientationPatient"), 6)
    between = _numbers(frame.find("PixelSpacing"), 2)  # between rows, then between columns
    spacing = (float(between[1]), float(between[0])) if between is not None and (between > 0).all() else None
    axes = cosines.reshape(2, 3) if cosines is not None else None
    if position is None or axes is None or spacing is None or not _are_axes(axes):
        return Frame(header, index, None, None, spacing, items)
    return Frame(header, index, position, axes, spacing, items)


def _are_axes(axes: np.ndarray) -> bool:
    return bool(np.allclose(axes @ axes.T, np.eye(2), atol=1e-3))


# --------------------------------------------------------------------------------------------------------- into volumes


def _same_grid(frame: Frame) -> tuple[Any, ...]:
    """Frames with the same key can lie in one volume."""
    header = frame.header
    axes = tuple(np.round(frame.axes, 3).ravel() + 0.0) if frame.axes is not None else None
    size = (int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel", 1)))
    return (size, axes, tuple(round(s, 5) for s in frame.spacing_mm or ()))


def _split(frames: Sequence[Frame], key: Callable[[Frame], Any]) -> list[list[Frame]]:
    groups: dict[Any, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return list(groups.values())


def _place(frame: Frame) -> float:
    assert frame.position is not None and frame.axes is not None
    return float(np.cross(*frame.axes) @ frame.position)


def _one_place_once(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Splits frames that share positions (echoes, time points, b-values) into volumes."""

    def repeats(group: Sequence[Frame]) -> bool:
        return len({round(_place(f), 3) for f in group}) < len(group)

    if not repeats(frames):
        return [list(frames)]
    for keyword in TELLS_VOLUMES_APART:
        groups = _split(frames, lambda frame, word=keyword: str(frame.find(word)))  # type: ignore[misc]
        if len(groups) > 1 and not any(map(repeats, groups)):
            return groups
    seen: dict[float, int] = {}

    def turn(frame: Frame) -> int:
        place = round(_place(frame), 3)
        seen[place] = seen.get(place, -1) + 1
        return seen[place]

    return _split(frames, turn)


def _volumes(frames: Sequence[Frame]) -> list[list[Frame]]:
    volumes = []
    for group in _split(frames, _same_grid):
        if group[0].position is None:
            volumes.append(group)
        else:
            volumes.extend(_one_place_once(group))
    return volumes


def _series(frames: list[Frame], part: int, parts: int) -> Series:
    first = frames[0].header
    description = str(first.get("SeriesDescription") or "") + (f" ({part} of {parts})" if parts > 1 else "")
    if frames[0].position is None:
        stack, notes = None, _picture_notes(frames[0])
    else:
        frames = sorted(frames, key=_place)
        gap = frames[0].find("SpacingBetweenSlices") or frames[0].find("SliceThickness") or 1.0
        stack = stack_of(
            np.array([f.position for f in frames]), np.asarray(frames[0].axes), frames[0].spacing_mm or (1, 1),
            (int(first.Columns), int(first.Rows)), abs(float(gap)) or 1.0,
        )  # fmt: skip
        notes = stack.notes
    return Series(
        str(first.get("SeriesInstanceUID", "")), str(first.get("Modality", "")), description, frames, stack, notes
    )


@contextmanager
def _damage_named() -> Iterator[None]:
    """pydicom looks into an element when it is first asked for, and raises many kinds for a damaged one."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError, OverflowError) as error:
        raise BadInput(f"A DICOM file here is damaged: its header cannot be used ({error}).") from error


def read_dicom_files(paths: Iterable[Path]) -> list[Series]:
    """Every image in the files, sorted by series number; files that hold no image are passed over. Raises BadInput
    where there is none."""
    found: list[Series] = []
    with _damage_named():
        headers = sorted(
            _once(_headers(paths)), key=lambda h: (_whole(h.get("SeriesNumber")), _whole(h.get("InstanceNumber")))
        )
        for files in _split([f for h in headers for f in _frames(h)], lambda f: str(f.header.get("SeriesInstanceUID"))):
            volumes = _volumes(files)
            found.extend(_series(frames, part + 1, len(volumes)) for part, frames in enumerate(volumes))
    if not found:
        raise BadInput("There is no DICOM image here that can be read.")
    return found


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def read_dicom_folder(folder: Path) -> list[Series]:
    """Every image under a folder (or in one file). Raises BadInput."""
    if not folder.exists():
        raise BadInput(f"There is no folder '{folder}'.")
    if folder.is_file():
        return read_dicom_files([folder])
    files = sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names if name != "DICOMDIR")
    return read_dicom_files(files)


def read_series(path: Path) -> tuple[sitk.Image, str]:
    """The only image of a folder or file, and its modality; a cine's frames lie along the last axis. Raises
    BadInput."""
    found = read_dicom_folder(path)
    if len(found) > 1:
        names = ", ".join(f"'{series.description or series.uid}'" for series in found[:6])
        raise BadInput(f"'{path}' holds {len(found)} images ({names}); give a folder with one series.")
    image = found[0].image
    return (sitk.JoinSeries(image) if isinstance(image, list) else image), found[0].modality


# --------------------------------------------------------------------------------------------------------------- pixels


def _decode(header: Dataset) -> np.ndarray:
    """Stored values of a whole file: frames, rows, columns (, RGB)."""
    try:
        data = pydicom.dcmread(str(header.filename), force=True)
        array = data.pixel_array  # YBR becomes RGB in here
        if str(header.PhotometricInterpretation) == "PALETTE COLOR":
            colour = pydicom.pixels.apply_color_lut(array, data)
            array = (colour >> 8).astype(np.uint8) if colour.dtype == np.uint16 else colour
    except Exception as error:  # each decoder raises its own kinds
        name = Path(str(header.filename)).name
        raise BadInput(f"The pixels of '{name}' cannot be decoded: the file is damaged or unusual.") from error
    colour_axes = 1 if int(header.get("SamplesPerPixel", 1)) > 1 or array.shape[-1:] == (3,) else 0
    return array if array.ndim == 3 + colour_axes else array[np.newaxis]


def _pixels(frames: Sequence[Frame]) -> np.ndarray:
    """Values after rescale, in the order of the frames; a file with several frames is decoded once."""
    planes: list[Any] = [None] * len(frames)
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(id(frame.header), []).append(place)
    for file in places.values():
        data = _decode(frames[file[0]].header)
        for place in file:
            if frames[place].index >= len(data):
                raise BadInput("A DICOM file here is damaged: it holds fewer frames than its header says.")
            planes[place] = _rescaled(data[frames[place].index], frames[place])
    if len({plane.shape for plane in planes}) > 1:
        raise BadInput("A DICOM file here is damaged: its pictures differ in size.")
    kind = np.result_type(*planes)
    return np.stack([plane.astype(kind, copy=False) for plane in planes])


def _rescaled(plane: np.ndarray, frame: Frame) -> np.ndarray:
    if plane.ndim == 3:
        return np.asarray(plane, np.uint8)
    if str(frame.find("PhotometricInterpretation")) == "MONOCHROME1":  # large is dark: turned, so that large is bright
        plane = (2 ** int(frame.header.BitsStored) - 1) - plane.astype(np.int32)
    slope, intercept = frame.find("RescaleSlope"), frame.find("RescaleIntercept")
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    if (slope, intercept) == (1, 0) and plane.dtype.itemsize <= 2:
        return plane
    values = plane.astype(np.float64) * slope + intercept
    if not (slope.is_integer() and intercept.is_integer()):
        return values.astype(np.float32)
    return values.astype(np.int16 if abs(values).max(initial=0) < 2**15 - 1 else np.int32)


# ------------------------------------------------------------------------------------------------------ pictures, cines


def _calibration(frame: Frame) -> tuple[float, float] | None:
    """Pixel spacing in mm along a row and along a column: the largest 2D ultrasound region, else the pixel spacing."""
    regions = [
        region
        for region in frame.header.get("SequenceOfUltrasoundRegions") or []
        if region.get("PhysicalUnitsXDirection") == 3 and region.get("PhysicalUnitsYDirection") == 3  # 3 means cm
    ]
    if regions:
        best = max(regions, key=lambda r: (r.RegionLocationMaxX1 - r.RegionLocationMinX0) * r.RegionLocationMaxY1)
        spacing = (abs(float(best.PhysicalDeltaX)) * 10, abs(float(best.PhysicalDeltaY)) * 10)
        return spacing if all(spacing) else None
    if frame.spacing_mm:
        return frame.spacing_mm
    between = _numbers(frame.find("ImagerPixelSpacing"), 2)
    return (float(between[1]), float(between[0])) if between is not None and (between > 0).all() else None


def _picture_notes(frame: Frame) -> list[str]:
    if _calibration(frame) is None:
        return ["The file does not say how large a pixel is; lengths are in pixels."]
    return []


def _picture(plane: np.ndarray, frame: Frame) -> sitk.Image:
    image = sitk.GetImageFromArray(plane, isVector=plane.ndim == 3)
    image.SetSpacing(_calibration(frame) or (1.0, 1.0))
    return image
