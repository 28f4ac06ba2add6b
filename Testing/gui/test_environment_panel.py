"""The compute environment of MedGenJobs: what it shows, nothing installed unasked, set-up, another interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def panel(driver):
    from MedGenSlicerLib import settings

    python = settings.get("python", "")
    panel = driver.open("MedGenJobs").environment
    driver.wait(lambda: panel.status and panel.process is None, 60)
    yield panel
    settings.put("python", python)


def test_it_tells_what_is_installed(driver, panel):
    assert Path(sys.executable).name in panel.labels["python"].text()
    assert "torch" in panel.labels["packages"].text() and "SimpleITK" in panel.labels["packages"].text()
    assert "GB" in panel.labels["disk"].text() or "MB" in panel.labels["disk"].text()
    assert "MB; your own" in panel.weights.text()


def test_nothing_is_installed_until_the_button_is_pressed(driver, panel, monkeypatch, tmp_path):
    """Without an environment the panel says so and what would be downloaded, and sets up on the press only."""
    from MedGenSlicerLib import environment_panel

    started = []
    fake = tmp_path / "fake.py"
    fake.write_text("print('Installing the other packages')\nprint('Ready')\n")

    class Recorder(environment_panel.CommandProcess):
        def __init__(self, command, line, ended):
            started.append(command)
            setup = any(part.endswith("environment.py") for part in command)
            super().__init__([sys.executable, str(fake)] if setup else command, line, ended)

    monkeypatch.setattr(environment_panel, "CommandProcess", Recorder)
    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path / "data"))
    panel.use_python("")
    driver.wait(lambda: panel.status and panel.process is None, 60)
    assert "run the set-up" in panel.labels["state"].text()
    assert panel.consent.isVisibleTo(panel.consent.parentWidget()) and "downloads" in panel.consent.text()
    assert not any("environment.py" in part for command in started for part in command)
    driver.click(panel.set_up)
    driver.wait(lambda: panel.process is None and panel.status, 60)
    assert "Installing the other packages" in panel.log.toPlainText()
    assert [c for c in started if str(tmp_path / "data" / "environment") in c and c[2].endswith("environment.py")]


def test_idle_time_and_stop(driver, panel):
    from MedGenSlicerLib import jobs, settings

    driver.head()
    segment = driver.open("MedGenSegment").panel
    segment.chooser.choose("gui_threshold")
    driver.run(segment)
    panel.update()
    assert "ready" in panel.labels["process"].text()
    panel.idle.setValue(3)
    assert settings.get("idle_minutes", 0) == 3
    panel.idle.setValue(10)
    driver.click(panel.stop)
    assert jobs.controller().clients == {} and "not running" in panel.labels["process"].text()
    driver.open("MedGenSegment")
    assert driver.run(segment).state == "finished"
