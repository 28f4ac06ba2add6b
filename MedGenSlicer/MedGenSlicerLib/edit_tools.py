"""Where the region for a new lesion comes from: painted in the Segment Editor, or a ball at a place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import qt
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from medgen import spec
from MedGenSlicerLib import (
    correction,
    input_guess,
    inputs_form,
    node_bridge,
    result_presenter,
    steps,
    views,
    widgets,
)
from MedGenSlicerLib.geometry import FrameChange, from_vtk
from MedGenSlicerLib.jobs import Ticket
from MedGenSlicerLib.provenance import RunRecord

REGION, EDIT = "region", "edit"
COLOUR = (90, 200, 120)
VOXEL_BYTES = 4  # of the images that an edit makes
MUCH_GB = 2.0


class EditTools:
    """Beneath the inputs of a method that draws a lesion into a region or changes its size."""

    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        layout.addWidget(
            widgets.text_label(
                _("Edited images are synthetic: for teaching and for training data, never for a patient.")
            )
        )
        self.paint = widgets.button(
            _("Paint the region"), _("Opens the Segment Editor on the region, over the image."), self.open_editor
        )
        self.ball = widgets.button(
            _("Ball here"), _("The region is a ball at the crosshair, or in the middle of the slice."), self.make_ball
        )
        self.radius = qt.QDoubleSpinBox()
        self.radius.setRange(2, 60)
        self.radius.setDecimals(0)
        self.radius.setValue(10)
        self.radius.setSuffix(" mm")
        self.radius.setToolTip(_("Radius of the ball."))
        layout.addLayout(widgets.row(self.paint, self.ball, self.radius, stretch=0))
        self.warning = widgets.Notice()
        layout.addWidget(self.warning.widget)
        self.update()

    def _port(self) -> spec.Port:
        return next(port for port in self.panel.method.inputs if port.name == REGION)

    def update(self) -> None:
        wanted = self._chosen(EDIT) == "region"
        for each in (self.paint, self.ball, self.radius):
            each.setEnabled(wanted and self.panel.inputs.reference() is not None)
        fields = self.panel.parameters.fields
        for name in ("size", "sizes"):
            fields[name].widget.setEnabled(self._chosen(EDIT) == "size")
        fields["last_size"].widget.setEnabled(self._series())

    def _chosen(self, parameter: str) -> Any:
        state = self.panel.state
        return state.value(self.panel.method, parameter) if state is not None else None

    def _series(self) -> bool:
        return self._chosen(EDIT) == "size" and self._chosen("sizes") > 1

    def follow(self, ticket: Ticket) -> None:
        """The edited image is seen through the region and the lesion, whose outlines stay."""
        region = self.panel.state.input_node(REGION) if self.panel.state is not None else None
        made = ticket.results()
        for node in (region, *made) if made else ():
            if node is not None and node.IsA("vtkMRMLSegmentationNode"):
                node.CreateDefaultDisplayNodes()
                node.GetDisplayNode().SetVisibility2DFill(False)

    def reason_off(self) -> str:
        """What the chosen edit needs."""
        state = self.panel.state
        if state is not None and self._chosen(EDIT) == "region" and not state.input_nodes(REGION):
            return _("Paint the region for the lesion, or put a ball there.")
        if self._series() and self.panel.inputs.frame_run() is not None:
            return _("A series of sizes is made of one image: choose one size, or take the tick off 'All frames'.")
        return ""

    def show_warning(self) -> bool:
        """Says so where the images of a series need much memory."""
        gigabytes = self._series_gb() if self._series() else 0.0
        words = _(
            "These {n} sizes need about {gb:.1f} GB of memory while they arrive, and half of it afterwards: choose "
            "fewer sizes, or crop the images first."
        )
        self.warning.say(words.format(n=self._chosen("sizes"), gb=gigabytes) if gigabytes > MUCH_GB else "")
        return gigabytes > MUCH_GB

    def _series_gb(self) -> float:
        """Of what the run returns, once in the worker and once in the scene: every sequence that is given, and the maps
        of a series, each as often as there are sizes."""
        given = self.panel.inputs.inputs()
        outputs = [port for port in self.panel.method.outputs if getattr(port, "series", None) is not None]
        made = [port for port in outputs if not port.name.startswith("edited_")]
        made += [port for port in outputs if port.name.partition("edited_")[2] in given]
        reference = self.panel.inputs.reference()
        known = input_guess.facts(reference) if reference is not None else None
        voxels = math.prod(known.size) if known is not None else 0
        return 2 * voxels * VOXEL_BYTES * len(made) * self._chosen("sizes") / 1e9

    def open_editor(self) -> None:
        node = self.panel.state.input_node(REGION)
        if node is None:
            node = inputs_form.make_input_node(self._port(), self.panel.inputs.reference())
            self.panel.state.set_input_nodes(REGION, [node])
        if node.IsA("vtkMRMLSegmentationNode"):
            correction.open_editor(node, self.panel.inputs.reference())

    def make_ball(self) -> None:
        """A new segmentation; what was painted before stays in the scene."""
        reference, radius = self.panel.inputs.reference(), float(self.radius.property("value"))
        point = FrameChange(None, reference).point(_place())
        made: list[Any] = []

        def work() -> Any:
            image = yield from node_bridge.volume_steps(reference)
            made.append((yield from _ball_steps(image, point, radius, reference)))

        def done() -> None:
            if self.panel.state is not None and made[0] is not None:
                self.panel.state.set_input_nodes(REGION, [made[0]])
                self.panel.state.set_segment_id(REGION, "")

        steps.run(work(), done)


def _place() -> Any:
    """World RAS mm: where the crosshair is if it is shown, else the middle of the slice that is read."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None and crosshair.GetCrosshairMode() != slicer.vtkMRMLCrosshairNode.NoCrosshair:
        return list(crosshair.GetCrosshairRAS())
    node = slicer.vtkMRMLSliceNode.SafeDownCast(views.slice_node(views.read_view()))
    corner = from_vtk(node.GetXYToRAS())
    return (corner @ (node.GetDimensions()[0] / 2, node.GetDimensions()[1] / 2, 0, 1))[:3]


def _ball_steps(image: sitk.Image, ras: Any, radius_mm: float, reference: Any) -> node_bridge.Steps:
    """image: of the reference; ras: the centre in its frame, mm. Returns the segmentation, None where the scene was
    closed meanwhile."""
    centre = np.array([-ras[0], -ras[1], ras[2]])
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    k, j, i = np.meshgrid(*(np.arange(n) for n in reversed(image.GetSize())), indexing="ij", sparse=True)
    yield
    squared = np.zeros(tuple(reversed(image.GetSize())), np.float32)
    for row, origin, middle in zip(axes, image.GetOrigin(), centre):
        squared += (row[0] * i + row[1] * j + row[2] * k + (origin - middle)).astype(np.float32) ** 2
        yield
    mask = sitk.GetImageFromArray((squared <= radius_mm**2).astype(np.uint8))
    mask.CopyInformation(image)
    if reference.GetScene() is None:
        return None
    title = _("Region, ball of {radius:.0f} mm").format(radius=radius_mm)
    port = spec.LabelMap(REGION, title, labels=(spec.Label(1, _("Region"), COLOUR),))
    record = RunRecord(REGION, title)
    record.reference_id = reference.GetID()
    record.names[record.reference_id] = reference.GetName()
    node = yield from result_presenter.make_node_steps(port, mask, record)
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    return node
