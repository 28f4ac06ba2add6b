"""Segmentation methods of MedGen: choose one, press Apply, correct the result by hand."""

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
from MedGenSlicerLib.few_planes import FewPlanes
from MedGenSlicerLib.module_widget import MethodModuleLogic, MethodModuleWidget


class MedGenSegment(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Segment")
        parent.categories = ["Segmentation"]
        parent.dependencies = ["SegmentEditor"]
        parent.contributors = ["MedGenSlicer contributors"]
        parent.helpText = _(
            "Segments an image with a trained network, or with one that learns from a few planes that you paint. "
            "Choose a method, check the inputs, press Apply; then correct the result in the Segment Editor."
        )
        parent.acknowledgementText = _("Each method names its paper on its card: press (i) beside the method.")
        slicer.app.startupCompleted.connect(sample_data.register)


class MedGenSegmentWidget(MethodModuleWidget):
    families = ("segmentation",)
    first = "multiplanar_unet"
    extras = MappingProxyType({"multiplanar_unet_few_planes": FewPlanes})


class MedGenSegmentLogic(MethodModuleLogic):
    pass


class MedGenSegmentTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""

    def runTest(self):
        self.test_methods_are_declared()
        self.test_segmentation_of_the_sample()

    def test_methods_are_declared(self):
        methods = method_catalogue.of_families(MedGenSegmentWidget.families)
        self.assertTrue(methods)
        for method in methods:
            self.assertTrue(method.title and method.summary and method.intended_use and method.paper.title)

    def test_segmentation_of_the_sample(self):
        """With the ready weights if they are here, else the way to the worker alone."""
        logic = MedGenSegmentLogic()
        if not method_catalogue.has_weights("multiplanar_unet"):
            self_test.run_on_sample(self, logic, "identity", "image", {})
            return
        results = self_test.run_on_sample(self, logic, "multiplanar_unet", "image", {"orientations": "1"})
        for node in results:
            if node.IsA("vtkMRMLSegmentationNode"):
                self_test.check_correction(self, node)
