"""'Check with the gate': whether the synthetic images of a panel can be told from real ones, copy one or repeat
themselves. Beneath the results of every panel that generates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import spec
from medgen.spec import MethodSpec
from MedGenSlicerLib import frames, method_catalogue, provenance, widgets
from MedGenSlicerLib.inputs_form import InputsForm
from MedGenSlicerLib.jobs import Ticket

GATE = "generator_gate"
REAL, FEWEST = "gate_real", 4


class GateTools:
    """outputs: ports whose images count as the panel's; examples: a method that gives images which the generator learnt
    from, or None."""

    def __init__(
        self,
        panel: Any,
        layout: Any,
        outputs: tuple[str, ...] = (),
        examples: Callable[[], Optional[MethodSpec]] = lambda: None,
    ) -> None:
        self.panel, self._outputs, self._examples = panel, outputs, examples
        self._told: Optional[Ticket] = None
        self.method = method_catalogue.find(GATE)
        self.button, inside = widgets.section(
            layout, _("Check with the gate"), _("Before synthetic images are shared or trained on."), True
        )
        inside.addWidget(
            widgets.text_label(
                _("Compares these images with real ones. No flag proves no privacy: read the closest pairs.")
            )
        )
        rows = qt.QVBoxLayout()
        inside.addLayout(rows)
        self.form = InputsForm(rows, panel.update)
        real = next(port for port in self.method.inputs if port.name == "real")
        self.form.build(replace(self.method, inputs=(replace(real, name=REAL),), fitness=spec.no_warnings))
        self.learnt = widgets.button(
            _("Use images it learnt from"),
            _("Takes images of the training set as the real ones: copies can only be found among these."),
            self.start_examples,
        )
        inside.addWidget(self.learnt)
        self.runs = qt.QSpinBox()
        runs = self.method.parameter("runs")
        self.runs.setRange(runs.minimum, runs.maximum)
        self.runs.setToolTip(
            _("How often the test network is trained; five tell the spread, and take five times as long.")
        )
        self.check = widgets.button(_("Check with the gate"), "", self.start)
        self.count = qt.QLabel()
        inside.addLayout(widgets.row(self.count, qt.QLabel(_("Trainings")), self.runs, self.check, stretch=3))
        self.verdict = widgets.text_label()
        inside.addWidget(self.verdict)
        self.button.contentsCollapsed.connect(lambda *_a: self.update())
        self.update()

    def synthetic(self) -> list[Any]:
        """The newest sequence with enough images, else the volumes of the panel's results, one of each run."""
        state = self.panel.state
        found: list[Any] = []
        times: set[str] = set()
        for node in state.results() if state is not None else []:
            wanted = not self._outputs or node.GetAttribute(provenance.PREFIX + "output") in self._outputs
            time = node.GetAttribute(provenance.PREFIX + "time")
            if node.IsA("vtkMRMLScalarVolumeNode") and provenance.is_synthetic(node) and wanted and time not in times:
                found.append(node)
                times.add(time)
        series = [node for node in found if frames.frame_count(node) >= FEWEST]
        return series[-1:] or [node for node in found if frames.frame_count(node) < 2]

    def reason_off(self) -> str:
        made = sum(frames.image_count(node) for node in self.synthetic())
        real = self.panel.state.input_nodes(REAL) if self.panel.state is not None else []
        if self.panel.ticket is not None and not self.panel.ticket.ended:
            return _("A job is running.")
        if made < FEWEST:
            return _("At least four synthetic images are needed; this panel has made {n}.").format(n=made)
        if sum(frames.image_count(node) for node in real) < FEWEST:
            return _("Choose at least four real images.")
        return ""

    def update(self) -> None:
        if self.panel.state is None:
            return
        self.form.update(self.panel.state)
        self.form.show_warnings()
        made = sum(frames.image_count(node) for node in self.synthetic())
        self.count.setText(_("{n} synthetic").format(n=made))
        self.learnt.setVisible(self._examples() is not None and not self.button.property("collapsed"))
        self.learnt.setEnabled(self.panel.ticket is None or self.panel.ticket.ended)
        off = self.reason_off()
        self.check.setEnabled(not off)
        self.check.setToolTip(off or _("Runs in the background; some minutes on a CPU. The tables join the results."))

    def start(self) -> Optional[Ticket]:
        if self.reason_off():
            return None
        inputs = {"real": self.panel.state.input_nodes(REAL), "synthetic": self.synthetic()}
        self.verdict.setText(_("Checking..."))
        return self.panel.start(self.method, inputs, {"runs": self.runs.property("value")})

    def start_examples(self) -> None:
        method = self._examples()
        if method is not None:
            self.panel.start(method, {}, {})

    def job_ended(self, ticket: Ticket) -> None:
        """Says what the gate found; takes images that were asked for as the real ones."""
        if ticket is self._told:
            return
        self._told = ticket
        examples = self._examples()
        if ticket.method.id == GATE:
            self._name(ticket.results())
            flags = [n for n in ticket.results() if n.GetAttribute(provenance.PREFIX + "output") == "flags"]
            self.verdict.setText(_verdict(flags[0]) if flags else "")
        elif examples is not None and ticket.method.id == examples.id and ticket.results():
            self.panel.state.set_input_nodes(REAL, ticket.results()[:1])
        self.update()

    def _name(self, results: list[Any]) -> None:
        """After the gate: the image that they would be called after is one of many."""
        titles = {port.name: port.title for port in self.method.outputs}
        for node in results:
            title = titles.get(node.GetAttribute(provenance.PREFIX + "output"))
            if title:
                node.SetName(slicer.mrmlScene.GenerateUniqueName(_("Gate: {title}").format(title=title)))

    def cleanup(self) -> None:
        for row in self.form.rows.values():
            row.selector.setMRMLScene(None)


def _verdict(flags: Any) -> str:
    table = flags.GetTable()
    rows = [[table.GetValue(row, column).ToString() for column in range(3)] for row in range(table.GetNumberOfRows())]
    raised = [f"{flag}: {why}." for flag, state, why in rows if state == "yes"]
    names = ", ".join(row[0] for row in rows)
    return " ".join(raised) or _("No flag was raised ({names}).").format(names=names)
