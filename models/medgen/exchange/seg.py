"""DICOM Segmentation objects (PS3.3 A.51) through highdicom: coded segments on the image's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

import medgen
from medgen import spec
from medgen.errors import MedGenError
from medgen.exchange import dataset, preflight
from medgen.exchange.reading import Frame, Series


def code(value: spec.Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(value.value, value.scheme, value.meaning[: dataset.LONG_STRING])


def _description(
    number: int, label: spec.Label, provenance: Mapping[str, Any], edited: bool
) -> hd.seg.SegmentDescription:
    term = label.terminology
    assert term is not None
    made = hd.seg.SegmentDescription(
        number, label.name, code(term.category), code(term.type),
        algorithm_type="SEMIAUTOMATIC" if edited else "AUTOMATIC",
        algorithm_identification=dataset.algorithm(provenance), tracking_uid=dataset.new_uid(), tracking_id=label.name,
        anatomic_regions=[code(term.region)] if term.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*label.colour),
    )  # fmt: skip
    if term.type_modifier:
        made.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [code(term.type_modifier)]
    if term.region and term.region_modifier:
        made.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [code(term.region_modifier)]
    return made


def planes_of(image: sitk.Image) -> dict[str, Any]:
    """The image's grid as highdicom takes it: one plane for each k."""
    axes = np.reshape(image.GetDirection(), (3, 3)).T
    spacing = image.GetSpacing()
    positions = [
        hd.PlanePositionSequence("PATIENT", image.TransformIndexToPhysicalPoint((0, 0, k)))
        for k in range(image.GetSize()[2])
    ]
    return {
        "pixel_measures": hd.PixelMeasuresSequence((spacing[1], spacing[0]), spacing[2], spacing[2]),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [*axes[0], *axes[1]]),
        "plane_positions": positions,
    }


def export_seg(
    image: sitk.Image,
    labels: Sequence[spec.Label],
    reference: Series,
    path: Path,
    provenance: Mapping[str, Any],
    *,
    edited: bool = False,
    inputs: Sequence[Series] = (),
    series_description: str = "",
) -> Path:
    """Writes one DICOM SEG file: binary, or fractional (steps of 1/255) where the pixels are floats.

    image: label map, or one component for each label (overlapping segments; float32 probabilities in [0, 1]), on any
    right-angled grid in the frame of reference of `reference`; labels: without the background; edited: corrected by
    hand. Raises BadInput where the pre-flight finds something required, MedGenError where the source cannot be
    referred to.
    """
    preflight.refuse(preflight.check("seg", image, reference, labels, inputs))
    fractional = "float" in image.GetPixelIDTypeAsString()
    planes = planes_of(image) if reference.stack is not None else {}
    try:
        made = hd.seg.Segmentation(
            reference.headers, _pixels(image, labels, fractional), "FRACTIONAL" if fractional else "BINARY",
            [_description(n + 1, label, provenance, edited) for n, label in enumerate(labels)],
            series_instance_uid=dataset.new_uid(), series_number=900, sop_instance_uid=dataset.new_uid(),
            instance_number=1,
            manufacturer=dataset.MANUFACTURER, manufacturer_model_name=dataset.MODEL,
            software_versions=medgen.__version__, device_serial_number="0", content_label="SEGMENTATION",
            content_description=dataset.describe(provenance)[: dataset.LONG_STRING],
            series_description=_named(series_description, provenance),
            contributing_equipment=[dataset.contributing_equipment(provenance)], **planes,
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise MedGenError(f"The segmentation cannot refer to this series: {error}") from error
    refer_to(made, reference)
    return dataset.save(made, path)


def _named(series_description: str, provenance: Mapping[str, Any]) -> str:
    mark = dataset.mark_of(provenance)
    words = series_description or f"{provenance.get('method', 'MedGen')} segmentation"
    return words[: dataset.LONG_STRING - len(mark)] + mark


def _pixels(image: sitk.Image, labels: Sequence[spec.Label], fractional: bool) -> np.ndarray:
    """What highdicom takes: [planes, rows, columns] with values 1..n in the order of the labels, or [..., segments]."""
    shape = sitk.GetArrayViewFromImage(image).shape[: image.GetDimension()]
    if image.GetNumberOfComponentsPerPixel() == 1 and not fractional:
        array = sitk.GetArrayViewFromImage(image)
        numbered = np.zeros(shape, np.uint8 if len(labels) < 256 else np.uint16)
        for number, label in enumerate(labels):
            numbered[array == label.value] = number + 1
        return numbered if numbered.ndim == 3 else numbered[np.newaxis]
    stacked = np.stack([preflight.segment_array(image, labels, n) for n in range(len(labels))], -1)
    stacked = np.clip(stacked, 0, 1).astype(np.float32 if fractional else np.uint8)
    return stacked if stacked.ndim == 4 else stacked[np.newaxis]


def refer_to(made: Dataset, reference: Series) -> None:
    """Names the source's instances (PS3.3 C.12.2) where no frame does, as after resampling."""
    if made.get("ReferencedSeriesSequence"):
        return
    series = Dataset()
    series.SeriesInstanceUID = reference.uid
    series.ReferencedInstanceSequence = [reference_to(header) for header in reference.headers]
    made.ReferencedSeriesSequence = [series]


def reference_to(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def reference_to_frame(frame: Frame) -> Dataset:
    item = reference_to(frame.header)
    if int(frame.header.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = frame.index + 1
    return item
