"""Puts what a run returned into the scene: named, under its study, displayed, with its provenance. Never touches a
node that was there before. Works in steps (a generator), so that a big result does not stop the event loop for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from medgen import spec
from MedGenSlicerLib import correction, ct_views, frames, node_bridge, provenance, steps, views
from MedGenSlicerLib.node_bridge import Steps
from MedGenSlicerLib.provenance import RunRecord

# intensity at the ends of the grey scale, where the unit fixes it: lowest, highest
DISPLAY_RANGES = {"HU": (-160.0, 240.0), "SPR": (0.0, 1.8)}
PLOT_COLOURS = ((0.84, 0.37, 0.0), (0.0, 0.45, 0.7), (0.0, 0.62, 0.45), (0.8, 0.47, 0.65))  # told apart by everyone
NO_CODE = "^^"
TYPE_CONTEXT = "Segmentation category and type - DICOM master list"
REGION_CONTEXT = "Anatomic codes - DICOM master list"


def present(
    method: spec.MethodSpec, record: RunRecord, outputs: dict[str, Any], facts: dict[str, Any], made: list[Any]
) -> Iterator[None]:
    """Appends the new nodes to `made`. `facts`: provenance as the worker gave it."""
    playing = None  # the browser of this run's series
    for port in method.outputs:
        value = outputs.get(port.name)
        if value is None:
            continue
        series = is_series(port, value)
        joined = playing if series else None
        if port is method.outputs[0] and not series:
            joined = frames.browser_to_join(record.reference(), value)
        node = yield from make_node_steps(port, value, record, joined)
        playing = frames.browser_of(node) if series else playing
        synthetic = isinstance(port, spec.Image) and port.synthetic
        sequence = frames.sequence_of(node)
        provenance.write(node if sequence is None else sequence, record, facts, port.name, synthetic)
        if sequence is not None:  # the node takes its attributes from the frame that it shows
            for each in (*(sequence.GetNthDataNode(i) for i in range(sequence.GetNumberOfDataNodes())), node):
                provenance.copy(sequence, each)
        _place(node, record)
        made.append(node)
        yield
        if isinstance(port, (spec.LabelMap, spec.Mask)):
            yield from correction.remember(node)


def is_series(port: spec.Port, value: Any) -> bool:
    return isinstance(port, (spec.Image, spec.Probability)) and isinstance(value, dict)


def make_node(port: spec.Port, value: Any, record: RunRecord) -> Any:
    """The node of one output, in the scene."""
    return steps.finish(make_node_steps(port, value, record))


def make_node_steps(port: spec.Port, value: Any, record: RunRecord, joined: Optional[Any] = None) -> Steps:
    """joined: the browser in which a sequence plays; None: one of its own."""
    name = f"{record.reference_name} {port.title}"
    if isinstance(port, spec.Image) and port.synthetic and _("synthetic") not in port.title.lower():
        name += " " + _("(synthetic)")
    name = slicer.mrmlScene.GenerateUniqueName(name)
    if isinstance(port, (spec.LabelMap, spec.Mask)):
        return (yield from _segmentation(port, value, name, record))
    if is_series(port, value):
        return (yield from _series(port, value, name, joined))
    if isinstance(port, (spec.Image, spec.Probability)):
        if isinstance(value, (list, tuple)) and len(value) > 1:
            return (yield from _sequence(port, value, name, joined))
        return (yield from _volume(port, value[0] if isinstance(value, (list, tuple)) else value, name))
    return MAKERS[type(port)](port, value, name)


def _add(node_class: str, name: str) -> Any:
    return slicer.mrmlScene.AddNewNodeByClass(node_class, name)


# ------------------------------------------------------------------------------------------------------------- volumes


def _volume(port: spec.Port, image: sitk.Image, name: str) -> Steps:
    node = yield from _volume_node(image, name)
    slicer.mrmlScene.AddNode(node)
    _display_volume(port, node)
    return node


def _volume_node(image: sitk.Image, name: str) -> Steps:
    colour = image.GetNumberOfComponentsPerPixel() > 1
    node = slicer.vtkMRMLVectorVolumeNode() if colour else slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    yield from node_bridge.fill_volume_steps(node, image)
    return node


def _display_volume(port: spec.Port, node: Any) -> None:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    unit = getattr(port, "unit", "")
    if unit:
        node.SetAttribute("MedGen.unit", unit)
    if isinstance(port, spec.Probability):
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
        if display.GetColorNode() is None:
            display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, 1.0)
        display.SetThreshold(0.05, 1.0)
        display.SetApplyThreshold(True)
    elif unit == "difference":
        ct_views.show_as_difference(node)
    elif unit in DISPLAY_RANGES:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*DISPLAY_RANGES[unit])


def _sequence(port: spec.Port, images: list[sitk.Image], name: str, joined: Optional[Any]) -> Steps:
    """The frames of a cine, at the places of the input's where they join its browser."""
    source = joined.GetMasterSequenceNode() if joined is not None else None
    if source is None:
        axis, places = spec.Axis("frame"), [str(index) for index in range(len(images))]
    else:
        axis = spec.Axis(source.GetIndexName(), source.GetIndexUnit())
        places = [source.GetNthIndexValue(index) for index in range(len(images))]
    return (yield from _play(port, dict(zip(places, images)), axis, name, joined))


