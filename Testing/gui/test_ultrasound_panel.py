"""MedGenUltrasound clicked through, with the real worker: a cine and a still, samples, flip, wipe, outline, styles."""

from __future__ import annotations

import numpy as np
import pytest
import vtk

SHAPE = (48, 64)


def frame(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(20, 120, (1, *SHAPE)).astype(np.uint8)


def cine(driver, count: int = 4):
    """A sequence with its browser; returns (browser, the volume that shows the current frame)."""
    import slicer

    sequence = driver.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine frames")
    sequence.SetIndexName("time")
    for number in range(count):
        node = still(driver, number)
        sequence.SetDataNodeAtValue(node, f"{number * 0.04:.2f}")
        driver.scene.RemoveNode(node)
    browser = driver.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Cine")
    browser.AddSynchronizedSequenceNodeID(sequence.GetID())
    proxy = browser.GetProxyNode(sequence)
    proxy.SetName("Cine US")
    slicer.app.processEvents()
    return browser, proxy


def still(driver, number: int = 0, colour: bool = False):
    import slicer

    kind = "vtkMRMLVectorVolumeNode" if colour else "vtkMRMLScalarVolumeNode"
    node = driver.scene.AddNewNodeByClass(kind, "Still US")
    values = frame(number)
    slicer.util.updateVolumeFromArray(node, np.stack([values] * 3, -1) if colour else values)
    node.SetSpacing(0.3, 0.2, 1.0)
    node.CreateDefaultDisplayNodes()
    return node


def paint(driver, volume):
    """A segmentation with one painted box, as the Segment Editor would leave it."""
    import slicer

    labels = driver.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "box")
    values = np.zeros((1, *SHAPE), np.uint8)
    values[0, 10:20, 30:50] = 1
    slicer.util.updateVolumeFromArray(labels, values)
    grid = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(grid)
    labels.SetIJKToRASMatrix(grid)
    node = driver.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Calliper")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    driver.scene.RemoveNode(labels)
    return node, values > 0


def prepared(driver, volume):
    panel = driver.open("MedGenUltrasound").panel
    panel.chooser.choose("gui_fill")
    mask, where = paint(driver, volume)
    panel.inputs.rows["frames"].selector.setCurrentNode(volume)
    panel.inputs.rows["mask"].selector.setCurrentNode(mask)
    driver.process()
    return panel, where


def by_output(panel) -> dict:
    return {node.GetAttribute("MedGen.output"): node for node in panel.state.results()}


def voxels(node) -> np.ndarray:
    import slicer

    return slicer.util.arrayFromVolume(node)


def test_a_head_is_not_taken_for_an_ultrasound(driver):
    driver.head("Patient T1")
    panel = driver.open("MedGenUltrasound").panel
    assert panel.state.input_node("frames") is None
    picture = still(driver)
    driver.wait(lambda: panel.state.input_node("frames") is picture, 10)


def test_a_cine_is_filled_frame_by_frame_and_plays_with_its_source(driver):
    browser, volume = cine(driver)
    panel, where = prepared(driver, volume)
    assert driver.run(panel).state == "finished"
    made = by_output(panel)
    assert browser.GetSequenceNode(made["inpainted"]) is not None
    for number in (0, 3):
        browser.SetSelectedItemNumber(number)
        driver.process()
        assert np.array_equal(voxels(made["inpainted"])[~where], frame(number)[~where])
        assert not np.array_equal(voxels(made["inpainted"])[where], frame(number)[where])
    assert made["inpainted"].GetSpacing() == volume.GetSpacing()
    assert all(
        node.GetAttribute("MedGen.synthetic") == "1"
        for name, node in made.items()
        if name in ("inpainted", "samples", "mean")
    )


def test_samples_are_gone_through_with_a_slider_and_the_chosen_one_goes_into_every_frame(driver):
    from MedGenSlicerLib import frames

    _browser, volume = cine(driver)
    panel, where = prepared(driver, volume)
    driver.run(panel)
    tools, samples = panel.tools, by_output(panel)["samples"]
    assert tools.sample_label.text() == "Sample 1 of 3"
    first = voxels(samples).copy()
    tools.sample_slider.setValue(3)
    driver.process()
    assert frames.browser_of(samples).GetSelectedItemNumber() == 2
    assert not np.array_equal(voxels(samples)[where], first[where])
    third = voxels(samples).copy()
    driver.click(tools.keep)
    driver.wait(lambda: panel.ticket.ended)
    driver.process(50)
    made = by_output(panel)["inpainted"]
    assert panel.state.value(panel.method, "sample") == 3
    assert np.array_equal(voxels(made)[where], third[where])


