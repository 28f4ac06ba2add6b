"""Widgets for the method that learns from a few painted planes: paint a slice, say that it is complete, run, go on at
the plane that the method suggests."""

from __future__ import annotations

from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import spec
from MedGenSlicerLib import views, widgets
from MedGenSlicerLib.inputs_form import make_input_node

CONTINUE = "continue"


class FewPlanes:
    """Beneath the inputs of a method that has a Planes input (and perhaps a Blob: the model to continue from)."""

    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self.planes = next(p for p in panel.method.inputs if isinstance(p, spec.Planes))
        self.blob = next((p for p in panel.method.inputs if isinstance(p, spec.Blob)), None)
        steps = _(
            "1. Press + beside the segments and paint everything on one slice. 2. Press 'This slice is complete'. "
        )
        layout.addWidget(
            widgets.text_label(steps + _("3. Do so on four slices or more, in any direction, then Apply."))
        )
        self.view = qt.QComboBox()
        self.view.setToolTip(_("The slice view that shows the painted slice."))
        self.complete = widgets.button(
            _("This slice is complete"),
            _("Notes the plane of this slice view: what is not painted on it counts as background."),
            self.add_slice,
        )
        layout.addLayout(widgets.row(self.complete, self.view, stretch=0))
        self.suggest = widgets.button(
            _("Suggest next slice"),
            _("Turns the slice view to the plane where the last run was least certain. Paint it, then run again."),
            self.show_next,
        )
        layout.addWidget(self.suggest)
        self.go_on = qt.QCheckBox(_("Continue from the last model"))
        self.go_on.setToolTip(_("The next run goes on with what the last one has learnt: quicker than from the start."))
        self.go_on.toggled.connect(lambda *_a: self._continue_toggled())
        layout.addWidget(self.go_on)
        self.update()

    def update(self) -> None:
        names = [node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")]
        shown = [name for name in ("Red", "Yellow", "Green") if name in names] or names
        if shown != [self.view.itemData(i) for i in range(self.view.property("count"))]:
            widgets.set_combo(self.view, [(name, name) for name in shown], widgets.combo_data(self.view) or "Red")
        self.suggest.setEnabled(self.next_plane() is not None)
        state = self.panel.state
        if state is None or self.blob is None:
            return
        model = self._last("vtkMRMLTextNode")
        self.go_on.setEnabled(model is not None)
        self.go_on.blockSignals(True)
        self.go_on.setChecked(state.option(CONTINUE, True))
        self.go_on.blockSignals(False)
        if model is not None and state.option(CONTINUE, True):
            state.set_input_nodes(self.blob.name, [model])

    def _continue_toggled(self) -> None:
        state = self.panel.state
        if state is not None and self.blob is not None:
            state.set_option(CONTINUE, self.go_on.isChecked())
            if not self.go_on.isChecked():
                state.set_input_nodes(self.blob.name, [])

    def _last(self, node_class: str) -> Optional[Any]:
        """The newest result of that class that this method made."""
        state = self.panel.state
        made = [n for n in (state.results() if state else []) if n.IsA(node_class)]
        made = [n for n in made if n.GetAttribute("MedGen.method") == self.panel.method.id]
        return made[-1] if made else None

    def add_slice(self) -> None:
        """A locked, hidden plane where the slice view is, added to the inputs."""
        point, normal = views.slice_plane(widgets.combo_data(self.view))
        node = make_input_node(self.planes, self.panel.inputs.reference())
        node.SetOriginWorld([float(x) for x in point])
        node.SetNormalWorld([float(x) for x in normal])
        node.SetLocked(True)
        node.CreateDefaultDisplayNodes()
        node.SetDisplayVisibility(False)
        self.panel.inputs.rows[self.planes.name].add(node)

    def next_plane(self) -> Optional[Any]:
        """The newest plane that a run suggested."""
        return self._last("vtkMRMLMarkupsPlaneNode")

    def show_next(self) -> None:
        node = self.next_plane()
        if node is not None:
            views.jump_to_plane(widgets.combo_data(self.view), node.GetOriginWorld(), node.GetNormalWorld())
