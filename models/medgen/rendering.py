"""Pictures of a segmentation for people who have no viewer at hand: three planes with overlay, and surfaces in 3D.

Needs the package's extra `demo` (matplotlib, vtk).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medgen.spec import Label

PLANES = (
    ("axial", "RLAP"),  # letters at the left, right, top and bottom edge
    ("coronal", "RLSI"),
    ("sagittal", "APSI"),
)


def volumes_ml(labelmap: sitk.Image, labels: Sequence[Label]) -> dict[int, float]:
    """Volume of each label but 0, in ml, by label value; 0.0 for a label that does not occur."""
    voxel_ml = float(np.prod(labelmap.GetSpacing())) / 1000.0
    values, counts = np.unique(sitk.GetArrayViewFromImage(labelmap), return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {label.value: found.get(label.value, 0) * voxel_ml for label in labels if label.value}


def _cut(array: np.ndarray, plane: str, at: Sequence[int]) -> np.ndarray:
    """One slice of an array with axes (S, P, L), as radiologists look at it: rows run downwards."""
    if plane == "axial":
        return array[at[0]]
    return array[::-1, at[1]] if plane == "coronal" else array[::-1, :, at[2]]


def _middle(mask: np.ndarray) -> tuple[int, ...]:
    """Index of the mask's centre of mass; of the array's middle where the mask is empty."""
    hits = np.argwhere(mask)
    return tuple((hits.mean(0) if len(hits) else np.array(mask.shape) / 2).astype(int).tolist())


def three_planes(
    image: sitk.Image, labelmap: sitk.Image, labels: Sequence[Label], path: Path, title: str, note: str
) -> None:
    """PNG of the axial, coronal and sagittal slice through the labels' middle: the image above, with overlay below.

    image, labelmap: on one grid; note: the line at the foot, what the picture is and is not.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    voxels, marks = (sitk.GetArrayFromImage(sitk.DICOMOrient(x, "LPS")) for x in (image, labelmap))
    spacing = sitk.DICOMOrient(image, "LPS").GetSpacing()
    low, high = np.percentile(voxels, (0.5, 99.5))
    table = np.zeros((int(max(marks.max(), *(x.value for x in labels))) + 1, 4))
    for label in labels:
        if label.value:
            table[label.value] = (*(c / 255 for c in label.colour), 0.55)
    at = _middle(marks > 0)
    figure = Figure(figsize=(13, 9.6), facecolor="black")
    for column, (plane, letters) in enumerate(PLANES):
        grey, mark = _cut(voxels, plane, at), _cut(marks, plane, at)
        vertical, horizontal = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
        for row in range(2):
            axes = figure.add_axes((0.01 + 0.33 * column, 0.5 - 0.395 * row, 0.32, 0.385))
            axes.set_facecolor("black")
            axes.imshow(grey, cmap="gray", vmin=low, vmax=high, aspect=spacing[vertical] / spacing[horizontal])
            if row:
                axes.imshow(table[mark], aspect=spacing[vertical] / spacing[horizontal], interpolation="nearest")
            axes.set_axis_off()
            for letter, place in zip(letters, ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True):
                axes.text(*place, letter, color="white", transform=axes.transAxes, ha="center", va="center", fontsize=9)
    volumes = volumes_ml(labelmap, labels)
    patches = [
        Patch(color=[c / 255 for c in x.colour], label=f"{x.name}: {volumes[x.value]:.1f} ml")
        for x in labels
        if volumes.get(x.value)
    ]
    if patches:
        figure.legend(handles=patches, loc="lower center", ncols=min(6, len(patches)), fontsize=8, labelcolor="white",
                      facecolor="black", edgecolor="black", bbox_to_anchor=(0.5, 0.022))  # fmt: skip
    figure.text(0.5, 0.975, title, color="white", ha="center", va="top", fontsize=13, wrap=True)
    figure.text(0.5, 0.008, note, color="#ffcc66", ha="center", va="bottom", fontsize=9)
    figure.savefig(path, dpi=110, facecolor="black")


def surface_view(labelmap: sitk.Image, labels: Sequence[Label], path: Path, title: str, note: str) -> bool:
    """PNG of the labels' surfaces, whole and with a corner cut away. False where this machine cannot draw 3D.

    Drawn in a process of its own: without a usable OpenGL library, VTK takes its process down.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_draw_surfaces,
        args=(_coarse(labelmap), [x for x in labels if x.value], str(path), f"{title}\n{note}"),
    )
    process.start()
    process.join()
    return process.exitcode == 0 and path.exists()


def _coarse(labelmap: sitk.Image, spacing_mm: float = 1.5) -> tuple[np.ndarray, float]:
    """The label map in LPS order on a cubic grid, axes (S, P, L), with a border of background."""
    image = sitk.DICOMOrient(sitk.Cast(labelmap, sitk.sitkUInt16), "LPS")
    size = [max(1, round(n * s / spacing_mm)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        image.GetOrigin(),
        [spacing_mm] * 3,
        image.GetDirection(),
    )
    return np.pad(sitk.GetArrayFromImage(grid), 2), spacing_mm


def _draw_surfaces(grid: tuple[np.ndarray, float], labels: Sequence[Label], path: str, text: str) -> None:
    import vtk

    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # it tries X first and complains where there is none
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(4)
    window.SetSize(1400, 760)
    marks, spacing = grid
    opened = marks.copy()
    at = _middle(marks > 0)
    opened[at[0] :, : at[1], at[2] :] = 0  # upper, anterior, left: the corner that looks at the camera
    for number, array in enumerate((marks, opened)):
        renderer = vtk.vtkRenderer()
        renderer.SetViewport(number / 2, 0.0, (number + 1) / 2, 1.0)
        renderer.SetBackground(0.05, 0.05, 0.08)
        for label in labels:
            if (array == label.value).any():
                renderer.AddActor(_surface(array, spacing, label))
        vtk.vtkLightKit().AddLightsToRenderer(renderer)
        camera = renderer.GetActiveCamera()
        camera.SetPosition(1.0, -1.6, 0.9)  # LPS: from the left, the front and above
        camera.SetViewUp(0, 0, 1)
        renderer.ResetCamera()
        camera.Zoom(1.35)
        window.AddRenderer(renderer)
    caption = vtk.vtkTextActor()
    caption.SetInput(text)
    caption.GetTextProperty().SetFontSize(18)
    caption.SetPosition(16, 12)
    window.GetRenderers().GetFirstRenderer().AddActor2D(caption)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(path)
    writer.SetInputConnection(grab.GetOutputPort())
    writer.Write()


def _surface(array: np.ndarray, spacing: float, label: Label):  # type: ignore[no-untyped-def]  # vtk.vtkActor
    """Smoothed surface of one label: marching cubes at half height on a slightly blurred mask."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    mask = sitk.GetArrayFromImage(
        sitk.DiscreteGaussian(sitk.GetImageFromArray((array == label.value).astype(np.float32)), 0.5)
    )
    volume = vtk.vtkImageData()
    volume.SetDimensions(*reversed(array.shape))
    volume.SetSpacing(spacing, spacing, spacing)
    volume.GetPointData().SetScalars(numpy_to_vtk(mask.ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(volume)
    edges.SetValue(0, 0.5)
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(edges.GetOutputPort())
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(*(c / 255 for c in label.colour))
    actor.GetProperty().SetInterpolationToPhong()
    actor.GetProperty().SetSpecular(0.15)
    return actor
