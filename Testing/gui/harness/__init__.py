"""The few parts of the Slicer application that panels need and slicer-core lacks, on PySide6 over the real MRML scene.

`start()` puts the modules `qt` and `ctk` into sys.modules and completes `slicer` (mrmlScene, app, modules, the scripted
module classes, i18n), so that the files under MedGenSlicer/ run here unchanged. `open_module(name)` does what the
application does when the user picks a module.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FROM_CHECKOUT = True  # False: the caller puts an installed extension on sys.path


def start():
    """Makes the application once per process and returns it (`slicer.app`)."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import slicer

    if getattr(slicer, "app", None) is not None:
        return slicer.app
    from harness import application, mrml_widgets, qt_modules, scripted

    sys.modules["qt"] = qt_modules.qt()
    sys.modules["ctk"] = qt_modules.ctk()
    for folder in ("MedGenSlicer", "models") if FROM_CHECKOUT else ():
        if str(ROOT / folder) not in sys.path:
            sys.path.insert(0, str(ROOT / folder))
    slicer.app = application.Application(["harness", "--testing"], tempfile.mkdtemp(prefix="medgen-harness-"))
    slicer.modules = application.ModuleRegistry()
    slicer.app.make_scene()
    for name in mrml_widgets.__all__:
        setattr(slicer, name, getattr(mrml_widgets, name))
    scripted.install(slicer)
    return slicer.app


def load_module(name: str, folder: Path | None = None):
    """Imports a scripted module file and makes its module object, as the application does at start-up."""
    import slicer

    from harness import scripted

    folder = folder or ROOT / "MedGenSlicer" / name
    path = folder / f"{name}.py"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    description = importlib.util.spec_from_file_location(name, path)
    python_module = importlib.util.module_from_spec(description)
    sys.modules[name] = python_module
    description.loader.exec_module(python_module)
    parent = scripted.ModuleParent(name, str(path))
    parent.python = getattr(python_module, name)(parent)
    setattr(slicer.modules, name.lower(), parent)
    return python_module


def open_module(name: str):
    """Makes the panel at its first opening, enters it and returns its widget object."""
    import slicer

    if not hasattr(slicer.modules, name.lower()):
        load_module(name)
    slicer.util.selectModule(name)
    return getattr(slicer.modules, f"{name}Widget")


def module_names() -> list[str]:
    """The scripted modules of the checkout."""
    folder = ROOT / "MedGenSlicer"
    return sorted(p.name for p in folder.iterdir() if (p / f"{p.name}.py").is_file())


def fake_module(name: str, **content) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    return module
