"""What a reader does with an anomaly map: original, pseudo-healthy and map side by side, the suspicious slices, sliders
that redraw the slice at once, a threshold. Shown beneath the results of MedGenAnomaly."""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from MedGenSlicerLib import ct_views, live_slice, map_threshold, provenance, views, widgets
from MedGenSlicerLib.gate_tools import GATE, GateTools
from MedGenSlicerLib.geometry import FrameChange
from MedGenSlicerLib.jobs import Ticket
from MedGenSlicerLib.live_slice import LiveSlice
from MedGenSlicerLib.map_threshold import MapThreshold
from MedGenSlicerLib.series_slider import SeriesSlider
from MedGenSlicerLib.slice_plot import SlicePlot

MAPS = ("anomaly_map", "mean", "votes", "staple", "chance")  # outputs that a threshold cuts
CHANGE = ("anomaly_map", "difference", "variance")  # what the third view shows
REDRAWN = ("healthy", "redrawn", "edited", "mean")  # what the second one shows; of sequences: <this>_<name>
EDIT = "diffusion_edit"
GUIDANCE_STEPS = 300  # of the slider: 0, then 1 to 1000 on a log scale
WATCH_MS = 250


class AnomalyTools:
    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self._told: Optional[Ticket] = None
        _button, inside = widgets.section(layout, _("Look"), _("How the result is read."))
        self._build_look(inside)
        self.live_section, inside = widgets.section(
            layout, _("Guidance"), _("Redraws the slice that is shown at once."), True
        )
        self._build_live(inside)
        _button, inside = widgets.section(layout, _("Threshold"), _("Cuts a segment out of a map."))
        self.threshold = MapThreshold(inside, self.maps, self._segment_made)
        self.gate = GateTools(panel, layout)
        panel.results.drawn_on = self.edited_image
        self._timer = qt.QTimer()
        self._timer.setInterval(WATCH_MS)
        self._timer.timeout.connect(self._watch)
        self._timer.start()
        self.update()

    def _build_look(self, layout: Any) -> None:
        self.three = widgets.button(
            _("Original | redrawn | map"), _("Three linked views; the map lies over the original."), self.show_three
        )
        self.sequence = qt.QComboBox()
        self.sequence.setToolTip(_("The MR sequence that is shown."))
        self.sequence.currentIndexChanged.connect(lambda *_a: self._sequence_chosen())
        layout.addLayout(widgets.row(self.three, self.sequence, stretch=0))
        self.series = SeriesSlider(layout, lambda: self._redrawn(self.newest()), self._image_changed)
        self.flair = qt.QCheckBox(_("FLAIR threshold"))
        self.flair.setToolTip(_("The simple rival, as an outline: the brightest voxels of the brain in FLAIR."))
        self.flair.toggled.connect(lambda *_a: self._show_segments())
        self.outline = qt.QCheckBox(_("Anomaly outline"))
        self.outline.setToolTip(_("The segment that the method cut out of its map, as an outline."))
        self.outline.setChecked(True)
        self.outline.toggled.connect(lambda *_a: self._show_segments())
        self.uncertainty = widgets.button(
            _("Uncertainty"), _("Where the draws disagree, in colour over the image."), self.show_uncertainty
        )
        layout.addLayout(widgets.row(self.flair, self.outline, self.uncertainty, stretch=1))
        self.plot = SlicePlot(self.go_to)
        layout.addWidget(self.plot)
        self.worst = widgets.button(
            _("Worst slice"), _("Goes to the slice that is most likely diseased."), self.go_to_worst
        )
        self.chance = qt.QLabel()
        layout.addLayout(widgets.row(self.worst, self.chance, stretch=1))
        self.round_trip = widgets.text_label()
        layout.addWidget(self.round_trip)

    def _build_live(self, layout: Any) -> None:
        self.live = qt.QCheckBox(_("Redraw the shown slice while I move these"))
        self.live.setToolTip(_("In the background; Apply then redraws the whole brain with the same values."))
        self.live.toggled.connect(lambda *_a: self._live_toggled())
        layout.addWidget(self.live)
        form = qt.QFormLayout()
        layout.addLayout(form)
        self.guidance, self.guidance_label = self._slider(0, GUIDANCE_STEPS, self._guidance_moved)
        self.guidance.setToolTip(_("How strongly the slice is drawn toward healthy. The encoding is kept: quick."))
        form.addRow(_("Guidance"), widgets.row(self.guidance, self.guidance_label, stretch=0))
        self.level, self.level_label = self._slider(1, 12, self._level_moved)
        self.level.setToolTip(_("How much of the image is given up. A level seen before is quick; a new one encodes."))
        form.addRow(_("Noise level"), widgets.row(self.level, self.level_label, stretch=0))
        self.live_words = widgets.text_label()
        layout.addWidget(self.live_words)
        self.live_slice = LiveSlice(self.panel, self._slice_arrived, self.live_words.setText)

    @staticmethod
    def _slider(low: int, high: int, moved: Any) -> tuple[Any, Any]:
        slider = qt.QSlider(qt.Qt.Horizontal)
        slider.setRange(low, high)
        slider.valueChanged.connect(lambda *_a: moved())
        label = qt.QLabel()
        label.setFixedWidth(44)
        return slider, label

    # --------------------------------------------------------------------------------------------------------- results

    def newest(self) -> dict[str, Any]:
        """The results of the newest run that has a map, by output."""
        state = self.panel.state
        results = state.results() if state is not None else []
        runs = [n for n in results if n.GetAttribute("MedGen.output") in (*MAPS, *CHANGE)]
        if not runs:
            return {}
        time = runs[-1].GetAttribute("MedGen.time")
        return {n.GetAttribute("MedGen.output"): n for n in results if n.GetAttribute("MedGen.time") == time}

    def edited_image(self, segments: Any) -> Optional[Any]:
        """The image in which the segments of an edit were found, of the sequence that is shown; None for those of
        other methods, which belong to the original."""
        state, time = self.panel.state, segments.GetAttribute("MedGen.time")
        if state is None or segments.GetAttribute("MedGen.method") != EDIT:
            return None
        made = {n.GetAttribute("MedGen.output"): n for n in state.results() if n.GetAttribute("MedGen.time") == time}
        edited = [node for name, node in made.items() if name.startswith("edited_")]
        chosen = made.get(f"edited_{widgets.combo_data(self.sequence)}")
        return chosen or (edited[0] if edited else None)

    def live_shown(self) -> bool:
        """Whether the views show the slice that is redrawn at once, in place of a run's results."""
        return self.live.isChecked() and self.live_slice.node(live_slice.MAP) is not None

    def maps(self) -> list[Any]:
        if self.live_shown():
            return [self.live_slice.node(live_slice.MAP)]
        newest = self.newest()
        return [newest[name] for name in MAPS if name in newest]

    def triple(self) -> Optional[tuple[Any, Any, Any]]:
        """(original, redrawn, map); None where one is missing."""
        if self.live_shown():
            live = self.live_slice.node(live_slice.HEALTHY)
            return self._complete(self._original(live), live, self.live_slice.node(live_slice.MAP))
        newest = self.newest()
        redrawn = self._redrawn(newest)
        change = next((newest[name] for name in CHANGE if name in newest), None)
        return self._complete(self._original(redrawn), redrawn, change)

    @staticmethod
    def _complete(*nodes: Optional[Any]) -> Optional[tuple[Any, Any, Any]]:
        return nodes if all(node is not None for node in nodes) else None  # type: ignore[return-value]

    def _redrawn(self, newest: dict[str, Any]) -> Optional[Any]:
        chosen = widgets.combo_data(self.sequence) or ""
        for start in REDRAWN:
            for name in (f"{start}_{chosen}", start):
                if name in newest:
                    return newest[name]
        return None

    def _original(self, redrawn: Optional[Any]) -> Optional[Any]:
        """The input of the same sequence, else the run's first image."""
        if redrawn is None:
            return None
        name = (redrawn.GetAttribute("MedGen.output") or "").partition("_")[2]
        state = self.panel.state
        given = redrawn.GetNodeReference(provenance.INPUT_ROLE + name) if name else None
        if given is None and redrawn is self.live_slice.node(live_slice.HEALTHY) and state is not None and name:
            given = state.input_node(name)
        found = given or provenance.reference_of(redrawn)
        return found if found is not None and found.IsA("vtkMRMLVolumeNode") else None

    def slices(self) -> dict[str, list[float]]:
        """Columns of the newest run's table of slices; empty without one."""
        chart = self.newest().get("diseased")
        series = chart.GetNthPlotSeriesNode(0) if chart is not None else None
        table = series.GetTableNode() if series is not None else None
        if table is None or table.GetTable().GetColumnByName("s_mm") is None:
            return {}
        columns = (table.GetTable().GetColumn(i) for i in range(table.GetNumberOfColumns()))
        return {c.GetName(): [c.GetValue(i) for i in range(c.GetNumberOfValues())] for c in columns}

    def centres(self, slices: dict[str, list[float]]) -> np.ndarray:
        """[n, 3], world RAS."""
        points = np.array([slices[name] for name in live_slice.POINT], float).T
        change = FrameChange(provenance.reference_of(self.newest()["diseased"]), None)
        return np.array([change.point(point) for point in points])

    # ---------------------------------------------------------------------------------------------------------- update

    def update(self) -> None:
        """Cheap: called after every change."""
        if self.panel.state is None:
            self.live_slice.forget()
        newest = self.newest()
        self._update_sequences(newest)
        self.three.setEnabled(self.triple() is not None)
        self.flair.setEnabled("flair_threshold" in newest)
        self.outline.setEnabled("anomaly" in newest)
        self.uncertainty.setEnabled("variance" in newest)
        self.round_trip.setText(_round_trip_words(newest))
        self.series.update()
        self._update_plot()
        self._update_live()
        self.threshold.update()
        self.gate.update()

    def _update_sequences(self, newest: dict[str, Any]) -> None:
        made = [name for name in live_slice.SEQUENCES if any(f"{start}_{name}" in newest for start in REDRAWN)]
        if made != [self.sequence.itemData(i) for i in range(self.sequence.property("count"))]:
            widgets.set_combo(self.sequence, [(name, name) for name in made], widgets.combo_data(self.sequence))
        self.sequence.setVisible(len(made) > 1)

    def _update_plot(self) -> None:
        slices = self.slices()
        chances = slices.get("p_diseased", [])
        self.plot.setVisible(len(chances) > 1)
        self.worst.setEnabled(bool(chances))
        shown = self._shown_slice(slices) if chances else None
        self.plot.fill(chances, shown)
        words = _("P(diseased) of this slice: {p:.2f}").format(p=chances[shown]) if shown is not None else ""
        if self.chance.property("text") != words:
            self.chance.setText(words)

    def _shown_slice(self, slices: dict[str, list[float]]) -> Optional[int]:
        """The number of the slice that is read; None where the view lies across or beyond the slices."""
        if views.slice_node(views.read_view()) is None:
            return None
        centres = self.centres(slices)
        point, normal = views.slice_plane(views.read_view())
        along = centres[-1] - centres[0] if len(centres) > 1 else normal
        length = float(np.linalg.norm(along))
        if length == 0 or abs(along @ normal) < 0.9 * length:
            return None
        away = np.abs((centres - point) @ (along / length))
        step = length / max(1, len(centres) - 1)
        return int(away.argmin()) if away.min() <= max(step, 1.0) else None

    def _update_live(self) -> None:
        state, method = self.panel.state, self.panel.method
        possible = method is not None and method.id in live_slice.PREVIEWS
        self.live_section.setVisible(possible)
        if not possible or state is None:
            return
        guidance, level = state.value(method, "guidance"), state.value(method, "noise_level")
        for slider, label, place, value in (
            (self.guidance, self.guidance_label, _guidance_place(guidance), guidance),
            (self.level, self.level_label, round(level / 50), level),
        ):
            slider.blockSignals(True)
            slider.setValue(place)
            slider.blockSignals(False)
            label.setText(f"{value:g}")
        if self.live.isChecked() and self.panel.shown:
            self.live_slice.ask()

    def _watch(self) -> None:
        """The slice that is shown may have changed."""
        if self.panel.shown and self.panel.state is not None:
            self._update_plot()
            self.series.update()
            if self.live.isChecked():
                self.live_slice.ask()

    def _image_changed(self) -> None:
        """Another image of a series is shown."""
        self.threshold.update()

    # -------------------------------------------------------------------------------------------------------- the user

    def _guidance_moved(self) -> None:
        state, method = self.panel.state, self.panel.method
        if state is not None and method is not None:
            place = self.guidance.property("value")
            state.set_value(method, "guidance", 0.0 if place == 0 else float(f"{1000 ** (place / GUIDANCE_STEPS):.2g}"))

    def _level_moved(self) -> None:
        if self.panel.state is not None and self.panel.method is not None:
            self.panel.state.set_value(self.panel.method, "noise_level", 50 * self.level.property("value"))

    def _live_toggled(self) -> None:
        if self.live.isChecked():
            self.live_slice.ask()
            return
        self.live_slice.forget()
        self.live_words.setText("")
        self.live_slice.remove_nodes()
        self.update()
        if views.comparing():
            self.show_three()

    def _slice_arrived(self) -> None:
        triple = self.triple()
        if triple is None:
            return
        self.threshold.update()
        shown = views.composite("MedGenMiddle")
        if not views.comparing() or shown is None or shown.GetBackgroundVolumeID() != triple[1].GetID():
            self.show_three()

    def _sequence_chosen(self) -> None:
        if self.panel.state is not None:
            self.panel.state.set_option("sequence", widgets.combo_data(self.sequence) or "")
            if views.comparing():
                self.show_three()

    def show_three(self, at: Optional[Any] = None) -> None:
        """The slice that is read stays, unless another point is given."""
        triple = self.triple()
        if triple is None:
            return
        original, redrawn, change = triple
        if at is None and views.slice_node(views.read_view()) is not None and views.comparing():
            at = views.slice_plane(views.read_view())[0]
        views.side_by_side([original, redrawn, original], at)
        right = views.composite("MedGenRight")
        if right is not None:
            right.SetForegroundVolumeID(change.GetID())
            right.SetForegroundOpacity(0.8)
        if change not in self.maps():
            map_threshold.cut_display(change, 0.1 * change.GetImageData().GetScalarRange()[1])
        self._show_segments()
        self.threshold.show()
        self.panel.results.views_changed()

    def show_uncertainty(self) -> None:
        variance = self.newest().get("variance")
        if variance is not None and provenance.reference_of(variance) is not None:
            ct_views.show_as_uncertainty(variance, provenance.reference_of(variance))

    def _show_segments(self) -> None:
        newest = self.newest()
        for name, box in (("anomaly", self.outline), ("flair_threshold", self.flair)):
            display = newest[name].GetDisplayNode() if name in newest else None
            if display is not None:
                display.SetVisibility(box.isChecked())
                display.SetVisibility2DFill(False)
                display.SetVisibility2DOutline(True)

    def go_to(self, number: int) -> None:
        slices = self.slices()
        if number < len(slices.get("p_diseased", [])):
            views.jump_to_point(self.centres(slices)[number])
            self._update_plot()

    def go_to_worst(self) -> None:
        chances = self.slices().get("p_diseased", [])
        if chances:
            self.go_to(int(np.argmax(chances)))

    def _segment_made(self, node: Any) -> None:
        state = self.panel.state
        if state is not None:
            state.add_result(node)
            self.panel.results.say(_("'{name}' was made; correct it as any other segment.").format(name=node.GetName()))
            self.panel.update()

    def job_ended(self, ticket: Ticket) -> None:
        """A job of this panel has ended: three views, at the slice that is most likely diseased, or changed most."""
        self.gate.job_ended(ticket)
        if ticket is self._told or not ticket.results() or ticket.method.id == GATE:
            return
        self._told = ticket
        self.live_slice.remove_nodes()
        self.update()
        slices, triple = self.slices(), self.triple()
        if slices:
            self.show_three(self.centres(slices)[int(np.argmax(slices["p_diseased"]))])
        elif triple is not None:
            self.show_three(_most_changed(triple[2]))

    def cleanup(self) -> None:
        self._timer.stop()
        self.live_slice.cleanup()
        self.threshold.cleanup()
        self.gate.cleanup()


