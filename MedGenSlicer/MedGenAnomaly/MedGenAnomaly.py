"""Anomaly maps, segmentation ensembles and guided edits of MedGen: what does not look healthy, and how sure that is."""

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
from MedGenSlicerLib import method_catalogue, sample_data, self_test
from MedGenSlicerLib.anomaly_tools import AnomalyTools
from MedGenSlicerLib.edit_tools import EditTools
from MedGenSlicerLib.module_widget import MethodModuleLogic, MethodModuleWidget


class MedGenAnomaly(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Anomaly")
        parent.categories = ["Segmentation"]
        parent.dependencies = ["SegmentEditor"]
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Redraws brain MR or a chest X-ray as healthy and maps what changed, draws a lesion several times and "
            "shows where the draws disagree, or makes a lesion larger, smaller or new. Redrawn images are synthetic. "
            "Research only."
        )
        parent.acknowledgementText = _("Each method names its paper on its card: press (i) beside the method.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenAnomalyWidget(MethodModuleWidget):
    families = ("anomaly",)
    also = ("diffusion_segmentation",)
    first = "diffusion_anomaly"
    extras = MappingProxyType({"diffusion_edit": EditTools})
    tools = AnomalyTools


class MedGenAnomalyLogic(MethodModuleLogic):
    pass


class MedGenAnomalyTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_methods_are_declared()
        self.test_way_to_the_worker()

    def test_methods_are_declared(self):
        methods = method_catalogue.of_families(MedGenAnomalyWidget.families, MedGenAnomalyWidget.also)
        self.assertTrue({"diffusion_anomaly", "diffusion_segmentation"} <= {method.id for method in methods})
        for method in methods:
            self.assertTrue(method.title and method.summary and method.intended_use and method.paper.title)

    def test_way_to_the_worker(self):
        """The sample head still has its skull, which the brain methods refuse: the way there and back alone."""
        self_test.run_on_sample(self, MedGenAnomalyLogic(), "identity", "image", {})
