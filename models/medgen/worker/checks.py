"""Refuses inputs that a method cannot use, before it starts, with one sentence each (BadInput)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from medgen.errors import BadInput
from medgen.spec import (
    ROI,
    Blob,
    Image,
    LabelMap,
    Mask,
    MethodSpec,
    Planes,
    Points,
    Port,
    Probability,
    Table,
    Transform,
)
from medgen.worker.transfer import is_image


def check_inputs(spec: MethodSpec, inputs: dict[str, Any]) -> None:
    """Raises BadInput: unknown or missing input, wrong kind, wrong dimension, empty, NaN or infinite, colour where grey
    values are asked, images that do not overlap in space."""
    spec.check_inputs(inputs)
    for port in spec.inputs:
        value = inputs.get(port.name)
        if value is not None:
            _CHECKS[type(port)](port, value)
    _check_overlap(spec, inputs)


def _refuse(port: Port, what: str) -> BadInput:
    return BadInput(f"Input '{port.name}' ({port.title}) {what}.")


# ------------------------------------------------------------------------------------------------------------- images


def _check_image(port: Port, value: Any) -> None:
    kind = port.kind if isinstance(port, (Image, LabelMap)) else "volume"
    if kind in ("sequence", "set"):
        if not isinstance(value, list) or not value or not all(is_image(item) for item in value):
            raise _refuse(port, f"must be a {kind} of images")
        for item in value:
            _check_voxels(port, item, (2, 3), colour=None)
        if kind == "sequence" and len({item.GetSize() for item in value}) > 1:
            raise _refuse(port, "has frames of different sizes")
        return
    if not is_image(value):
        raise _refuse(port, "must be an image")
    dimensions = (3,) if kind == "volume" else (2, 3)
    _check_voxels(port, value, dimensions, colour=kind == "rgb")
    if kind == "slice" and value.GetDimension() == 3 and min(value.GetSize()) != 1:
        raise _refuse(port, f"must be one slice, not a volume of {' x '.join(map(str, value.GetSize()))}")


def _check_voxels(port: Port, image: Any, dimensions: tuple[int, ...], colour: bool | None) -> None:
    """colour: True asks for 3 or 4 components, False for one, None takes either."""
    import SimpleITK as sitk

    if image.GetDimension() not in dimensions:
        asked = " or ".join(f"{n}D" for n in dimensions)
        raise _refuse(port, f"is {image.GetDimension()}D; {asked} is needed")
    if image.GetNumberOfPixels() <= 1:
        raise _refuse(port, "is empty" if not image.GetNumberOfPixels() else "has only one voxel")
    components = image.GetNumberOfComponentsPerPixel()
    if colour is False and components != 1:
        raise _refuse(port, f"has {components} values a voxel; one is needed")
    if colour and components not in (3, 4):
        raise _refuse(port, f"must be a colour image, with 3 or 4 values a voxel, not {components}")
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype.kind == "c":
        raise _refuse(port, "has complex values; use the magnitude")
    if voxels.dtype.kind == "f" and not (math.isfinite(voxels.min()) and math.isfinite(voxels.max())):
        raise _refuse(port, "contains NaN or infinite values")  # min and max of an array with a NaN are NaN


def _check_mask(port: Port, value: Any) -> None:
    _check_labels(port, value)
    import SimpleITK as sitk

    voxels = sitk.GetArrayViewFromImage(value)
    if voxels.min() < 0 or voxels.max() > 1:
        raise _refuse(port, "must be a mask with the values 0 and 1 only")


def _check_labels(port: Port, value: Any) -> None:
    _check_image(port, value)
    import SimpleITK as sitk

    if sitk.GetArrayViewFromImage(value).dtype.kind not in "iu":
        raise _refuse(port, "must be a label map with whole numbers")


def _check_probability(port: Port, value: Any) -> None:
    _check_image(port, value)
    import SimpleITK as sitk

    voxels = sitk.GetArrayViewFromImage(value)
    if voxels.min() < 0 or voxels.max() > 1:
        raise _refuse(port, "must lie between 0 and 1")


def _check_overlap(spec: MethodSpec, inputs: dict[str, Any]) -> None:
    """Every 3-D image must share some space with the first one, by their bounding boxes."""
    first: tuple[Port, list[tuple[float, float]]] | None = None
    for port in spec.inputs:
        value: Any = inputs.get(port.name)
        if not is_image(value) or value.GetDimension() != 3 or getattr(port, "anywhere", False):
            continue
        box = _bounding_box(value)
        if first is None:
            first = (port, box)
        elif any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(first[1], box, strict=True)):
            raise _refuse(port, f"does not overlap with '{first[0].name}' ({first[0].title}) in space")


def _bounding_box(image: Any) -> list[tuple[float, float]]:
    """Lowest and highest x, y, z that the voxels (not just their centres) reach, LPS mm."""
    low, high = [-0.5] * 3, [n - 0.5 for n in image.GetSize()]
    corners = [
        image.TransformContinuousIndexToPhysicalPoint([(low, high)[corner >> axis & 1][axis] for axis in range(3)])
        for corner in range(8)
    ]
    return [(min(axis), max(axis)) for axis in zip(*corners, strict=True)]


# ------------------------------------------------------------------------------------------------------------- others


def _is_vector(value: Any, length: int = 3) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == length
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    )


def _is_matrix(value: Any, size: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == size and all(_is_vector(row, size) for row in value)


def _check_points(port: Port, value: Any) -> None:
    if not isinstance(value, list) or not all(_is_vector(point) for point in value):
        raise _refuse(port, "must be a list of points [x, y, z]")


def _check_planes(port: Port, value: Any) -> None:
    def is_plane(plane: Any) -> bool:
        return isinstance(plane, dict) and _is_vector(plane.get("origin")) and _is_vector(plane.get("normal"))

    if not isinstance(value, list) or not all(is_plane(plane) and any(plane["normal"]) for plane in value):
        raise _refuse(port, "must be a list of planes with 'origin' and 'normal'")


def _check_roi(port: Port, value: Any) -> None:
    good = isinstance(value, dict) and _is_vector(value.get("center")) and _is_matrix(value.get("axes"), 3)
    if not good or not _is_vector(value.get("size_mm")) or min(value["size_mm"]) <= 0:
        raise _refuse(port, "must be a box with 'center', 'axes' and a positive 'size_mm'")


def _check_table(port: Port, value: Any) -> None:
    good = isinstance(value, dict) and all(isinstance(column, list) for column in value.values())
    if not good or len({len(column) for column in value.values()}) > 1:
        raise _refuse(port, "must be a table whose columns have one length")


def _check_transform(port: Port, value: Any) -> None:
    if not _is_matrix(value, 4):
        raise _refuse(port, "must be a 4 x 4 matrix")


def _check_blob(port: Port, value: Any) -> None:
    if not isinstance(value, bytes):
        raise _refuse(port, "must be what an earlier run made")


_CHECKS: dict[type[Port], Callable[[Port, Any], None]] = {
    Image: _check_image,
    Mask: _check_mask,
    LabelMap: _check_labels,
    Probability: _check_probability,
    Points: _check_points,
    Planes: _check_planes,
    ROI: _check_roi,
    Table: _check_table,
    Transform: _check_transform,
    Blob: _check_blob,
}