def _most_changed(change: Any) -> list[float]:
    """World RAS mm: where the planes through the volume cross that hold most of it, one along each axis."""
    values = slicer.util.arrayFromVolume(change)
    kji = [int(values.sum(axis=tuple({0, 1, 2} - {axis}), dtype=float).argmax()) for axis in range(3)]
    grid = vtk.vtkMatrix4x4()
    change.GetIJKToRASMatrix(grid)
    return FrameChange(change, None).point(grid.MultiplyPoint((*kji[::-1], 1))[:3])


def _guidance_place(guidance: float) -> int:
    return 0 if guidance < 1 else round(GUIDANCE_STEPS * math.log(guidance) / math.log(1000))


def _round_trip_words(newest: dict[str, Any]) -> str:
    """How far the chosen sampler setting is from returning to the image by itself: below that the map says nothing."""
    table = newest.get("report")
    if table is None or table.GetTable().GetColumnByName("quantity") is None:
        return ""
    rows = range(table.GetNumberOfRows())
    found = {table.GetCellText(row, 0): table.GetCellText(row, 1) for row in rows}
    error = found.get("round-trip error without guidance")
    if error is None:
        return ""
    words = _("Round trip of this sampler setting without guidance: off by {error:.1f} %.")
    known, redrawn = found.get("encodings from the cache", "0"), found.get("slices redrawn", "")
    cached = float(known) if known else 0.0
    text = words.format(error=100 * float(error))
    if cached:
        text += " " + _("{n:.0f} of {all} encodings came from the cache.").format(n=cached, all=redrawn or "1")
    return text
