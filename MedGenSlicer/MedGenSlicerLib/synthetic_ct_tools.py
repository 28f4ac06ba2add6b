"""What a planner does with a synthetic CT or stopping-power map: look at it, set the density of air or bone by hand,
check it against a reference or along a line. Shown beneath the results of MedGenSyntheticCT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import spec
from medgen.errors import MedGenError
from MedGenSlicerLib import (
    correction,
    ct_views,
    densities,
    export_dialog,
    method_catalogue,
    provenance,
    steps,
    views,
    widgets,
)
from MedGenSlicerLib.gate_tools import GateTools
from MedGenSlicerLib.inputs_form import InputsForm
from MedGenSlicerLib.jobs import Ticket

REVIEW, HEAD = "synthetic_ct_review", "multiplanar_unet"
GATED = ("ct", "mr", "spr")  # not what was overridden by hand
UNCERTAINTY = ("uncertainty", "spread")  # what methods call it
IMAGE_ROLE, OVERRIDE = "synthetic_ct.image", "override"
SEGMENT = spec.Mask(OVERRIDE, "Segment", help="The segment whose voxels get the value; + paints a new one.")


class SyntheticCtTools:
    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self.review = method_catalogue.find(REVIEW)
        self._told: Optional[Ticket] = None
        self._feeding = False
        self._stop: Any = None
        button, inside = widgets.section(layout, _("Look"), _("How the synthetic image is shown."))
        self.look = LookTools(self, inside)
        self.sections = [button]
        button, inside = widgets.section(layout, _("Correct densities"), _("Air, bone and metal set by hand."), True)
        self.correct = OverrideTools(self, inside)
        self.sections.append(button)
        button, inside = widgets.section(layout, _("Check"), _("Against a reference, and along a line."), True)
        self._build_check(inside)
        self.sections.append(button)
        self.gate = GateTools(panel, layout, GATED)
        for each in self.sections:  # what a folded section hid comes back as it was made, not as it should be
            each.contentsCollapsed.connect(lambda *_a: self.update())

    def _build_check(self, layout: Any) -> None:
        rows = qt.QVBoxLayout()
        layout.addLayout(rows)
        self.form = InputsForm(rows, self.panel.update)
        ports = tuple(port for port in self.review.inputs if port.name != "synthetic")
        self.form.build(replace(self.review, inputs=ports))
        self.check = widgets.button(_("Check"), "", self.start_check)
        layout.addWidget(self.check)

    # ------------------------------------------------------------------------------------------------------- the image

    def image(self) -> Optional[Any]:
        """The synthetic image that the tools work on: the one chosen, else the newest."""
        state = self.panel.state
        if state is None:
            return None
        chosen = state.input_node(IMAGE_ROLE)
        known = densities.synthetic_volumes()
        return chosen if chosen in known else (known[-1] if known else None)

    def choose(self, node: Any) -> None:
        if self.panel.state is not None:
            self.panel.state.set_input_nodes(IMAGE_ROLE, [node])

    def source(self) -> Optional[Any]:
        """The MR that the image was made from."""
        image = self.image()
        found = provenance.reference_of(image) if image is not None else None
        return found if found is not None and found.IsA("vtkMRMLScalarVolumeNode") else None

    def busy(self) -> bool:
        return self.panel.ticket is not None and not self.panel.ticket.ended

    def say(self, sentence: str) -> None:
        self.panel.results.say(sentence)

    # -------------------------------------------------------------------------------------------------------- follow up

    def update(self) -> None:
        """Shows what the panel's state holds. Cheap: called after every change."""
        if self.panel.state is None:
            return
        self.feed_segments()
        self.look.update()
        self.correct.update()
        self.form.update(self.panel.state)
        image = self.image()
        off = _("There is no synthetic image yet.") if image is None else _("A job is running.") if self.busy() else ""
        self.check.setEnabled(not off)
        tooltip = _("Errors by region, difference map, histogram and water-equivalent depths, in the background.")
        self.check.setToolTip(off or tooltip)
        self.form.show_warnings(image)
        self.gate.update()

    def feed_segments(self) -> None:
        """A body, bone or air segment of this MR that was corrected by hand, or made with 'Bone and air', goes into the
        next run. Each is offered once: what the user then chooses stays."""
        if self._feeding:  # each input that is set brings another update
            return
        self._feeding = True
        try:
            told = self._feed()
        finally:
            self._feeding = False
        if told:
            self.say(" ".join(told))

    def _feed(self) -> list[str]:
        """Sets the inputs and says so, a sentence each."""
        state, method, told = self.panel.state, self.panel.method, []
        wanted = [p for p in (method.inputs if method else ()) if isinstance(p, spec.Mask)]
        for node in state.results() if wanted else []:
            same_patient = provenance.reference_of(node) is self.panel.inputs.reference()
            if not node.IsA("vtkMRMLSegmentationNode") or not same_patient or not _meant_for_the_next_run(node):
                continue
            for port in wanted:
                segment_id = _segment_called(node, port.name)
                key = f"fed.{method.id}.{port.name}.{node.GetID()}"
                if segment_id and not state.option(key, False):
                    state.set_option(key, True)
                    state.set_input_nodes(port.name, [node])
                    state.set_segment_id(port.name, segment_id)
                    words = _("'{segment}' of '{name}' is used in the next run.")
                    segment = node.GetSegmentation().GetSegment(segment_id).GetName()
                    told.append(words.format(segment=segment, name=node.GetName()))
        return told

    def job_ended(self, ticket: Ticket) -> None:
        """A job of this panel has ended: the newest image is chosen, a check is arranged in the views."""
        self.gate.job_ended(ticket)
        if ticket is self._told or not ticket.results():
            return
        self._told = ticket
        made = [n for n in ticket.results() if n in densities.synthetic_volumes()]
        if made:
            self.choose(made[0])
            self.look.show_new(ticket.results())
        elif ticket.method.id == REVIEW:
            self.look.show_review(ticket.results())
        self.panel.update()

    def start_check(self) -> Optional[Ticket]:
        image = self.image()
        if image is None:
            return None
        unit = densities.unit_of(image)
        return self.panel.start(self.review, {"synthetic": [image], **self.form.inputs()}, {"unit": unit})

    def run_steps(self, work: Any, done: Any) -> None:
        """A piece of work in the event loop; its failure is told in one sentence."""

        def failed(error: Exception) -> None:
            if not isinstance(error, MedGenError):
                raise error
            self.say(str(error))

        self._stop = steps.run(work, done, failed)

    def cleanup(self) -> None:
        if self._stop is not None:
            self._stop()
        self.gate.cleanup()
        for form in (self.form, self.correct.form):
            for row in form.rows.values():
                row.selector.setMRMLScene(None)


