"""Widgets for the method that learns from a few painted planes: paint a slice, say that it is complete, run, go on at the
plane that the method suggests."""

from __future__ import annotations

from typing import Any, Optional

import qt
import slicer
from slicer.i18n import tr as _

from medgen import spec
from MedGenSlicerLib import views, widgets
from MedGenSlicerLib.inputs_form import make_input_node


class FewPlanes:
    """Beneath the inputs of a method that has a Planes input."""

    def __init__(self, panel: Any, layout: Any) -> None:
        self.panel = panel
        self.port = next(p for p in panel.method.inputs if isinstance(p, spec.Planes))
        layout.addWidget(
            widgets.text_label(
                _(
                    "Paint every structure on one slice, press 'This slice is complete', repeat on a few slices of any direction."
                )
            )
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
            _("Turns the slice view to the plane where the last run was least certain."),
            self.show_next,
        )
        layout.addWidget(self.suggest)
        self.update()

    def update(self) -> None:
        names = [node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")]
        shown = [name for name in ("Red", "Yellow", "Green") if name in names] or names
        if shown != [self.view.itemData(i) for i in range(self.view.property("count"))]:
            widgets.set_combo(self.view, [(name, name) for name in shown], widgets.combo_data(self.view) or "Red")
        self.suggest.setEnabled(self.next_plane() is not None)

    def add_slice(self) -> None:
        """A locked plane where the slice view is, added to the inputs."""
        point, normal = views.slice_plane(widgets.combo_data(self.view))
        node = make_input_node(self.port, self.panel.inputs.reference())
        node.SetOriginWorld([float(x) for x in point])
        node.SetNormalWorld([float(x) for x in normal])
        node.SetLocked(True)
        node.CreateDefaultDisplayNodes()
        node.SetDisplayVisibility(False)
        self.panel.inputs.rows[self.port.name].add(node)

    def next_plane(self) -> Optional[Any]:
        """The newest plane that a run suggested."""
        state = self.panel.state
        planes = [node for node in state.results() if node.IsA("vtkMRMLMarkupsPlaneNode")] if state else []
        return planes[-1] if planes else None

    def show_next(self) -> None:
        node = self.next_plane()
        if node is not None:
            views.jump_to_plane(widgets.combo_data(self.view), node.GetOriginWorld(), node.GetNormalWorld())
