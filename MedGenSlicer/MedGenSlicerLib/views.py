"""What the slice views show: the input behind a result, an image beside its input, blend, flicker; and the way back
to the user's own layout. Through MRML nodes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import qt
import slicer

from MedGenSlicerLib.geometry import from_vtk

LAYOUT_IDS = {2: 7302, 3: 7303}  # ours, far from the application's own
VIEW_GROUP = 7302
PLACES = ("Left", "Middle", "Right")
FLICKER_MS, FIT_MS = 600, 100
_before: list[int] = []  # the user's own layout, while ours is shown


def layout_node() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def _layout_xml(count: int) -> str:
    items = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="MedGen{place}">'
        f'<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{place[0]}</property>'
        f'<property name="viewcolor" action="default">#4A7A9C</property></view></item>'
        for place in _places(count)
    )
    return f'<layout type="horizontal" split="true">{items}</layout>'


def _places(count: int) -> Sequence[str]:
    return PLACES[:count] if count == 3 else (PLACES[0], PLACES[2])


def composite(view: str) -> Optional[Any]:
    return slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceCompositeNode{view}")


def composites() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))


def slice_node(view: str) -> Optional[Any]:
    return slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{view}")


def show_background(volume: Any) -> None:
    """The volume in every slice view, fitted, unless the views show it already."""
    if composites() and all(c.GetBackgroundVolumeID() == volume.GetID() for c in composites()):
        return
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(volume.GetID())
    logic.PropagateVolumeSelection(1)


def overlay(volume: Any, opacity: float = 0.5) -> None:
    for each in composites():
        each.SetForegroundVolumeID(volume.GetID())
        each.SetForegroundOpacity(opacity)


def set_opacity(opacity: float) -> None:
    """Of whatever lies in front."""
    for each in composites():
        each.SetForegroundOpacity(opacity)


def replace(old: Any, new: Any) -> None:
    """Another volume wherever the old one is shown; window, fit and slice stay."""
    for each in composites():
        if each.GetBackgroundVolumeID() == old.GetID():
            each.SetBackgroundVolumeID(new.GetID())
        if each.GetForegroundVolumeID() == old.GetID():
            each.SetForegroundVolumeID(new.GetID())


def seen_ids(composite: Any) -> list[str]:
    """Of the volumes that the view shows: behind, and in front unless it is clear."""
    ids = [composite.GetBackgroundVolumeID()]
    if composite.GetForegroundOpacity() > 0:
        ids.append(composite.GetForegroundVolumeID())
    return [node_id for node_id in ids if node_id]


def is_displayed(volume: Any) -> bool:
    shown = (volume.GetID(),)
    return any(c.GetBackgroundVolumeID() in shown or c.GetForegroundVolumeID() in shown for c in composites())


def hide(volume: Any) -> None:
    for each in composites():
        if each.GetBackgroundVolumeID() == volume.GetID():
            each.SetBackgroundVolumeID(None)
        if each.GetForegroundVolumeID() == volume.GetID():
            each.SetForegroundVolumeID(None)


def side_by_side(volumes: Sequence[Any], at: Optional[Sequence[float]] = None) -> None:
    """Two or three volumes in linked slice views, left to right, all as the first one fits; `own_layout` brings the
    user's layout back. at: a point (world RAS mm) of the slice to show."""
    node = layout_node()
    number = LAYOUT_IDS[len(volumes)]
    if not node.IsLayoutDescription(number):
        node.AddLayoutDescription(number, _layout_xml(len(volumes)))
    elif not node.GetLayoutDescription(number):  # a closed scene empties them
        node.SetLayoutDescription(number, _layout_xml(len(volumes)))
    if node.GetViewArrangement() not in LAYOUT_IDS.values():
        _before[:] = [node.GetViewArrangement()]
    node.SetViewArrangement(number)
    for place in _places(len(volumes)):
        if slice_node(f"MedGen{place}") is not None:  # linked views move the others of their group: not the user's own
            slice_node(f"MedGen{place}").SetViewGroup(VIEW_GROUP)
    for place, volume in zip(_places(len(volumes)), volumes):
        each = composite(f"MedGen{place}")
        if each is not None:
            each.SetLinkedControl(True)
            each.SetBackgroundVolumeID(volume.GetID())
            each.SetForegroundVolumeID(None)
    _fit(_places(len(volumes)), at)
    qt.QTimer.singleShot(FIT_MS, lambda: comparing() and _fit(_places(len(volumes)), at))


def _fit(places: Sequence[str], at: Optional[Sequence[float]]) -> None:
    """The views must have their size: they get it in the turns of the event loop after the layout was set."""
    nodes = [slice_node(f"MedGen{place}") for place in places]
    first = nodes[0]
    logic = slicer.app.applicationLogic().GetSliceLogic(first) if first is not None else None
    if logic is None:
        return
    logic.FitSliceToAll(*first.GetDimensions()[:2])
    if at is not None:
        first.JumpSliceByOffsetting(*(float(x) for x in at))
    for node in nodes[1:]:
        if node is not None:
            node.SetFieldOfView(*first.GetFieldOfView())
            node.GetSliceToRAS().DeepCopy(first.GetSliceToRAS())
            node.UpdateMatrices()


