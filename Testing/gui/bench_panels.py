"""Measures what the panels cost Slicer, in the harness; prints one JSON object. Run by `medgen bench panels`.

Start and opening: the module files and what they import, without slicer-core and Qt, which the application has loaded.
Pauses: a 10 ms timer watches the event loop during a run on a 256^3 int16 volume through the real worker.
Memory: of this process after 50 runs whose results are removed, against after the first 5.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "methods")]

import harness  # noqa: E402


def measure_start() -> tuple[float, dict[str, float]]:
    """(seconds to import every module file, {module: seconds to make and enter its panel})."""
    import numpy  # noqa: F401 - the application has these loaded
    import SimpleITK  # noqa: F401
    import vtk.util.numpy_support  # noqa: F401

    names = harness.module_names()
    start = time.perf_counter()
    for name in names:
        harness.load_module(name)
    imported = time.perf_counter() - start
    panels = {}
    for name in names:
        start = time.perf_counter()
        harness.open_module(name)
        panels[name] = time.perf_counter() - start
    return imported, panels


class Watch:
    """The longest time between two ticks of a 10 ms timer, in ms."""

    def __init__(self) -> None:
        from PySide6 import QtCore

        self.longest, self._last = 0.0, time.perf_counter()
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(10)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, 1000 * (now - self._last) - 10)
        self._last = now

    def stop(self) -> float:
        self._timer.stop()
        return self.longest


def big_volume(size: int):
    import numpy as np
    import slicer

    k, j, i = np.ogrid[:size, :size, :size]
    radius = np.sqrt((k - size / 2) ** 2 + (j - size / 2) ** 2 + (i - size / 2) ** 2) / size
    voxels = ((radius < 0.45) * 100 + (radius < 0.2) * 200).astype(np.int16)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Head MR")
    slicer.util.updateVolumeFromArray(node, voxels)
    node.CreateDefaultDisplayNodes()
    return node


def run_once(driver, panel) -> None:
    import slicer

    ticket = panel.apply()
    assert ticket is not None, panel.reason_off()
    wait(lambda: ticket.ended)
    assert ticket.state == "finished", ticket.error
    driver.process(30)
    for node in ticket.results():
        slicer.mrmlScene.RemoveNode(node)
    driver.process(10)


def wait(condition) -> None:
    """In the event loop proper, as the application sits."""
    from PySide6 import QtCore

    loop, timer = QtCore.QEventLoop(), QtCore.QTimer()
    timer.timeout.connect(lambda: condition() and loop.quit())
    timer.start(20)
    loop.exec()


def memory_mb() -> float:
    """Private memory of this process: what it alone holds."""
    import psutil

    gc.collect()
    return psutil.Process().memory_full_info().uss / 2**20


def measure_pause(driver, panel, runs: int) -> float:
    """Of the worst run; the first, which starts the worker, included."""
    watch = Watch()
    for _run in range(runs):
        run_once(driver, panel)
    return watch.stop()


def measure_growth(driver, panel, runs: int) -> float:
    for _run in range(5):
        run_once(driver, panel)
    before = memory_mb()
    for _run in range(runs - 5):
        run_once(driver, panel)
    return memory_mb() / before - 1


def main() -> None:
    quick = "--quick" in sys.argv
    app = harness.start()
    from MedGenSlicerLib import settings

    imported, panels = measure_start()
    torch_loaded = "torch" in sys.modules or "monai" in sys.modules
    settings.put("python", sys.executable)
    settings.put("method_folders", str(HERE / "methods"))
    from driver import Driver

    from MedGenSlicerLib import jobs

    driver = Driver()
    driver.reset()
    big_volume(256)
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    pause = measure_pause(driver, panel, 2 if quick else 4)
    driver.reset()
    driver.head()
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    growth = measure_growth(driver, panel, 15 if quick else 50)
    jobs.controller().shut_down()
    details = {
        "import_seconds": round(imported, 3),
        "panel_seconds": round(max(panels.values()), 3),
        "longest_pause_ms": round(pause, 1),
        "memory_growth": round(growth, 4),
        "torch_in_sys_modules": torch_loaded or "torch" in sys.modules,
        "panels": {name: round(seconds, 3) for name, seconds in panels.items()},
        "runs": 15 if quick else 50,
    }
    print(json.dumps(details))
    del app


if __name__ == "__main__":
    main()
