"""Segmentation methods of MedGen: choose one, press Apply, correct the result by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

if importlib.util.find_spec("MedGenSlicerLib") is None:  # in the source tree it lies one folder up
    sys.path.append(str(Path(__file__).resolve().parents[1]))
from MedGenSlicerLib import sample_data
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
    extras = {"multiplanar_unet_few_planes": FewPlanes}


class MedGenSegmentLogic(MethodModuleLogic):
    pass


class MedGenSegmentTest(ScriptedLoadableModuleTest):
    """Runs in the application (Reload & Test) and in Testing/gui."""
