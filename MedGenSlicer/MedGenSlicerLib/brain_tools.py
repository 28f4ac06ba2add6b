"""What is done with brains that were made: A, B and their mix side by side, their difference and volumes, the patient's
space, codes to and from files, the gate, a cohort. Beneath the results of MedGenBrainStyle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from medgen.errors import MedGenError
from medgen.spec import MethodSpec
from medgen.worker.client import JobRequest
from MedGenSlicerLib import (
    brain_codes,
    ct_views,
    export_dialog,
    jobs,
    node_bridge,
    provenance,
    settings,
    steps,
    views,
    widgets,
)
from MedGenSlicerLib.brain_extras import sibling
from MedGenSlicerLib.cohort_tools import CohortTools
from MedGenSlicerLib.gate_tools import GateTools
from MedGenSlicerLib.jobs import Ticket
from MedGenSlicerLib.quick_jobs import QuickJob

METHOD, HEAD = "brain_stylegan", "multiplanar_unet"
GATED = ("brains", "mix", "synthetic")
TO_PATIENT = "to_patient"
# what the table of volumes adds up, by names of the head's structures
TISSUES = {
    "Lateral ventricles": ("Lateral ventricles",),
    "All ventricles": ("Lateral ventricles", "Third ventricle", "Fourth ventricle"),
    "Grey matter": (
        *("Cerebral cortex", "Cerebellar cortex", "Thalamus", "Caudate nucleus", "Putamen", "Pallidum", "Hippocampus"),
        *("Amygdala", "Nucleus accumbens", "Ventral diencephalon"),
    ),
    "White matter": ("Cerebral white matter", "Cerebellar white matter"),
    "Cerebrospinal fluid": ("Cerebrospinal fluid",),
}


class BrainTools:
    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self._told: Optional[Ticket] = None
        button, inside = widgets.section(layout, _("Look"), _("Two brains and what was made of them."))
        self.look = LookTools(self, inside)
        button.contentsCollapsed.connect(lambda *_a: self.update())
        self.codes = CodeTools(self, layout)
        self.gate = GateTools(panel, layout, GATED, self._training_set)
        self.cohort = CohortTools(panel, layout, METHOD)
        self.update()

    def _training_set(self) -> Optional[MethodSpec]:
        current = self.panel.method.id if self.panel.method is not None else METHOD
        methods = self.panel.chooser.methods
        return methods.get(sibling(current, "training_set")) or methods.get(sibling(METHOD, "training_set"))

    def results(self) -> list[Any]:
        return self.panel.state.results() if self.panel.state is not None else []

    def made(self, output: str, run: Optional[Any] = None) -> Optional[Any]:
        """The newest result of that output; of the run that made `run`, where one is given."""
        found = [n for n in self.results() if n.GetAttribute("MedGen.output") == output]
        if run is not None:
            found = [n for n in found if n.GetAttribute("MedGen.time") == run.GetAttribute("MedGen.time")]
        return found[-1] if found else None

    def say(self, sentence: str) -> None:
        self.panel.results.say(sentence)

    def update(self) -> None:
        """Cheap: called after every change."""
        if self.panel.state is None:
            self.look.stop()
            return
        self.look.update()
        self.codes.update()
        self.gate.update()
        self.cohort.update()

    def job_ended(self, ticket: Ticket) -> None:
        if ticket is self._told:
            return
        self._told = ticket
        made = {node.GetAttribute("MedGen.output"): node for node in ticket.results()}
        self._name(made)
        if "mix" in made:
            self.look.side_by_side()
        self.gate.job_ended(ticket)
        self.panel.results.update(self.results())
        self.update()

    def _name(self, made: dict[str, Any]) -> None:
        """A drawn brain and its code are called by their seed, a mix by its donors, a patient's code by the patient."""
        code = made.get(brain_codes.OUTPUT)
        names = brain_codes.names(code) if code is not None else []
        if "brains" in made and names:
            several = f"{names[0]} - {names[-1]}" if len(names) > 1 else names[0]
            self._rename(made["brains"], _("Brain {name} (synthetic)").format(name=several))
            self._rename(code, _("Code of {name}").format(name=several))
        elif "mix" in made:
            first, second = (self._donor_name(made["mix"], which) for which in ("a", "b"))
            both = _("{a} and {b}").format(a=first, b=second)
            titles = {
                "mix": _("Mix of {a} and {b} (synthetic)").format(a=first, b=second),
                "a": _("A: {name} (synthetic)").format(name=first),
                "b": _("B: {name} (synthetic)").format(name=second),
                brain_codes.OUTPUT: _("Code of the mix of {both}").format(both=both),
            }
            for output, title in titles.items():
                if output in made:
                    self._rename(made[output], title)
        elif "reconstruction" in made and code is not None:
            patient = provenance.reference_of(made["reconstruction"])
            if patient is not None:
                self._rename(code, _("Code of {name}").format(name=patient.GetName()))

    @staticmethod
    def _donor_name(mix: Any, which: str) -> str:
        """What the row of the table is called that gave A or B."""
        code = mix.GetNodeReference(provenance.INPUT_ROLE + which)
        row = json.loads(mix.GetAttribute("MedGen.parameters") or "{}").get(f"row_{which}", 1)
        names = brain_codes.names(code) if code is not None else []
        return names[row - 1] if 0 < row <= len(names) else which.upper()

    @staticmethod
    def _rename(node: Any, name: str) -> None:
        node.SetName(slicer.mrmlScene.GenerateUniqueName(name) if slicer.mrmlScene.GetFirstNodeByName(name) else name)

    def cleanup(self) -> None:
        self.look.stop()
        self.gate.cleanup()
        self.cohort.cleanup()


