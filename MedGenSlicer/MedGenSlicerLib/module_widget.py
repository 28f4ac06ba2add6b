"""What the widget class of every MedGen module shares: the panel, and the events of application and scene."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Optional

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from medgen.errors import MedGenError
from MedGenSlicerLib import jobs, method_catalogue, provenance, view_banner, views
from MedGenSlicerLib.panel import MethodPanel
from MedGenSlicerLib.panel_state import PanelState, add_parameter_set, parameter_sets

QUIET_MS = 300  # after the last node of what is loaded


class MethodModuleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A module that shows the methods of some families. A module sets `families`, `also` for methods of other families
    by id, `first` for the one it opens with, `extras` for widgets that one method needs, and `tools` for what its users
    do with every result."""

    families: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    first = ""
    extras: Mapping[str, Any] = MappingProxyType({})
    tools: Any = None

    def __init__(self, parent: Optional[Any] = None) -> None:
        VTKObservationMixin.__init__(self)
        self.panel: Optional[MethodPanel] = None
        ScriptedLoadableModuleWidget.__init__(self, parent)  # without a parent it calls `setup` itself

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        methods = method_catalogue.of_families(self.families, self.also, self.first)
        self.panel = MethodPanel(self.layout, self.moduleName, methods, self.extras, self.tools)
        view_banner.start()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, lambda *_a: self._leave_scene())
        self.addObserver(scene, scene.EndCloseEvent, lambda *_a: self.isEntered() and self.panel.enter())
        self.addObserver(scene, scene.EndImportEvent, lambda *_a: self.panel.scene_imported())
        self._fresh: list[str] = []  # ids of volumes that came while the panel was shown
        self._quiet = qt.QTimer()
        self._quiet.setSingleShot(True)
        self._quiet.setInterval(QUIET_MS)
        self._quiet.timeout.connect(self._fill_inputs)
        self.addObserver(scene, scene.NodeAddedEvent, self._node_added)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_added(self, _caller: Any, _event: Any, node: Any) -> None:
        if node is not None and node.IsA("vtkMRMLVolumeNode") and self.isEntered():
            self._fresh.append(node.GetID())
            self._quiet.start()

    def _fill_inputs(self) -> None:
        """An image that is loaded while the panel is shown goes to the input that waits for it; one that the user left
        out stays out."""
        found = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in self._fresh]
        self._fresh = []
        if self.panel is not None and self.isEntered():
            self.panel.fill_inputs([n for n in found if n is not None and not provenance.made_by_medgen(n)])

    def _leave_scene(self) -> None:
        """Nothing of the scene is held, and the views of a comparison, which has nothing left to show, go too."""
        views.own_layout()
        self.panel.follow(None)

    def enter(self) -> None:
        if self.panel is not None:
            self.panel.shown = True
            self.panel.enter()

    def exit(self) -> None:
        """The panel follows its parameter node and its jobs while another module is shown, but does not look at every
        stroke in the Segment Editor."""
        if self.panel is not None:
            self.panel.shown = False

    def cleanup(self) -> None:
        self.removeObservers()
        self._quiet.stop()
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None

    def isEntered(self) -> bool:
        """In the application `parent.isEntered` is a property; a panel that stands alone is always entered."""
        entered = getattr(self.parent, "isEntered", True)
        return bool(entered() if callable(entered) else entered)


class MethodModuleLogic(ScriptedLoadableModuleLogic):
    """For scripts: runs a method on nodes and waits."""

    def run(
        self, method_id: str, inputs: dict[str, Any], parameters: Optional[dict[str, Any]] = None, **options: Any
    ) -> list:
        """inputs: {port: node or list of nodes}; options: seed, device, weights, segment_ids. Returns the result nodes.
        Raises MedGenError with the job's sentence if it fails."""
        known = parameter_sets(self.moduleName)
        node = known[0] if known else add_parameter_set(self.moduleName)
        nodes = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
        ticket = jobs.controller().submit(method_catalogue.find(method_id), nodes, parameters or {}, node, **options)
        wait_for(ticket)
        if ticket.error:
            raise MedGenError(ticket.error)
        return ticket.results()

    def state(self) -> PanelState:
        known = parameter_sets(self.moduleName)
        return PanelState(known[0] if known else add_parameter_set(self.moduleName))


def wait_for(ticket: jobs.Ticket) -> None:
    """Runs the event loop until the job has ended."""
    loop = qt.QEventLoop()

    def look(changed: Optional[jobs.Ticket]) -> None:
        if ticket.ended:
            loop.quit()

    jobs.controller().listeners.append(look)
    if not ticket.ended:
        loop.exec_()
    jobs.controller().listeners.remove(look)
