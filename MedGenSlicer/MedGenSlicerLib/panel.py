"""A panel made from the declarations of methods: method, inputs, options, run, results, log, from top to bottom.

The panel shows what its parameter node holds and writes into it what the user does; it keeps nothing else. Jobs
belong to the controller, so the panel may be left, closed or reloaded while they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _
from vtk import vtkCommand

from medgen import weights
from medgen.errors import MedGenError
from medgen.spec import Image, MethodSpec
from MedGenSlicerLib import correction, input_guess, jobs, panel_state, run_bar, steps, widgets
from MedGenSlicerLib.frames import FrameRun
from MedGenSlicerLib.inputs_form import InputsForm
from MedGenSlicerLib.jobs import Ticket
from MedGenSlicerLib.log_view import LogView
from MedGenSlicerLib.method_chooser import MethodChooser
from MedGenSlicerLib.panel_state import PanelState
from MedGenSlicerLib.parameters_form import ParametersForm
from MedGenSlicerLib.results_list import ResultsList
from MedGenSlicerLib.run_bar import RunBar


class MethodPanel:
    """`extras`: {method id: class}, made as `cls(panel, layout)` when the method is chosen; they may have `update()`,
    `follow(ticket)`, called after every change of the job that is shown, `reason_off()`, `show_warning()`, which tells
    whether there is one, and `cleanup()`, and name in `shows` the parameters that they set themselves.
    `tools`: a class, made once as `cls(panel, layout)` between results and log; it has `update()`, called after every
    change, `job_ended(ticket)` and `cleanup()`."""

    def __init__(
        self,
        layout: Any,
        module_name: str,
        methods: Iterable[MethodSpec],
        extras: Optional[Mapping[str, Any]] = None,
        tools: Any = None,
    ) -> None:
        self.module_name = module_name
        self._make_tools = tools
        self.extras = extras or {}
        self.extra: Any = None
        self.state: Optional[PanelState] = None
        self.method: Optional[MethodSpec] = None
        self.ticket: Optional[Ticket] = None
        self.controller = jobs.controller()
        self._observed: list[tuple[Any, int]] = []
        self.shown = True  # the module says when another is in its place
        self._edits = correction.Watch(lambda: self.shown and self._check_results())
        self._build(layout, methods)
        self.controller.listeners.append(self._job_changed)

    def _build(self, layout: Any, methods: Iterable[MethodSpec]) -> None:
        _button, inside = widgets.section(layout, _("Method"), _("What to do with the image."))
        self.chooser = MethodChooser(inside, methods, self._method_chosen)
        _button, inside = widgets.section(layout, _("Inputs"), _("What the method works on."))
        rows = qt.QVBoxLayout()
        inside.addLayout(rows)
        self.inputs = InputsForm(rows, self.update)
        self._extra_layout = qt.QVBoxLayout()
        inside.addLayout(self._extra_layout)
        self.options_button, inside = widgets.section(layout, _("Options"), _("Settings of the method."))
        self._build_options(inside)
        self.run_bar = RunBar(layout, self.apply, self.cancel)
        _button, inside = widgets.section(layout, _("Results"), _("What the runs of this panel made."))
        self.results = ResultsList(inside)
        self.tools = self._make_tools(self, layout) if self._make_tools is not None else None
        self.log_button, inside = widgets.section(layout, _("Log"), _("What the background process wrote."), True)
        self.log = LogView(inside)
        self.log_button.contentsCollapsed.connect(lambda *_a: self.log.show(self.ticket))
        layout.addStretch(1)
        self.chooser.start()

    def _build_options(self, layout: Any) -> None:
        common = qt.QVBoxLayout()
        layout.addLayout(common)
        _button, inside = widgets.section(layout, _("Advanced"), _("What is rarely changed."), True)
        advanced = qt.QVBoxLayout()
        inside.addLayout(advanced)
        self.parameters = ParametersForm(common, advanced, self.update)
        form = qt.QFormLayout()
        form.setFieldGrowthPolicy(qt.QFormLayout.AllNonFixedFieldsGrow)
        inside.addLayout(form)
        self.weights = self._option_combo(form, _("Weights"), "weights", _("Which trained network to use."))
        self.device = self._option_combo(form, _("Runs on"), "device", _("Which processor does the work."))
        self.seed = qt.QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setToolTip(_("Start of the random numbers: the same seed gives the same result."))
        self.seed.valueChanged.connect(lambda *_a: self._set_option("seed", self.seed.property("value")))
        form.addRow(_("Seed"), self.seed)
        self.sets = widgets.node_selector(
            (panel_state.NODE_CLASS,), _("Several sets of inputs and options can be kept with the scene."), add=True
        )
        self.sets.setProperty("showHidden", True)
        self.sets.addAttribute(panel_state.NODE_CLASS, "ModuleName", self.module_name)
        self.sets.currentNodeChanged.connect(lambda *_a: self._set_chosen())
        form.addRow(_("Settings"), self.sets)
        self.reset = widgets.button(_("Reset"), _("Sets every option of this method to its default."), self._reset)
        layout.addWidget(self.reset)

    def _option_combo(self, form: Any, title: str, option: str, tooltip: str) -> Any:
        combo = qt.QComboBox()
        combo.setToolTip(tooltip)
        combo.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        combo.currentIndexChanged.connect(lambda *_a: self._set_option(option, widgets.combo_data(combo) or ""))
        form.addRow(title, combo)
        return combo

    # ----------------------------------------------------------------------------------------------- life of the panel

    def enter(self) -> None:
        """The panel is shown: takes up its parameter node (makes one in a fresh scene) and fills empty inputs."""
        if self.state is None or slicer.mrmlScene.GetNodeByID(self.state.node.GetID() or "none") is not self.state.node:
            known = panel_state.parameter_sets(self.module_name)
            self.follow(known[0] if known else panel_state.add_parameter_set(self.module_name))
        self.fill_inputs()
        self.update()
        self._check_results()

    def fill_inputs(self, among: Optional[list[Any]] = None) -> None:
        """Empty inputs get the likeliest nodes, of these or of all."""
        if self.state is not None:
            self.inputs.choose_likeliest(self.state, among)

    def scene_imported(self) -> None:
        """A loaded scene brings its own settings: they replace a set that nobody has touched."""
        fresh = self.state
        brought = [n for n in panel_state.parameter_sets(self.module_name) if fresh is None or n is not fresh.node]
        if brought and (fresh is None or fresh.untouched()):
            self.follow(brought[-1])
            if fresh is not None:
                slicer.mrmlScene.RemoveNode(fresh.node)
        if self.state is not None:
            self.enter()

    def follow(self, node: Optional[Any]) -> None:
        """Shows another parameter node; None: nothing (the scene closes)."""
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed = []
        self.state = None if node is None else PanelState(node)
        self.inputs.state = self.parameters.state = self.state
        self.results.stop_flicker()
        if self.state is None:
            self.ticket = None
            self._edits.follow([])
            self.results.update([])
            if self.tools is not None:
                self.tools.update()
            self.log.show(None)
            input_guess.forget_facts()
            return
        self._observed.append((node, node.AddObserver(vtkCommand.ModifiedEvent, lambda *_a: self.update())))
        self.sets.setCurrentNode(node)
        if self.state.method_id in self.chooser.methods:
            self.chooser.choose(self.state.method_id)
        elif self.chooser.current is not None:
            self.state.method_id = self.chooser.current.id
        mine = [t for t in self.controller.tickets if t.in_scene and t.state_node_id == node.GetID()]
        self.ticket = mine[-1] if mine else None
        self.update()

    def cleanup(self) -> None:
        """The panel is taken away; its jobs go on."""
        self.follow(None)
        if self._job_changed in self.controller.listeners:
            self.controller.listeners.remove(self._job_changed)
        for box in (self.sets, *(made.selector for made in self.inputs.rows.values())):
            box.setMRMLScene(None)
        self._end_extra()
        if self.tools is not None:
            self.tools.cleanup()

    def _end_extra(self) -> None:
        if hasattr(self.extra, "cleanup"):
            self.extra.cleanup()

    # ------------------------------------------------------------------------------------------------------ the user
    # did

    def _method_chosen(self, method: MethodSpec) -> None:
        self.method = method
        self.run_bar.problem.say("")
        self.inputs.build(method)
        self.parameters.build(method, getattr(self.extras.get(method.id), "shows", ()))
        self.options_button.setVisible(True)
        self._end_extra()
        widgets.clear_layout(self._extra_layout)
        self.extra = self.extras[method.id](self, self._extra_layout) if method.id in self.extras else None
        names = self._weights_names(method)
        widgets.set_combo(self.weights, [(name, name) for name in names] or [(_("none needed"), "")], "")
        self.weights.setEnabled(len(names) > 1)
        if self.state is not None:
            self.state.method_id = method.id
            self.fill_inputs()
            self.update()

    @staticmethod
    def _weights_names(method: MethodSpec) -> list[str]:
        """The declared starters first, then the user's own."""
        found = weights.list_weights(method.weights_id)  # starters that it does not declare are for its siblings
        own = [path.name for path in found if weights.STARTER_WEIGHTS not in path.parents]
        return [*method.weights, *own]

    def _set_option(self, name: str, value: Any) -> None:
        if self.state is not None:
            self.state.set_option(name, value)

    def _set_chosen(self) -> None:
        node = self.sets.currentNode()
        if node is not None and self.state is not None and node is not self.state.node:
            node.SetModuleName(self.module_name)
            self.follow(node)

    def _reset(self) -> None:
        if self.state is not None and self.method is not None:
            self.state.reset(self.method)

    def apply(self) -> Optional[Ticket]:
        """Starts the run that the panel shows. Returns its ticket; None if it cannot start (the panel says why)."""
        if self.state is None or self.method is None or self.reason_off():
            return None
        self.results.say("")  # what was said of the run before
        run = self.inputs.frame_run()
        try:
            for frame in range(run.waiting if run is not None else 1):
                self.ticket = self._submit(run, frame)
        except MedGenError as error:
            self.run_bar.problem.say(str(error))
            return None
        self._show_job(self.ticket)
        return self.ticket

    def _submit(self, run: Optional[FrameRun], frame: int) -> Ticket:
        assert self.state is not None and self.method is not None
        segments = {p.name: self.state.segment_id(p.name) for p in self.method.inputs if self.state.segment_id(p.name)}
        return self.controller.submit(
            self.method,
            self.inputs.inputs(),
            self.state.values(self.method),
            self.state.node,
            seed=self.state.option("seed", 0),
            device=self.state.option("device", jobs.AUTO) or jobs.AUTO,
            weights=self.state.option("weights", "") or None,
            segment_ids=segments,
            frames=run,
            frame=frame,
        )

    def start(self, method: MethodSpec, inputs: dict[str, list[Any]], values: dict[str, Any]) -> Optional[Ticket]:
        """Runs another method than the chosen one; its results join those of this panel. None if it cannot start."""
        if self.state is None:
            return None
        device = self.state.option("device", jobs.AUTO) or jobs.AUTO
        segments = {p.name: self.state.segment_id(p.name) for p in method.inputs if self.state.segment_id(p.name)}
        try:
            self.ticket = self.controller.submit(
                method, inputs, values, self.state.node, device=device, segment_ids=segments
            )
        except MedGenError as error:
            self.run_bar.problem.say(str(error))
            return None
        self._show_job(self.ticket)
        return self.ticket

    def cancel(self) -> None:
        """The job that is shown, and with it the other frames of its sequence."""
        for ticket in reversed(self.controller.unfinished()):
            same = ticket.frames is not None and self.ticket is not None and ticket.frames is self.ticket.frames
            if ticket is self.ticket or same:
                self.controller.cancel(ticket)

    # -------------------------------------------------------------------------------------------------------- follow up

    def reason_off(self) -> str:
        """Why Apply cannot be pressed; empty if it can."""
        if self.method is None:
            return _("Choose a method.")
        if not jobs.set_up():
            return _("The Python environment for the methods is not set up yet: press 'Set up'.")
        missing = self.inputs.missing()
        if missing:
            return _("Choose an input for: {names}.").format(names=", ".join(missing))
        images = [port for port in self.method.inputs if isinstance(port, Image)]
        if images and not any(port.required or port.name in self.inputs.inputs() for port in images):
            return _("Choose at least one image.")
        if self.extra is not None and hasattr(self.extra, "reason_off"):
            return self.extra.reason_off()
        return ""

    def update(self) -> None:
        """Shows what the parameter node holds. Cheap: called after every change."""
        if self.state is None or self.method is None:
            return
        if self.state.method_id and self.state.method_id != self.method.id:
            self.chooser.choose(self.state.method_id)
        self.inputs.update(self.state)
        self.parameters.update(self.state)
        self._update_options()
        results = self.state.results()
        self.results.update(results)
        self._edits.follow([node for node in results if node.IsA("vtkMRMLSegmentationNode")])
        if self.extra is not None and hasattr(self.extra, "update"):
            self.extra.update()
        if self.tools is not None:
            self.tools.update()
        warned = bool(self.inputs.show_warnings())
        if self.extra is not None and hasattr(self.extra, "show_warning"):
            warned = self.extra.show_warning() or warned
        if self.ticket is not None and not self.ticket.ended:
            self.run_bar.show_running(self.ticket)
        else:
            device = self.state.option("device", jobs.AUTO) or jobs.AUTO
            reference = self.inputs.reference()
            known = input_guess.facts(reference) if reference is not None else None
            voxels = known.size[0] * known.size[1] * known.size[2] if known is not None and len(known.size) == 3 else 0
            seconds = run_bar.expected_seconds(self.method.id, device, voxels)
            self.run_bar.show_ready(self.reason_off(), warned, device, seconds)

    def _update_options(self) -> None:
        assert self.state is not None
        devices = [(run_bar.device_words(d["id"]), d["id"]) for d in jobs.known_devices()] or [(_("CPU"), "cpu")]
        automatic = (_("Automatic ({device})").format(device=run_bar.device_words(jobs.AUTO)), jobs.AUTO)
        widgets.set_combo(self.device, [automatic, *devices], self.state.option("device", jobs.AUTO))
        names = [self.weights.itemData(i) for i in range(self.weights.property("count"))]
        wanted = self.state.option("weights", "")
        self.weights.blockSignals(True)
        self.weights.setCurrentIndex(names.index(wanted) if wanted in names else 0)
        self.weights.blockSignals(False)
        self.seed.blockSignals(True)
        self.seed.setValue(self.state.option("seed", 0))
        self.seed.blockSignals(False)

    def _job_changed(self, ticket: Optional[Ticket]) -> None:
        if ticket is not None and ticket is self.ticket and self.state is not None:
            self._show_job(ticket)

    def _show_job(self, ticket: Ticket) -> None:
        if hasattr(self.extra, "follow"):
            self.extra.follow(ticket)
        if ticket.ended:
            self.update()
            self.run_bar.show_end(ticket)
            if self.tools is not None:
                self.tools.job_ended(ticket)
        else:
            self.run_bar.show_running(ticket)
        if ticket.ended or not self.log_button.property("collapsed"):
            self.log.show(ticket)

    def _check_results(self) -> None:
        """Finds out in the background which results were edited meanwhile, in the Segment Editor or elsewhere: when the
        panel is entered, and after every pause in the editing while it is shown."""
        state = self.state
        results = [n for n in state.results() if n.IsA("vtkMRMLSegmentationNode")] if state else []

        def work() -> Any:
            for node in results:
                if slicer.mrmlScene.GetNodeByID(node.GetID() or "none") is node:
                    yield from correction.check(node)

        def done() -> None:
            if self.state is state and state is not None:
                self.update()

        if results:
            steps.run(work(), done)
