"""DICOM sources made by code: twelve geometries of CT and MR, ultrasound stills and cines."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    JPEG2000Lossless,
    MRImageStorage,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from medgen.exchange import dataset

Axes = tuple[tuple[float, float, float], tuple[float, float, float]]
AXIAL: Axes = ((1, 0, 0), (0, 1, 0))
SAGITTAL: Axes = ((0, 1, 0), (0, 0, -1))
CORONAL: Axes = ((1, 0, 0), (0, 0, -1))
COS, SIN = float(np.cos(np.radians(15))), float(np.sin(np.radians(15)))


@dataclass(frozen=True)
class Geometry:
    """size: columns, rows, slices; spacing_mm: along a row, along a column, between slices; tilt_mm: shift along a
    column from slice to slice; heights: places of the slices in units of the spacing, evenly where empty."""

    name: str
    size: tuple[int, int, int] = (64, 60, 36)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.5)
    axes: Axes = AXIAL
    modality: str = "CT"
    tilt_mm: float = 0.0
    heights: tuple[float, ...] = ()
    enhanced: bool = False

    @property
    def positions(self) -> np.ndarray:
        """[slices, 3], LPS mm."""
        axes = np.array(self.axes)
        steps = np.array(self.heights or range(self.size[2])) * self.spacing_mm[2]
        normal = np.cross(*axes)
        shifts = np.arange(self.size[2]) * self.tilt_mm
        return np.array([-31.7, 22.3, -114.6]) + steps[:, None] * normal + shifts[:, None] * axes[1]


def _oblique() -> Axes:
    a, b, c = np.radians((12, -9, 23))
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned = (x @ y @ z).T
    return tuple(turned[0]), tuple(turned[1])  # type: ignore[return-value]


GEOMETRIES = (
    Geometry("axial"),
    Geometry("sagittal", axes=SAGITTAL, modality="MR"),
    Geometry("coronal", axes=CORONAL, modality="MR"),
    Geometry("oblique", axes=_oblique(), spacing_mm=(1.0, 1.0, 1.2), modality="MR"),
    Geometry("anisotropic", size=(90, 84, 16), spacing_mm=(0.7, 0.7, 3.5)),
    Geometry("flipped", axes=((-1, 0, 0), (0, 1, 0))),
    Geometry("gantry_tilt", axes=((1, 0, 0), (0, COS, SIN)), tilt_mm=1.5 * SIN / COS),
    Geometry("variable_spacing", size=(64, 60, 30), heights=tuple(float(n) for n in (*range(16), *range(16, 44, 2)))),
    Geometry("enhanced", enhanced=True),
    Geometry("single_slice", size=(64, 60, 1), spacing_mm=(1.0, 1.0, 3.0)),
    Geometry("large_pixel", size=(24, 20, 14), spacing_mm=(5.0, 5.0, 5.0)),
    Geometry("non_square", size=(80, 46, 36), spacing_mm=(0.8, 1.3, 1.5)),
)


def _patient() -> Dataset:
    made = Dataset()
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Phantom^Ada", "P-17", "19700101", "F"
    made.StudyInstanceUID, made.StudyDate, made.StudyTime = dataset.new_uid(), "20260102", "101500"
    made.StudyID, made.AccessionNumber, made.ReferringPhysicianName = "1", "A1", ""
    return made


def voxels(geometry: Geometry) -> np.ndarray:
    """int16, axes k, j, i: air, a body and a dense core, no two slices alike."""
    k, j, i = np.indices(geometry.size[::-1])
    x, y = (i / geometry.size[0] - 0.5), (j / geometry.size[1] - 0.5)
    values = np.where(x**2 + y**2 < 0.16, 40, -1000)
    values = np.where(x**2 + (y - 0.1) ** 2 < 0.01, 900, values)
    return (values + k + i % 3).astype(np.int16)


def write_source(geometry: Geometry, folder: Path, patient: Dataset | None = None) -> Path:
    """Writes the series and returns its folder. patient: to share a study with another series."""
    patient, array = patient or _patient(), voxels(geometry)
    series_uid, frame_uid = dataset.new_uid(), dataset.new_uid()
    slices = []
    for k, (plane, position) in enumerate(zip(array, geometry.positions, strict=True)):
        sop_class = CTImageStorage if geometry.modality == "CT" else MRImageStorage
        made = dataset.new_object(patient, sop_class, geometry.modality, series_uid, 3, f"phantom {geometry.name}")
        made.InstanceNumber, made.FrameOfReferenceUID, made.PositionReferenceIndicator = k + 1, frame_uid, ""
        made.PatientPosition, made.AcquisitionNumber = "HFS", 1
        made.ImageType = (
            ["ORIGINAL", "PRIMARY", "AXIAL"] if geometry.modality == "CT" else ["ORIGINAL", "PRIMARY", "OTHER"]
        )
        made.ImagePositionPatient = [dataset.decimal(v) for v in position]
        made.ImageOrientationPatient = [dataset.decimal(v) for axis in geometry.axes for v in axis]
        made.PixelSpacing = [dataset.decimal(geometry.spacing_mm[1]), dataset.decimal(geometry.spacing_mm[0])]
        made.SliceThickness, made.SamplesPerPixel = dataset.decimal(geometry.spacing_mm[2]), 1
        made.PhotometricInterpretation = "MONOCHROME2"
        made.Rows, made.Columns = plane.shape
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        made.KVP, made.Laterality = "120", ""
        if geometry.modality == "CT":
            made.RescaleSlope, made.RescaleIntercept, made.RescaleType = "1", "-24", "HU"
            plane = plane + 24
        made.PixelData = plane.astype("<i2").tobytes()
        slices.append(made)
    if geometry.enhanced:
        for made in slices:
            made.file_meta = dataset.file_meta(made)
        dataset.save(_enhanced(slices), folder / "enhanced.dcm")
        return folder
    for k in np.random.default_rng(0).permutation(len(slices)):  # on disk in no order
        dataset.save(slices[k], folder / f"{k:03d}.dcm")
    return folder


def _enhanced(slices: list[Dataset]) -> Dataset:
    return hd.legacy.LegacyConvertedEnhancedCTImage(
        slices, dataset.new_uid(), 3, dataset.new_uid(), 1, series_description="phantom enhanced"
    )


def write_ultrasound(path: Path, frames: int = 1, colour: bool = False, compress: str = "") -> np.ndarray:
    """Writes a still or a cine with calibrated pixels (0.2 by 0.3 mm). compress: '', or the transfer syntax RLELossless
    or JPEG2000Lossless.

    Returns the pixels, uint8 [frames, rows, columns(, RGB)].
    """
    rows, columns = 48, 64
    t, j, i = np.indices((frames, rows, columns))
    grey = (128 + 80 * np.sin(i / 9 + t) * np.cos(j / 7)).astype(np.uint8)
    pixels = np.stack([grey, 255 - grey, grey // 2], -1) if colour else grey
    sop_class = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
    made = dataset.new_object(_patient(), sop_class, "US", dataset.new_uid(), 5, "phantom ultrasound")
    made.InstanceNumber, made.ImageType, made.Laterality = 1, ["ORIGINAL", "PRIMARY"], ""
    made.PatientOrientation = ""
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 1, rows - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    made.SequenceOfUltrasoundRegions = [region]
    if frames > 1:
        made.NumberOfFrames, made.FrameTime, made.FrameIncrementPointer = frames, "40", 0x00181063
    dataset.set_bytes(made, pixels)
    dataset.save(made, path)
    if compress == RLELossless:
        stored = pydicom.dcmread(path)
        stored.compress(RLELossless)
        stored.save_as(path)
    elif compress == JPEG2000Lossless:
        _compress_jpeg2000(path, pixels)
    return pixels


def _compress_jpeg2000(path: Path, pixels: np.ndarray) -> None:
    stored, frames = pydicom.dcmread(path), []
    for frame in pixels:
        stream = BytesIO()
        Image.fromarray(frame).save(stream, "JPEG2000", irreversible=False, no_jp2=True, mct=int(pixels.ndim == 4))
        frames.append(stream.getvalue())
    stored.PixelData = encapsulate(frames)
    stored["PixelData"].is_undefined_length = True
    stored.file_meta.TransferSyntaxUID = JPEG2000Lossless
    if pixels.ndim == 4:
        stored.PhotometricInterpretation = "YBR_RCT"
    stored.save_as(path)
