"""RT Structure Sets (DICOM PS3.3 A.19): closed planar contours on axial slices, written with pydicom.

Holes are joined to their outline by a slit of no width ('keyhole'), which every planning system reads; islands are
contours of their own.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from medgen import spec
from medgen.exchange import dataset, preflight
from medgen.exchange.contours import outlines
from medgen.exchange.grid import corners, is_axial
from medgen.exchange.reading import Frame, Series
from medgen.exchange.roi_names import interpreted_type
from medgen.exchange.seg import code, reference_to, reference_to_frame

DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # what the referenced-study item has named since the first RTSTRUCTs
SAME_SLICE_MM = 0.01
PLANES_PER_VOXEL = 3  # where contours are cut across the slices: keeps a 4 mm sphere to 0.95 Dice when read back


@dataclass(frozen=True)
class Plane:
    """An axial plane: its height (LPS z, mm) and the source slice in it, if any."""

    z: float
    slice: Frame | None


def axial_planes(reference: Series, mask: sitk.Image) -> tuple[list[Plane], str]:
    """Where contours are cut, and a sentence where that is not on the reference's own slices.

    On the slices of an axial reference; else on planes of their own, several to the mask's smallest voxel edge.
    """
    if all(f.position is not None and np.abs(f.axes[:, 2]).max() < 1e-3 for f in reference.frames):  # type: ignore[index]
        return [Plane(float(f.position[2]), f) for f in reference.frames], ""  # type: ignore[index]
    ends = corners(mask)
    step = min(mask.GetSpacing()) / PLANES_PER_VOXEL
    heights = np.arange(ends[:, 2].min(), ends[:, 2].max() + step, step)
    return [Plane(float(z), None) for z in heights], (
        f"The slices of the reference are not axial: contours are on axial planes every {step:.3g} mm."
    )


def _cropped(mask: np.ndarray, like: sitk.Image) -> sitk.Image:
    """The mask (axes k, j, i) as float32 image, cut to what it holds and one voxel of background around it."""
    box = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = [int(inside[0]) for inside in box]
    part = mask[tuple(slice(inside[0], inside[-1] + 1) for inside in box)].astype(np.float32)
    image = sitk.GetImageFromArray(np.pad(part, 1))
    image.SetSpacing(like.GetSpacing())
    image.SetDirection(like.GetDirection())
    image.SetOrigin(like.TransformContinuousIndexToPhysicalPoint([float(n - 1) for n in reversed(low)]))
    return image


def _field(mask: sitk.Image, planes: Sequence[Plane]) -> Iterator[tuple[Plane, np.ndarray, sitk.Image]]:
    """For each plane that the mask meets: its values there, rows and columns of an image that tells where they lie."""
    ends = corners(mask)
    low, high = ends.min(0), ends.max(0)
    inside = [plane for plane in planes if low[2] - SAME_SLICE_MM <= plane.z <= high[2] + SAME_SLICE_MM]
    if is_axial(mask):
        array, own = sitk.GetArrayViewFromImage(mask), np.array([p[2] for p in _slice_origins(mask)])
        near = [int(np.abs(own - plane.z).argmin()) for plane in inside]
        if all(abs(own[k] - plane.z) < SAME_SLICE_MM for k, plane in zip(near, inside, strict=True)):
            yield from ((plane, array[k], mask[:, :, k : k + 1]) for k, plane in zip(near, inside, strict=True))
            return
    step = min(mask.GetSpacing())
    size = [int(np.ceil((high[a] - low[a]) / step)) + 1 for a in (0, 1)]
    for plane in inside:
        grid = sitk.Image([*size, 1], sitk.sitkFloat32)
        grid.SetOrigin([float(low[0]), float(low[1]), plane.z])
        grid.SetSpacing([step, step, 1.0])
        level = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
        yield plane, sitk.GetArrayFromImage(level)[0], grid


def _slice_origins(image: sitk.Image) -> list[tuple[float, ...]]:
    return [image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(image.GetSize()[2])]


def _points(outline: np.ndarray, grid: sitk.Image, z: float) -> list[str]:
    """outline: [n, 2], row and column. Contour data: x, y, z of each point, mm, to a tenth of a micrometre."""
    axes = np.reshape(grid.GetDirection(), (3, 3))
    indices = np.column_stack([outline[:, 1], outline[:, 0], np.zeros(len(outline))])
    points = np.array(grid.GetOrigin()) + (indices * grid.GetSpacing()) @ axes.T
    points[:, 2] = z
    return [f"{value:.4f}" for value in points.ravel()]


def _contour(outline: np.ndarray, grid: sitk.Image, plane: Plane) -> Dataset:
    made = Dataset()
    if plane.slice is not None:
        made.ContourImageSequence = [reference_to_frame(plane.slice)]
    made.ContourGeometricType = "CLOSED_PLANAR"
    made.NumberOfContourPoints = len(outline)
    made.ContourData = _points(outline, grid, plane.z)
    return made


def _contours(mask: np.ndarray, image: sitk.Image, planes: Sequence[Plane]) -> list[Dataset]:
    return [
        _contour(outline, grid, plane)
        for plane, field, grid in _field(_cropped(mask, image), planes)
        for outline in outlines(field)
    ]


def export_rtstruct(
    image: sitk.Image,
    labels: Sequence[spec.Label],
    reference: Series,
    path: Path,
    provenance: Mapping[str, Any],
    *,
    edited: bool = False,
    inputs: Sequence[Series] = (),
    label: str = "MedGen",
) -> list[str]:
    """Writes one RTSTRUCT file on the reference's axial slices. Returns what the user should know, one sentence each.

    image: label map, or one component for each label (overlapping segments), in the frame of reference of `reference`;
    float pixels are cut at 0.5. labels: their names become ROI names; edited: corrected by hand.
    Raises BadInput where the pre-flight finds something required, MedGenError where the file cannot be written.
    """
    preflight.refuse(preflight.check("rtstruct", image, reference, labels, inputs))
    planes, note = axial_planes(reference, image)
    made = dataset.new_object(
        reference.first, RTStructureSetStorage, "RTSTRUCT", dataset.new_uid(), 901,
        f"{label} structure set{dataset.mark_of(provenance)}",
    )  # fmt: skip
    date, time = dataset.stamp(datetime.datetime.now())
    made.StructureSetLabel, made.StructureSetDate, made.StructureSetTime = label[:16], date, time
    made.StructureSetDescription = dataset.describe(provenance)
    made.ContributingEquipmentSequence = [dataset.contributing_equipment(provenance)]
    made.InstanceNumber, made.ApprovalStatus, made.OperatorsName = 1, "UNAPPROVED", ""
    made.FrameOfReferenceUID = reference.frame_of_reference_uid
    made.PositionReferenceIndicator = str(reference.first.get("PositionReferenceIndicator") or "")
    made.ReferencedFrameOfReferenceSequence = [_referenced_frame(reference)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    lost = []
    for number, segment in enumerate(labels, 1):
        contours = _contours(preflight.segment_array(image, labels, number - 1) >= 0.5, image, planes)
        if not contours:
            lost.append(f"Segment '{segment.name}' lies between the slices of the reference and was left out.")
            continue
        made.StructureSetROISequence.append(_roi(number, segment, reference, provenance, edited))
        made.ROIContourSequence.append(_roi_contour(number, segment, contours))
        made.RTROIObservationsSequence.append(_observation(number, segment))
    dataset.save(made, path)
    return [sentence for sentence in (note, *lost) if sentence]


def _referenced_frame(reference: Series) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = reference.uid
    series.ContourImageSequence = [reference_to(header) for header in reference.headers]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = DETACHED_STUDY, reference.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = reference.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, label: spec.Label, reference: Series, provenance: Mapping[str, Any], edited: bool) -> Dataset:
    made = Dataset()
    made.ROINumber, made.ROIName = number, label.name
    made.ReferencedFrameOfReferenceUID = reference.frame_of_reference_uid
    made.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if edited else "AUTOMATIC"
    made.ROIGenerationDescription = dataset.describe(provenance)[: dataset.LONG_STRING]
    return made


def _roi_contour(number: int, label: spec.Label, contours: list[Dataset]) -> Dataset:
    made = Dataset()
    made.ReferencedROINumber, made.ROIDisplayColor = number, list(label.colour)
    made.ContourSequence = contours
    return made


def _observation(number: int, label: spec.Label) -> Dataset:
    made = Dataset()
    made.ObservationNumber = made.ReferencedROINumber = number
    made.RTROIInterpretedType, made.ROIInterpreter = interpreted_type(label), ""
    if label.terminology:
        made.RTROIIdentificationCodeSequence = [code(label.terminology.type)]
    return made
