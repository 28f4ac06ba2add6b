"""What stands beneath the inputs of the methods that make brains: a picture that follows the sliders, the mixing
matrix, the reconstruction that a projection has reached."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
import qt
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from medgen.worker.client import JobRequest
from MedGenSlicerLib import brain_codes, jobs, node_bridge, steps, thumbnails, widgets
from MedGenSlicerLib.brain_grid import MixGrid
from MedGenSlicerLib.jobs import Ticket
from MedGenSlicerLib.parameters_form import tooltip
from MedGenSlicerLib.quick_jobs import Latest, QuickJob

SEEDS = 999  # of the slider; the spin box under Advanced goes further
DONORS = 5
SIZE, PREVIEW = "size", "preview"


def sibling(method_id: str, what: str) -> str:
    """The method that does another thing with the same network: 'x_mix', 'grid' to 'x_grid'; '' for the plain one."""
    for end in ("_mix", "_grid", "_project", "_interpolate", "_training_set"):
        method_id = method_id[: -len(end)] if method_id.endswith(end) else method_id
    return f"{method_id}_{what}" if what else method_id


class Previews:
    """Pictures of what is set now, beside the panel's jobs."""

    def __init__(self, panel: Any) -> None:
        self.panel = panel
        self.picture = thumbnails.Picture(118, _("A small, quick version of what Apply makes in full size."))
        self.picture.say(_("Move a slider to see a preview."))
        self.latest = Latest(panel.controller, self.request, self.show, self.picture.say)
        self._asked: Any = None

    def request(self) -> Optional[JobRequest]:
        raise NotImplementedError

    def show(self, outputs: dict[str, Any]) -> None:
        raise NotImplementedError

    def follow_settings(self, settings: Any) -> None:
        """Asks for a picture once something of `settings` has changed."""
        if self._asked is not None and settings != self._asked:
            self._ask()
        self._asked = settings

    def _ask(self) -> None:
        if not jobs.set_up():
            self.picture.say(_("A preview needs the Python environment: press 'Set up...'."))
            return
        busy = self.panel.ticket is not None and not self.panel.ticket.ended
        if busy and self.picture.empty():
            self.picture.say(_("The preview comes after the job that runs."))
        self.latest.ask()

    def job(self, method_id: str, inputs: dict[str, Any], parameters: dict[str, Any], seed: int = 0) -> JobRequest:
        state = self.panel.state
        device, weights = state.option("device", jobs.AUTO) or jobs.AUTO, state.option("weights", "") or None
        return JobRequest(method_id, inputs, parameters, seed, device, weights)

    def values(self) -> dict[str, Any]:
        """The panel's parameters, for the small size."""
        return {**self.panel.state.values(self.panel.method), SIZE: PREVIEW}

    def cleanup(self) -> None:
        self.latest.stop()


