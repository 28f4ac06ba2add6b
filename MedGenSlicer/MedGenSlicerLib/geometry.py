"""Grids and frames: SimpleITK is LPS, MRML is RAS; both in mm. Matrices are 4x4 numpy arrays that act on columns."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def from_vtk(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(array: np.ndarray) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row, column]))
    return matrix


def ijk_to_ras(image: sitk.Image) -> np.ndarray:
    """Of an image of two or three dimensions; a 2D one lies in the plane z = 0."""
    n = image.GetDimension()
    matrix = np.eye(4)
    matrix[:n, :n] = np.array(image.GetDirection()).reshape(n, n) * np.array(image.GetSpacing())
    matrix[:n, 3] = image.GetOrigin()
    return LPS_RAS @ matrix


def set_grid(image: sitk.Image, ijk_to_ras_matrix: np.ndarray) -> None:
    """Gives a 3D image the grid of the matrix. Sheared grids are kept exactly (the direction is then not
    orthogonal)."""
    matrix = LPS_RAS @ ijk_to_ras_matrix
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([float(x) for x in matrix[:3, 3]])
    image.SetDirection([float(x) for x in (matrix[:3, :3] / spacing).ravel()])


class FrameChange:
    """Maps points of one node's own coordinates into those of another, through their parent transforms (None:
    world)."""

    def __init__(self, source: Any, target: Any) -> None:
        source_parent = source.GetParentTransformNode() if source is not None else None
        target_parent = target.GetParentTransformNode() if target is not None else None
        self.transform = vtk.vtkGeneralTransform()
        transforms = slicer.vtkMRMLTransformNode
        transforms.GetTransformBetweenNodes(source_parent, target_parent, self.transform)
        self.matrix: Optional[np.ndarray] = None  # None: not linear
        if transforms.IsGeneralTransformLinear(self.transform):
            matrix = vtk.vtkMatrix4x4()
            transforms.GetMatrixTransformBetweenNodes(source_parent, target_parent, matrix)
            self.matrix = from_vtk(matrix)

    def point(self, ras: Any) -> list[float]:
        return list(self.transform.TransformPoint([float(x) for x in ras]))

    def vector(self, ras: Any, at: Any) -> np.ndarray:
        """A small step `ras` at the point `at`, as a vector of the target frame (not normalised)."""
        if self.matrix is not None:
            return self.matrix[:3, :3] @ np.asarray(ras, float)
        step = 1e-3
        start = np.asarray(at, float)
        ends = [np.array(self.point(start + sign * step * np.asarray(ras, float))) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    def normal(self, ras: Any, at: Any) -> np.ndarray:
        """A plane's unit normal in the target frame: perpendicular to what two directions in the plane become."""
        normal = np.asarray(ras, float) / np.linalg.norm(ras)
        first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
        second = np.cross(normal, first)
        turned = np.cross(self.vector(first, at), self.vector(second, at))
        return turned / np.linalg.norm(turned)


def resliced(
    image_data: Any,
    grid: np.ndarray,
    to_grid: np.ndarray,
    size: tuple[int, int, int],
    change: FrameChange,
    labels: bool,
) -> vtk.vtkImageData:
    """vtkImageData (voxel coordinates, placed by the IJK-to-RAS `grid`) drawn again on the grid `to_grid` of `size`
    voxels; `change` maps points of the new grid's frame into the old grid's frame. Outside is 0 for labels, else the
    minimum."""
    mapping = vtk.vtkGeneralTransform()
    mapping.PostMultiply()
    mapping.Concatenate(to_vtk(to_grid))
    mapping.Concatenate(change.transform)
    mapping.Concatenate(to_vtk(np.linalg.inv(grid)))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image_data)
    reslice.SetResliceTransform(mapping)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1)
    if labels:
        reslice.SetInterpolationModeToNearestNeighbor()
    else:
        reslice.SetInterpolationModeToLinear()
        reslice.SetBackgroundLevel(image_data.GetScalarRange()[0])
    reslice.Update()
    return reslice.GetOutput()
