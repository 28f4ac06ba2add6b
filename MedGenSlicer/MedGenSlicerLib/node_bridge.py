"""MRML nodes to the values a method takes (`medgen.spec`), and its values to nodes. World-space exact in both
directions.

All inputs of one run share the frame of the *reference node* (the first image): its own coordinates, before its parent
transform. Another input is brought there through both parent transforms: a linear difference goes into its grid,
without touching a voxel; a deformable one is resampled onto the reference grid. The results get the reference's parent
transform.
"""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from medgen import spec
from medgen.errors import BadInput
from MedGenSlicerLib import frames, steps
from MedGenSlicerLib.geometry import LPS_RAS, FrameChange, from_vtk, ijk_to_ras, resliced, set_grid, to_vtk

STEP_BYTES = 8 * 2**20  # some 5 ms
_PIXELS = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
SCALAR_PIXELS = {name.lower(): getattr(sitk, f"sitk{name}") for name in _PIXELS}  # by numpy's name of the type
VECTOR_PIXELS = {name.lower(): getattr(sitk, f"sitkVector{name}") for name in _PIXELS}
Steps = Generator[None, None, Any]

NODE_CLASSES = {  # input port: node classes that can fill it
    spec.Image: ("vtkMRMLScalarVolumeNode",),
    spec.Probability: ("vtkMRMLScalarVolumeNode",),
    spec.Mask: ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"),
    spec.LabelMap: ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"),
    spec.Points: ("vtkMRMLMarkupsFiducialNode",),
    spec.Planes: ("vtkMRMLMarkupsPlaneNode",),
    spec.ROI: ("vtkMRMLMarkupsROINode",),
    spec.Table: ("vtkMRMLTableNode",),
    spec.Transform: ("vtkMRMLLinearTransformNode",),
    spec.Blob: ("vtkMRMLTextNode",),
}


def node_classes(port: spec.Port) -> tuple[str, ...]:
    if isinstance(port, spec.Image) and port.kind == "set":
        return ("vtkMRMLSequenceNode", "vtkMRMLScalarVolumeNode")
    if isinstance(port, spec.Image) and port.kind == "sequence":
        return ("vtkMRMLSequenceNode", "vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode")
    if isinstance(port, spec.Image) and port.kind == "rgb":
        return ("vtkMRMLVectorVolumeNode",)
    if isinstance(port, spec.Points) and port.kind == "line":
        return ("vtkMRMLMarkupsLineNode", "vtkMRMLMarkupsFiducialNode")
    return NODE_CLASSES[type(port)]


# ------------------------------------------------------------------------------------------------------- node to value


def value_steps(port: spec.Port, nodes: Sequence[Any], reference: Any, segment_id: str = "") -> Steps:
    """The value of an input port. `nodes`: one node, or several for Planes and a set of images; segment_id: of a mask,
    empty for all segments.

    Works in steps, each short enough for the event loop. Raises BadInput with one sentence if the nodes hold nothing
    that can be used.
    """
    node = nodes[0]
    if reference is not None and reference.IsA("vtkMRMLSequenceNode"):
        reference = reference.GetNthDataNode(0)
    if isinstance(port, spec.Image) and port.kind == "sequence":
        return (yield from sequence_steps(node))
    if isinstance(port, spec.Image) and port.kind == "set":
        images = []
        for each in nodes:
            single = each.IsA("vtkMRMLVolumeNode") and frames.browser_of(each) is None
            images += [(yield from volume_steps(each))] if single else (yield from sequence_steps(each))
        return images
    if isinstance(port, (spec.Image, spec.Probability)):
        return (yield from volume_steps(node, reference))
    yield
    if isinstance(port, (spec.Mask, spec.LabelMap)):
        image = label_image(node, reference, [segment_id] if segment_id else None)
        image = _one_slice(image) if getattr(port, "kind", "") == "slice" else image
        return image > 0 if isinstance(port, spec.Mask) else image
    if isinstance(port, spec.Points):
        return points(node, reference)
    if isinstance(port, spec.Planes):
        return [plane(each, reference) for each in nodes]
    if isinstance(port, spec.ROI):
        return roi(node, reference)
    if isinstance(port, spec.Table):
        return table(node)
    if isinstance(port, spec.Transform):
        matrix = vtk.vtkMatrix4x4()
        node.GetMatrixTransformFromParent(matrix)
        return (LPS_RAS @ from_vtk(matrix) @ LPS_RAS).tolist()
    return blob(node)


