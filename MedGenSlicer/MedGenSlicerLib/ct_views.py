"""How CT numbers, stopping power, differences and uncertainty are shown: windows, colours with a legend, bone in 3D."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from MedGenSlicerLib import node_bridge, provenance, views
from MedGenSlicerLib.geometry import to_vtk

# unit: (id, lowest, highest value shown)
WINDOWS = {
    "HU": (("brain", 0.0, 80.0), ("soft", -160.0, 240.0), ("bone", -500.0, 1500.0), ("full", -1000.0, 2000.0)),
    "SPR": (("brain", 0.98, 1.08), ("soft", 0.85, 1.15), ("bone", 0.8, 1.8), ("full", 0.0, 2.0)),
}
BONE_SURFACE = {"HU": 250.0, "SPR": 1.142}  # 250 HU by the built-in table
DIFFERENCE_COLOURS = "MedGen difference"
LEGEND_OF = "MedGen.legend_of"
BONE_COLOUR = (0.95, 0.84, 0.57)
SURFACE_VOXELS = 4_000_000  # a finer grid is halved first: the surface has to come in a moment


def set_window(node: Any, lowest: float, highest: float) -> None:
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(lowest, highest)


# ------------------------------------------------------------------------------------------------------------- colours


def difference_colours() -> Any:
    """Blue where too little, white at 0, red where too much; made once a scene."""
    known = slicer.mrmlScene.GetFirstNodeByName(DIFFERENCE_COLOURS)
    if known is not None:
        return known
    node = slicer.vtkMRMLColorTableNode()
    node.SetName(DIFFERENCE_COLOURS)
    node.SetTypeToUser()
    node.SetNumberOfColors(256)
    node.SetHideFromEditors(True)
    for index in range(256):
        part = (index - 127.5) / 127.5
        strong, weak = 1 - 0.25 * max(0.0, abs(part) - 0.5), 1 - min(1.0, 1.5 * abs(part)) * 0.95
        colour = (strong, weak, weak) if part > 0 else (weak, weak, strong)
        node.SetColor(index, f"{part:+.2f}", *colour, 1.0)
    return slicer.mrmlScene.AddNode(node)


def show_as_difference(node: Any) -> None:
    """Colours centred at 0, as wide as 99 of 100 voxels that differ need, rounded."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(difference_colours().GetID())
    voxels = numpy_support.vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())
    sample = np.abs(voxels[:: max(1, voxels.size // 1_000_000)])
    sample = sample[sample > 0]
    width = _rounded_up(float(np.percentile(sample, 99))) if sample.size else 1.0
    set_window(node, -width, width)
    add_legend(node, _("Difference"))


def _rounded_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999))


def show_as_uncertainty(node: Any, background: Any) -> None:
    """In warm colours over the image, clear where it is small, with a legend."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
    if display.GetColorNode() is None:
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
    if not node.GetAttribute("MedGen.uncertainty_shown"):  # afterwards the range is the user's
        low, high = node.GetImageData().GetScalarRange()
        set_window(node, low, high)
        display.SetThreshold(low + 0.1 * (high - low), high)
        display.SetApplyThreshold(True)
        node.SetAttribute("MedGen.uncertainty_shown", "1")
    add_legend(node, _("Uncertainty"))
    views.blend(background, node)


def add_legend(node: Any, title: str) -> None:
    """A bar of colours with its numbers, in the views that show the node and in no other."""
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    if legend is not None:
        legend.SetTitleText(title)
        legend.SetLabelFormat("%.4g")
        legend.SetAttribute(LEGEND_OF, node.GetID())
        update_legends()


def update_legends() -> None:
    """After the views have changed."""
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        volume_id = legend.GetAttribute(LEGEND_OF)
        if not volume_id:
            continue
        names = [each.GetLayoutName() for each in views.composites() if volume_id in views.seen_ids(each)]
        wanted = tuple(f"vtkMRMLSliceNode{name}" for name in names)
        if wanted and tuple(legend.GetViewNodeIDs() or ()) != wanted:
            legend.SetViewNodeIDs(list(wanted))
        if bool(legend.GetVisibility()) != bool(wanted):
            legend.SetVisibility(bool(wanted))


# ------------------------------------------------------------------------------------------------------------- surface


def bone_surface(volume: Any, unit: str) -> Any:
    """A model of everything denser than bone's threshold, in the 3D view; empty for an image without bone."""
    data = volume.GetImageData()
    grid = node_bridge.volume_grid(volume)
    if data.GetNumberOfPoints() > SURFACE_VOXELS:
        shrink = vtk.vtkImageShrink3D()
        shrink.SetInputData(data)
        shrink.SetShrinkFactors(2, 2, 2)
        shrink.AveragingOn()
        shrink.Update()
        data = shrink.GetOutput()
        grid = grid @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1.0]])
        plain = vtk.vtkImageData()
        plain.ShallowCopy(data)
        plain.SetOrigin(0, 0, 0)
        plain.SetSpacing(1, 1, 1)
        data = plain
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(data)
    edges.SetValue(0, BONE_SURFACE[unit])
    edges.ComputeScalarsOff()  # they would colour it
    to_ras = vtk.vtkTransform()
    to_ras.SetMatrix(to_vtk(grid))
    moved = vtk.vtkTransformPolyDataFilter()
    moved.SetInputConnection(edges.GetOutputPort())
    moved.SetTransform(to_ras)
    moved.Update()
    name = slicer.mrmlScene.GenerateUniqueName(_("{name} bone surface").format(name=volume.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(moved.GetOutput())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetColor(*BONE_COLOUR)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    provenance.copy(volume, node)
    node.SetNodeReferenceID("MedGen.surface_of", volume.GetID())
    return node


def surface_of(volume: Any) -> Optional[Any]:
    """The surface that was made of the volume as it is now."""
    models = slicer.util.getNodesByClass("vtkMRMLModelNode")
    return next((m for m in models if m.GetNodeReference("MedGen.surface_of") is volume), None)