def comparing() -> bool:
    return layout_node() is not None and layout_node().GetViewArrangement() in LAYOUT_IDS.values()


def away() -> bool:
    """Whether the views are not the user's own: those of a comparison, or of a table to edit."""
    table = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView
    return comparing() or (bool(_before) and layout_node() is not None and layout_node().GetViewArrangement() == table)


def own_layout() -> None:
    if away():
        default = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
        layout_node().SetViewArrangement(_before[0] if _before else default)


def ensure_slices() -> None:
    """Another layout where there is no slice to see anything on."""
    node = layout_node()
    if "vtkMRMLSliceNode" not in (node.GetLayoutDescription(node.GetViewArrangement()) or "vtkMRMLSliceNode"):
        node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)


def blend(first: Any, second: Any) -> None:
    own_layout()
    ensure_slices()
    show_background(first)
    overlay(second)


class Flicker:
    """Shows first and second in turn, in the same views, until stopped."""

    def __init__(self) -> None:
        self.timer = qt.QTimer()
        self.timer.setInterval(FLICKER_MS)
        self.timer.timeout.connect(self._turn)
        self.ids: tuple[str, str] = ("", "")

    def start(self, first: Any, second: Any) -> None:
        blend(first, second)
        self.ids = (first.GetID(), second.GetID())
        self.timer.start()

    def running(self) -> bool:
        return self.timer.isActive()

    def stop(self) -> None:
        self.timer.stop()
        self._set_opacity(0.5)

    def _set_opacity(self, opacity: float) -> None:
        for each in composites():
            if each.GetForegroundVolumeID() == self.ids[1]:
                each.SetForegroundOpacity(opacity)

    def _turn(self) -> None:
        if any(slicer.mrmlScene.GetNodeByID(node_id) is None for node_id in self.ids):
            self.timer.stop()
            return
        now = [c.GetForegroundOpacity() for c in composites() if c.GetForegroundVolumeID() == self.ids[1]]
        self._set_opacity(0.0 if now and now[0] > 0.5 else 1.0)


# --------------------------------------------------------------------------------------------------------------- plots


def chart_shown(chart: Any) -> bool:
    shown = (view.GetPlotChartNodeID() for view in slicer.util.getNodesByClass("vtkMRMLPlotViewNode"))
    return comparing_plot() and chart.GetID() in shown


def comparing_plot() -> bool:
    node = layout_node()
    return node is not None and node.GetViewArrangement() in (
        slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView,
        slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView,
        slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpPlotView,
    )


def show_chart(chart: Any, shown: bool) -> None:
    """The plot in a view beside the slices, or the user's own layout back."""
    node = layout_node()
    if not shown:
        node.SetViewArrangement(_before[0] if _before else slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        return
    if not comparing() and not comparing_plot():
        _before[:] = [node.GetViewArrangement()]
    slicer.modules.plots.logic().ShowChartInLayout(chart)


def table_shown(table: Any) -> bool:
    node = layout_node()
    arranged = node is not None and node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView
    return arranged and slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID() == table.GetID()


def show_table(table: Any, shown: bool = True) -> None:
    """The table, editable, in a view beneath the slices; `own_layout` brings the user's layout back."""
    node = layout_node()
    if not shown:
        own_layout()
        return
    if not away() and not comparing_plot():
        _before[:] = [node.GetViewArrangement()]
    node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetActiveTableID(table.GetID())
    slicer.app.applicationLogic().PropagateTableSelection()


# -------------------------------------------------------------------------------------------------------------- planes


def read_view() -> str:
    """The name of the view that a slice is read in: the left of a comparison, else the red one."""
    return "MedGenLeft" if comparing() else "Red"


def jump_to_point(point: Sequence[float]) -> None:
    """Every slice view goes to the slice through the point (world RAS mm) without turning."""
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.JumpSliceByOffsetting(*(float(x) for x in point))


def slice_plane(view: str) -> tuple[np.ndarray, np.ndarray]:
    """(point, unit normal) of a slice view, world RAS mm."""
    matrix = from_vtk(slice_node(view).GetSliceToRAS())
    return matrix[:3, 3], matrix[:3, 2] / np.linalg.norm(matrix[:3, 2])


def jump_to_plane(view: str, point: Sequence[float], normal: Sequence[float]) -> None:
    """Turns a slice view onto a plane (world RAS mm), with an in-plane axis close to what the view showed."""
    node = slice_node(view)
    old = from_vtk(node.GetSliceToRAS())[:3, 0]
    n = np.asarray(normal, float) / np.linalg.norm(normal)
    t = old - (old @ n) * n
    if np.linalg.norm(t) < 1e-3:
        t = np.cross(n, np.eye(3)[np.argmin(np.abs(n))])
    t /= np.linalg.norm(t)
    node.SetSliceToRASByNTP(*n, *t, *(float(x) for x in point), 0)
