"""MedGenBrainStyle clicked through, with the real worker on balls instead of brains: previews, mixing, projection,
codes, volumes, the gate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def panel(driver, monkeypatch):
    from MedGenSlicerLib import brain_tools
    from MedGenSlicerLib.brain_extras import MixTools, ProjectTools, SampleTools

    monkeypatch.setattr(brain_tools, "METHOD", "gui_brain")
    import harness

    if "MedGenBrainStyle" not in sys.modules:
        harness.load_module("MedGenBrainStyle")
    widget = sys.modules["MedGenBrainStyle"].MedGenBrainStyleWidget
    extras = {"gui_brain": SampleTools, "gui_brain_mix": MixTools, "gui_brain_project": ProjectTools}
    monkeypatch.setattr(widget, "extras", extras)
    return driver.open("MedGenBrainStyle").panel


def choose(driver, panel, method_id: str) -> None:
    panel.chooser.choose(method_id)
    driver.process()


def draw(driver, panel, seed: int) -> tuple:
    """(volume, table of its code) of one brain."""
    choose(driver, panel, "gui_brain")
    panel.state.set_option("seed", seed)
    ticket = driver.run(panel)
    assert ticket.state == "finished", ticket.error
    made = {n.GetAttribute("MedGen.output"): n for n in ticket.results()}
    return made["brains"], made["codes"]


def mixed(driver, panel, first: int = 1, second: int = 2) -> dict:
    """{output: node} of a mix of two brains."""
    codes = [draw(driver, panel, seed)[1] for seed in (first, second)]
    choose(driver, panel, "gui_brain_mix")
    for name, node in zip(("a", "b"), codes):
        panel.inputs.rows[name].selector.setCurrentNode(node)
    driver.process()
    ticket = driver.run(panel)
    assert ticket.state == "finished", ticket.error
    return {n.GetAttribute("MedGen.output"): n for n in ticket.results()}


def voxels(node) -> np.ndarray:
    import slicer

    return slicer.util.arrayFromVolume(node)


def test_a_drawn_brain_is_shown_named_by_its_seed_and_marked_synthetic(driver, panel):
    from MedGenSlicerLib import provenance, views

    brain, code = draw(driver, panel, 7)
    assert brain.GetName() == "Brain seed 7 (synthetic)" and code.GetName() == "Code of seed 7"
    assert provenance.is_synthetic(brain) and not provenance.is_synthetic(code)
    assert views.is_displayed(brain)
    row = next(r for r in panel.results.rows if r.node_id == brain.GetID())
    assert "Synthetic" in row.banner.label.text()
    driver.click(next(r for r in panel.results.rows).export)  # a code has no image to compare with, but a file format


def test_the_preview_follows_the_sliders_and_shows_only_the_last_place(driver, panel):
    choose(driver, panel, "gui_brain")
    extra = panel.extra
    assert extra.picture.empty()
    shown = []
    kept = extra.latest._show
    extra.latest._show = lambda outputs: (shown.append(outputs["codes"]["name"][0]), kept(outputs))
    panel.state.set_value(panel.method, "seconds", 0.1)
    for seed in range(1, 30):
        extra.seed.setValue(seed)
        driver.process(10)
    driver.wait(lambda: shown and shown[-1] == "seed 29")
    assert not extra.picture.empty()
    assert len(shown) < 8  # of 29 places
    assert panel.state.option("seed", 0) == 29
    extra.truncation.setValue(40)
    driver.wait(lambda: len(shown) > 1 and panel.controller.quick == [])
    assert panel.state.value(panel.method, "truncation") == 0.4
    assert panel.controller.tickets == [] and panel.state.results() == []  # previews are no jobs of the user's


def test_a_preview_waits_for_a_long_job_and_an_older_question_is_withdrawn(driver, panel):
    choose(driver, panel, "gui_brain")
    panel.state.set_value(panel.method, "seconds", 1.0)
    ticket = driver.apply(panel)
    driver.wait(lambda: ticket.state == "running")
    for seed in (3, 4, 5):
        panel.extra.seed.setValue(seed)
        driver.process(120)
    assert len([job for job in panel.controller.quick if not job.dropped]) == 1
    assert "after the job" in panel.extra.picture.sentence
    driver.wait(lambda: ticket.ended)
    driver.wait(lambda: not panel.extra.picture.empty())
    assert ticket.state == "finished"


def test_two_brains_are_mixed_and_stand_beside_each_other(driver, panel):
    from MedGenSlicerLib import views

    made = mixed(driver, panel)
    assert set(made) == {"mix", "a", "b", "codes"}
    assert views.comparing()
    shown = [views.composite(f"MedGen{place}").GetBackgroundVolumeID() for place in views.PLACES]
    assert shown == [made[name].GetID() for name in ("a", "b", "mix")]
    ball = lambda node: (voxels(node) > 0).sum()  # noqa: E731
    hole = lambda node: np.isclose(voxels(node), 0.3).sum()  # noqa: E731
    assert ball(made["mix"]) == ball(made["a"]) != ball(made["b"])
    assert hole(made["mix"]) == hole(made["b"]) != hole(made["a"])


def test_the_difference_of_the_mix_to_a_donor_is_a_new_marked_volume(driver, panel):
    from MedGenSlicerLib import provenance

    made = mixed(driver, panel)
    before = len(panel.state.results())
    driver.click(panel.tools.look.to_a)
    driver.wait(lambda: len(panel.state.results()) == before + 1)
    node = panel.state.results()[-1]
    assert np.allclose(voxels(node), voxels(made["mix"]) - voxels(made["a"]))
    assert provenance.is_synthetic(node) and "synthetic" in node.GetName()


def test_the_crossover_slider_changes_the_preview_of_the_mix(driver, panel):
    mixed(driver, panel)
    extra = panel.extra
    extra.crossover.setValue(4)
    driver.wait(lambda: not extra.picture.empty())
    assert panel.state.value(panel.method, "crossover") == 4
    assert extra.crossover_label.text() == "4 from A"


def fill_grid(driver, panel, seconds: float = 0.0):
    choose(driver, panel, "gui_brain_mix")
    extra = panel.extra
    extra.number.setValue(3)
    driver.click(extra.draw)
    driver.wait(lambda: len(extra.grid.donors[0]) == 3)
    first = panel.state.option("seed", 0)
    names = [f"seed {n}" for n in range(first, first + 6)]
    assert extra.grid.donors == (names[:3], names[3:])
    return extra


def test_the_mixing_matrix_fills_and_a_click_chooses_the_pair(driver, panel):
    from PySide6 import QtCore, QtTest

    extra = fill_grid(driver, panel)
    driver.click(extra.fill)
    driver.wait(lambda: not extra.filling())
    assert len(extra.grid.cells) == 9 and extra.words.text() == "9 of 9 mixes."
    x, y = extra.grid.place(1, 2)
    at = QtCore.QPoint(x + 5, y + 5)
    QtTest.QTest.mouseClick(extra.grid, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, at)
    driver.process()
    value = lambda name: panel.state.value(panel.method, name)  # noqa: E731
    assert (value("row_a"), value("row_b")) == (2, 3) and extra.grid.chosen == (1, 2)
    assert driver.run(panel).state == "finished"  # Apply makes that pair in full size


def test_the_matrix_fills_one_by_one_and_is_stopped(driver, panel, monkeypatch):
    from MedGenSlicerLib import brain_extras

    extra = fill_grid(driver, panel)
    slow = lambda method, inputs, parameters, seed=0: brain_extras.JobRequest(  # noqa: E731
        method, inputs, {**parameters, "seconds": 4.0}
    )
    monkeypatch.setattr(extra, "job", slow)
    driver.click(extra.fill)
    driver.wait(lambda: len(extra.grid.cells) >= 2)
    assert len(extra.grid.cells) < 9 and extra.fill.text() == "Stop"
    driver.click(extra.fill)
    kept = len(extra.grid.cells)
    driver.process(900)
    assert len(extra.grid.cells) == kept and extra.fill.text() == "Fill the matrix"
    assert "Stopped" in extra.words.text()
    monkeypatch.undo()


def test_a_projection_shows_what_it_has_reached_while_it_runs(driver, panel):
    import slicer

    head = driver.head("Patient T1")
    choose(driver, panel, "gui_brain_project")
    extra = panel.extra
    driver.wait(lambda: not extra.target.empty())
    panel.state.set_value(panel.method, "seconds", 1.5)
    ticket = driver.apply(panel)
    driver.wait(lambda: not extra.picture.empty())
    assert ticket.state == "running" and "MSE" in extra.words.text()
    driver.wait(lambda: ticket.ended)
    made = {n.GetAttribute("MedGen.output"): n for n in ticket.results()}
    assert made["codes"].GetName() == "Code of Patient T1"
    assert made["to_patient"].IsA("vtkMRMLLinearTransformNode")
    assert np.allclose(voxels(made["reconstruction"]), 0.9 * voxels(head))
    assert slicer.mrmlScene.GetNodeByID(head.GetID()) is head and ticket.partials == {}


def test_a_mix_with_a_projected_patient_comes_back_into_his_space(driver, panel):
    head = driver.head("Patient T1")
    choose(driver, panel, "gui_brain_project")
    panel.state.set_value(panel.method, "steps", 2)
    ticket = driver.run(panel)
    patient = next(n for n in ticket.results() if n.GetAttribute("MedGen.output") == "codes")
    _brain, other = draw(driver, panel, 3)
    choose(driver, panel, "gui_brain_mix")
    panel.inputs.rows["a"].selector.setCurrentNode(patient)
    panel.inputs.rows["b"].selector.setCurrentNode(other)
    driver.process()
    driver.run(panel)
    driver.click(panel.tools.look.patient)
    copy = panel.state.results()[-1]
    assert copy.GetName() == "Mix in the space of Patient T1 (synthetic)"
    bounds, moved = [0.0] * 6, [0.0] * 6
    panel.tools.look.mix().GetRASBounds(bounds)
    copy.GetRASBounds(moved)
    # the method says: a point of the patient lies 10 mm further left (LPS x - 10) in the model
    assert moved[0] - bounds[0] == pytest.approx(-10.0)
    from MedGenSlicerLib import provenance

    assert provenance.reference_of(copy) is head and provenance.is_synthetic(copy)


def test_without_a_patient_there_is_nothing_to_go_back_to_and_the_button_says_so(driver, panel):
    mixed(driver, panel)
    button = panel.tools.look.patient
    assert not button.isEnabled() and "projected patient" in button.toolTip()


def test_volumes_of_a_b_and_mix_are_measured_and_kept_as_a_table(driver, panel, monkeypatch):
    from MedGenSlicerLib import brain_tools

    mixed(driver, panel)
    look = panel.tools.look
    monkeypatch.setattr(brain_tools, "HEAD", "gui_volumes")
    driver.click(look.measure)
    driver.wait(lambda: len(look.volumes) == 3 and look.measure.text() == "Volumes")
    driver.process(50)
    node = panel.state.results()[-1]
    assert node.IsA("vtkMRMLTableNode") and node.GetAttribute("MedGen.output") == "brain_volumes"
    columns = [node.GetTable().GetColumnName(c) for c in range(node.GetTable().GetNumberOfColumns())]
    assert columns == ["volume, ml", "A", "B", "Mix"]
    ventricles = [float(look.table.item(0, c).text()) for c in (1, 2, 3)]
    assert ventricles[2] == ventricles[1] != ventricles[0]  # the hole is the fine donor's


def test_codes_go_to_a_file_and_come_back_to_make_the_same_brain(driver, panel, tmp_path):
    from MedGenSlicerLib import export_dialog

    brain, code = draw(driver, panel, 11)
    dialog = export_dialog.show(code)
    dialog.folder.setText(str(tmp_path))
    driver.process()
    driver.click(dialog.button)
    driver.process(50)
    dialog.dialog.close()
    (path,) = tmp_path.glob("*.csv")
    again = panel.tools.codes.load_file(path)
    assert again is not None and again is not code
    panel.inputs.rows["codes"].selector.setCurrentNode(again)
    driver.process()
    ticket = driver.run(panel)
    made = next(n for n in ticket.results() if n.GetAttribute("MedGen.output") == "brains")
    assert np.array_equal(voxels(made), voxels(brain))
    (tmp_path / "no.csv").write_text("name\nx\n")
    assert panel.tools.codes.load_file(tmp_path / "no.csv") is None
    assert "no table of codes" in panel.results.message.label.text()


def test_a_code_survives_the_scene_and_goes_into_a_mix(driver, panel, tmp_path):
    mixed(driver, panel)
    names = [n.GetName() for n in panel.state.results()]
    driver.save_scene(tmp_path)
    driver.scene.Clear(False)
    driver.process()
    assert panel.tools.look.mix() is None
    driver.load_scene(tmp_path)
    assert [n.GetName() for n in panel.state.results()] == names
    assert panel.method.id == "gui_brain_mix" and panel.tools.look.donor("a") is not None
    assert driver.run(panel).state == "finished", panel.ticket.error


def test_closing_the_scene_stops_previews_matrix_and_projection(driver, panel):
    extra = fill_grid(driver, panel)
    panel.state.set_value(panel.method, "seconds", 3.0)
    driver.click(extra.fill)
    extra.crossover.setValue(1)
    driver.process(100)
    driver.scene.Clear(False)
    driver.wait(lambda: not panel.controller.quick)
    driver.process(100)
    driver.head()
    choose(driver, panel, "gui_brain_project")
    panel.state.set_value(panel.method, "seconds", 30.0)
    ticket = driver.apply(panel)
    driver.wait(lambda: not panel.extra.picture.empty())
    driver.scene.Clear(False)
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "cancelled"
    brain, _code = draw(driver, panel, 1)  # and all goes on
    assert brain is not None


def test_after_a_closed_scene_previews_and_donors_come_again(driver, panel):
    choose(driver, panel, "gui_brain")
    panel.state.set_value(panel.method, "seconds", 5.0)
    panel.extra.seed.setValue(3)
    driver.wait(lambda: bool(panel.controller.quick))
    driver.scene.Clear(False)
    driver.wait(lambda: not panel.controller.quick)
    driver.process(100)
    panel.extra.seed.setValue(4)
    driver.wait(lambda: not panel.extra.picture.empty())
    extra = fill_grid(driver, panel)
    driver.click(extra.fill)
    driver.wait(lambda: not extra.filling())
    extra.crossover.setValue(3)  # the pictures are of another crossover now
    driver.process(50)
    assert extra.grid.cells == {} and "fill the matrix again" in extra.words.text()


def test_the_gate_is_one_button_and_its_verdict_a_sentence(driver, panel):
    choose(driver, panel, "gui_brain")
    panel.state.set_value(panel.method, "count", 5)
    assert driver.run(panel).state == "finished"
    gate = panel.tools.gate
    gate.button.setProperty("collapsed", False)
    driver.process()
    assert not gate.check.isEnabled() and "real images" in gate.check.toolTip()
    driver.click(gate.learnt)
    driver.wait(lambda: panel.ticket.ended)
    driver.process(50)
    assert gate.form.rows["gate_real"].count.text() == "8 images" and gate.count.text() == "5 synthetic"
    assert gate.check.isEnabled(), gate.check.toolTip()
    gate.method = quick_gate(gate.method)
    driver.click(gate.check)
    ticket = panel.ticket
    driver.wait(lambda: ticket.ended, 120)
    driver.process(50)
    assert ticket.state == "finished", ticket.error
    assert {"flags", "scores", "closest"} <= {n.GetAttribute("MedGen.output") for n in ticket.results()}
    assert "MEMORISED" in gate.verdict.text()


def quick_gate(method):
    """The same with one epoch of small pictures."""
    from dataclasses import replace

    quick = {"epochs": 1, "size": 32, "slices": 2}
    return replace(
        method, parameters=tuple(replace(p, default=quick.get(p.name, p.default)) for p in method.parameters)
    )


def test_real_images_come_from_a_folder(driver, panel, tmp_path):
    import SimpleITK as sitk

    for number in range(4):
        image = sitk.GetImageFromArray(np.full((4, 5, 6), number, np.int16))
        sitk.WriteImage(image, str(tmp_path / f"case{number}.nrrd"))
    row = panel.tools.gate.form.rows["gate_real"]
    row.add_folder(tmp_path)
    driver.wait(lambda: row.count.text() == "4 images")
    (node,) = panel.state.input_nodes("gate_real")
    assert node.IsA("vtkMRMLSequenceNode") and node.GetNumberOfDataNodes() == 4
    row.add_folder(Path(__file__).parent / "harness")
    driver.wait(lambda: "no image files" in row.warning.label.text())


@pytest.fixture
def played_command(monkeypatch, tmp_path):
    """`medgen cohort` played by a script that says what the real one says; returns the words of the last call."""
    from MedGenSlicerLib import cohort_tools

    asked: list[str] = []
    script = """
