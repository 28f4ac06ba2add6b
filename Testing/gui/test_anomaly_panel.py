"""MedGenAnomaly clicked through, with the real worker and networks of a few training steps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))
pytest.importorskip("torch")


@pytest.fixture(scope="session")
def few_steps(tmp_path_factory):
    """{method: weights file} of networks that were hardly trained."""
    from diffusion_data import rendered_slices

    from medgen.methods.diffusion_anomaly.train import train as anomaly
    from medgen.methods.diffusion_edit.train import train as edit
    from medgen.methods.diffusion_segmentation.train import train as segmentation

    trainers = {"diffusion_anomaly": anomaly, "diffusion_segmentation": segmentation, "diffusion_edit": edit}
    return {name: train(rendered_slices(), tmp_path_factory.mktemp(name), "smoke") for name, train in trainers.items()}


@pytest.fixture(scope="session")
def flair_image():
    """A stripped brain with a tumour, ten thick slices."""
    import SimpleITK as sitk
    from diffusion_data import small_head

    from medgen.imaging.phantoms import insert_lesions, render_mr, strip_skull

    rng = np.random.default_rng(1)
    brain = strip_skull(insert_lesions(small_head(), "tumour", rng)[0])
    image = sitk.Mask(render_mr(brain, "FLAIR", rng), sitk.Cast(brain > 0, sitk.sitkUInt8))
    identity = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    size, spacing, origin = (64, 64, 10), (3.5, 3.5, 14.0), (-110.0, -110.0, -70.0)
    return sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, origin, spacing, identity)


@pytest.fixture
def opened(driver, flair_image, few_steps):
    """open(method id) -> the panel, ready to run on a FLAIR node."""
    from MedGenSlicerLib import node_bridge

    node = driver.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "FLAIR MR")
    node_bridge.fill_volume(node, flair_image)
    node.CreateDefaultDisplayNodes()

    def open_method(method_id: str = "diffusion_anomaly", **values):
        panel = driver.open("MedGenAnomaly").panel
        panel.chooser.choose(method_id)
        panel.inputs.rows["FLAIR"].selector.setCurrentNode(node)
        for port in ("T1", "T2", "T1c"):
            panel.inputs.rows[port].selector.setCurrentNode(None)
        panel.state.set_option("weights", str(few_steps[method_id]))
        for name, value in values.items():
            panel.state.set_value(panel.method, name, value)
        driver.process()
        return panel

    return open_method


def by_output(panel) -> dict:
    return {node.GetAttribute("MedGen.output"): node for node in panel.state.results()}


def voxels(node) -> np.ndarray:
    import slicer

    return slicer.util.arrayFromVolume(node)


QUICK = {"steps": 3, "noise_level": 200}


def test_original_redrawn_and_map_arrive_linked_at_the_worst_slice(driver, opened):
    from MedGenSlicerLib import provenance, views

    panel = opened(**QUICK)
    ticket = driver.run(panel, 120)
    assert ticket.state == "finished", ticket.error
    made, tools = by_output(panel), panel.tools
    original = panel.inputs.reference()
    left, middle, right = (views.composite(f"MedGen{place}") for place in ("Left", "Middle", "Right"))
    assert left.GetBackgroundVolumeID() == original.GetID()
    assert middle.GetBackgroundVolumeID() == made["healthy_FLAIR"].GetID()
    assert (right.GetBackgroundVolumeID(), right.GetForegroundVolumeID()) == (
        original.GetID(), made["anomaly_map"].GetID(),
    )  # fmt: skip
    assert all(each.GetLinkedControl() for each in (left, middle, right))
    assert provenance.is_synthetic(made["healthy_FLAIR"]) and "ynthetic" in made["healthy_FLAIR"].GetName()
    driver.process(200)
    slices = tools.slices()
    worst = int(np.argmax(slices["p_diseased"]))
    for place in ("Left", "Middle", "Right"):
        point, _normal = views.slice_plane(f"MedGen{place}")
        assert abs(point[2] - slices["s_mm"][worst]) < 1
    assert "off by" in tools.round_trip.text()
    tools.flair.setChecked(True)
    assert made["flair_threshold"].GetDisplayNode().GetVisibility()
    tools.flair.setChecked(False)
    assert not made["flair_threshold"].GetDisplayNode().GetVisibility()


def test_the_plot_goes_to_the_slice_that_is_clicked_and_to_the_worst(driver, opened):
    from PySide6 import QtCore, QtTest

    from MedGenSlicerLib import views

    panel = opened(**QUICK)
    driver.run(panel, 120)
    tools = panel.tools
    slices = tools.slices()
    chart = tools.plot
    chart.resize(300, chart.height())
    across, _down = chart.place(1)
    QtTest.QTest.mouseClick(chart, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, QtCore.QPoint(across, 40))
    driver.process()
    assert views.slice_plane("MedGenLeft")[0][2] == pytest.approx(slices["s_mm"][1], abs=0.1)
    assert views.slice_plane("Red")[0][2] == pytest.approx(slices["s_mm"][1], abs=0.1)
    assert tools.plot.shown == 1 and f"{slices['p_diseased'][1]:.2f}" in tools.chance.text()
    driver.click(tools.worst)
    assert tools.plot.shown == int(np.argmax(slices["p_diseased"]))


def test_a_moved_guidance_redraws_the_shown_slice_from_the_cache(driver, opened):
    from MedGenSlicerLib import jobs, live_slice, provenance, views

    panel = opened(**QUICK)
    driver.run(panel, 120)
    tools, results = panel.tools, len(panel.state.results())
    tools.live.setChecked(True)
    driver.wait(lambda: tools.live_slice.node(live_slice.MAP) is not None, 60)
    assert "from the cache" in tools.live_words.text()  # the whole run has encoded this slice
    healthy = tools.live_slice.node(live_slice.HEALTHY)
    before = voxels(healthy).copy()
    tools.guidance.setValue(300)
    tools.guidance.setValue(290)  # debounced: the first is never asked for
    assert panel.state.value(panel.method, "guidance") == pytest.approx(1000 ** (290 / 300), rel=0.05)
    driver.wait(lambda: not np.array_equal(voxels(healthy), before), 60)
    assert "from the cache" in tools.live_words.text()
    assert provenance.is_synthetic(healthy)
    assert views.composite("MedGenMiddle").GetBackgroundVolumeID() == healthy.GetID()
    tools.level.setValue(6)
    driver.wait(lambda: "encoded and decoded" in tools.live_words.text(), 60)
    assert len(panel.state.results()) == results  # a live slice is no result
    assert len(jobs.controller().tickets) == 1  # nor a job that the user sees
    tools.live.setChecked(False)
    driver.process()
    assert tools.live_slice.node(live_slice.MAP) is None
    assert views.composite("MedGenMiddle").GetBackgroundVolumeID() == by_output(panel)["healthy_FLAIR"].GetID()


def test_a_stroke_in_the_brain_mask_redraws_the_shown_slice(driver, opened):
    import slicer

    from MedGenSlicerLib import live_slice

    panel = opened(**QUICK)
    image, tools = panel.inputs.reference(), panel.tools
    mask = driver.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Brain")
    segment = mask.GetSegmentation().AddEmptySegment("brain")
    inside = (voxels(image) > 0).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside, mask, segment, image)
    panel.inputs.rows["brain"].selector.setCurrentNode(mask)
    tools.live.setChecked(True)
    driver.wait(lambda: tools.live_slice.node(live_slice.MAP) is not None, 60)
    driver.process(1000)  # the views turn to the slice
    driver.wait(lambda: tools.live_slice.job is None, 60)
    driver.process(1000)
    assert tools.live_slice.job is None  # nothing has changed: nothing is asked for again
    before = voxels(tools.live_slice.node(live_slice.HEALTHY)).copy()
    inside[:, :, :32] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside, mask, segment, image)
    driver.wait(lambda: not np.array_equal(voxels(tools.live_slice.node(live_slice.HEALTHY)), before), 60)
    assert not voxels(tools.live_slice.node(live_slice.HEALTHY))[:, :, :30].any()


def test_scene_close_while_a_slice_is_redrawn_leaves_nothing(driver, opened):
    from MedGenSlicerLib import live_slice

    panel = opened(steps=100, noise_level=200)
    panel.tools.live.setChecked(True)
    driver.wait(lambda: panel.tools.live_slice.job is not None, 30)
    driver.scene.Clear(False)
    driver.process(600)
    assert panel.tools.live_slice.node(live_slice.MAP) is None
    assert driver.scene.GetFirstNodeByName("Live map") is None
    assert panel.tools.triple() is None and not panel.tools.three.isEnabled()


def test_the_threshold_shows_at_once_and_makes_a_segment_that_can_be_corrected(driver, opened):
    import slicer

    from MedGenSlicerLib import correction, node_bridge

    panel = opened(**QUICK)
    driver.run(panel, 120)
    cut, change = panel.tools.threshold, by_output(panel)["anomaly_map"]
    assert cut.node() is change
    values = np.random.default_rng(0).uniform(0, 0.9, voxels(change).shape).astype(np.float32)
    slicer.util.updateVolumeFromArray(change, values)  # networks of three steps change next to nothing
    panel.update()
    display = change.GetDisplayNode()
    highest = float(voxels(change).max())
    cut.slider.setValue(250)
    assert display.GetLowerThreshold() == pytest.approx(highest / 2, rel=0.02) and display.GetApplyThreshold()
    expected = voxels(change) > cut.threshold()
    millilitres = expected.sum() * 3.5 * 3.5 * 14 / 1000
    assert cut.volume.text() == f"{millilitres:.1f} ml"
    cut.smallest.setValue(0)
    before = len(panel.state.results())
    driver.click(cut.make)
    driver.wait(lambda: len(panel.state.results()) == before + 1, 20)
    made = panel.state.results()[-1]
    image = node_bridge.label_image(made, panel.inputs.reference())
    assert np.array_equal(node_bridge.sitk.GetArrayFromImage(image) > 0, expected)
    assert made.GetAttribute("MedGen.output") == "threshold" and not correction.edited(made)
    cut.take_otsu()
    assert 0 < cut.threshold() < highest
    driver.click(cut.make)
    driver.wait(lambda: len(panel.state.results()) == before + 2, 20)
    assert panel.state.results()[-2] is made  # an older one is never overwritten


def test_draws_show_their_mean_and_uncertainty_and_every_consensus_can_be_cut(driver, opened):
    from MedGenSlicerLib import views

    panel = opened("diffusion_segmentation", draws=3, steps=3)
    ticket = driver.run(panel, 120)
    assert ticket.state == "finished", ticket.error
    made, tools = by_output(panel), panel.tools
    names = [tools.threshold.combo.itemData(i) for i in range(tools.threshold.combo.count())]
    assert names == [made[name].GetID() for name in ("mean", "votes", "staple")]
    driver.click(tools.uncertainty)
    assert {c.GetForegroundVolumeID() for c in views.composites()} >= {made["variance"].GetID()}
    tools.threshold.combo.setCurrentIndex(2)
    driver.process()
    assert tools.threshold.node() is made["staple"]
    assert not tools.live_section.isVisibleTo(tools.live_section.parentWidget())


def test_a_lesion_is_drawn_into_a_ball_and_called_synthetic(driver, opened):
    from MedGenSlicerLib import provenance, views, widgets

    panel = opened("diffusion_edit", **QUICK)
    assert "region" in panel.reason_off().lower()
    views.show_background(panel.inputs.reference())
    panel.extra.radius.setValue(25)
    driver.click(panel.extra.ball)
    driver.wait(lambda: panel.state.input_node("region") is not None, 20)
    driver.process()
    assert panel.reason_off() == ""
    ticket = driver.run(panel, 120)
    assert ticket.state == "finished", ticket.error
    made = by_output(panel)
    assert provenance.is_synthetic(made["edited_FLAIR"]) and "(synthetic)" in made["edited_FLAIR"].GetName()
    assert panel.tools.triple() == (panel.inputs.reference(), made["edited_FLAIR"], made["difference"])
    for node in (panel.state.input_node("region"), made["lesion"]):
        assert not node.GetDisplayNode().GetVisibility2DFill()  # the image is seen through them
    open_eye = widgets.icon("eye_on").pixmap(16).toImage()
    seen = [row.node() for row in panel.results.rows if row.eye.icon().pixmap(16).toImage() == open_eye]
    assert made["edited_FLAIR"] in seen and made["difference"] in seen
    driver.process(200)
    height = views.slice_plane("MedGenLeft")[0][2]
    change = voxels(made["difference"]).sum((1, 2))
    assert abs(height - (-70 + 14 * int(change.argmax()))) < 1  # the slice that changed most
    driver.click(next(row for row in panel.results.rows if row.node() is made["lesion"]).correct)
    editor = driver.scene.GetFirstNodeByClass("vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is made["lesion"]
    assert editor.GetSourceVolumeNode() is made["edited_FLAIR"]  # the original shows no such lesion


def test_a_series_of_sizes_is_scrubbed_in_one_browser_and_called_synthetic(driver, opened):
    import slicer

    from MedGenSlicerLib import export_files, frames, provenance, views

    panel = opened("diffusion_edit", **QUICK, size=0.0, last_size=20.0, sizes=3, strength=100.0)
    fields = {name: panel.parameters.fields[name].widget for name in ("size", "sizes", "last_size")}
    assert not any(field.isEnabled() for field in fields.values())
    panel.state.set_value(panel.method, "edit", "size")
    driver.process()
    assert all(field.isEnabled() for field in fields.values())
    original = panel.inputs.reference()
    moved = driver.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
    original.SetAndObserveTransformNodeID(moved.GetID())
    ticket = driver.run(panel, 240)
    assert ticket.state == "finished", ticket.error
    made = by_output(panel)
    edited, change, chance = made["edited_FLAIR"], made["difference"], made["chance"]
    browser, sequence = frames.browser_of(edited), frames.sequence_of(edited)
    assert frames.browser_of(change) is browser and frames.browser_of(chance) is browser
    assert (sequence.GetIndexName(), sequence.GetIndexUnit()) == ("lesion size", "%")
    assert [sequence.GetNthIndexValue(i) for i in range(3)] == ["0", "10", "20"]
    assert browser.GetSelectedItemNumber() == 2  # what the series leads to
    assert "Lesion size 20 % (3 of 3)" in panel.tools.series.label.text()
    seen, highest = [], max(voxels(sequence.GetNthDataNode(number)).max() for number in range(3))
    for number in range(3):
        panel.tools.series.slider.setValue(number)
        driver.process()
        seen.append(voxels(edited).copy())
        frame = sequence.GetNthDataNode(number)
        assert np.array_equal(seen[-1], slicer.util.arrayFromVolume(frame))
        assert edited.GetDisplayNode().GetWindowLevelMax() == pytest.approx(highest)  # one grey scale for all
        for node in (edited, frame):
            assert provenance.is_synthetic(node) and "(synthetic)" in node.GetName()
        assert edited.GetAttribute("MedGen.method") == "diffusion_edit"
        assert all(node.GetParentTransformNode() is moved for node in (edited, change, chance))
        file = export_files.file_name(edited, export_files.formats(edited)[0])
        assert file.endswith(f"_synthetic_lesion_size_{10 * number}.nii.gz")
    assert not np.array_equal(seen[0], seen[2])
    browser.SetSelectedItemNumber(1)  # as the toolbar of the application does
    driver.wait(lambda: panel.tools.series.slider.value() == 1, 5)
    assert panel.tools.triple() == (original, edited, change)
    assert views.composite("MedGenMiddle").GetBackgroundVolumeID() == edited.GetID()
    row = next(row for row in panel.results.rows if row.node() is edited)
    assert "ynthetic" in row.banner.label.text()
    table = panel.results.table
    assert [table.item(r, 0).text() for r in range(table.rowCount())] == ["0", "10", "20"]
    assert panel.tools.threshold.node() is chance and panel.tools.threshold.threshold() == 0.5
    driver.click(panel.tools.threshold.make)  # a mask of the size that is shown
    driver.wait(lambda: panel.state.results()[-1].GetAttribute("MedGen.output") == "threshold", 20)


def test_a_series_of_sizes_is_made_of_one_image_and_not_of_all_frames(driver, opened):
    panel = opened("diffusion_edit", edit="size", sizes=3)
    sequence = driver.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Two visits")
    for place in ("1", "2"):
        sequence.SetDataNodeAtValue(panel.inputs.reference(), place)
    browser = driver.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Visits")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    row = panel.inputs.rows["FLAIR"]
    row.selector.setCurrentNode(browser.GetProxyNode(sequence))
    driver.process()
    assert panel.reason_off() == ""
    row.frames.setChecked(True)
    driver.process()
    assert "one image" in panel.reason_off() and not panel.run_bar.button.isEnabled()
    panel.state.set_value(panel.method, "sizes", 1)
    driver.process()
    assert panel.reason_off() == ""


def test_a_series_that_needs_gigabytes_is_warned_of(driver, opened, monkeypatch):
    from dataclasses import replace

    from MedGenSlicerLib import input_guess

    panel = opened("diffusion_edit", edit="size", sizes=20)
    assert not panel.extra.warning.label.text()
    known = input_guess.facts(panel.inputs.reference())
    monkeypatch.setattr(input_guess, "facts", lambda _node: replace(known, size=(240, 240, 155), spacing_mm=(1, 1, 1)))
    driver.process()
    panel.update()
    # edited FLAIR, difference and chance of lesion: 3 images of 4 bytes a voxel, 20 times, in the worker and here
    assert "about 4.3 GB" in panel.extra.warning.label.text() and panel.run_bar.button.text() == "Run anyway"
    panel.state.set_value(panel.method, "sizes", 5)
    driver.process()
    assert not panel.extra.warning.label.text() and panel.run_bar.button.text() == "Apply"


def test_a_closed_scene_gets_no_ball_and_no_segment(driver, opened):
    from MedGenSlicerLib.map_threshold import MapThreshold

    panel = opened("diffusion_edit", **QUICK)
    panel.extra.make_ball()
    driver.scene.Clear(False)
    driver.process(500)
    assert driver.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None
    change = driver.head("a map")
    cut = MapThreshold(panel.log_button.layout(), lambda: [change], pytest.fail)
    cut.update()
    cut.start()
    driver.scene.Clear(False)
    driver.process(500)
    assert driver.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_a_whole_volume_tells_its_slices_and_is_cancelled(driver, opened):
    panel = opened(steps=200, noise_level=200)
    ticket = driver.apply(panel)
    driver.wait(lambda: ticket.stage == "Encoding" or ticket.ended, 120)  # PyTorch is loaded first
    driver.click(panel.run_bar.button)
    driver.wait(lambda: ticket.ended, 20)
    assert ticket.state == "cancelled" and not panel.state.results()


def test_an_image_that_is_loaded_into_the_open_panel_is_chosen_and_none_cannot_run(driver):
    panel = driver.open("MedGenAnomaly").panel
    for method in ("diffusion_anomaly", "diffusion_edit"):
        panel.chooser.choose(method)
        driver.process()
        assert panel.reason_off() == "Choose at least one image." and not panel.run_bar.button.isEnabled()
    panel.chooser.choose("diffusion_anomaly")
    node = driver.head("Patient FLAIR")
    driver.wait(lambda: panel.state.input_node("FLAIR") is node, 10)
    assert panel.reason_off() == "" and panel.run_bar.button.isEnabled()
    panel.inputs.rows["FLAIR"].selector.setCurrentNode(None)
    other = driver.head("Patient T2")
    driver.wait(lambda: panel.state.input_node("T2") is other, 10)
    assert panel.state.input_node("FLAIR") is None  # left out by the user


def test_segmentation_ensembles_are_offered_in_both_modules(driver):
    assert "diffusion_segmentation" in driver.open("MedGenSegment").panel.chooser.methods
    assert "diffusion_segmentation" in driver.open("MedGenAnomaly").panel.chooser.methods
    assert "diffusion_anomaly_slice" not in driver.open("MedGenAnomaly").panel.chooser.methods


def test_a_redrawn_image_is_not_offered_as_another_sequence(driver, opened):
    panel = opened(**QUICK)
    driver.run(panel, 120)
    panel.chooser.choose("diffusion_edit")
    driver.process()
    redrawn = by_output(panel)["healthy_FLAIR"]
    assert all(redrawn not in panel.state.input_nodes(port) for port in ("FLAIR", "T2", "T1", "T1c"))
