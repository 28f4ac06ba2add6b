"""The jobs of all MedGen modules and the environment that they compute in."""

from __future__ import annotations

import importlib.util
import sys
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
from MedGenSlicerLib import jobs, sample_data, self_test, widgets
from MedGenSlicerLib.environment_panel import EnvironmentPanel
from MedGenSlicerLib.jobs_panel import JobsPanel
from MedGenSlicerLib.module_widget import MethodModuleLogic


class MedGenJobs(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Jobs")
        parent.categories = ["Utilities"]
        parent.dependencies = []
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Lists the jobs of all MedGen modules: what runs, waits, has finished or failed. "
            "Below: the Python environment in which they run, with one button to set it up."
        )
        parent.acknowledgementText = _("Each method names its paper on its card.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenJobsWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        _button, inside = widgets.section(self.layout, _("Jobs"), _("The jobs of all MedGen modules."))
        self.jobs = JobsPanel(inside)
        _button, inside = widgets.section(
            self.layout, _("Compute environment"), _("The Python in which the methods run, apart from Slicer's own.")
        )
        self.environment = EnvironmentPanel(inside)
        self.layout.addStretch(1)

    def enter(self):
        self.jobs.update()
        self.environment.update()

    def cleanup(self):
        self.jobs.cleanup()
        self.environment.cleanup()


class MedGenJobsTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_a_job_goes_through_the_queue()

    def test_a_job_goes_through_the_queue(self):
        before = len(jobs.controller().tickets)
        if self_test.run_on_sample(self, MethodModuleLogic(), "identity", "image", {}):
            ticket = jobs.controller().tickets[-1]
            self.assertEqual(len(jobs.controller().tickets), before + 1)
            self.assertEqual(ticket.state, "finished")