def volume_grid(node: Any) -> np.ndarray:
    """IJK to the node's own RAS."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return from_vtk(matrix)


def overlap(one: Any, other: Any) -> bool:
    """Whether the boxes round two volumes meet in the world; True for what has no voxels."""
    boxes = []
    for node in (one, other):
        if not node.IsA("vtkMRMLVolumeNode") or node.GetImageData() is None:
            return True
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        boxes.append(np.reshape(bounds, (3, 2)))
    first, second = boxes
    return bool((np.minimum(first[:, 1], second[:, 1]) > np.maximum(first[:, 0], second[:, 0])).all())


def _image_steps(image_data: Any, grid: np.ndarray) -> Steps:
    """One copy of the voxels."""
    scalars = image_data.GetPointData().GetScalars()
    columns, rows, slices = image_data.GetDimensions()
    voxels = numpy_support.vtk_to_numpy(scalars)
    components = scalars.GetNumberOfComponents()
    pixel = (VECTOR_PIXELS if components > 1 else SCALAR_PIXELS)[voxels.dtype.name]
    image = sitk.Image((columns, rows, slices), pixel, components)
    set_grid(image, grid)
    yield
    shape = (slices, rows, columns) + ((components,) if components > 1 else ())
    view = sitk.GetArrayViewFromImage(image)  # read-only to SimpleITK; nobody else has this image yet
    memory = (ctypes.c_char * view.nbytes).from_address(view.ctypes.data)
    yield from _copy_steps(voxels.reshape(shape), np.frombuffer(memory, view.dtype).reshape(shape))
    return image


def _copy_steps(source: np.ndarray, target: np.ndarray) -> Iterator[None]:
    """Copies along the first axis, a few megabytes a step."""
    thickness = max(1, STEP_BYTES // max(1, source[0].nbytes))
    for first in range(0, len(source), thickness):
        target[first : first + thickness] = source[first : first + thickness]
        yield


def volume_image(node: Any, reference: Any = None) -> sitk.Image:
    """A volume node as an image in the frame of `reference` (None: the node's own frame)."""
    return steps.finish(volume_steps(node, reference))


def volume_steps(node: Any, reference: Any = None) -> Steps:
    image_data = node.GetImageData()
    if image_data is None or image_data.GetPointData().GetScalars() is None:
        raise BadInput(f"The volume '{node.GetName()}' is empty.")
    if reference is None or reference is node:
        return (yield from _image_steps(image_data, volume_grid(node)))
    change = FrameChange(node, reference)
    if change.matrix is not None:
        return (yield from _image_steps(image_data, change.matrix @ volume_grid(node)))
    grid = volume_grid(reference)
    labels = node.IsA("vtkMRMLLabelMapVolumeNode")
    size = reference.GetImageData().GetDimensions()
    back = FrameChange(reference, node)
    return (yield from _image_steps(resliced(image_data, volume_grid(node), grid, size, back, labels), grid))


def label_image(node: Any, reference: Any = None, segment_ids: Optional[list[str]] = None) -> sitk.Image:
    """A label map or segmentation as an integer image; segments become 1..n in their order, on the reference's grid if
    there is one, else on their own."""
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return volume_image(node, reference)
    ids = segment_ids if segment_ids is not None else list(node.GetSegmentation().GetSegmentIDs())
    if not ids:
        raise BadInput(f"The segmentation '{node.GetName()}' has no segment.")
    missing = [i for i in ids if node.GetSegmentation().GetSegment(i) is None]
    if missing:
        raise BadInput(f"The segmentation '{node.GetName()}' has no segment '{missing[0]}' any more.")
    if reference is None or not reference.IsA("vtkMRMLVolumeNode") or reference.GetImageData() is None:
        merged = _merged(node, ids, None)
        matrix = FrameChange(node, reference).matrix if reference is not None else np.eye(4)
        if matrix is None:
            raise BadInput(f"The segmentation '{node.GetName()}' is bent against the others: harden its transform.")
        return steps.finish(_image_steps(merged, matrix @ oriented_grid(merged)))
    grid, size = volume_grid(reference), reference.GetImageData().GetDimensions()
    change = FrameChange(reference, node)
    if change.matrix is not None:
        geometry = oriented_image(size, change.matrix @ grid)
        return steps.finish(_image_steps(_merged(node, ids, geometry), grid))
    merged = _merged(node, ids, None)
    return steps.finish(_image_steps(resliced(merged, oriented_grid(merged), grid, size, change, labels=True), grid))


def oriented_image(size: Sequence[int], grid: np.ndarray) -> Any:
    """An empty vtkOrientedImageData (no voxels) with that grid."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1)
    image.SetGeometryFromImageToWorldMatrix(to_vtk(grid))
    return image


def oriented_grid(image: Any) -> np.ndarray:
    """IJK to the node's RAS of a vtkOrientedImageData whose extent may start anywhere, counted from its first voxel."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    grid = from_vtk(matrix)
    start = image.GetExtent()[::2]
    grid[:3, 3] = (grid @ [*start, 1.0])[:3]
    return grid


def _merged(node: Any, ids: list[str], geometry: Any) -> Any:
    names = vtk.vtkStringArray()
    for segment_id in ids:
        names.InsertNextValue(segment_id)
    merged = slicer.vtkOrientedImageData()
    mode = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    if not node.GenerateMergedLabelmapForAllSegments(merged, mode, geometry, names) or 0 in merged.GetDimensions():
        raise BadInput(f"The segmentation '{node.GetName()}' is empty.")
    return merged


def _one_slice(image: sitk.Image) -> sitk.Image:
    """What was painted on any slice, on the first one: a cine that is loaded as a volume has its frames as slices."""
    if image.GetSize()[2] == 1:
        return image
    flat = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image).max(axis=0, keepdims=True))
    flat.CopyInformation(image[:, :, :1])
    return flat