class LookTools:
    """A | B | mix, differences, volumes, the patient's space: of the newest mix."""

    def __init__(self, tools: BrainTools, layout: Any) -> None:
        self.tools = tools
        self._measuring: list[QuickJob] = []
        self._stop_copy: Any = lambda: None
        self.volumes: dict[str, dict[str, float]] = {}  # column: structure: ml
        self.beside = widgets.button(
            _("A | B | mix"), _("The two brains and their mix in linked slice views."), self.side_by_side
        )
        self.to_a = widgets.button(_("Mix - A"), _("What the mix took from B, as a map of differences."),
                                   lambda: self.difference("a"))  # fmt: skip
        self.to_b = widgets.button(_("Mix - B"), _("What the mix took from A, as a map of differences."),
                                   lambda: self.difference("b"))  # fmt: skip
        layout.addLayout(widgets.row(self.beside, self.to_a, self.to_b, stretch=0))
        self.measure = widgets.button(_("Volumes"), "", self.start_or_stop_measuring)
        self.patient = widgets.button(_("Into the patient's space"), "", self.to_patient)
        layout.addLayout(widgets.row(self.measure, self.patient))
        self.words = widgets.text_label()
        self.words.setVisible(False)
        layout.addWidget(self.words)
        self.table = qt.QTableWidget()
        self.table.setToolTip(_("Measured by the head weights of MedGen Segment; in ml."))
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.setVisible(False)
        layout.addWidget(self.table)

    # ---------------------------------------------------------------------------------------------------- what there is

    def mix(self) -> Optional[Any]:
        return self.tools.made("mix")

    def donor(self, which: str) -> Optional[Any]:
        """The brain A or B of the newest mix: made with it, or by the run that made its code."""
        mix = self.mix()
        if mix is None:
            return None
        code = mix.GetNodeReference(provenance.INPUT_ROLE + which)
        return self.tools.made(which, mix) or (brain_codes.image_of(code) if code is not None else None)

    def transform(self) -> Optional[Any]:
        """From the model's space to a patient's: found by the projection that gave A or B."""
        mix = self.mix()
        for which in ("a", "b") if mix is not None else ():
            code = mix.GetNodeReference(provenance.INPUT_ROLE + which)
            found = brain_codes.of_run(code, "vtkMRMLLinearTransformNode", TO_PATIENT) if code is not None else None
            if found is not None:
                return found
        return None

    def update(self) -> None:
        mix = self.mix()
        both = mix is not None and self.donor("a") is not None and self.donor("b") is not None
        for each in (self.beside, self.to_a, self.to_b):
            each.setEnabled(both)
        measuring = bool(self._measuring)
        self.measure.setText(_("Stop measuring") if measuring else _("Volumes"))
        self.measure.setEnabled(measuring or both)
        self.measure.setToolTip(
            _("Ventricles, grey and white matter of A, B and the mix, in the background.")
            if both
            else _("Mix two brains first.")
        )
        has_patient = self.transform() is not None
        self.patient.setEnabled(has_patient)
        self.patient.setToolTip(
            _("A copy of the mix where the patient's head lies, over the patient's image.")
            if has_patient
            else _("Neither A nor B is a projected patient.")
        )
        self.table.setVisible(measuring and bool(self.volumes))  # then the results list shows what was kept

    def stop(self) -> None:
        """Nothing goes on; the scene closes or the panel goes."""
        self._stop_copy()
        self._withdraw()
        self.volumes = {}
        self.table.setVisible(False)
        self._say("")

    def _say(self, words: str) -> None:
        self.words.setText(words)
        self.words.setVisible(bool(words))

    # ------------------------------------------------------------------------------------------------------------ views

    def side_by_side(self) -> None:
        shown = [self.donor("a"), self.donor("b"), self.mix()]
        if None not in shown:
            for node in shown[1:]:
                self._same_window(shown[0], node)
            views.side_by_side(shown)
            self.tools.panel.results.views_changed()

    @staticmethod
    def _same_window(first: Any, other: Any) -> None:
        """Grey values that can be compared by eye."""
        display, wanted = other.GetDisplayNode(), first.GetDisplayNode()
        if display is not None and wanted is not None:
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(wanted.GetWindow(), wanted.GetLevel())

    def difference(self, which: str) -> None:
        """Mix minus a donor as a new volume, beside the two."""
        mix, donor = self.mix(), self.donor(which)
        if mix is None or donor is None:
            return
        made: list[Any] = []

        def work() -> Any:
            first = yield from node_bridge.volume_steps(mix)
            second = yield from node_bridge.volume_steps(donor)
            if first.GetSize() != second.GetSize():
                raise MedGenError(_("The two brains were made at different sizes: mix them again."))
            values = [node_bridge.sitk.GetArrayViewFromImage(image).astype(np.float32) for image in (first, second)]
            image = node_bridge.sitk.GetImageFromArray(values[0] - values[1])
            image.CopyInformation(first)
            yield
            node = slicer.vtkMRMLScalarVolumeNode()
            title = _("{mix} minus {donor} (synthetic)").format(mix=_("Mix"), donor=which.upper())
            node.SetName(slicer.mrmlScene.GenerateUniqueName(title))
            yield from node_bridge.fill_volume_steps(node, image)
            made.append(slicer.mrmlScene.AddNode(node))

        def done() -> None:
            if self.tools.panel.state is None:
                return
            node = made[0]
            node.CreateDefaultDisplayNodes()
            ct_views.show_as_difference(node)
            provenance.copy(mix, node)
            node.SetAttribute(provenance.PREFIX + "output", "difference")
            self.tools.panel.state.add_result(node)
            views.side_by_side([donor, mix, node])
            self.tools.panel.update()

        self._stop_copy = steps.run(work(), done, self._failed)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, MedGenError):
            raise error
        self.tools.say(str(error))

    def to_patient(self) -> None:
        """A copy of the mix under the transform that the projection found; its voxels stay as they are."""
        mix, transform = self.mix(), self.transform()
        if mix is None or transform is None:
            return
        patient = provenance.reference_of(transform)
        name = patient.GetName() if patient is not None else transform.GetName()
        title = _("Mix in the space of {name} (synthetic)").format(name=name)
        copy = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, mix, title)
        provenance.copy(mix, copy)
        copy.SetAttribute(provenance.PREFIX + "output", "mix_in_patient")
        copy.SetAndObserveTransformNodeID(transform.GetID())
        if patient is not None:
            copy.SetNodeReferenceID("MedGen.reference", patient.GetID())
        self.tools.panel.state.add_result(copy)
        if patient is not None and patient.IsA("vtkMRMLVolumeNode"):
            views.blend(patient, copy)
        else:
            views.show_background(copy)
        self.tools.panel.update()

    # ---------------------------------------------------------------------------------------------------------- volumes

    def start_or_stop_measuring(self) -> None:
        if self._measuring:
            self._withdraw()
            self._say(_("Stopped."))
            self.update()
        else:
            self.start_measuring()

    def _withdraw(self) -> None:
        for job in self._measuring:
            self.tools.panel.controller.withdraw(job)
        self._measuring = []

    def start_measuring(self) -> None:
        """One small job each for A, B and the mix; the table fills as they end."""
        brains = {_("A"): self.donor("a"), _("B"): self.donor("b"), _("Mix"): self.mix()}
        if None in brains.values():
            return
        self.volumes, mix = {}, self.mix()
        device = self.tools.panel.state.option("device", jobs.AUTO) or jobs.AUTO

        def work() -> Any:
            for column, node in brains.items():
                image = yield from node_bridge.volume_steps(node)
                request = JobRequest(HEAD, {"image": image}, {"orientations": "1"}, device=device)
                self._measuring.append(self._job(request, column, mix, len(brains)))
                self.tools.panel.controller.ask(self._measuring[-1], device)
            self.update()

        self._say(_("Measuring A, B and the mix..."))
        self._stop_copy = steps.run(work(), lambda: None, self._measuring_failed)

    def _job(self, request: JobRequest, column: str, mix: Any, total: int) -> QuickJob:
        def done(outputs: dict[str, Any]) -> None:
            found = outputs["volumes"]
            self.volumes[column] = dict(zip(found["structure"], found["volume_ml"]))
            self._show_volumes()
            if len(self.volumes) == total:
                self._measuring = []
                self._say("")
                self._keep_volumes(mix)
            self.update()

        return QuickJob(request, done, lambda sentence: self._measuring_failed(MedGenError(sentence)))

    def _measuring_failed(self, error: Exception) -> None:
        self._withdraw()
        self._say(str(error))
        self.update()

    def rows(self) -> list[tuple[str, list[float]]]:
        """(tissue, ml in every column that was measured)."""
        return [
            (tissue, [sum(found.get(name, 0.0) for name in names) for found in self.volumes.values()])
            for tissue, names in TISSUES.items()
        ]

    def _show_volumes(self) -> None:
        rows = self.rows()
        self.table.setColumnCount(1 + len(self.volumes))
        self.table.setRowCount(len(rows))
        self.table.setHorizontalHeaderLabels([_("Volume, ml"), *self.volumes])
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(22)
        for r, (tissue, values) in enumerate(rows):
            self.table.setItem(r, 0, qt.QTableWidgetItem(_(tissue)))
            for c, value in enumerate(values):
                item = qt.QTableWidgetItem(f"{value:.1f}")
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                self.table.setItem(r, c + 1, item)
        header = self.table.horizontalHeader()
        for c in range(1 + len(self.volumes)):
            header.setSectionResizeMode(c, qt.QHeaderView.ResizeToContents if c else qt.QHeaderView.Stretch)
        self.table.setFixedHeight(len(rows) * 22 + 30)

    def _keep_volumes(self, mix: Any) -> None:
        """As a table that can be exported, beside the mix."""
        if self.tools.panel.state is None or slicer.mrmlScene.GetNodeByID(mix.GetID() or "none") is not mix:
            return
        rows = self.rows()
        columns: dict[str, list[Any]] = {"volume, ml": [tissue for tissue, _values in rows]}
        for index, name in enumerate(self.volumes):
            columns[name] = [round(values[index], 2) for _tissue, values in rows]
        name = slicer.mrmlScene.GenerateUniqueName(_("Volumes of A, B and mix"))
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        node_bridge.fill_table(node, columns)
        provenance.copy(mix, node)
        node.SetAttribute(provenance.PREFIX + "output", "brain_volumes")
        node.SetAttribute(provenance.PREFIX + "synthetic", "0")
        self.tools.panel.state.add_result(node)
        self.tools.panel.update()