def test_outline_is_on_by_default_and_the_filled_area_stays_with_the_result(driver):
    volume = still(driver)
    panel, where = prepared(driver, volume)
    driver.run(panel)
    filled = by_output(panel)["filled"]
    display = filled.GetDisplayNode()
    assert display.GetVisibility() and display.GetVisibility2DOutline() and not display.GetVisibility2DFill()
    panel.tools.outline.setChecked(False)
    driver.process()
    assert not display.GetVisibility()
    from MedGenSlicerLib import node_bridge

    image = node_bridge.label_image(filled, volume)
    assert np.array_equal(node_bridge.sitk.GetArrayFromImage(image) > 0, where)


def test_before_and_after_in_turn(driver):
    from MedGenSlicerLib import views

    volume = still(driver)
    panel, _where = prepared(driver, volume)
    driver.run(panel)
    result = by_output(panel)["inpainted"]
    assert views.comparing()  # the result arrives beside its frame
    backgrounds = []
    for _press in range(3):
        driver.click(panel.tools.flip)
        backgrounds.append(views.composites()[0].GetBackgroundVolumeID())
    assert backgrounds == [result.GetID(), volume.GetID(), result.GetID()]


def test_wipe_shows_the_frame_left_and_the_result_right_and_leaves_nothing(driver):
    volume = still(driver, colour=True)
    panel, _where = prepared(driver, volume)
    driver.run(panel)
    result = by_output(panel)["inpainted"]
    panel.tools.wipe_slider.setValue(50)
    driver.process()
    mixed, half = voxels(panel.tools.wipe.node()), SHAPE[1] // 2
    assert np.allclose(mixed[..., :half], frame(0)[..., :half], atol=1)
    assert np.array_equal(mixed[..., half:], voxels(result)[..., half:])
    driver.click(panel.tools.beside)
    assert panel.tools.wipe.node() is None
    assert driver.scene.GetFirstNodeByName("Wipe") is None


def test_spread_and_mean_are_shown_over_and_beside(driver):
    from MedGenSlicerLib import views

    volume = still(driver)
    panel, _where = prepared(driver, volume)
    driver.run(panel)
    made = by_output(panel)
    driver.click(panel.tools.spread)
    assert {c.GetForegroundVolumeID() for c in views.composites()} == {made["spread"].GetID()}
    driver.click(panel.tools.mean)
    assert views.is_displayed(made["mean"])


def test_a_cine_of_thirty_frames_tells_its_progress_and_is_cancelled(driver):
    _browser, volume = cine(driver, 30)
    panel, _where = prepared(driver, volume)
    panel.state.set_value(panel.method, "seconds", 0.5)
    panel.results.say("Said of the run before.")
    ticket = driver.apply(panel)
    assert panel.results.message.label.text() == ""
    driver.wait(lambda: ticket.fraction > 0.05)
    assert ticket.stage == "Filling"
    driver.click(panel.run_bar.button)
    driver.wait(lambda: ticket.ended, 20)
    assert ticket.state == "cancelled" and not panel.state.results()


def test_found_artefacts_become_the_mask(driver):
    from MedGenSlicerLib import sample_data

    volume = sample_data.draw_ultrasound()
    panel = driver.open("MedGenUltrasound").panel
    panel.chooser.choose("us_inpainting")
    panel.inputs.rows["frames"].selector.setCurrentNode(volume)
    driver.process()
    driver.click(panel.extra.find)
    driver.wait(lambda: panel.ticket is not None and panel.ticket.ended, 120)
    driver.process(50)
    assert panel.ticket.state == "finished", panel.ticket.error
    mask = panel.state.input_node("mask")
    assert mask is not None and mask.GetSegmentation().GetNumberOfSegments() >= 1
    assert panel.extra.edit.isEnabled()
    assert "is what the next fill fills" in panel.results.message.label.text()
    panel.chooser.choose("us_artefact_masks")
    for name in ("text", "reverberation", "shadow"):
        panel.state.set_value(panel.method, name, False)
    assert driver.run(panel).state == "finished"
    driver.process(50)
    assert "No artefact was found" in panel.results.message.label.text()