def sequence_steps(node: Any) -> Steps:
    """Every frame, in order, each in its own coordinates: of a sequence node, of the sequence that a volume shows the
    current frame of, or the slices of any other volume."""
    shown_by = frames.browser_of(node) if node.IsA("vtkMRMLVolumeNode") else None
    if shown_by is not None:
        node = shown_by.GetSequenceNode(node)
    if node.IsA("vtkMRMLVolumeNode"):
        image = yield from volume_steps(node)
        return [image[:, :, k : k + 1] for k in range(image.GetSize()[2])]
    found = [node.GetNthDataNode(i) for i in range(node.GetNumberOfDataNodes())]
    if not found:
        raise BadInput(f"The sequence '{node.GetName()}' is empty.")
    images = []
    for frame in found:
        images.append((yield from volume_steps(frame)))
    return images


def points(node: Any, reference: Any = None) -> list[list[float]]:
    change = FrameChange(node, reference)
    found = []
    for index in range(node.GetNumberOfControlPoints()):
        position = [0.0, 0.0, 0.0]
        node.GetNthControlPointPosition(index, position)
        x, y, z = change.point(position)
        found.append([-x, -y, z])
    return found


def plane(node: Any, reference: Any = None) -> dict[str, list[float]]:
    change = FrameChange(None, reference)  # the world functions know the node's own parent
    x, y, z = change.point(node.GetOriginWorld())
    nx, ny, nz = change.normal(node.GetNormalWorld(), node.GetOriginWorld())
    return {"origin": [-x, -y, z], "normal": [-float(nx), -float(ny), float(nz)]}


def roi(node: Any, reference: Any = None) -> dict[str, Any]:
    """Axes are made perpendicular again, as a box must have; sizes grow or shrink with a scaling transform."""
    change = FrameChange(node, reference)
    matrix = from_vtk(node.GetObjectToNodeMatrix())
    center, size = matrix[:3, 3], np.array(node.GetSize())
    axes = np.column_stack([change.vector(matrix[:3, i], center) for i in range(3)])
    lengths = np.linalg.norm(axes, axis=0)
    u, _, vt = np.linalg.svd(axes / lengths)
    x, y, z = change.point(center)
    return {
        "center": [-x, -y, z],
        "axes": (LPS_RAS[:3, :3] @ u @ vt).tolist(),
        "size_mm": [float(s) for s in size * lengths],
    }