def _series(port: Any, images: dict[float, sitk.Image], name: str, joined: Optional[Any]) -> Steps:
    """What the series leads to is shown first. All images are shown on one grey scale, so that they can be compared."""
    texts = {f"{number:g}": image for number, image in images.items()}
    proxy = yield from _play(port, texts, port.series, name, joined)
    if isinstance(port, spec.Image) and not port.unit:  # what has a unit has its own scale
        ends = []
        for image in images.values():
            voxels = sitk.GetArrayViewFromImage(image)
            ends += [float(voxels.min()), float(voxels.max())]
            yield
        proxy.GetDisplayNode().SetAutoWindowLevel(False)
        proxy.GetDisplayNode().SetWindowLevelMinMax(min(ends), max(ends))
    frames.browser_of(proxy).SetSelectedItemNumber(len(images) - 1)
    return proxy


def _play(port: spec.Port, images: dict[str, sitk.Image], axis: spec.Axis, name: str, joined: Optional[Any]) -> Steps:
    """images: by their place on the axis. The node that shows the current one; a browser plays them."""
    sequence = _add("vtkMRMLSequenceNode", name + " frames")
    sequence.SetIndexName(axis.name)
    sequence.SetIndexUnit(axis.unit)
    for place, image in images.items():
        frame = yield from _volume_node(image, name)
        sequence.SetDataNodeAtValue(frame, place)
    browser = joined if joined is not None else _add("vtkMRMLSequenceBrowserNode", name + " browser")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    proxy = browser.GetProxyNode(sequence)
    proxy.SetName(name)
    _display_volume(port, proxy)
    return proxy


# -------------------------------------------------------------------------------------------------------- segmentation


def terminology_entry(terminology: spec.Terminology) -> str:
    """As Slicer writes it: context~category~type~modifier~region context~region~modifier."""

    def text(code: Any) -> str:
        return f"{code.scheme}^{code.value}^{code.meaning}" if code else NO_CODE

    t = terminology
    parts = [TYPE_CONTEXT, text(t.category), text(t.type), text(t.type_modifier)]
    return "~".join([*parts, REGION_CONTEXT if t.region else "", text(t.region), text(t.region_modifier)])


def _segmentation(port: spec.Port, image: sitk.Image, name: str, record: RunRecord) -> Steps:
    """All segments share the one label image, as after an import, but without counting each label's extent."""
    node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentationNode")
    node.UnRegister(None)
    node.SetName(name)
    if image.GetPixelID() not in (sitk.sitkUInt8, sitk.sitkUInt16):  # what Slicer's segmentations hold
        image = sitk.Cast(image, sitk.sitkUInt16)
        yield
    oriented = yield from node_bridge.oriented_image_steps(image)
    segmentation = node.GetSegmentation()
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation.SetSourceRepresentationName(binary)
    labels = port.labels if isinstance(port, spec.LabelMap) else ()
    for label in labels or _labels_found(port, image):
        segment = slicer.vtkSegment()
        segment.SetName(label.name)
        segment.SetColor(*(c / 255 for c in label.colour))
        segment.SetLabelValue(label.value)
        if label.terminology:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology_entry(label.terminology))
        segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
        segment.SetTag("DICOM.SegmentAlgorithmName", f"MedGen {record.method_title}")
        segment.AddRepresentation(binary, oriented)
        segmentation.AddSegment(segment, f"{label.value}_{label.name}".replace(" ", "_"))
    slicer.mrmlScene.AddNode(node)
    reference = record.reference()
    if reference is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    node.CreateDefaultDisplayNodes()
    return node


def _labels_found(port: spec.Port, image: sitk.Image) -> list[spec.Label]:
    """For a map whose labels the user chose: a colour each from Slicer's anatomy table."""
    highest = int(sitk.GetArrayViewFromImage(image).max())
    table = slicer.mrmlScene.GetNodeByID("vtkMRMLColorTableNodeFileGenericAnatomyColors.txt")
    table = table or slicer.mrmlScene.GetNodeByID("vtkMRMLColorTableNodeRandom")
    found = []
    for value in range(1, highest + 1):
        colour = [0.0, 0.0, 0.0, 0.0]
        if table is not None:
            table.GetColor(value, colour)
        title = port.title if highest == 1 else f"{port.title} {value}"
        red, green, blue = (round(255 * c) for c in colour[:3])
        found.append(spec.Label(value, title, (red, green, blue)))
    return found


# -------------------------------------------------------------------------------------------------------------- others


def _points(port: spec.Port, value: Any, name: str) -> Any:
    node = _add("vtkMRMLMarkupsFiducialNode", name)
    node_bridge.fill_points(node, value)
    return node


