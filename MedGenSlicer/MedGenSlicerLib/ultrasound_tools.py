"""What a sonographer does with a filled or restyled frame: flip before and after, wipe, go through the samples, see
where they differ and what was filled. Shown beneath the results of MedGenUltrasound."""

from __future__ import annotations

from typing import Any, Optional

import qt
from slicer.i18n import tr as _

from MedGenSlicerLib import correction, frames, provenance, views, widgets, wipe
from MedGenSlicerLib.gate_tools import GATE, GateTools
from MedGenSlicerLib.jobs import Ticket

MAIN = ("inpainted", "restyled")  # outputs that stand for their run
ARTEFACTS, MASK = "us_artefact_masks", "mask"


class UltrasoundTools:
    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self.wipe = wipe.Wipe()
        self._told: Optional[Ticket] = None
        _button, inside = widgets.section(layout, _("Look"), _("How the result is compared with the frame."))
        self.flip = widgets.button(_("Before / after"), _("Shows the frame and the result in turn."), self.flip_views)
        self.beside = widgets.button(_("Side by side"), _("The frame left, the result right."), self.side_by_side)
        inside.addLayout(widgets.row(self.beside, self.flip))
        self.wipe_slider = qt.QSlider(qt.Qt.Horizontal)
        self.wipe_slider.setRange(0, 100)
        self.wipe_slider.setToolTip(_("Wipe: the frame left of the edge, the result right of it."))
        self.wipe_slider.valueChanged.connect(lambda *_a: self.wipe_to(self.wipe_slider.property("value") / 100))
        inside.addLayout(widgets.row(qt.QLabel(_("Wipe")), self.wipe_slider, stretch=1))
        self.sample_label = qt.QLabel()
        self.sample_slider = qt.QSlider(qt.Qt.Horizontal)
        self.sample_slider.setToolTip(_("Shows one sample after the other."))
        self.sample_slider.valueChanged.connect(lambda *_a: self._sample_moved())
        self.keep = widgets.button(
            _("Use this one"), _("Runs again with this sample for every frame."), self.use_sample
        )
        inside.addLayout(widgets.row(self.sample_label, self.sample_slider, self.keep, stretch=1))
        self.mean = widgets.button(_("Mean"), _("The mean of the fills: smooth, for measuring."), self.show_mean)
        self.spread = widgets.button(
            _("Spread"), _("Where the fills differ, in colour over the result."), self.show_spread
        )
        self.outline = qt.QCheckBox(_("Outline of the filled area"))
        self.outline.setToolTip(_("What was filled is invented: its outline tells where."))
        self.outline.setChecked(True)
        self.outline.toggled.connect(lambda *_a: self.show_outline())
        inside.addLayout(widgets.row(self.mean, self.spread, self.outline, stretch=2))
        self.gate = GateTools(panel, layout, MAIN)
        self.update()

    # --------------------------------------------------------------------------------------------------------- results

    def made(self, *outputs: str) -> Optional[Any]:
        """The newest result of these outputs; of the newest run alone, so that nothing of two runs is mixed."""
        state = self.panel.state
        runs = [n for n in (state.results() if state else []) if n.GetAttribute("MedGen.output") in (*MAIN, *outputs)]
        if not runs:
            return None
        newest = runs[-1].GetAttribute("MedGen.time")
        found = [n for n in runs if n.GetAttribute("MedGen.time") == newest]
        return next((n for n in found if n.GetAttribute("MedGen.output") in outputs), None)

    def pair(self) -> Optional[tuple[Any, Any]]:
        """(frame before, result) of the newest run; None where one is gone."""
        after = self.made(*MAIN)
        before = provenance.reference_of(after) if after is not None else None
        return (before, after) if before is not None and before.IsA("vtkMRMLVolumeNode") else None

    def filled(self) -> Optional[Any]:
        return self.made("filled")

    def samples(self) -> Optional[Any]:
        node = self.made("samples")
        return node if node is not None and frames.frame_count(node) > 1 else None

    # ---------------------------------------------------------------------------------------------------------- update

    def update(self) -> None:
        """Cheap: called after every change."""
        pair, samples = self.pair(), self.samples()
        for each in (self.flip, self.beside, self.wipe_slider):
            each.setEnabled(pair is not None)
        self.mean.setEnabled(self.made("mean") is not None)
        self.spread.setEnabled(self.made("spread") is not None and pair is not None)
        self.outline.setEnabled(self.filled() is not None)
        count = frames.frame_count(samples) if samples is not None else 0
        self.sample_slider.setEnabled(count > 1)
        self.keep.setEnabled(count > 1 and self._has_sample_number())
        self.sample_slider.blockSignals(True)
        self.sample_slider.setRange(1, max(1, count))
        number = frames.browser_of(samples).GetSelectedItemNumber() + 1 if count else 1
        self.sample_slider.setValue(number)
        self.sample_slider.blockSignals(False)
        self.gate.update()
        self.sample_label.setText(_("Sample {n} of {all}").format(n=number, all=count) if count else _("Samples"))

    def _has_sample_number(self) -> bool:
        method = self.panel.method
        return method is not None and any(p.name == "sample" for p in method.parameters)

    def job_ended(self, ticket: Ticket) -> None:
        """A job of this panel has ended: its result beside the frame, what was filled outlined; found artefacts become
        the mask."""
        self.gate.job_ended(ticket)
        if ticket is self._told or not ticket.results() or ticket.method.id == GATE:
            return
        self._told = ticket
        self.wipe.end()
        if ticket.method.id == ARTEFACTS:
            self._take_as_mask(ticket.results()[0])
        else:
            self.side_by_side()
            self.show_outline()
            self._hide_mask()
        self.update()

    def _hide_mask(self) -> None:
        """What was painted would lie over the fill; the outline tells where it was."""
        mask = self.panel.state.input_node(MASK) if self.panel.state is not None else None
        if self.filled() is not None and mask is not None and mask.GetDisplayNode() is not None:
            mask.SetDisplayVisibility(False)

    def _take_as_mask(self, node: Any) -> None:
        state = self.panel.state
        if state is not None and node.IsA("vtkMRMLSegmentationNode"):
            state.set_input_nodes(MASK, [node])
            found = any(correction.volumes_when_made(node).values())
            words = _("'{name}' is what the next fill fills; correct it first.")
            nothing = _("No artefact was found: raise the sensitivity, or paint what is to be filled into '{name}'.")
            self.panel.results.say((words if found else nothing).format(name=node.GetName()))

    # ------------------------------------------------------------------------------------------------------------ views

    def side_by_side(self) -> None:
        pair = self.pair()
        if pair is not None:
            self.wipe.end()
            views.side_by_side(pair)
            self.panel.results.views_changed()

    def flip_views(self) -> None:
        """One press the frame, the next the result, in the user's own layout."""
        pair = self.pair()
        if pair is None:
            return
        self.wipe.end()
        shows_after = any(c.GetBackgroundVolumeID() == pair[1].GetID() for c in views.composites())
        was_comparing = views.comparing()
        views.own_layout()
        views.show_background(pair[0] if shows_after and not was_comparing else pair[1])

    def wipe_to(self, share: float) -> None:
        pair = self.pair()
        if pair is not None:
            views.own_layout()
            views.show_background(self.wipe.show(*pair, share))

    def _sample_moved(self) -> None:
        samples = self.samples()
        if samples is None:
            return
        frames.browser_of(samples).SetSelectedItemNumber(self.sample_slider.property("value") - 1)
        if not views.is_displayed(samples):
            self.wipe.end()
            pair = self.pair()
            views.side_by_side([pair[0], samples] if pair is not None else [samples, samples])
        self.update()

    def use_sample(self) -> None:
        state, method = self.panel.state, self.panel.method
        if state is not None and method is not None:
            state.set_value(method, "sample", self.sample_slider.property("value"))
            self.panel.apply()

    def show_mean(self) -> None:
        pair, mean = self.pair(), self.made("mean")
        if pair is not None and mean is not None:
            self.wipe.end()
            views.side_by_side([pair[0], mean])

    def show_spread(self) -> None:
        pair, spread = self.pair(), self.made("spread")
        if pair is not None and spread is not None:
            self.wipe.end()
            show_as_spread(spread)
            views.blend(pair[1], spread)

    def show_outline(self) -> None:
        """Default on: what was filled is never hidden by the result itself."""
        node = self.filled()
        display = node.GetDisplayNode() if node is not None else None
        if display is not None:
            display.SetVisibility(self.outline.isChecked())
            display.SetVisibility2DFill(False)
            display.SetVisibility2DOutline(True)

    def cleanup(self) -> None:
        self.wipe.end()
        self.gate.cleanup()


def show_as_spread(node: Any) -> None:
    """Clear where the fills agree, warm where they differ."""
    display = node.GetDisplayNode()
    low, high = node.GetImageData().GetScalarRange()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
    if display.GetColorNode() is None:
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRainbow")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, max(high, low + 1e-3))
    display.SetThreshold(low + 0.05 * (high - low), high)
    display.SetApplyThreshold(True)