class CodeTools:
    """Codes to files and back."""

    def __init__(self, tools: BrainTools, layout: Any) -> None:
        self.tools = tools
        button, inside = widgets.section(layout, _("Codes"), _("The numbers that a brain is made of, as tables."), True)
        button.contentsCollapsed.connect(lambda *_a: self.update())
        self.combo = qt.QComboBox()
        self.combo.setToolTip(_("A table of codes, one row a brain: made, drawn, or loaded."))
        self.combo.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.save = widgets.button(_("Save..."), _("Writes this table as a CSV file."), self._save)
        self.load = widgets.button(_("Load..."), _("Reads a table of codes from a CSV or TSV file."), self._ask_load)
        inside.addLayout(widgets.row(self.combo, self.save, self.load, stretch=0))
        self.as_a = widgets.button(_("Use as A"), _("Gives the coarse anatomy of the next mix."), lambda: self.use("a"))
        self.as_b = widgets.button(_("Use as B"), _("Gives the fine anatomy of the next mix."), lambda: self.use("b"))
        inside.addLayout(widgets.row(self.as_a, self.as_b))

    def node(self) -> Optional[Any]:
        return slicer.mrmlScene.GetNodeByID(widgets.combo_data(self.combo) or "none")

    def update(self) -> None:
        items = [(node.GetName(), node.GetID()) for node in reversed(brain_codes.tables(METHOD))]
        chosen = widgets.combo_data(self.combo)
        widgets.set_combo(self.combo, items or [(_("No codes yet"), "")], chosen)
        self.combo.setEnabled(bool(items))
        for each in (self.save, self.as_a, self.as_b):
            each.setEnabled(bool(items))

    def use(self, which: str) -> None:
        node = self.node()
        if node is not None and self.tools.panel.state is not None:
            self.tools.panel.state.set_input_nodes(which, [node])
            current = self.tools.panel.method.id if self.tools.panel.method is not None else METHOD
            self.tools.panel.chooser.choose(sibling(current, "mix"))

    def _save(self) -> None:
        if self.node() is not None:
            export_dialog.show(self.node())

    def _ask_load(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(
            None, _("Table of codes"), settings.last_folder("export"), "*.csv *.tsv"
        )
        path = chosen[0] if isinstance(chosen, tuple) else chosen  # PySide6 gives the filter as well
        if path:
            self.load_file(Path(path))

    def load_file(self, path: Path) -> Optional[Any]:
        try:
            node = brain_codes.load(path)
        except MedGenError as error:
            self.tools.say(str(error))
            return None
        self.tools.say(_("'{name}': {n} brains.").format(name=node.GetName(), n=len(brain_codes.names(node))))
        self.update()
        self.combo.setCurrentIndex(0)
        return node
