"""ScriptedLoadableModule and its companions, the translation function, and module switching."""

from __future__ import annotations

import importlib
import sys
import types
import unittest
from pathlib import Path

from PySide6 import QtGui, QtWidgets


class ModuleParent:
    """What a scripted module sees as `parent`: the place for its title, help and icon; also `slicer.modules.<name>`."""

    def __init__(self, name: str, path: str):
        self.name, self.path = name, path
        self.title, self.categories, self.dependencies, self.contributors = name, [], [], []
        self.helpText = self.acknowledgementText = ""
        self.hidden = False
        self.icon = QtGui.QIcon()
        self.python = None

    def logic(self):
        return getattr(sys.modules[self.name], f"{self.name}Logic")()

    def widgetRepresentation(self):
        import slicer

        widget = getattr(slicer.modules, f"{self.name}Widget", None)
        return (widget or make_widget(self.name)).parent


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        icon = Path(parent.path).parent / "Resources" / "Icons" / f"{self.moduleName}.png"
        if icon.is_file():
            parent.icon = QtGui.QIcon(str(icon))

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)


class PanelParent(QtWidgets.QWidget):
    """The qMRMLWidget that holds a panel."""

    def __init__(self):
        super().__init__()
        QtWidgets.QVBoxLayout(self)
        self.entered = False

    @property
    def isEntered(self) -> bool:
        return self.entered

    def setMRMLScene(self, scene):
        pass


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.parent = parent or PanelParent()
        self.layout = QtWidgets.QWidget.layout(self.parent)
        self.moduleName = type(self).__name__[: -len("Widget")]

    def resourcePath(self, name: str) -> str:
        import slicer

        return slicer.modules.__dict__[self.moduleName.lower()].python.resourcePath(name)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def enter(self):
        pass

    def exit(self):
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__[: -len("Logic")]


class ScriptedLoadableModuleTest(unittest.TestCase):
    def delayDisplay(self, message: str, msec: int = 0):
        print(message)

    def runTest(self):
        for name in sorted(dir(self)):
            if name.startswith("test"):
                getattr(self, name)()


def make_widget(name: str):
    import slicer

    widget = getattr(sys.modules[name], f"{name}Widget")(PanelParent())
    setattr(slicer.modules, f"{name}Widget", widget)
    widget.setup()
    return widget


def install(slicer) -> None:
    """Hooks the classes, `slicer.i18n` and module switching into `slicer`."""
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    i18n.translate = lambda _context, text: text
    sys.modules["slicer.i18n"] = slicer.i18n = i18n
    scripted = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(scripted, cls.__name__, cls)
    scripted.__all__ = [name for name in vars(scripted) if name.startswith("Scripted")]
    sys.modules["slicer.ScriptedLoadableModule"] = slicer.ScriptedLoadableModule = scripted
    slicer.util.selectModule = select_module
    slicer.util.reloadScriptedModule = reload_module
    slicer.util.mainWindow = lambda verbose=True: None
    slicer.util.loadVolume = load_volume
    sys.modules["SampleData"] = sample_data_module(slicer)
    slicer.selfTests = {}
    slicer.util.selectedModule = lambda: slicer.app.current_module


def load_volume(path: str, properties: dict | None = None):
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", Path(path).stem)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(path)
    if not storage.ReadData(node):
        raise RuntimeError(f"cannot read {path}")
    node.CreateDefaultDisplayNodes()
    return node


def sample_data_module(slicer) -> types.ModuleType:
    """The Sample Data module's registry."""
    slicer.modules.sampleDataSources = {}

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(category, sampleName, **source):
            entry = types.SimpleNamespace(sampleName=sampleName, **source)
            slicer.modules.sampleDataSources.setdefault(category, []).append(entry)

    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    return module


def select_module(name) -> None:
    """Leaves the open module (exit) and enters the named one, making its panel at the first opening."""
    import slicer

    name = getattr(name, "name", name)
    old = getattr(slicer.modules, f"{slicer.app.current_module}Widget", None)
    if old is not None and old.parent.entered:
        old.parent.entered = False
        old.exit()
    slicer.app.current_module = name
    if name not in sys.modules:
        return  # a core module (Segment Editor): the harness only notes that it was opened
    widget = getattr(slicer.modules, f"{name}Widget", None) or make_widget(name)
    widget.parent.entered = True
    widget.enter()


def reload_module(name: str):
    """What 'Reload' of the developer section does: the old panel is cleaned up, the module file read again."""
    import slicer

    old = getattr(slicer.modules, f"{name}Widget", None)
    if old is not None:
        old.cleanup()
        old.parent.deleteLater()
        delattr(slicer.modules, f"{name}Widget")
    module = importlib.import_module(name)
    module.__spec__.loader.exec_module(module)
    return make_widget(name)
