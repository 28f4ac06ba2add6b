"""Ultrasound methods of MedGen: fill an artefact and see how sure that is, or give frames another machine's look."""

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
from MedGenSlicerLib import method_catalogue, provenance, sample_data
from MedGenSlicerLib.inpainting_tools import MaskTools
from MedGenSlicerLib.module_widget import MethodModuleLogic, MethodModuleWidget
from MedGenSlicerLib.style_map import StyleMap
from MedGenSlicerLib.ultrasound_tools import UltrasoundTools


class MedGenUltrasound(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Ultrasound")
        parent.categories = ["Ultrasound"]
        parent.dependencies = ["SegmentEditor"]
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Fills callipers, text, reverberations and gaps of B-mode frames with several plausible fills and shows "
            "where they differ; gives frames another machine's look, for training data. Filled tissue is invented: "
            "never read it. Research only."
        )
        parent.acknowledgementText = _("Each method names its paper on its card: press (i) beside the method.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenUltrasoundWidget(MethodModuleWidget):
    families = ("ultrasound",)
    extras = MappingProxyType({"us_style_transfer": StyleMap, "us_inpainting": MaskTools})
    tools = UltrasoundTools


class MedGenUltrasoundLogic(MethodModuleLogic):
    pass


class MedGenUltrasoundTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_methods_are_declared()
        self.test_artefacts_of_a_frame()

    def test_methods_are_declared(self):
        methods = method_catalogue.of_families(MedGenUltrasoundWidget.families)
        self.assertTrue(methods)
        for method in methods:
            self.assertTrue(method.title and method.summary and method.intended_use and method.paper.title)

    def test_artefacts_of_a_frame(self):
        """The way to the worker and back, on a drawn frame: the method that finds artefacts needs no weights."""
        slicer.mrmlScene.Clear(False)
        volume = sample_data.draw_ultrasound()
        self.delayDisplay("Drew an ultrasound frame")
        from MedGenSlicerLib import jobs

        if not jobs.set_up():
            self.delayDisplay("The compute environment is not set up: nothing was run")
            return
        results = MedGenUltrasoundLogic().run("us_artefact_masks", {"frames": volume}, {})
        self.assertTrue(any(node.IsA("vtkMRMLSegmentationNode") for node in results))
        for node in results:
            self.assertIs(provenance.reference_of(node), volume)
        self.delayDisplay(f"Found artefacts: {len(results)} results")