def table(node: Any) -> dict[str, list]:
    columns = {}
    for index in range(node.GetNumberOfColumns()):
        column = node.GetTable().GetColumn(index)
        values = [column.GetValue(row) for row in range(column.GetNumberOfValues())]
        columns[column.GetName() or f"column {index + 1}"] = values
    return columns


def blob(node: Any) -> bytes:
    try:
        return base64.b64decode(node.GetText() or "", validate=True)
    except ValueError:
        raise BadInput(f"The text '{node.GetName()}' holds no saved model.") from None


# ------------------------------------------------------------------------------------------------------- value to node


def image_data_steps(image: sitk.Image) -> Steps:
    """One copy of the voxels; origin 0, spacing 1, as MRML wants it. 2D images become one slice, 64-bit integers
    32-bit."""
    voxels = sitk.GetArrayViewFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    narrow = {np.dtype(np.int64): np.dtype(np.int32), np.dtype(np.uint64): np.dtype(np.uint32)}
    dtype = narrow.get(voxels.dtype, voxels.dtype)
    data = vtk.vtkImageData()
    data.SetDimensions((*image.GetSize(), 1)[:3])
    data.AllocateScalars(numpy_support.get_vtk_array_type(dtype), components)
    scalars = data.GetPointData().GetScalars()
    scalars.SetName("ImageScalars")
    yield from _copy_steps(voxels, numpy_support.vtk_to_numpy(scalars).reshape(voxels.shape))
    return data


def fill_volume(node: Any, image: sitk.Image) -> None:
    """Puts voxels and grid into a volume node."""
    steps.finish(fill_volume_steps(node, image))


def fill_volume_steps(node: Any, image: sitk.Image) -> Iterator[None]:
    """The grid is set as a matrix, so that shear survives too."""
    data = yield from image_data_steps(image)
    node.SetIJKToRASMatrix(to_vtk(ijk_to_ras(image)))
    node.SetAndObserveImageData(data)


def oriented_image_steps(image: sitk.Image) -> Steps:
    """The image as vtkOrientedImageData, as segments hold it."""
    oriented = slicer.vtkOrientedImageData()
    oriented.ShallowCopy((yield from image_data_steps(image)))
    oriented.SetGeometryFromImageToWorldMatrix(to_vtk(ijk_to_ras(image)))
    return oriented


def fill_points(node: Any, values: Sequence[Sequence[float]]) -> None:
    for x, y, z in values:
        node.AddControlPoint(vtk.vtkVector3d(-x, -y, z))


def fill_plane(node: Any, value: dict[str, Any]) -> None:
    x, y, z = value["origin"]
    nx, ny, nz = value["normal"]
    node.SetOrigin(-x, -y, z)
    node.SetNormal(-nx, -ny, nz)


def fill_roi(node: Any, value: dict[str, Any]) -> None:
    x, y, z = value["center"]
    matrix = np.eye(4)
    matrix[:3, :3] = LPS_RAS[:3, :3] @ np.array(value["axes"], float)
    matrix[:3, 3] = (-x, -y, z)
    node.SetAndObserveObjectToNodeMatrix(to_vtk(matrix))
    node.SetSize([float(s) for s in value["size_mm"]])


def fill_table(node: Any, columns: dict[str, Sequence]) -> None:
    content = vtk.vtkTable()
    for name, values in columns.items():
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        column = vtk.vtkDoubleArray() if numbers else vtk.vtkStringArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(float(value) if numbers else str(value))
        content.AddColumn(column)
    node.SetAndObserveTable(content)


def fill_transform(node: Any, matrix: Any) -> None:
    """The value maps points of the output space to the input space; MRML's 'from parent' has the same sense."""
    node.SetMatrixTransformFromParent(to_vtk(LPS_RAS @ np.array(matrix, float) @ LPS_RAS))


def fill_blob(node: Any, content: bytes) -> None:
    node.SetText(base64.b64encode(content).decode("ascii"))
