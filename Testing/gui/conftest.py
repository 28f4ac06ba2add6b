"""The harness for every GUI test: one application per process, a clean scene, the real worker on the test methods."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "methods")]
pytest.importorskip("PySide6")

import harness  # noqa: E402
from driver import Driver  # noqa: E402


@pytest.fixture(scope="session")
def application():
    app = harness.start()
    from MedGenSlicerLib import settings

    settings.put("python", sys.executable)
    settings.put("method_folders", str(HERE / "methods"))
    yield app
    from MedGenSlicerLib import jobs

    jobs.controller().shut_down()


@pytest.fixture
def driver(application, monkeypatch, caplog):
    """A fresh scene and the helpers that click. An exception in a slot fails the test."""
    made = Driver()
    made.reset()
    raised: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _kind, error, _traceback: raised.append(error))
    yield made
    made.reset()
    assert raised == []
    faults = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert faults == [], faults
