"""Pictures of a segmentation for people who have no viewer at hand: three planes with overlay, and surfaces in 3D.

Needs the package's extra `demo` (matplotlib, vtk).
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from medgen.spec import Label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 0.12  # inches, between pictures
WIDTH = 13.0  # inches
# of an array with axes (S, P, L): the axis that is cut, down and across, the letters left, right, top and bottom
PLANES = ((0, 1, 2, "RLAP"), (1, 0, 2, "RLSI"), (2, 0, 1, "APSI"))


def volumes_ml(labelmap: sitk.Image, labels: Sequence[Label]) -> dict[int, float]:
    """Volume of each label but 0, in ml, by label value; 0.0 for a label that does not occur."""
    voxel_ml = float(np.prod(labelmap.GetSpacing())) / 1000.0
    values, counts = np.unique(sitk.GetArrayViewFromImage(labelmap), return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {label.value: found.get(label.value, 0) * voxel_ml for label in labels if label.value}


# ------------------------------------------------------------------------------------------------------------- planes


def three_planes(
    image: sitk.Image, labelmap: sitk.Image, labels: Sequence[Label], path: Path, title: str, note: str
) -> None:
    """PNG of the axial, coronal and sagittal slice that show most of the labels, in one scale, as radiologists look at
    them: the image above, with overlay below.

    image, labelmap: on one grid; note: the line at the foot, what the picture is and is not.
    """
    upright = [sitk.DICOMOrient(x, "LPS") for x in (image, labelmap)]
    voxels, marks = (sitk.GetArrayFromImage(x) for x in upright)
    low, high = np.percentile(voxels, (0.5, 99.5))
    box = _content((marks > 0) | (voxels > low + 0.1 * (high - low)), margin=8)
    voxels, marks = voxels[box], marks[box]
    spacing = upright[0].GetSpacing()[::-1]
    colours = _colour_table(labels, int(marks.max()), opacity=0.5)
    extent = [n * mm for n, mm in zip(voxels.shape, spacing, strict=True)]
    sizes = [(extent[down], extent[across]) for _, down, across, _ in PLANES]
    inches = (WIDTH - 4 * GAP) / sum(size[1] for size in sizes)  # per mm
    row = max(size[0] for size in sizes) * inches + GAP
    figure, bottom = _framed_figure(2 * row, labelmap, labels, title, note)
    left = GAP
    for (axis, down, _, letters), (height, width) in zip(PLANES, sizes, strict=True):
        at = _richest(marks, axis)
        cuts = [np.take(array, at, axis) for array in (voxels, marks)]
        grey, mark = cuts if down else (cut[::-1] for cut in cuts)  # the axis S grows upwards, rows downwards
        for upper in (True, False):
            place = (left, bottom + (row if upper else 0), width * inches, row - GAP)
            axes = _axes(figure, place)
            axes.imshow(grey, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0))
            if not upper:
                axes.imshow(colours[mark], extent=(0, width, height, 0), interpolation="nearest")
            _write_directions(axes, letters)
        left += width * inches + GAP
    figure.savefig(path, dpi=110, facecolor="black")


def _content(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The box around what is True, `margin` voxels wider where there is room; everything where nothing is True."""
    hits = [np.flatnonzero(mask.any(tuple(i for i in range(3) if i != axis))) for axis in range(3)]
    return tuple(slice(max(0, h[0] - margin), h[-1] + 1 + margin) if len(h) else slice(None) for h in hits)


def _richest(marks: np.ndarray, axis: int) -> int:
    """The slice across `axis` with the most labels; of several, that with the largest labelled area."""
    slices, values = marks.shape[axis], int(marks.max()) + 1
    shape = [slices if i == axis else 1 for i in range(3)]
    codes = marks.astype(np.int32) + (np.arange(slices, dtype=np.int32) * values).reshape(shape)
    counts = np.bincount(codes.ravel(), minlength=slices * values).reshape(slices, values)[:, 1:]
    area = counts.sum(axis=1)
    return int(np.argmax((counts > 0).sum(axis=1) + area / (area.max() + 1))) if area.any() else slices // 2


def _colour_table(labels: Sequence[Label], highest: int, opacity: float) -> np.ndarray:
    """float [values, 4]: red, green, blue, opacity by label value; values without a label are clear."""
    table = np.zeros((max([highest, *(x.value for x in labels)]) + 1, 4))
    for label in labels:
        if label.value:
            table[label.value] = (*(c / 255 for c in label.colour), opacity)
    return table


def _axes(figure: Figure, inches: tuple[float, float, float, float]):  # type: ignore[no-untyped-def]  # Axes
    width, height = figure.get_size_inches()
    left, bottom, wide, high = inches
    axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axes.set_axis_off()
    return axes


def _write_directions(axes, letters: str) -> None:  # type: ignore[no-untyped-def]  # Axes
    for letter, place in zip(letters, ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True):
        axes.text(*place, letter, color="#ffcc66", transform=axes.transAxes, ha="center", va="center", fontsize=10)


