"""Where the mask to fill comes from: painted in the Segment Editor, or found automatically and corrected."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from MedGenSlicerLib import correction, method_catalogue, widgets
from MedGenSlicerLib.ultrasound_tools import ARTEFACTS, MASK

FRAMES = "frames"


class MaskTools:
    """Beneath the inputs of the inpainting method."""

    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        layout.addWidget(
            widgets.text_label(
                _("Paint what to fill (+), or let artefacts be found and correct them. Filled tissue is invented.")
            )
        )
        self.find = widgets.button(
            _("Find artefacts"), _("Marks text, callipers, reverberations and shadows as a mask."), self.start_finding
        )
        self.edit = widgets.button(
            _("Edit the mask"), _("Opens the Segment Editor on the mask, over the frame."), self.open_editor
        )
        layout.addLayout(widgets.row(self.find, self.edit))
        self.update()

    def update(self) -> None:
        state = self.panel.state
        self.find.setEnabled(state is not None and bool(state.input_nodes(FRAMES)))
        mask = state.input_node(MASK) if state is not None else None
        self.edit.setEnabled(mask is not None and mask.IsA("vtkMRMLSegmentationNode"))

    def start_finding(self) -> None:
        nodes = self.panel.state.input_nodes(FRAMES)
        self.panel.start(method_catalogue.find(ARTEFACTS), {FRAMES: nodes}, {})

    def open_editor(self) -> None:
        self.panel.state.input_node(MASK).SetDisplayVisibility(True)
        correction.open_editor(self.panel.state.input_node(MASK), self.panel.inputs.reference())
