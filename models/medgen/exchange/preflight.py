"""Before an export: what is missing (nothing is written then) or doubtful, each with a way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.exchange.grid import corners, is_axial
from medgen.exchange.reading import Series
from medgen.spec import Label

REQUIRED, DOUBTFUL = "required", "doubtful"
HIGHEST_OF_MANY = 3071  # HU, of a CT of 12 bits
MAX_NAME, SAFE_NAME = 64, 16  # DICOM's limit; what every planning system takes (AAPM TG-263)
Kind = Literal["seg", "rtstruct", "ct", "picture", "map"]


@dataclass(frozen=True)
class Finding:
    """level: 'required' stops the export, 'doubtful' is for the user to judge. `fix` says what to do."""

    level: str
    sentence: str
    fix: str


def check(
    kind: Kind,
    image: sitk.Image | list[sitk.Image],
    reference: Series | None,
    labels: Sequence[Label] = (),
    inputs: Sequence[Series] = (),
) -> list[Finding]:
    """kind: what is to be written; image: label map (or one component a label), synthetic image or cine; inputs: what
    the method was given, to see that all are of one patient."""
    if reference is None:
        return [Finding(REQUIRED, "There is no reference series.", "Load the source image from its DICOM files.")]
    found = [*_identity(reference, inputs), *_geometry(kind, image, reference)]
    if kind in ("seg", "rtstruct"):
        found += _segments(kind, image, labels)
    elif kind in ("ct", "map"):
        found += _intensities(kind, image)
    return found


def refuse(findings: Sequence[Finding]) -> None:
    """Raises BadInput with every required finding and its fix."""
    required = [f"{f.sentence} {f.fix}" for f in findings if f.level == REQUIRED]
    if required:
        raise BadInput("Nothing was written. " + " ".join(required))


def _identity(reference: Series, inputs: Sequence[Series]) -> list[Finding]:
    found = []
    for series in inputs:
        if series.patient_id != reference.patient_id:
            found.append(Finding(
                REQUIRED, f"The inputs are of different patients ('{reference.patient_id}' and '{series.patient_id}').",
                "Choose inputs of one patient.",
            ))  # fmt: skip
        elif series.frame_of_reference_uid != reference.frame_of_reference_uid:
            found.append(Finding(
                DOUBTFUL, f"'{series.description}' has another frame of reference than '{reference.description}'.",
                "Check that the two are registered.",
            ))  # fmt: skip
    if not reference.patient_id:
        found.append(
            Finding(DOUBTFUL, "The reference series has no patient ID.", "Add one, or check before you import.")
        )
    if not reference.study_uid:
        found.append(Finding(REQUIRED, "The reference series belongs to no study.", "Choose a complete DICOM series."))
    return found


def _geometry(kind: Kind, image: sitk.Image | list[sitk.Image], reference: Series) -> list[Finding]:
    if kind == "picture":
        first, source = (x[0] if isinstance(x, list) else x for x in (image, reference.image))
        if first.GetSize() != source.GetSize() or isinstance(image, list) != isinstance(reference.image, list):
            return [
                Finding(REQUIRED, "The picture is not of the size of its source.", "Run the method on this source.")
            ]
        return []
    assert isinstance(image, sitk.Image)
    if reference.stack is None or isinstance(reference.image, list):
        if (
            kind == "seg"
            and image.GetDimension() == 2
            and image.GetSize() == (reference.first.Columns, reference.first.Rows)
        ):
            return []
        return [Finding(REQUIRED, "The reference series has no place in the patient.", "Choose one with positions.")]
    if image.GetDimension() != 3:
        return [Finding(REQUIRED, "The image is not a volume.", "Choose a 3D image.")]
    found = []
    if not reference.frame_of_reference_uid:
        found.append(Finding(
            REQUIRED, "The reference series has no frame of reference.", "Choose a series that has one.",
        ))  # fmt: skip
    if not _overlap(image, reference.image):
        found.append(Finding(
            REQUIRED, "The image lies outside the reference series.", "Choose the series that it was made from.",
        ))  # fmt: skip
    found += [Finding(DOUBTFUL, note, "Export on a regular series for the exact slices.") for note in reference.notes]
    if kind in ("rtstruct", "ct") and not is_axial(reference.image if kind == "rtstruct" else image):
        found.append(Finding(
            DOUBTFUL, "The slices are not axial; most planning systems take axial slices only.",
            "Contours are cut on axial planes; choose an axial series of the same frame of reference if there is one."
            if kind == "rtstruct" else "Export with axial slices.",
        ))  # fmt: skip
    return found


def _overlap(image: sitk.Image, other: sitk.Image | list[sitk.Image]) -> bool:
    assert isinstance(other, sitk.Image)
    a, b = corners(image), corners(other)
    room = max(other.GetSpacing())
    return bool((a.min(0) <= b.max(0) + room).all() and (b.min(0) <= a.max(0) + room).all())


def segment_array(image: sitk.Image, labels: Sequence[Label], index: int) -> np.ndarray:
    """The mask or probability of the index-th label, axes k, j, i. `image` is a label map, or has one component a label
    (overlapping segments, probabilities)."""
    array = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetPixelID() in (
        sitk.sitkVectorFloat32,
        sitk.sitkVectorUInt8,
    ):
        return array[..., index]
    if image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        return array
    return array == labels[index].value


def _segments(kind: Kind, image: sitk.Image | list[sitk.Image], labels: Sequence[Label]) -> list[Finding]:
    assert isinstance(image, sitk.Image)
    if not labels:
        return [Finding(REQUIRED, "There is no segment to export.", "Choose at least one segment.")]
    components = image.GetNumberOfComponentsPerPixel()
    if components not in (1, len(labels)):
        return [Finding(REQUIRED, f"There are {len(labels)} names for {components} masks.", "Name every segment.")]
    found = []
    for index, label in enumerate(labels):
        if not segment_array(image, labels, index).any():
            found.append(Finding(REQUIRED, f"Segment '{label.name}' is empty.", "Leave it out of the export."))
        if label.terminology is None:
            found.append(Finding(
                REQUIRED if kind == "seg" else DOUBTFUL, f"Segment '{label.name}' has no coded meaning.",
                "Choose its terminology.",
            ))  # fmt: skip
        found += _name(kind, label)
    names = [label.name for label in labels]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(Finding(REQUIRED, f"Two segments are called '{name}'.", "Rename one of them."))
    return found


def _name(kind: Kind, label: Label) -> list[Finding]:
    name = label.name
    if not name.strip() or "\\" in name:
        return [Finding(REQUIRED, f"'{name}' cannot be a name in DICOM.", "Rename the segment.")]
    if len(name) > MAX_NAME:
        return [Finding(REQUIRED, f"The name '{name}' is longer than {MAX_NAME} characters.", "Shorten it.")]
    if kind == "rtstruct" and len(name) > SAFE_NAME:
        return [Finding(
            DOUBTFUL, f"The name '{name}' is longer than {SAFE_NAME} characters; some planning systems cut it off.",
            "Take the suggested TG-263 name.",
        )]  # fmt: skip
    return []


def _intensities(kind: Kind, image: sitk.Image | list[sitk.Image]) -> list[Finding]:
    assert isinstance(image, sitk.Image)
    array = sitk.GetArrayViewFromImage(image)
    if not np.isfinite(array).all():
        return [Finding(REQUIRED, "The image has voxels without a number (NaN).", "Run the method again.")]
    if kind == "ct" and (array.min() < -32768 or array.max() > 32767):
        return [Finding(REQUIRED, "The image has values no CT can hold.", "Check that it is in HU.")]
    if kind == "ct" and array.min() < -1100:
        return [Finding(DOUBTFUL, f"The image has values below air ({array.min():.0f} HU).", "Check its background.")]
    if kind == "ct" and array.max() > HIGHEST_OF_MANY:
        sentence = f"The image has values up to {array.max():.0f} HU; many planning systems end at {HIGHEST_OF_MANY}."
        return [Finding(DOUBTFUL, sentence, "Check that yours reads them.")]
    return []
