"""What a user's hands do: load, open a module, choose, click, wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import slicer
from PySide6 import QtCore, QtTest, QtWidgets


class Driver:
    def reset(self) -> None:
        from MedGenSlicerLib import jobs

        jobs.controller().cancel_all()
        self.wait(lambda: not jobs.controller().unfinished(), 20)
        jobs.controller().forget_ended()
        for name in harness.module_names():
            widget = getattr(slicer.modules, f"{name}Widget", None)
            if widget is not None:
                widget.cleanup()
                widget.parent.deleteLater()
                delattr(slicer.modules, f"{name}Widget")
        for window in QtWidgets.QApplication.topLevelWidgets():
            if isinstance(window, QtWidgets.QDialog):
                window.close()
        slicer.app.current_module = ""
        slicer.mrmlScene.Clear(False)
        self.process()

    @property
    def scene(self):
        return slicer.mrmlScene

    def process(self, milliseconds: int = 20) -> None:
        """Runs the event loop for a while."""
        end = time.monotonic() + milliseconds / 1000
        while True:
            slicer.app.processEvents(QtCore.QEventLoop.AllEvents, 10)
            slicer.app.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
            if time.monotonic() > end:
                return
            time.sleep(0.002)

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "what the test waits for did not happen"
            self.process(10)

    def open(self, name: str):
        """The module's widget object, entered."""
        return harness.open_module(name)

    def save_scene(self, folder: Path) -> None:
        """Into `folder`/scene.mrml, the data beside it."""
        for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
            if node.IsA("vtkMRMLColorNode") or node.IsA("vtkMRMLSliceNode") or not node.GetSaveWithScene():
                continue
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
            if storage is not None:
                name = node.GetName().replace(" ", "_")
                storage.SetFileName(str(folder / f"{name}.{storage.GetDefaultWriteFileExtension()}"))
                assert storage.WriteData(node), node.GetName()
        self.scene.SetRootDirectory(str(folder))
        assert self.scene.Commit(str(folder / "scene.mrml"))

    def load_scene(self, folder: Path) -> None:
        self.scene.SetURL(str(folder / "scene.mrml"))
        self.scene.Connect()
        self.process()

    def click(self, button) -> None:
        assert button.isEnabled(), f"'{button.text()}' cannot be pressed: {button.toolTip()}"
        QtTest.QTest.mouseClick(button, QtCore.Qt.LeftButton) if button.isVisible() else button.click()
        self.process()

    def apply(self, panel):
        """Presses Apply and returns the ticket."""
        self.click(panel.run_bar.button)
        assert panel.ticket is not None
        return panel.ticket

    def run(self, panel, seconds: float = 60):
        """Presses Apply and waits for the end."""
        ticket = self.apply(panel)
        self.wait(lambda: ticket.ended, seconds)
        self.process(50)
        return ticket

    def head(self, name: str = "Head MR", size: int = 40, spacing: float = 4.0, ijk_to_ras=None):
        """A volume node with a bright ball in a grey ball."""
        k, j, i = np.mgrid[:size, :size, :size] - (size - 1) / 2
        radius = np.sqrt(k**2 + (j * 1.2) ** 2 + i**2) / size
        voxels = np.where(radius < 0.2, 300, np.where(radius < 0.42, 100, 0)).astype(np.int16)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, voxels)
        if ijk_to_ras is None:
            node.SetSpacing(spacing, spacing, spacing)
            node.SetOrigin(*([-spacing * size / 2] * 3))
        else:
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
        node.CreateDefaultDisplayNodes()
        return node
