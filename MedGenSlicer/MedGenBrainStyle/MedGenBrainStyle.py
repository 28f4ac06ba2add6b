"""Brains that are nobody's: draw them, project a patient's, mix two, check what came out before it is shared."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import MappingProxyType

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

if importlib.util.find_spec("MedGenSlicerLib") is None:  # in the source tree it lies one folder up
    sys.path.append(str(Path(__file__).resolve().parents[1]))
from MedGenSlicerLib import jobs, method_catalogue, provenance, sample_data
from MedGenSlicerLib.brain_extras import MixTools, ProjectTools, SampleTools
from MedGenSlicerLib.brain_tools import METHOD, BrainTools
from MedGenSlicerLib.module_widget import MethodModuleLogic, MethodModuleWidget


class MedGenBrainStyle(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Brain Style")
        parent.categories = ["Image Synthesis"]
        parent.dependencies = ["SegmentEditor"]
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Makes synthetic brains, projects a patient's brain, mixes the coarse anatomy of one with the fine anatomy "
            "of another, and checks whether what came out may be shared or trained on. Every image is synthetic: it "
            "shows nobody. Research only."
        )
        parent.acknowledgementText = _("Each method names its paper on its card: press (i) beside the method.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenBrainStyleWidget(MethodModuleWidget):
    families = ("brain_style",)
    extras = MappingProxyType({METHOD: SampleTools, f"{METHOD}_mix": MixTools, f"{METHOD}_project": ProjectTools})
    tools = BrainTools


class MedGenBrainStyleLogic(MethodModuleLogic):
    pass


class MedGenBrainStyleTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_methods_are_declared()
        self.test_a_brain_of_a_seed()

    def test_methods_are_declared(self):
        methods = method_catalogue.of_families(MedGenBrainStyleWidget.families)
        self.assertTrue(methods)
        for method in methods:
            self.assertTrue(method.title and method.summary and method.intended_use and method.paper.title)

    def test_a_brain_of_a_seed(self):
        """The way to the worker and back: one small brain and its code, both named and marked as synthetic."""
        slicer.mrmlScene.Clear(False)
        sample_data.load_head()
        if not jobs.set_up() or not method_catalogue.has_weights(METHOD):
            self.delayDisplay("There is no environment or there are no weights: nothing was run")
            return
        results = MedGenBrainStyleLogic().run(METHOD, {}, {"size": "preview"})
        volumes = [node for node in results if node.IsA("vtkMRMLScalarVolumeNode")]
        self.assertTrue(volumes)
        for node in volumes:
            self.assertTrue(provenance.is_synthetic(node) and "synthetic" in node.GetName().lower())
        self.assertTrue(any(node.IsA("vtkMRMLTableNode") for node in results))
        self.delayDisplay(f"Made a brain: {len(results)} results")