def _framed_figure(
    content: float, labelmap: sitk.Image, labels: Sequence[Label], title: str, note: str
) -> tuple[Figure, float]:
    """A black figure with title, legend and note around `content` inches of free height, and where that begins."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    volumes = volumes_ml(labelmap, labels)
    colours = _colour_table(labels, 0, opacity=1.0)
    patches = [
        Patch(color=tuple(colours[x.value, :3]), label=f"{x.name} {volumes[x.value]:.1f} ml")
        for x in labels
        if volumes.get(x.value)
    ]
    foot = 0.35
    legend = 0.19 * -(-len(patches) // 6) + 0.15 if patches else 0.0
    height = foot + legend + content + 0.5
    figure = Figure(figsize=(WIDTH, height), facecolor="black")
    if patches:
        figure.legend(handles=patches, loc="lower center", ncols=min(6, len(patches)), fontsize=8, labelcolor="white",
                      frameon=False, bbox_to_anchor=(0.5, foot / height), borderaxespad=0)  # fmt: skip
    figure.text(0.5, 1 - 0.25 / height, title, color="white", ha="center", va="center", fontsize=13)
    figure.text(0.5, 0.18 / height, note, color="#ffcc66", ha="center", va="center", fontsize=10)
    return figure, foot + legend


# ----------------------------------------------------------------------------------------------------------- surfaces


def surface_view(labelmap: sitk.Image, labels: Sequence[Label], path: Path, title: str, note: str) -> bool:
    """PNG of the surfaces of these labels (others are clear), whole and with a corner cut away. False where this
    machine cannot draw 3D.

    Drawn in a process of its own: without a usable OpenGL library, VTK takes its process down.
    """
    from matplotlib.image import imread

    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "surfaces.png"
        arguments = (_coarse(labelmap, labels), _colour_table(labels, 0, opacity=1.0), str(drawn))
        process = multiprocessing.get_context("spawn").Process(target=_draw_surfaces, args=arguments)
        process.start()
        process.join()
        if process.exitcode != 0 or not drawn.exists():
            return False
        pixels = imread(drawn)
    height = WIDTH * pixels.shape[0] / pixels.shape[1]
    figure, bottom = _framed_figure(height, labelmap, labels, title, note)
    _axes(figure, (0.0, bottom, WIDTH, height)).imshow(pixels)
    figure.savefig(path, dpi=110, facecolor="black")
    return True


def _coarse(labelmap: sitk.Image, labels: Sequence[Label], spacing_mm: float = 1.5) -> np.ndarray:
    """The label map in LPS order on a cubic grid, axes (S, P, L), cut to what is labelled, with a border of 0; only
    the given labels."""
    image = sitk.DICOMOrient(sitk.Cast(labelmap, sitk.sitkUInt16), "LPS")
    size = [max(1, round(n * s / spacing_mm)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    steps = [spacing_mm] * 3
    nearest = sitk.sitkNearestNeighbor
    grid = sitk.Resample(image, size, sitk.Transform(), nearest, image.GetOrigin(), steps, image.GetDirection())
    marks = sitk.GetArrayFromImage(grid)
    marks[~np.isin(marks, [x.value for x in labels if x.value])] = 0
    return np.pad(marks[_content(marks > 0, margin=0)], 2)


def _draw_surfaces(marks: np.ndarray, colours: np.ndarray, path: str) -> None:
    """marks: labels, axes (S, P, L); colours: [values, 4]. Writes a PNG."""
    import vtk

    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # it tries X first and complains where there is none
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(1430, 715)
    opened = marks.copy()
    middle = [int(np.mean(hits)) if len(hits) else 0 for hits in np.nonzero(marks)]
    opened[middle[0] :, : middle[1], middle[2] :] = 0  # upper, anterior, left: the corner that looks at the camera
    for number, array in enumerate((marks, opened)):
        renderer = vtk.vtkRenderer()
        renderer.SetViewport(number / 2, 0.0, (number + 1) / 2, 1.0)
        renderer.SetBackground(0.0, 0.0, 0.0)
        renderer.AddActor(_outer_surface(array, colours))
        vtk.vtkLightKit().AddLightsToRenderer(renderer)
        camera = renderer.GetActiveCamera()
        camera.SetPosition(1.0, -1.6, 0.9)  # LPS: from the left, the front and above
        camera.SetViewUp(0, 0, 1)
        renderer.ResetCamera()
        camera.Zoom(1.45)
        window.AddRenderer(renderer)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(path)
    writer.SetInputConnection(grab.GetOutputPort())
    writer.Write()


def _outer_surface(marks: np.ndarray, colours: np.ndarray):  # type: ignore[no-untyped-def]  # vtk.vtkActor
    """What is seen from outside: the smoothed border of all labels to the background, in the colours of the labels."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    volume = vtk.vtkImageData()
    volume.SetDimensions(*reversed(marks.shape))
    volume.GetPointData().SetScalars(numpy_to_vtk(marks.ravel(), deep=True))
    nets = vtk.vtkSurfaceNets3D()
    nets.SetInputData(volume)
    nets.SetOutputStyleToBoundary()
    for number, value in enumerate(v for v in np.unique(marks) if v):
        nets.SetValue(number, float(value))
    nets.Update()
    mesh = nets.GetOutput()
    sides = vtk_to_numpy(mesh.GetCellData().GetScalars()).astype(int)  # the label on either side; one is background
    rgb = (colours[np.clip(sides.max(axis=1), 0, len(colours) - 1), :3] * 255).astype(np.uint8)
    mesh.GetCellData().SetScalars(numpy_to_vtk(rgb, deep=True))
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputData(mesh)
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetAmbient(0.2)
    return actor
