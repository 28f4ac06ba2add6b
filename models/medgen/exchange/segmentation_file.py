"""Slicer's .seg.nrrd: label map or layers, each segment with name, colour and coded meaning."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.spec import Code, Label, Terminology

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def _code(text: str) -> Code | None:
    scheme, value, meaning = [*text.split("^"), "", "", ""][:3]
    return Code(scheme, value, meaning) if value else None


def parse_terminology(entry: str) -> Terminology | None:
    """Slicer's serialised entry: context~category~type~modifier~regions~region~modifier, codes as
    scheme^value^meaning."""
    parts = [*entry.split("~"), *[""] * 7]
    category, kind = _code(parts[1]), _code(parts[2])
    if category is None or kind is None:
        return None
    return Terminology(category, kind, _code(parts[3]), _code(parts[5]), _code(parts[6]))


def _label(image: sitk.Image, number: int, value: int) -> Label:
    def text(key: str) -> str:
        name = f"Segment{number}_{key}"
        return image.GetMetaData(name) if image.HasMetaDataKey(name) else ""

    entry = re.search(r"(?:TerminologyEntry|Segmentation\.TerminologyEntry):([^|]*)", text("Tags"))
    colour = [round(float(c) * 255) for c in text("Color").split()] or list(COLOURS[number % len(COLOURS)])
    terminology = parse_terminology(entry.group(1)) if entry else None
    return Label(value, text("Name") or f"Segment_{value}", (colour[0], colour[1], colour[2]), terminology)


def read_segmentation(path: Path) -> tuple[sitk.Image, tuple[Label, ...]]:
    """The image as the exports take it, and its labels (no background). A plain label map gets names 'Segment_1', ....

    Several layers (overlapping segments) become one component for each label. Labels that were saved as floating point
    are whole numbers again: the exports take floating point for probabilities. Raises BadInput.
    """
    from medgen.io import whole_numbers

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise BadInput(f"'{path}' cannot be read as a segmentation.") from error
    numbers: list[int] = []
    while image.HasMetaDataKey(f"Segment{len(numbers)}_LabelValue"):
        numbers.append(len(numbers))
    if not numbers:
        image = whole_numbers(image)
        if "float" in image.GetPixelIDTypeAsString():
            raise BadInput(f"'{path}' is no label map: its values are not whole numbers.")
        present = np.unique(sitk.GetArrayViewFromImage(image))
        return image, tuple(_label(image, n, int(value)) for n, value in enumerate(present[present > 0]))
    values = [int(image.GetMetaData(f"Segment{n}_LabelValue")) for n in numbers]
    labels = tuple(_label(image, n, value) for n, value in zip(numbers, values, strict=True))
    if image.GetNumberOfComponentsPerPixel() == 1:
        return image, labels
    layers = [int(image.GetMetaData(f"Segment{n}_Layer")) for n in numbers]
    array = sitk.GetArrayViewFromImage(image)
    masks = [array[..., layer] == value for layer, value in zip(layers, values, strict=True)]
    split = sitk.GetImageFromArray(np.stack(masks, -1).astype(np.uint8), isVector=True)
    split.CopyInformation(image)
    return split, labels