def _planes(port: spec.Port, value: Any, name: str) -> Any:
    """The first plane is the node that stands in the list of results, the others beside it. Without the handles that a
    plane has by itself: they lie over the image, and one drag would change the result."""
    nodes = []
    for index, each in enumerate(value):
        node = _add("vtkMRMLMarkupsPlaneNode", name if index == 0 else f"{name} {index + 1}")
        node_bridge.fill_plane(node, each)
        node.SetLocked(True)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetHandlesInteractive(False)
        nodes.append(node)
    return nodes[0]


def _roi(port: spec.Port, value: Any, name: str) -> Any:
    node = _add("vtkMRMLMarkupsROINode", name)
    node_bridge.fill_roi(node, value)
    return node


def _table(port: spec.Port, value: Any, name: str) -> Any:
    node = _add("vtkMRMLTableNode", name)
    node_bridge.fill_table(node, value)
    return node


def _plot(port: spec.Plot, value: Any, name: str) -> Any:
    """A chart over a table node; the chart is the result."""
    table = _table(port, value, name + " table")
    chart = _add("vtkMRMLPlotChartNode", name)
    for column in (name for name in port.y if name in value):
        series = _add("vtkMRMLPlotSeriesNode", column)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(port.x)
        series.SetYColumnName(column)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        if port.points:
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
            series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
        else:
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(*PLOT_COLOURS[chart.GetNumberOfPlotSeriesNodes() % len(PLOT_COLOURS)])
        series.SetLineWidth(2)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.SetXAxisTitle(port.x)
    return chart


def _transform(port: spec.Port, value: Any, name: str) -> Any:
    node = _add("vtkMRMLLinearTransformNode", name)
    node_bridge.fill_transform(node, value)
    return node


def _blob(port: spec.Port, value: Any, name: str) -> Any:
    node = _add("vtkMRMLTextNode", name)
    node_bridge.fill_blob(node, value)
    return node


MAKERS = {
    spec.Points: _points,
    spec.Planes: _planes,
    spec.ROI: _roi,
    spec.Table: _table,
    spec.Plot: _plot,
    spec.Transform: _transform,
    spec.Blob: _blob,
}


# --------------------------------------------------------------------------------------------------- place and display


def _place(node: Any, record: RunRecord) -> None:
    """Under the reference's study (or folder) in the subject hierarchy, and under its parent transform."""
    if node.IsA("vtkMRMLTransformableNode") and slicer.mrmlScene.GetNodeByID(record.parent_transform_id or "none"):
        node.SetAndObserveTransformNodeID(record.parent_transform_id)
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    reference = record.reference()
    if hierarchy is None or reference is None:
        return
    beside, item = hierarchy.GetItemByDataNode(reference), hierarchy.GetItemByDataNode(node)
    if beside and item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))


def show(made: list[Any], record: RunRecord) -> None:
    """The input behind the segments; an image beside its input; a table or plot is left to the panel."""
    reference = record.reference()
    volumes = [n for n in made if n.IsA("vtkMRMLScalarVolumeNode") and not n.IsA("vtkMRMLLabelMapVolumeNode")]
    if reference is None or not reference.IsA("vtkMRMLVolumeNode"):
        if volumes:  # made from nothing, or of a table
            views.ensure_slices()
            views.show_background(volumes[0])
        return
    if any(n.IsA("vtkMRMLSegmentationNode") for n in made) or not volumes:
        views.show_background(reference)
    else:
        views.side_by_side([reference, *volumes[:2]])


def can_be_shown(node: Any) -> bool:
    return any(node.IsA(kind) for kind in ("vtkMRMLDisplayableNode", "vtkMRMLPlotChartNode", "vtkMRMLTableNode"))


def is_shown(node: Any) -> bool:
    """Whether the eye of the result is open."""
    if node.IsA("vtkMRMLVolumeNode"):
        return views.is_displayed(node)
    if node.IsA("vtkMRMLPlotChartNode"):
        return views.chart_shown(node)
    if node.IsA("vtkMRMLTableNode"):
        return views.table_shown(node)
    display = node.GetDisplayNode() if hasattr(node, "GetDisplayNode") else None
    return bool(display and display.GetVisibility())


def set_shown(node: Any, shown: bool) -> None:
    if node.IsA("vtkMRMLVolumeNode"):
        reference = provenance.reference_of(node)
        if not shown:
            views.hide(node)
        elif reference is not None and reference.IsA("vtkMRMLVolumeNode"):
            views.blend(reference, node)
        else:
            views.show_background(node)
    elif node.IsA("vtkMRMLPlotChartNode"):
        views.show_chart(node, shown)
    elif node.IsA("vtkMRMLTableNode"):
        views.show_table(node, shown)
    elif hasattr(node, "SetDisplayVisibility"):
        node.SetDisplayVisibility(shown)


def three_d_shown(node: Any) -> bool:
    display = node.GetDisplayNode()
    closed = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    return bool(display and display.GetVisibility3D() and node.GetSegmentation().ContainsRepresentation(closed))


def set_three_d_shown(node: Any, shown: bool) -> None:
    """Makes the surfaces the first time, which takes seconds on a big volume."""
    if shown:
        node.CreateClosedSurfaceRepresentation()
    display = node.GetDisplayNode()
    display.SetVisibility3D(shown)
