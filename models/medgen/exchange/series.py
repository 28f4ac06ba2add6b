"""Generated images as DICOM: CT series (HU or stopping power), parametric maps, ultrasound, captures.

Each carries the source's patient and study, new UIDs, ImageType DERIVED, and words that say it is synthetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

import medgen
from medgen.errors import MedGenError
from medgen.exchange import dataset, preflight
from medgen.exchange.grid import corners, is_axial
from medgen.exchange.reading import Series
from medgen.exchange.seg import code, planes_of, refer_to, reference_to, reference_to_frame
from medgen.spec import Code

SAME_PLACE_MM = 0.01
# what a copied ultrasound header must not keep: pixels, private parts, and what described another encoding of them
ABOUT_PIXELS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "SmallestImagePixelValue",
                "LargestImagePixelValue", "IconImageSequence")  # fmt: skip


def to_axial(image: sitk.Image, outside: float) -> sitk.Image:
    """The same volume on axial slices with its smallest spacing, linear between voxels; `outside` beyond its box."""
    if is_axial(image):
        return image
    ends = corners(image)
    step = min(image.GetSpacing())
    size = np.ceil(np.ptp(ends, axis=0) / step).astype(int) + 1
    grid = sitk.Image(size.tolist(), image.GetPixelID())
    grid.SetOrigin(ends.min(0).tolist())
    grid.SetSpacing([step] * 3)
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, outside)


# ------------------------------------------------------------------------------------------------------------ CT series


@dataclass(frozen=True)
class Scale:
    """How stopping power (SPR, water 1) is written: value = factor * (SPR - zero), in steps of a thousandth of SPR."""

    words: str
    factor: float
    zero: float
    window: tuple[str, str]  # centre and width; of SPR 0.5 to 1.5


SCALES = {
    "spr": Scale("SPR, water = 1", 1.0, 0.0, ("1", "1")),
    "times": Scale("1000 x SPR, water = 1000", 1000.0, 0.0, ("1000", "1000")),
    "relative": Scale("1000 x (SPR - 1), water = 0", 1000.0, 1.0, ("0", "1000")),
}
HU = Scale("HU", 1.0, 0.0, ("40", "400"))


def _stored(image: sitk.Image, scale: Scale) -> tuple[np.ndarray, float, float, int]:
    """Stored values (uint16), slope, intercept and the number of values that had to be cut off."""
    step = 1.0 if scale is HU else 0.001
    values = np.rint(sitk.GetArrayFromImage(image).astype(np.float64) / step)
    lowest = min(-1024.0 if scale is HU else 0.0, float(values.min()))
    values -= lowest
    intercept = scale.factor * (lowest * step - scale.zero)
    cut = int((values > 65535).sum())
    return np.clip(values, 0, 65535).astype(np.uint16), step * scale.factor, intercept, cut


def _ct_slice(made: Dataset, image: sitk.Image, k: int, pixels: np.ndarray) -> None:
    axes, spacing = np.reshape(image.GetDirection(), (3, 3)).T, image.GetSpacing()
    place = image.TransformIndexToPhysicalPoint((0, 0, k))
    made.InstanceNumber = k + 1
    made.ImagePositionPatient = [dataset.decimal(v) for v in place]
    made.ImageOrientationPatient = [dataset.decimal(v) for v in (*axes[0], *axes[1])]
    made.PixelSpacing, made.SliceThickness = (
        [dataset.decimal(spacing[1]), dataset.decimal(spacing[0])],
        dataset.decimal(spacing[2]),
    )
    made.SpacingBetweenSlices, made.SliceLocation = (
        dataset.decimal(spacing[2]),
        dataset.decimal(float(np.dot(axes[2], place))),
    )
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()


def export_ct(
    image: sitk.Image,
    reference: Series,
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    unit: Literal["HU", "SPR"] = "HU",
    scale: Literal["spr", "times", "relative"] = "spr",
    axial: bool = False,
    new_frame_of_reference: bool = False,
    inputs: Sequence[Series] = (),
    description: str = "",
) -> list[Path]:
    """Writes a synthetic volume as one CT file a slice, `0001.dcm` and so on. Returns the files.

    image: HU (stored in steps of 1), or stopping power relative to water (steps of 0.001, rescale type 'US'); scale: of
    SPR, one of `SCALES`: which one a planning system takes, its manual says; the series description names it; axial:
    resample to axial slices first; new_frame_of_reference: where the image was moved against its source.
    Raises BadInput where the pre-flight finds something required, MedGenError where a file cannot be written.
    """
    preflight.refuse(preflight.check("ct" if unit == "HU" else "map", image, reference, (), inputs))
    if axial:
        image = to_axial(image, -1024.0 if unit == "HU" else 0.0)
    chosen = HU if unit == "HU" else SCALES[scale]
    stored, slope, intercept, cut = _stored(image, chosen)
    if cut:
        raise MedGenError(f"{cut} voxels are above what a CT slice can store.")
    series_uid = dataset.new_uid()
    frame_uid = dataset.new_uid() if new_frame_of_reference else reference.frame_of_reference_uid
    kind = "synthetic CT" if unit == "HU" else chosen.words
    name = f"{description or kind} [SYNTHETIC, {provenance.get('method', 'MedGen')}]"
    files = []
    for k, pixels in enumerate(stored):
        made = dataset.new_object(reference.first, CTImageStorage, "CT", series_uid, 902, name)
        dataset.mark_synthetic(made, provenance)
        made.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        made.FrameOfReferenceUID = frame_uid
        made.PositionReferenceIndicator = str(reference.first.get("PositionReferenceIndicator") or "")
        made.PatientPosition = str(reference.first.get("PatientPosition") or "")
        made.AcquisitionNumber, made.KVP, made.Laterality = None, None, ""
        made.BurnedInAnnotation = "NO"
        made.RescaleSlope, made.RescaleIntercept = dataset.decimal(slope), dataset.decimal(intercept)
        made.RescaleType = "HU" if unit == "HU" else "US"
        made.WindowCenter, made.WindowWidth = chosen.window
        _ct_slice(made, image, k, pixels)
        _refer_to_slice(made, reference)
        files.append(dataset.save(made, folder / f"{k + 1:04d}.dcm"))
    return files


def _refer_to_slice(made: Dataset, reference: Series) -> None:
    """Names the source slice in the same place, where there is one."""
    place = np.array([float(v) for v in made.ImagePositionPatient])
    for frame in reference.frames:
        if frame.position is not None and np.abs(frame.position - place).max() < SAME_PLACE_MM:
            source = reference_to_frame(frame)
            purpose = codes.DCM.SourceImageForImageProcessingOperation
            source.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(purpose)]
            made.SourceImageSequence = [source]
            return


# ------------------------------------------------------------------------------------------------------- parametric map


STOPPING_POWER = Code("DCM", "130086", "Relative Linear Stopping Power")


def export_parametric_map(
    image: sitk.Image,
    reference: Series,
    path: Path,
    provenance: Mapping[str, Any],
    *,
    quantity: Code = STOPPING_POWER,
    inputs: Sequence[Series] = (),
) -> Path:
    """Writes a Parametric Map (PS3.3 A.75) of 32-bit floats; the unit is 1 (a ratio). Raises as `export_ct`."""
    preflight.refuse(preflight.check("map", image, reference, (), inputs))
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    mapping = hd.pm.RealWorldValueMapping(
        "SPR", quantity.meaning, codes.UCUM.NoUnits, (float(values.min()), float(values.max())), slope=1, intercept=0,
        quantity_definition=code(quantity),
    )  # fmt: skip
    window = hd.VOILUTTransformation(window_center=1.0, window_width=1.0)
    try:
        made = hd.pm.ParametricMap(
            reference.headers, values, series_instance_uid=dataset.new_uid(), series_number=903,
            sop_instance_uid=dataset.new_uid(), instance_number=1, manufacturer=dataset.MANUFACTURER,
            manufacturer_model_name=dataset.MODEL, software_versions=medgen.__version__, device_serial_number="0",
            contains_recognizable_visual_features=False, real_world_value_mappings=[mapping],
            voi_lut_transformations=[window],
            content_label="SPR", contributing_equipment=[dataset.contributing_equipment(provenance, True)],
            series_description="synthetic stopping power ratio [SYNTHETIC]", **planes_of(image),
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MedGenError(f"The map cannot refer to this series: {error}") from error
    made.DerivationDescription = dataset.describe(provenance, synthetic=True)
    made.Laterality = ""
    refer_to(made, reference)
    return dataset.save(made, path)


# ------------------------------------------------------------------------------------------------------ pictures, cines


def export_picture(
    image: sitk.Image | list[sitk.Image],
    reference: Series,
    path: Path,
    provenance: Mapping[str, Any],
    *,
    inputs: Sequence[Series] = (),
    description: str = "",
) -> Path:
    """Writes a generated picture or cine (uint8, grey or RGB): ultrasound where the source is, else a secondary
    capture.

    image: of the size of the source, a list for a cine. Raises as `export_ct`.
    """
    preflight.refuse(preflight.check("picture", image, reference, (), inputs))
    pixels = np.stack([sitk.GetArrayFromImage(i) for i in (image if isinstance(image, list) else [image])])
    name = f"{description or reference.description} [SYNTHETIC, {provenance.get('method', 'MedGen')}]"
    if reference.modality == "US":
        made = _ultrasound(reference, name, len(pixels))
    else:
        made = _capture(reference, name, len(pixels), colour=pixels.ndim == 4)
    dataset.mark_synthetic(made, provenance)
    made.Laterality = made.get("Laterality", "")
    source = reference_to(reference.first)
    source.PurposeOfReferenceCodeSequence = [
        hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    made.SourceImageSequence = [source]
    dataset.set_bytes(made, np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return dataset.save(made, path)


def _ultrasound(reference: Series, name: str, frames: int) -> Dataset:
    """The source's own header (regions, probe, cine timing) under a new identity."""
    multi = frames > 1 or int(reference.first.get("NumberOfFrames") or 1) > 1
    made = deepcopy(reference.first)
    made.remove_private_tags()
    for keyword in ABOUT_PIXELS:
        if keyword in made:
            delattr(made, keyword)
    sop_class = UltrasoundMultiFrameImageStorage if multi else UltrasoundImageStorage
    fresh = dataset.new_object(reference.first, sop_class, "US", dataset.new_uid(), 904, name)
    made.update(fresh)
    made.ImageType = ["DERIVED", "SECONDARY", *list(made.get("ImageType", []))[2:]]
    made.InstanceNumber = 1
    if multi:
        made.NumberOfFrames = frames
        if "FrameIncrementPointer" not in made:
            made.FrameTime, made.FrameIncrementPointer = "40", 0x00181063
    return made


def _capture(reference: Series, name: str, frames: int, colour: bool) -> Dataset:
    sop_class = SecondaryCaptureImageStorage
    if frames > 1:
        sop_class = (
            MultiFrameTrueColorSecondaryCaptureImageStorage
            if colour
            else MultiFrameGrayscaleByteSecondaryCaptureImageStorage
        )
    made = dataset.new_object(reference.first, sop_class, "OT", dataset.new_uid(), 904, name)
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.ConversionType, made.InstanceNumber, made.PatientOrientation = "WSD", 1, ""
    if frames > 1:
        made.NumberOfFrames, made.BurnedInAnnotation = frames, "NO"
        made.FrameTime, made.FrameIncrementPointer = "40", 0x00181063
        if not colour:
            made.PresentationLUTShape, made.RescaleSlope, made.RescaleIntercept = "IDENTITY", "1", "0"
            made.RescaleType = "US"
    return made
