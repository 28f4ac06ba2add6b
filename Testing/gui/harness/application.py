"""slicer.app, slicer.modules and the layout, over slicer-core's own application logic and module logics."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

LOGICS = {  # attribute of slicer.modules: logic class
    "volumes": "vtkSlicerVolumesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "sequences": "vtkSlicerSequencesLogic",
    "transforms": "vtkSlicerTransformLogic",
    "tables": "vtkSlicerTablesLogic",
    "texts": "vtkSlicerTextsLogic",
    "plots": "vtkSlicerPlotsLogic",
    "models": "vtkSlicerModelsLogic",
}
FOUR_UP = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class CoreModule:
    """`slicer.modules.<core module>`: its logic only."""

    def __init__(self, name: str, logic):
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic


class ModuleRegistry:
    """`slicer.modules`."""


class Application(QtWidgets.QApplication):
    startupCompleted = QtCore.Signal()

    def __init__(self, arguments: list[str], folder: str):
        super().__init__(arguments)
        self.temporaryPath = folder
        self.current_module = ""
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, folder)
        self.setOrganizationName("MedGenHarness")
        self.setApplicationName("harness")
        self.setStyle("Fusion")
        self.setFont(QtGui.QFont("DejaVu Sans", 9))

    def make_scene(self) -> None:
        scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
        self._color_logic = slicer.vtkMRMLColorLogic()
        self._color_logic.SetMRMLScene(scene)
        self._logic.SetColorLogic(self._color_logic)
        self._logic.SetTemporaryPath(self.temporaryPath)
        for name, cls in LOGICS.items():
            logic = getattr(slicer, cls)()
            logic.SetMRMLApplicationLogic(self._logic)
            logic.SetMRMLScene(scene)
            setattr(slicer.modules, name, CoreModule(name, logic))
            self._logic.SetModuleLogic(name.capitalize(), logic)  # displayable managers ask for it
        scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, _add_to_hierarchy)
        scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, _remove_from_hierarchy)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._layout = LayoutManager(scene, self._logic)

    def applicationLogic(self):
        return self._logic

    def layoutManager(self):
        return self._layout

    def testingEnabled(self) -> bool:
        return True

    def translate(self, _context: str, text: str) -> str:
        return text

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()


class LayoutManager:
    """Makes the slice views (node, composite node, logic) that the layout node asks for, as the application's does."""

    def __init__(self, scene, application_logic):
        self.scene, self.application_logic = scene, application_logic
        self.slice_logics, self.slice_widgets = {}, {}
        self.threeDViewCount, self.three_d_widget = 1, SliceWidget()
        self.collection = slicer.vtkCollection() if hasattr(slicer, "vtkCollection") else _collection()
        application_logic.SetSliceLogics(self.collection)
        node = slicer.vtkMRMLLayoutNode()
        node.SetSingletonTag("vtkMRMLLayoutNode")
        self.node = scene.AddNode(node)
        self.node.AddLayoutDescription(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, _four_up_xml())
        self.node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.node.AddObserver("ModifiedEvent", lambda *_: self.refresh())
        scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda *_: self.refresh())
        self.refresh()

    def layoutLogic(self):
        return self

    def sliceWidget(self, name: str):
        """None for a view that no layout has shown."""
        if name not in self.slice_logics:
            return None
        return self.slice_widgets.setdefault(name, SliceWidget())

    def threeDWidget(self, _number: int):
        return self.three_d_widget

    def GetLayoutNode(self):
        return self.node

    def shown_views(self) -> list[tuple[str, str]]:
        """(name, default orientation) of the slice views of the arrangement."""
        number = self.node.GetViewArrangement()
        text = self.node.GetLayoutDescription(number) if self.node.IsLayoutDescription(number) else ""
        found = []
        for view in ElementTree.fromstring(text or _four_up_xml()).iter("view"):
            if view.get("class") == "vtkMRMLSliceNode":
                wanted = [p.text for p in view.iter("property") if p.get("name") == "orientation"]
                found.append((view.get("singletontag"), wanted[0] if wanted else "Axial"))
        return found

    def refresh(self) -> None:
        for name, orientation in self.shown_views():
            if name not in self.slice_logics:
                self._make_view(name, orientation)

    def _make_view(self, name: str, orientation: str) -> None:
        node = self.scene.CreateNodeByClass("vtkMRMLSliceNode")
        node.UnRegister(None)
        node.SetLayoutName(name)
        node.SetName(name)
        node.SetSingletonTag(name)
        node = self.scene.AddNode(node)
        node.SetOrientation(orientation)
        node.SetDimensions(400, 400, 1)
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self.application_logic)
        logic.SetMRMLScene(self.scene)
        logic.SetSliceNode(node)
        self.slice_logics[name] = logic
        self.collection.AddItem(logic)


class SliceWidget:
    """Where panels draw into a slice or 3D view: its window, never shown; `harness.views` takes over what lies in a
    slice's."""

    def __init__(self):
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.AddRenderer(vtk.vtkRenderer())

    def sliceView(self):
        return self

    threeDView = sliceView

    def renderWindow(self):
        return self.window

    def scheduleRender(self):
        pass


@vtk.calldata_type(vtk.VTK_OBJECT)
def _add_to_hierarchy(scene, _event, node) -> None:
    """The application's subject hierarchy plugins make an item for every data node."""
    hierarchy = scene.GetSubjectHierarchyNode()
    data = (
        "vtkMRMLDisplayableNode",
        "vtkMRMLTableNode",
        "vtkMRMLTextNode",
        "vtkMRMLSequenceNode",
        "vtkMRMLPlotChartNode",
    )
    if any(node.IsA(cls) for cls in data) and not node.IsA("vtkMRMLCameraNode") and not node.GetHideFromEditors():
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _remove_from_hierarchy(scene, _event, node) -> None:
    hierarchy = scene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and not scene.IsClosing() else 0
    if item:
        hierarchy.RemoveItem(item, False, False)


def _four_up_xml() -> str:
    views = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
        f'<property name="orientation" action="default">{orientation}</property></view></item>'
        for name, orientation in FOUR_UP.items()
    )
    return f'<layout type="horizontal">{views}</layout>'


def _collection():
    from vtkmodules.vtkCommonCore import vtkCollection

    return vtkCollection()
