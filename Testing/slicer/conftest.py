"""MRML tests run in the harness of Testing/gui, which completes slicer-core."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

GUI = Path(__file__).resolve().parents[1] / "gui"
sys.path[:0] = [str(GUI), str(GUI / "methods")]
pytest.importorskip("PySide6")

import harness  # noqa: E402


@pytest.fixture
def scene():
    harness.start()
    import slicer

    slicer.mrmlScene.Clear(False)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(False)
