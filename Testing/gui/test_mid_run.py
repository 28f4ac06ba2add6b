"""What happens to a running job when the scene closes, a node goes, a module is reloaded, the worker dies, Slicer
ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.fixture
def running(driver):
    """A panel whose job (some 0.6 s) is under way."""
    driver.head()
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    panel.state.set_value(panel.method, "seconds", 0.6)
    ticket = driver.apply(panel)
    driver.wait(lambda: ticket.state == "running")
    return panel, ticket


def worker_pids() -> set[int]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if any("medgen" in part and "worker" in part for part in process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_scene_close_cancels_and_nothing_arrives_in_the_next_scene(driver, running):
    panel, ticket = running
    driver.scene.Clear(False)
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "cancelled" and ticket.error == "The scene was closed."
    driver.process(800)
    assert not [n for n in driver.scene.GetNodesByClass("vtkMRMLSegmentationNode") if n]
    assert panel.results.rows == []
    driver.head("New MR")
    panel.enter()
    panel.chooser.choose("gui_threshold")
    assert driver.run(panel).state == "finished"


def test_removing_the_input_keeps_the_result_and_says_so(driver, running):
    _panel, ticket = running
    driver.scene.RemoveNode(driver.scene.GetFirstNodeByName("Head MR"))
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "finished" and len(ticket.results()) == 2
    assert any("was removed while the job ran" in sentence for sentence in ticket.notices)
    assert ticket.results()[0].GetName() == "Head MR tissues"


def test_renaming_the_input_keeps_the_link(driver, running):
    from MedGenSlicerLib import provenance

    panel, ticket = running
    node = driver.scene.GetFirstNodeByName("Head MR")
    node.SetName("Renamed")
    driver.wait(lambda: ticket.ended)
    assert provenance.reference_of(ticket.results()[0]) is node
    assert panel.inputs.rows["image"].selector.currentNode() is node


def test_removing_the_settings_node_keeps_the_result(driver, running):
    panel, ticket = running
    driver.scene.RemoveNode(panel.state.node)
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "finished" and len(ticket.results()) == 2
    driver.open("MedGenSegment")
    assert panel.state.node.GetScene() is driver.scene


def test_module_switch_does_not_disturb_the_job(driver, running):
    panel, ticket = running
    driver.open("MedGenJobs")
    driver.wait(lambda: ticket.ended)
    driver.open("MedGenSegment")
    assert len(panel.results.rows) == 2


def test_module_reload_finds_its_job_again(driver, running):
    import slicer

    _panel, ticket = running
    slicer.util.reloadScriptedModule("MedGenSegment")
    panel = driver.open("MedGenSegment").panel
    assert panel.ticket is ticket and panel.run_bar.running
    driver.wait(lambda: ticket.ended)
    driver.process()
    assert len(panel.results.rows) == 2 and not panel.run_bar.running


def test_worker_kill_is_told_in_one_sentence_and_the_next_run_works(driver, running):
    from MedGenSlicerLib import jobs

    panel, ticket = running
    before = driver.scene.GetNumberOfNodes()
    transport = next(iter(jobs.controller().transports.values()))
    os.kill(transport.pid, signal.SIGKILL)
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "failed" and "killed" in ticket.error and ticket.error.count(".") == 1
    assert driver.scene.GetNumberOfNodes() == before
    assert driver.run(panel).state == "finished"


def test_removing_the_input_before_it_was_copied_fails_in_plain_words(driver):
    node = driver.head()
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    ticket = panel.apply()
    driver.scene.RemoveNode(node)
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "failed" and ticket.error == "The input 'MR image' was removed from the scene."


@pytest.fixture
def other_python():
    """Sets another interpreter for one test."""
    from MedGenSlicerLib import jobs, settings

    python = settings.get("python", "")

    def use(path: str) -> None:
        jobs.controller().restart()
        settings.put("python", path)

    yield use
    use(python)


def test_without_an_environment_the_panel_leads_to_the_set_up(driver, other_python):
    import slicer

    other_python("/no/such/python")
    driver.head()
    panel = driver.open("MedGenSegment").panel
    assert not panel.run_bar.button.isEnabled() and "not set up yet" in panel.run_bar.line.text()
    driver.click(panel.run_bar.set_up)
    assert slicer.app.current_module == "MedGenJobs"


def test_an_interpreter_that_does_not_work_is_told_in_one_sentence(driver, other_python):
    other_python("/bin/false")
    driver.head()
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    ticket = driver.run(panel)
    assert ticket.state == "failed" and ticket.error.startswith("The worker could not start")


EXIT_SCRIPT = """
import sys
sys.path[:0] = [{gui!r}, {methods!r}]
import harness
app = harness.start()
from MedGenSlicerLib import jobs, settings
settings.put("python", sys.executable)
settings.put("method_folders", {methods!r})
from driver import Driver
driver = Driver()
driver.head()
panel = driver.open("MedGenSegment").panel
panel.chooser.choose("gui_threshold")
panel.state.set_value(panel.method, "seconds", 60.0)
ticket = panel.apply()
driver.wait(lambda: ticket.state == "running")
print(next(iter(jobs.controller().transports.values())).pid, flush=True)
import qt
qt.QTimer.singleShot(0, app.quit)
app.exec()
"""


def test_application_exit_leaves_no_process(tmp_path):
    gui = Path(__file__).resolve().parent
    script = EXIT_SCRIPT.format(gui=str(gui), methods=str(gui / "methods"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    pid = int(done.stdout.split()[-1])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
