"""Synthetic CT and stopping-power methods of MedGen: run, look, set densities by hand, check, export for planning."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

if importlib.util.find_spec("MedGenSlicerLib") is None:  # in the source tree it lies one folder up
    sys.path.append(str(Path(__file__).resolve().parents[1]))
from MedGenSlicerLib import densities, method_catalogue, sample_data, self_test, steps
from MedGenSlicerLib.module_widget import MethodModuleLogic, MethodModuleWidget
from MedGenSlicerLib.synthetic_ct_tools import SyntheticCtTools


class MedGenSyntheticCT(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Synthetic CT")
        parent.categories = ["Image Synthesis"]
        parent.dependencies = ["SegmentEditor"]
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Makes a CT or a map of proton stopping power from an MR, to look at, to correct (air, bone, metal), to "
            "check against a reference or along a line, to export. Synthetic images are not validated for treatment."
        )
        parent.acknowledgementText = _("Each method names its paper on its card: press (i) beside the method.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenSyntheticCTWidget(MethodModuleWidget):
    families = ("synthetic_ct",)
    first = "frequency_mr_to_ct"
    tools = SyntheticCtTools


class MedGenSyntheticCTLogic(MethodModuleLogic):
    def override(self, volume, segmentation, segment_id, value):
        """A copy of a synthetic volume whose voxels in the segment hold `value` (HU or SPR). Raises MedGenError."""
        return steps.finish(densities.override_steps(volume, segmentation, segment_id, float(value)))


class MedGenSyntheticCTTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_methods_are_declared()
        self.test_check_of_the_sample()

    def test_methods_are_declared(self):
        methods = method_catalogue.of_families(MedGenSyntheticCTWidget.families)
        self.assertTrue(methods)
        for method in methods:
            self.assertTrue(method.title and method.summary and method.intended_use and method.paper.title)

    def test_check_of_the_sample(self):
        """The way to the worker and back: the histogram of the sample head, taken for an image in HU."""
        results = self_test.run_on_sample(
            self, MedGenSyntheticCTLogic(), "synthetic_ct_review", "synthetic", {"unit": "HU"}
        )
        self.assertTrue(all(node.IsA("vtkMRMLPlotChartNode") for node in results))