class SampleTools(Previews):
    """Seed and truncation as sliders, with what they make."""

    shows = ("truncation",)

    def __init__(self, panel: Any, layout: Any) -> None:
        Previews.__init__(self, panel)
        layout.addWidget(self.picture)
        self.seed = qt.QSlider(qt.Qt.Horizontal)
        self.seed.setRange(0, SEEDS)
        self.seed.setToolTip(_("Each number is another brain: the same number gives the same brain."))
        self.seed.valueChanged.connect(lambda *_a: self._seed_moved())
        self.seed_label = qt.QLabel()
        layout.addLayout(widgets.row(qt.QLabel(_("Seed")), self.seed, self.seed_label, stretch=1))
        self.truncation = qt.QSlider(qt.Qt.Horizontal)
        self.truncation.setRange(0, 150)
        self.truncation.setToolTip(
            _("How far brains may lie from the mean brain: 0 is the mean brain itself, above 1 they turn strange.")
        )
        self.truncation.valueChanged.connect(lambda *_a: self._truncation_moved())
        self.truncation_label = qt.QLabel()
        layout.addLayout(widgets.row(qt.QLabel(_("Truncation")), self.truncation, self.truncation_label, stretch=1))
        self.update()

    def _seed_moved(self) -> None:
        if self.panel.state is not None:
            self.panel.state.set_option("seed", self.seed.property("value"))

    def _truncation_moved(self) -> None:
        if self.panel.state is not None:
            self.panel.state.set_value(self.panel.method, "truncation", self.truncation.property("value") / 100)

    def update(self) -> None:
        state = self.panel.state
        if state is None:
            return
        seed, truncation = state.option("seed", 0), state.value(self.panel.method, "truncation")
        for slider, value in ((self.seed, min(seed, SEEDS)), (self.truncation, round(100 * truncation))):
            slider.blockSignals(True)
            slider.setValue(value)
            slider.blockSignals(False)
        self.seed_label.setText(str(seed))
        self.truncation_label.setText(f"{truncation:.2f}")
        code = state.input_node(brain_codes.OUTPUT)
        self.seed.setEnabled(code is None)
        self.follow_settings((seed, truncation, code.GetID() if code is not None else ""))

    def request(self) -> Optional[JobRequest]:
        state = self.panel.state
        if state is None:
            return None
        code = state.input_node(brain_codes.OUTPUT)
        inputs = {} if code is None else {brain_codes.OUTPUT: node_bridge.table(code)}
        return self.job(self.panel.method.id, inputs, {**self.values(), "count": 1}, state.option("seed", 0))

    def show(self, outputs: dict[str, Any]) -> None:
        brains = outputs["brains"]
        self.picture.show_array(thumbnails.three_planes(brains[0] if isinstance(brains, list) else brains))