def test_a_click_on_the_style_map_takes_its_style(driver, monkeypatch):
    from PySide6 import QtCore, QtTest

    from MedGenSlicerLib import style_map

    monkeypatch.setattr(style_map, "known_looks", lambda _id: [(0.0, 0.0, "probe A"), (1.5, -1.5, "probe B")])
    panel = driver.open("MedGenUltrasound").panel
    panel.chooser.choose("us_style_transfer")
    driver.process()
    chart = panel.extra.map
    chart.resize(300, 180)
    x, y = chart.place(1.4, -1.4)
    QtTest.QTest.mouseClick(chart, QtCore.Qt.LeftButton, QtCore.Qt.NoModifier, QtCore.QPoint(int(x), int(y)))
    driver.process()
    value = lambda name: panel.state.value(panel.method, name)  # noqa: E731
    assert value("style") == "map"
    assert value("map_x") == pytest.approx(1.4, abs=0.05) and value("map_y") == pytest.approx(-1.4, abs=0.05)
    assert "probe B" in panel.extra.words.text()


def test_a_style_source_without_its_input_turns_apply_off_in_words(driver):
    still(driver)
    panel = driver.open("MedGenUltrasound").panel
    panel.chooser.choose("us_style_transfer")
    panel.state.set_value(panel.method, "style", "image")
    driver.process()
    assert "style image" in panel.reason_off()


def export(driver, node, format_id: str, folder, source=None):
    from MedGenSlicerLib import export_dialog

    dialog = export_dialog.show(node)
    dialog.format.setCurrentIndex([f.id for f in dialog.formats].index(format_id))
    dialog.folder.setText(str(folder))
    dialog.source.setText(str(source or ""))
    driver.process()
    driver.click(dialog.button)
    driver.wait(lambda: dialog.process is None, 120)
    assert "Written" in dialog.status.label.text(), dialog.status.label.text()
    dialog.dialog.close()


def test_a_filled_cine_is_written_as_pictures_with_its_mask_and_as_one_nifti(driver, tmp_path):
    import SimpleITK as sitk

    _browser, volume = cine(driver)
    panel, where = prepared(driver, volume)
    driver.run(panel)
    result = by_output(panel)["inpainted"]
    export(driver, result, "png", tmp_path)
    export(driver, result, "nifti", tmp_path)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == [
        "filled.png",
        *(f"frame_{n}.png" for n in ("0001", "0002", "0003", "0004")),
    ]
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "filled.png"))) > 0, where[0])
    last = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "frame_0004.png")))
    assert np.array_equal(last[~where[0]], frame(3)[0][~where[0]])
    (file,) = tmp_path.glob("*.nii.gz")
    whole = sitk.ReadImage(str(file))
    assert whole.GetSize() == (64, 48, 4) and np.array_equal(sitk.GetArrayFromImage(whole)[3], last)


def test_a_filled_still_is_written_as_derived_ultrasound_that_tells_what_was_filled(driver, tmp_path):
    import pydicom

    from medgen.benchmarks.exchange_sources import write_ultrasound
    from medgen.exchange.reading import read_dicom_folder
    from MedGenSlicerLib import node_bridge

    source = tmp_path / "source"
    source.mkdir()
    write_ultrasound(source / "still.dcm", 1)
    [series] = read_dicom_folder(source)
    image = series.image[0] if isinstance(series.image, list) else series.image
    grey = node_bridge.sitk.JoinSeries(
        [node_bridge.sitk.VectorIndexSelectionCast(image, 0) if image.GetNumberOfComponentsPerPixel() > 1 else image]
    )
    volume = driver.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Still US")
    node_bridge.fill_volume(volume, node_bridge.sitk.Cast(grey, node_bridge.sitk.sitkUInt8))
    volume.CreateDefaultDisplayNodes()
    global SHAPE
    shape, SHAPE = SHAPE, voxels(volume).shape[1:]
    try:
        panel, where = prepared(driver, volume)
    finally:
        SHAPE = shape
    driver.run(panel)
    export(driver, by_output(panel)["inpainted"], "picture", tmp_path, source)
    (file,) = tmp_path.glob("*picture.dcm")
    made = pydicom.dcmread(file)
    assert made.Modality == "US" and list(made.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert "inpainted" in made.SeriesDescription and "SYNTHETIC" in made.SeriesDescription
    assert f"{int(where.sum())} pixels invented" in made.DerivationDescription
    assert (made.pixel_array == voxels(by_output(panel)["inpainted"])[0]).all()
    assert list(tmp_path.glob("*_filled.png"))
    export(driver, by_output(panel)["filled"], "seg", tmp_path, source)
    (file,) = tmp_path.glob("*seg.dcm")
    segments = pydicom.dcmread(file)
    assert [s.SegmentLabel for s in segments.SegmentSequence] == ["Filled (invented)"]
    assert ((segments.pixel_array.reshape(where.shape) > 0) == where).all()
