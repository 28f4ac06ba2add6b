"""Many cases with one MedGen method, in the background, with a report."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

if importlib.util.find_spec("MedGenSlicerLib") is None:  # in the source tree it lies one folder up
    sys.path.append(str(Path(__file__).resolve().parents[1]))
from MedGenSlicerLib import jobs, method_catalogue, sample_data
from MedGenSlicerLib.batch_panel import BatchPanel, wait_for


class MedGenBatch(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Batch")
        parent.categories = ["Pipelines"]
        parent.dependencies = []
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Runs one method on a folder of images or DICOM series, or on a table of cases, in the background. "
            "Each case gets a folder of its own; a stopped batch goes on where it was; a report shows every case."
        )
        parent.acknowledgementText = _("Each method names its paper on its card: press (i) beside the method.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenBatchWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.batch = BatchPanel(self.layout, method_catalogue.for_files())

    def enter(self):
        self.batch.update()

    def cleanup(self):
        self.batch.cleanup()


class MedGenBatchTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_a_folder_of_two_cases()

    def test_a_folder_of_two_cases(self):
        """One good file and one that is broken: one done, one failed, and a report."""
        sample_data.load_head()  # so that something is seen
        if not jobs.set_up():
            self.delayDisplay("The compute environment is not set up: nothing was run")
            return
        slicer.util.selectModule("MedGenBatch")
        panel = slicer.modules.MedGenBatchWidget.batch
        with tempfile.TemporaryDirectory() as name:
            cases, out = Path(name) / "cases", Path(name) / "out"
            cases.mkdir()
            shutil.copy(sample_data.FOLDER / "MedGenHead.nrrd", cases / "good.nrrd")
            (cases / "broken.nrrd").write_bytes(b"no image")
            panel.method, panel.cases = method_catalogue.find("identity"), []
            panel.add(cases)
            panel.folder.setText(str(out))
            panel.start()
            wait_for(panel)
            states = {case: state for case, (state, _note) in panel.states().items()}
            self.assertEqual(states, {"good": "done", "broken": "failed"})
            self.assertTrue((out / "report.html").is_file())
            panel.clear_cases()
            panel.folder.setText("")