class MixTools(Previews):
    """The crossover as a slider with A, mix and B; the matrix of all pairs of donors."""

    shows = ("crossover",)

    def __init__(self, panel: Any, layout: Any) -> None:
        Previews.__init__(self, panel)
        self._grid_job: Optional[QuickJob] = None
        self._draw_job: Optional[QuickJob] = None
        self._made_of: Any = None  # what the matrix shows
        self.picture.say(_("A, the mix and B appear here."))
        layout.addWidget(self.picture)
        self.crossover = qt.QSlider(qt.Qt.Horizontal)
        crossover = panel.method.parameter("crossover")
        self.crossover.setRange(crossover.minimum, crossover.maximum)
        self.crossover.setToolTip(tooltip(crossover))
        self.crossover.valueChanged.connect(lambda *_a: self._crossover_moved())
        self.crossover_label = qt.QLabel()
        layout.addLayout(widgets.row(qt.QLabel(_("Crossover")), self.crossover, self.crossover_label, stretch=1))
        self.number = qt.QSpinBox()
        self.number.setRange(2, 8)
        self.number.setValue(DONORS)
        self.number.setToolTip(_("How many brains give the rows, and how many others the columns."))
        self.draw = widgets.button(
            _("Draw donors"), _("Draws brains at random, from the seed under Advanced, as A and B."), self.draw_donors
        )
        self.fill = widgets.button(_("Fill the matrix"), "", self.fill_or_stop)
        layout.addLayout(widgets.row(self.draw, self.number, self.fill, stretch=2))
        self.words = widgets.text_label()
        layout.addWidget(self.words)
        self.grid = MixGrid(self.pick)
        layout.addWidget(self.grid)
        self.update()

    # ------------------------------------------------------------------------------------------------------- settings

    def _crossover_moved(self) -> None:
        if self.panel.state is not None:
            self.panel.state.set_value(self.panel.method, "crossover", self.crossover.property("value"))

    def pair(self) -> Optional[tuple[Any, Any]]:
        state = self.panel.state
        nodes = (state.input_node("a"), state.input_node("b")) if state is not None else (None, None)
        return None if None in nodes else nodes

    def update(self) -> None:
        state, method = self.panel.state, self.panel.method
        if state is None:
            return
        crossover = state.value(method, "crossover")
        self.crossover.blockSignals(True)
        self.crossover.setValue(crossover)
        self.crossover.blockSignals(False)
        self.crossover_label.setText(_("{n} from A").format(n=crossover))
        pair = self.pair()
        self._take_noise()
        coarse, fine = (brain_codes.names(node) for node in pair) if pair is not None else ([], [])
        self.grid.set_donors(coarse, fine)
        self._forget_old_mixes(pair, crossover)
        rows = state.value(method, "row_a") - 1, state.value(method, "row_b") - 1
        self.grid.chosen = rows if pair is not None else None
        filling = self.filling()
        self.fill.setText(_("Stop") if filling else _("Fill the matrix"))
        self.fill.setEnabled(filling or pair is not None)
        self.fill.setToolTip(
            _("A small picture of every mix; they come one by one.") if pair else _("Choose A and B, or draw donors.")
        )
        self.draw.setEnabled(self._draw_job is None or self._draw_job.dropped)
        self.follow_settings((crossover, rows, tuple(node.GetID() for node in pair) if pair is not None else ()))

    def _forget_old_mixes(self, pair: Any, crossover: int) -> None:
        """Pictures of other codes or of another crossover are no pictures of what Apply would make."""
        made_of = (crossover, *(node.GetTable().GetMTime() for node in pair or ()))
        if made_of != self._made_of and not self.filling():
            self._made_of = made_of
            if self.grid.cells:
                self.grid.clear_cells()
                self.words.setText(_("A, B or the crossover have changed: fill the matrix again."))

    def _take_noise(self) -> None:
        """A projected brain brings the noise maps that were found with it; offered once a code, then the user's."""
        state, ports = self.panel.state, {port.name for port in self.panel.method.inputs}
        for which in ("a", "b"):
            code = state.input_node(which)
            code_id = code.GetID() if code is not None else ""
            if f"noise_{which}" in ports and state.option(f"noise_of_{which}", "") != code_id:
                state.set_option(f"noise_of_{which}", code_id)
                noise = brain_codes.of_run(code, "vtkMRMLTextNode", "noise") if code is not None else None
                state.set_input_nodes(f"noise_{which}", [noise] if noise is not None else [])

    def reason_off(self) -> str:
        pair, state = self.pair(), self.panel.state
        for node, row in zip(pair or (), ("row_a", "row_b")):
            if state.value(self.panel.method, row) > len(brain_codes.names(node)):
                return _("'{name}' has fewer rows than the row that is chosen.").format(name=node.GetName())
        return ""

    def pick(self, row: int, column: int) -> None:
        """The donors of a cell become the pair that is mixed."""
        state, method = self.panel.state, self.panel.method
        if state is not None:
            state.set_value(method, "row_a", row + 1)
            state.set_value(method, "row_b", column + 1)

    # -------------------------------------------------------------------------------------------------------- preview

    def request(self) -> Optional[JobRequest]:
        pair = self.pair()
        if pair is None or self.reason_off():
            return None
        inputs = {name: node_bridge.table(node) for name, node in zip(("a", "b"), pair)}
        return self.job(self.panel.method.id, inputs, self.values())

    def show(self, outputs: dict[str, Any]) -> None:
        shown = [outputs[name] for name in ("a", "mix", "b") if outputs.get(name) is not None]
        limits = thumbnails.window(shown[0])
        self.picture.show_array(np.hstack([np.pad(thumbnails.axial(each, limits), 1) for each in shown]))

    # --------------------------------------------------------------------------------------------------------- donors

    def draw_donors(self) -> None:
        """Codes at random: the first half gives the rows, the second half the columns."""
        state, count = self.panel.state, self.number.property("value")
        if state is None:
            return
        maker = sibling(self.panel.method.id, "")
        request = self.job(maker, {}, {"count": 2 * count, SIZE: PREVIEW}, state.option("seed", 0))

        def arrived(outputs: dict[str, Any]) -> None:
            self._draw_job = None
            now = self.panel.state
            if now is None:
                return
            codes = outputs[brain_codes.OUTPUT]
            for port, name, part in (
                ("a", _("Coarse donors"), slice(None, count)),
                ("b", _("Fine donors"), slice(count, None)),
            ):
                node = brain_codes.add_table({key: values[part] for key, values in codes.items()}, name)
                now.set_input_nodes(port, [node])
            self.pick(0, 0)
            self.words.setText("")
            self.panel.update()

        self._draw_job = self._ask_quick(QuickJob(request, arrived, self._draw_failed), _("Drawing donors..."))
        self.update()

    def _draw_failed(self, sentence: str) -> None:
        self._draw_job = None
        self.words.setText(sentence)
        self.update()

    def _ask_quick(self, job: QuickJob, words: str) -> Optional[QuickJob]:
        try:
            self.panel.controller.ask(job, job.request.device)
        except (MedGenError, OSError) as error:
            self.words.setText(str(error))
            return None
        self.words.setText(words)
        return job

    # --------------------------------------------------------------------------------------------------------- matrix

    def filling(self) -> bool:
        return self._grid_job is not None and not self._grid_job.dropped

    def fill_or_stop(self) -> None:
        if self.filling():
            self.panel.controller.withdraw(self._grid_job)
            self._grid_job = None
            self.words.setText(_("Stopped."))
            self.update()
        else:
            self._fill()

    def _fill(self) -> None:
        pair = self.pair()
        if pair is None:
            return
        inputs = {name: node_bridge.table(node) for name, node in zip(("coarse", "fine"), pair)}
        parameters = {"crossover": self.panel.state.value(self.panel.method, "crossover"), SIZE: PREVIEW}
        request = self.job(sibling(self.panel.method.id, "grid"), inputs, parameters)
        total = len(self.grid.donors[0]) * len(self.grid.donors[1])
        donors, limits = self.grid.donors, []
        self.grid.clear_cells()

        def show(name: str, image: Any) -> None:
            row, column = (int(part) - 1 for part in name.split(","))
            if self.grid.donors is donors:
                image = image[0] if isinstance(image, list) else image
                limits[:] = limits or [thumbnails.window(image)]  # of the first one, so that all can be compared
                self.grid.show_cell(row, column, thumbnails.axial(image, limits[0]))
                self.words.setText(_("{n} of {all} mixes.").format(n=len(self.grid.cells), all=total))

        def done(outputs: dict[str, Any]) -> None:
            columns = len(donors[1])
            for index, image in enumerate(outputs["grid"]):  # what came too quickly to be shown one by one
                if (index // columns, index % columns) not in self.grid.cells:
                    show(f"{index // columns + 1},{index % columns + 1}", image)
            self._grid_job = None
            self.update()

        def failed(sentence: str) -> None:
            self._grid_job = None
            self.words.setText(sentence)
            self.update()

        self._grid_job = self._ask_quick(QuickJob(request, done, failed, show), _("Mixing..."))
        self.update()

    def cleanup(self) -> None:
        Previews.cleanup(self)
        for job in (self._grid_job, self._draw_job):
            if job is not None:
                self.panel.controller.withdraw(job)


class ProjectTools:
    """The patient's brain, and what the search has reached."""

    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self.target = thumbnails.Picture(118, _("The brain that is searched for."))
        layout.addWidget(self.target)
        self.picture = thumbnails.Picture(118, _("What the network has reached so far, renewed while it searches."))
        self.picture.say(_("The reconstruction appears here while it is searched for."))
        layout.addWidget(self.picture)
        self.words = widgets.text_label()
        layout.addWidget(self.words)
        self._target: Any = ""
        self._shown: Any = None
        self._stop: Any = None
        self.update()

    def update(self) -> None:
        node = self.panel.inputs.reference()
        data = node.GetImageData() if node is not None else None
        target = (node.GetID(), data.GetMTime()) if data is not None else None
        if target == self._target:
            return
        self._target = target
        self.cleanup()
        if data is None:
            self.target.say(_("Choose the T1 brain above."))
            return

        def work() -> Any:
            image = yield from node_bridge.volume_steps(node)
            self.target.show_array(thumbnails.three_planes(image))

        self._stop = steps.run(work(), lambda: None)

    def follow(self, ticket: Ticket) -> None:
        if ticket.method.id != self.panel.method.id:
            return
        image = ticket.partials.get("reconstruction")
        if image is not None and image is not self._shown:
            self._shown = image
            self.picture.show_array(thumbnails.three_planes(image[0] if isinstance(image, list) else image))
            self.words.setText(ticket.job.message if ticket.job is not None else "")

    def cleanup(self) -> None:
        if self._stop is not None:
            self._stop()