import sys, time, pathlib
for n in range(3):
    print(f"{n + 1} of 3 made: brain.nii.gz", flush=True)
    time.sleep(float(sys.argv[1]))
print("Checking with the gate")
print("MEMORISED: no (fine)\\nCOLLAPSED: yes (all alike)\\nDETECTABLE: no (0.5)")
pathlib.Path(sys.argv[2], "report.html").write_text("x")
print(sys.argv[2] + "/report.html")
"""
    pause = ["0.05"]

    def command(_python, *words):
        asked[:] = words
        return [sys.executable, "-c", script, pause[0], str(tmp_path)]

    monkeypatch.setattr(cohort_tools, "medgen_command", command)
    return asked, pause


def test_a_cohort_goes_to_a_folder_and_its_flags_are_read_out(driver, panel, played_command, tmp_path):
    tools, (asked, _pause) = panel.tools.cohort, played_command
    tools.button.setProperty("collapsed", False)
    driver.process()
    tools.folder.setText("")
    assert not tools.start_button.isEnabled() and "folder" in tools.start_button.toolTip()
    tools.folder.setText(str(tmp_path))
    tools.count.setValue(3)
    panel.state.set_option("seed", 40)
    driver.click(tools.start_button)
    assert tools.start_button.text() == "Stop" and not tools.count.isEnabled()
    driver.wait(lambda: tools.process is None)
    assert asked[:6] == ["cohort", "gui_brain", "-o", str(tmp_path), "-n", "3"] and "40" in asked
    words = tools.message.text()
    assert "COLLAPSED: yes (all alike)" in words and "MEMORISED: no" in words and "report.html" not in words
    assert tools.report.isEnabled() and tools.bar.value() == 3


def test_a_cohort_is_stopped(driver, panel, played_command, tmp_path):
    tools, (_asked, pause) = panel.tools.cohort, played_command
    pause[0] = "20"
    tools.button.setProperty("collapsed", False)
    tools.folder.setText(str(tmp_path))
    driver.process()
    driver.click(tools.start_button)
    driver.wait(lambda: tools.bar.value() == 1)
    driver.click(tools.start_button)
    assert (
        tools.process is None and "Stopped" in tools.message.text() and tools.start_button.text() == "Make the cohort"
    )


@pytest.mark.parametrize("name", ["MedGenBrainStyle", "MedGenSyntheticCT", "MedGenUltrasound", "MedGenAnomaly"])
def test_every_generating_panel_has_the_gate_and_says_what_it_waits_for(driver, name):
    gate = driver.open(name).panel.tools.gate
    gate.button.setProperty("collapsed", False)
    driver.process()
    assert not gate.check.isEnabled() and "four synthetic images" in gate.check.toolTip()
    hidden = (gate.form.rows["gate_real"].segment, gate.form.rows["gate_real"].frames)
    assert all(each.isHidden() for each in hidden)  # unfolding does not bring up what is not meant for a set