def _meant_for_the_next_run(node: Any) -> bool:
    return correction.edited(node) or node.GetAttribute("MedGen.output") == "bone_air"


def _segment_called(node: Any, name: str) -> str:
    """The id of the first segment whose name begins with that word: 'Bone' and 'Bone marrow' for 'bone'."""
    segmentation = node.GetSegmentation()
    for segment_id in segmentation.GetSegmentIDs():
        words = segmentation.GetSegment(segment_id).GetName().lower().replace("_", " ").split()
        if words and words[0] == name:
            return segment_id
    return ""


class LookTools:
    """Which image, its window, beside or over the MR, uncertainty, bone in 3D."""

    def __init__(self, tools: SyntheticCtTools, layout: Any) -> None:
        self.tools = tools
        self.combo = qt.QComboBox()
        self.combo.setToolTip(_("The synthetic image that everything below works on."))
        self.combo.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.combo.currentIndexChanged.connect(lambda *_a: self._chosen())
        self.export = widgets.button(
            _("Export..."), _("Writes this image to files, after a check of what is missing."), self._export
        )
        layout.addLayout(widgets.row(self.combo, self.export, stretch=0))
        titles = {"brain": _("Brain"), "soft": _("Soft tissue"), "bone": _("Bone"), "full": _("All")}
        self.windows = {name: widgets.button(title, "", self._window(name)) for name, title in titles.items()}
        layout.addLayout(widgets.row(*self.windows.values()))
        self.beside = widgets.button(
            _("MR | CT"), _("The MR left, the synthetic image right, in linked views."), self._side_by_side
        )
        self.blend = widgets.button(_("Blend"), _("The synthetic image over the MR, in your own layout."), self._blend)
        self.opacity = qt.QSlider(qt.Qt.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(50)
        self.opacity.setToolTip(_("How much of the image in front is seen: left the MR alone, right the other alone."))
        self.opacity.valueChanged.connect(lambda *_a: views.set_opacity(self.opacity.property("value") / 100))
        layout.addLayout(widgets.row(self.beside, self.blend, self.opacity, stretch=2))
        self.uncertainty = widgets.button(_("Uncertainty"), "", self._uncertainty)
        self.difference = widgets.button(_("Difference"), "", self._difference)
        self.surface = widgets.button(_("Bone in 3D"), _("The surface of all bone in the 3D view."), self._surface)
        layout.addLayout(widgets.row(self.uncertainty, self.difference, self.surface))

    def update(self) -> None:
        image = self.tools.image()
        items = [(node.GetName(), node.GetID()) for node in reversed(densities.synthetic_volumes())]
        none = [(_("No synthetic image yet"), "")]
        widgets.set_combo(self.combo, items or none, image.GetID() if image is not None else "")
        self.combo.setEnabled(bool(items))
        unit = densities.unit_of(image) if image is not None else "HU"
        for name, low, high in ct_views.WINDOWS[unit]:
            self.windows[name].setToolTip(_("Shows {a:g} to {b:g} {unit}.").format(a=low, b=high, unit=unit))
        self.beside.setText(_("MR | SPR") if unit == "SPR" else _("MR | CT"))
        for each in (*self.windows.values(), self.surface, self.export):
            each.setEnabled(image is not None)
        has_source = self.tools.source() is not None
        for each in (self.beside, self.blend, self.opacity):
            each.setEnabled(has_source)
        self._enable(self.uncertainty, self._made(*UNCERTAINTY), _("The method's own doubt, over the image."),
                     _("The method that made this image tells no uncertainty."))  # fmt: skip
        self._enable(self.difference, self._made("difference"), _("Synthetic, reference and their difference, linked."),
                     _("Check the image against a reference first."))  # fmt: skip

    @staticmethod
    def _enable(button: Any, node: Optional[Any], can: str, cannot: str) -> None:
        button.setEnabled(node is not None)
        button.setToolTip(can if node is not None else cannot)

    def _made(self, *outputs: str) -> Optional[Any]:
        """The newest volume of these outputs that belongs to the image: of the same run, or of a check of it."""
        image = self.tools.image()
        found = None
        for node in self.tools.panel.state.results() if image is not None else []:
            if node.GetAttribute("MedGen.output") in outputs and node.IsA("vtkMRMLScalarVolumeNode"):
                same_run = node.GetAttribute("MedGen.time") == image.GetAttribute("MedGen.time")
                if same_run or provenance.reference_of(node) is image:
                    found = node
        return found

    def _chosen(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(widgets.combo_data(self.combo) or "none")
        if node is not None:
            self.tools.choose(node)

    def _export(self) -> None:
        export_dialog.show(self.tools.image())

    def _window(self, name: str) -> Any:
        def show() -> None:
            image = self.tools.image()
            low, high = next((a, b) for n, a, b in ct_views.WINDOWS[densities.unit_of(image)] if n == name)
            ct_views.set_window(image, low, high)
            if not views.is_displayed(image):
                views.show_background(image)

        return show

    def show_new(self, made: list[Any]) -> None:
        """Beside the MR, or alone where it was made of segments; the run's segments as outlines, or they would hide the
        densities."""
        for node in made:
            if node.IsA("vtkMRMLSegmentationNode") and node.GetDisplayNode() is not None:
                node.GetDisplayNode().SetVisibility2DFill(False)
        if self.tools.source() is not None:
            self._side_by_side()
        else:
            views.show_background(self.tools.image())

    def _side_by_side(self) -> None:
        views.side_by_side([self.tools.source(), self.tools.image()])
        self.tools.panel.results.views_changed()

    def _blend(self) -> None:
        views.blend(self.tools.source(), self.tools.image())
        views.set_opacity(self.opacity.property("value") / 100)
        self.tools.panel.results.views_changed()

    def _uncertainty(self) -> None:
        ct_views.show_as_uncertainty(self._made(*UNCERTAINTY), self.tools.image())

    def _difference(self) -> None:
        self.show_review([self._made("difference")])

    def show_review(self, made: list[Any]) -> None:
        """Synthetic | reference | difference, linked; without a reference the chart of the check."""
        difference = next((n for n in made if n.GetAttribute("MedGen.output") == "difference"), None)
        if difference is not None:
            reference = difference.GetNodeReference(provenance.INPUT_ROLE + "reference")
            shown = [provenance.reference_of(difference), reference, difference]
            views.side_by_side([node for node in shown if node is not None])
        else:
            charts = [n for n in made if n.IsA("vtkMRMLPlotChartNode")]
            wanted = [n for n in charts if n.GetAttribute("MedGen.output") == "water_depth"] or charts
            if wanted:
                views.show_chart(wanted[0], True)
        self.tools.panel.results.views_changed()

    def _surface(self) -> None:
        image = self.tools.image()
        model = ct_views.surface_of(image)
        if model is None:
            ct_views.bone_surface(image, densities.unit_of(image))
        else:
            model.SetDisplayVisibility(not model.GetDisplayVisibility())


class OverrideTools:
    """Bone and air from the MR; a value for a segment."""

    def __init__(self, tools: SyntheticCtTools, layout: Any) -> None:
        self.tools = tools
        self._unit, self._offered = "", ""
        self.find = widgets.button(_("Bone and air from MR"), "", self.start_finding)
        layout.addWidget(self.find)
        rows = qt.QVBoxLayout()
        layout.addLayout(rows)
        self.form = InputsForm(rows, tools.panel.update)
        self.form.build(replace(tools.review, inputs=(SEGMENT,), fitness=spec.no_warnings))
        self.preset = qt.QComboBox()
        self.preset.setToolTip(_("Usual values; each can be changed."))
        self.preset.currentIndexChanged.connect(lambda *_a: self._preset_chosen())
        self.value = qt.QDoubleSpinBox()
        self.value.setToolTip(_("Every voxel of the segment gets this value in the new volume."))
        self.override = widgets.button(_("Override"), "", self.start_override)
        layout.addLayout(widgets.row(self.preset, self.value, self.override, stretch=0))
        self.undo = widgets.button(_("Take the last override back"), "", self.take_back)
        layout.addWidget(self.undo)

    def update(self) -> None:
        self.form.update(self.tools.panel.state)
        self.form.show_warnings()
        image = self.tools.image()
        self._show_unit(densities.unit_of(image) if image is not None else "HU")
        self._offer_preset()
        off = self.reason_off()
        self.override.setEnabled(not off)
        self.override.setToolTip(off or _("Makes a new volume with this value in the segment. The old one stays."))
        mr = self._mr()
        self.find.setEnabled(mr is not None and not self.tools.busy())
        self.find.setToolTip(
            _("Finds bone and air cavities of the head in the MR, as segments to correct by hand.")
            if mr is not None
            else _("Choose the MR above.")
        )
        last = image is not None and densities.source_of(image) is not None
        self.undo.setEnabled(last)
        self.undo.setToolTip(
            _("Deletes this volume and goes back to the one that it was made from.")
            if last
            else _("The image chosen above has no value set by hand.")
        )

    def _show_unit(self, unit: str) -> None:
        if unit == self._unit:
            return
        self._unit = unit
        titles = densities.preset_titles()
        self.preset.blockSignals(True)
        widgets.set_combo(self.preset, [(titles[name], name) for name, _value in densities.PRESETS[unit]], "air")
        self.preset.blockSignals(False)
        spr = unit == "SPR"
        self.value.setDecimals(3 if spr else 0)
        self.value.setRange(0.0 if spr else -1024.0, 20.0 if spr else 30000.0)
        self.value.setSingleStep(0.01 if spr else 10.0)
        self.value.setSuffix(f" {unit}")
        self._preset_chosen()

    def _preset_chosen(self) -> None:
        values = dict(densities.PRESETS[self._unit or "HU"])
        self.value.setValue(values[widgets.combo_data(self.preset) or "air"])

    def _offer_preset(self) -> None:
        """The preset that the segment's name speaks of, when another segment was chosen."""
        segment = self._segment()
        key = segment[0].GetID() + segment[1] if segment else ""
        if key != self._offered:
            self._offered = key
            name = segment[0].GetSegmentation().GetSegment(segment[1]).GetName() if segment else ""
            found = [self.preset.itemData(i) for i in range(self.preset.property("count"))]
            preset = densities.preset_for(name)
            if preset in found:
                self.preset.setCurrentIndex(found.index(preset))

    def _segment(self) -> Optional[tuple[Any, str]]:
        """(segmentation, segment id); None where none is chosen, or it is not told which of several."""
        state = self.tools.panel.state
        node = state.input_node(OVERRIDE)
        if node is None or not node.IsA("vtkMRMLSegmentationNode"):
            return None
        ids = list(node.GetSegmentation().GetSegmentIDs())
        chosen = state.segment_id(OVERRIDE) or (ids[0] if len(ids) == 1 else "")
        return (node, chosen) if chosen in ids else None

    def _mr(self) -> Optional[Any]:
        return self.tools.panel.inputs.reference() or self.tools.source()

    def reason_off(self) -> str:
        if self.tools.image() is None:
            return _("There is no synthetic image yet.")
        if self._segment() is None:
            return _("Choose which segment gets the value.")
        return ""

    def start_override(self) -> None:
        segment = self._segment()
        if segment is None or self.tools.image() is None:
            return
        image, value, made = self.tools.image(), self.value.property("value"), []

        def work() -> Any:
            made.append((yield from densities.override_steps(image, *segment, value)))

        def done() -> None:
            state = self.tools.panel.state
            if state is None:
                return
            state.add_result(made[0])
            self.tools.choose(made[0])
            views.replace(image, made[0])
            if not views.is_displayed(made[0]):
                self.tools.look.show_new([])
            words = _("'{name}' was made; '{old}' is as it was.")
            self.tools.say(words.format(name=made[0].GetName(), old=image.GetName()))
            self.tools.panel.update()

        self.tools.run_steps(work(), done)

    def take_back(self) -> None:
        image = self.tools.image()
        source = densities.source_of(image)
        views.replace(image, source)
        slicer.mrmlScene.RemoveNode(image)
        self.tools.choose(source)
        self.tools.panel.update()

    def start_finding(self) -> None:
        self.tools.panel.start(method_catalogue.find(HEAD), {"image": [self._mr()]}, {"structures": "bone_air"})
