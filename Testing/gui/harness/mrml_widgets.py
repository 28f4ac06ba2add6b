"""The qMRML widgets that panels use."""

from __future__ import annotations

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

__all__ = ["qMRMLNodeComboBox"]


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """Lists the scene's nodes of some classes. Nothing is chosen until `setCurrentNode`; adding a node chooses
    nothing."""

    currentNodeChanged = QtCore.Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._tags, self._filters = None, [], []
        self._settings = {
            "nodeTypes": [],
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "renameEnabled": False,
            "editEnabled": False,
            "showHidden": False,
            "showChildNodeTypes": True,
            "noneDisplay": "None",
            "baseName": "",
            "selectNodeUponCreation": True,
        }
        self._current_id, self._filling = "", False
        self.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self.currentIndexChanged.connect(self._picked)

    def setProperty(self, name, value):
        if name == "currentNodeID":
            self.setCurrentNodeID(value)
        elif name in self._settings:
            self._settings[name] = value
            self._fill()
        else:
            return super().setProperty(name, value)
        return True

    def property(self, name):
        if name == "currentNodeID":
            return self._current_id
        return self._settings[name] if name in self._settings else super().property(name)

    def addAttribute(self, node_class, name, value=None):
        self._filters.append((node_class, name, value))
        self._fill()

    def setMRMLScene(self, scene):
        self._stop()
        self._scene = scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
                self._tags.append(scene.AddObserver(event, lambda *_: self._scene_changed()))
        self._fill()

    def _scene_changed(self):
        if shiboken6.isValid(self):
            self._fill()

    def _stop(self, *_):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def nodes(self):
        if self._scene is None:
            return []
        found = []
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            if node is not None and self._fits(node):
                found.append(node)
        return found

    def _fits(self, node) -> bool:
        if node.GetHideFromEditors() and not self._settings["showHidden"]:
            return False
        children = self._settings["showChildNodeTypes"]
        types = self._settings["nodeTypes"]
        if not any(node.IsA(t) if children else node.GetClassName() == t for t in types):
            return False
        return all(
            not node.IsA(cls) or (node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name)))
            for cls, name, value in self._filters
        )

    def _fill(self):
        before = self._current_id
        nodes = self.nodes()
        self._filling = True
        self.clear()
        if self._settings["noneEnabled"]:
            self.addItem(self._settings["noneDisplay"], "")
        for node in nodes:
            self.addItem(node.GetName(), node.GetID())
        self._filling = False
        kept = before if any(n.GetID() == before for n in nodes) else ""
        self._choose(kept)

    def _choose(self, node_id):
        self._filling = True
        self.setCurrentIndex(self.findData(node_id))
        self._filling = False
        if node_id != self._current_id:
            self._current_id = node_id
            self.currentNodeChanged.emit(self.currentNode())

    def _picked(self, index):
        if not self._filling:
            self._choose(self.itemData(index) or "")

    def currentNode(self):
        return self._scene.GetNodeByID(self._current_id) if self._scene is not None and self._current_id else None

    def nodeCount(self):
        return len(self.nodes())

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id):
        if node_id and self.findData(node_id) < 0:
            self._fill()
        self._choose(node_id if node_id and self.findData(node_id) >= 0 else "")

    def addNode(self, node_class=None):
        node = slicer.mrmlScene.AddNewNodeByClass(node_class or self._settings["nodeTypes"][0])
        for cls, name, value in self._filters:
            if node.IsA(cls):
                node.SetAttribute(name, value)
        self._fill()
        self.setCurrentNode(node)
        return node

    def showPopup(self):  # renamed nodes show their new name, as in the application
        self._fill()
        super().showPopup()
