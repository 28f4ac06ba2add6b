"""MedGenSegment clicked through, with the real worker: load, choose, Apply, look, correct, run again, save, load."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def panel(driver):
    driver.head()
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    return panel


def edit(node) -> None:
    """What painting in the Segment Editor does: voxels of a segment change in place."""
    import slicer

    from MedGenSlicerLib import correction

    image = node.GetSegmentation().GetLayerDataObject(0, correction.binary_name())
    voxels = correction.layer_of(node).voxels
    voxels[5:15, 5:15, 5:15] = 2
    image.Modified()
    node.GetSegmentation().InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)


def test_from_a_loaded_image_to_a_segmentation_with_two_clicks(driver, panel):
    """The image is chosen by itself, Apply runs, the segments arrive named, coded, coloured and in place."""
    import slicer

    from MedGenSlicerLib import correction, node_bridge, provenance

    assert panel.inputs.rows["image"].selector.currentNode().GetName() == "Head MR"
    ticket = driver.run(panel)
    assert ticket.state == "finished"
    labels, counts = ticket.results()
    assert labels.GetName() == "Head MR tissues" and counts.IsA("vtkMRMLTableNode")
    segmentation = labels.GetSegmentation()
    assert [segmentation.GetSegment(i).GetName() for i in segmentation.GetSegmentIDs()] == ["Tissue", "Bright"]
    segment = segmentation.GetNthSegment(0)
    tag = segment.GetTerminology() if hasattr(segment, "GetTerminology") else ""
    assert tag.split("~")[2] == "SCT^91723000^Anatomy"
    assert np.allclose(segment.GetColor(), np.array([200, 120, 90]) / 255)
    voxels = slicer.util.arrayFromVolume(driver.scene.GetFirstNodeByName("Head MR"))
    expected = (voxels > 50).astype(int) + (voxels > 200)
    reference = driver.scene.GetFirstNodeByName("Head MR")
    found = np.asarray(node_bridge.sitk.GetArrayFromImage(node_bridge.label_image(labels, reference)))
    assert np.array_equal(found, expected)
    millilitres = correction.volumes_when_made(labels)
    assert list(millilitres.values()) == pytest.approx([(expected == v).sum() * 0.064 for v in (1, 2)], abs=1e-3)
    assert labels.GetNodeReference("referenceImageGeometryRef") is reference
    assert provenance.reference_of(labels) is reference
    assert json.loads(labels.GetAttribute("MedGen.parameters"))["low"] == 50
    for key in ("method", "method_version", "device", "seed", "time", "inputs", "synthetic"):
        assert labels.GetAttribute("MedGen." + key), key
    assert len(panel.results.rows) == 2 and panel.results.table.rowCount() == 2
    assert "Thresholds know no anatomy." in panel.run_bar.problem.label.text()


def test_results_lie_beside_their_input_in_the_subject_hierarchy(driver, panel):
    hierarchy = driver.scene.GetSubjectHierarchyNode()
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    volume = driver.scene.GetFirstNodeByName("Head MR")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    for node in driver.run(panel).results():
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_parent_transform_of_the_input_holds_for_the_result(driver, panel):
    volume = driver.scene.GetFirstNodeByName("Head MR")
    parent = driver.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    volume.SetAndObserveTransformNodeID(parent.GetID())
    assert driver.run(panel).results()[0].GetParentTransformNode() is parent


def test_disabled_apply_says_why(driver):
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    driver.process()
    assert not panel.run_bar.button.isEnabled()
    assert "MR image" in panel.run_bar.button.toolTip() and "MR image" in panel.run_bar.line.text()
    volume = driver.head()
    panel.inputs.rows["image"].selector.setCurrentNode(volume)
    driver.process()
    assert panel.run_bar.button.isEnabled()


def test_a_warning_stands_beside_its_input_and_may_be_overruled(driver):
    driver.head("Coarse MR", size=20, spacing=6.0)
    widget = driver.open("MedGenSegment")
    widget.parent.show()
    panel = widget.panel
    panel.chooser.choose("gui_threshold")
    driver.process()
    assert "larger than 4 mm" in panel.inputs.rows["image"].warning.label.text()
    assert panel.inputs.rows["image"].warning.widget.isVisible()
    assert panel.run_bar.button.text() == "Run anyway"
    assert driver.run(panel).state == "finished"


def test_the_likeliest_image_is_chosen(driver):
    driver.head("CT chest")
    driver.head("T1 MR")
    driver.head("something")
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    driver.process()
    assert panel.inputs.rows["image"].selector.currentNode().GetName() == "T1 MR"


def test_an_image_that_may_be_left_out_is_only_filled_by_a_volume_named_for_it(driver):
    for name in ("FLAIR 3D", "MS T1", "another T1", "DWI"):
        driver.head(name)
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("diffusion_segmentation")
    driver.process()
    rows = panel.inputs.rows
    assert rows["FLAIR"].selector.currentNode().GetName() == "FLAIR 3D"
    assert rows["T1"].selector.currentNode().GetName() in ("MS T1", "another T1")
    assert rows["T2"].selector.currentNode() is None and rows["T1c"].selector.currentNode() is None


def test_search_and_filters_shorten_the_list(driver):
    chooser = driver.open("MedGenSegment").panel.chooser
    everything = chooser.list.count()
    chooser.search.setText("inverting")
    assert [m.id for m in chooser.shown()] == ["gui_pseudo_ct"]
    chooser.search.setText("")
    chooser.body_part.setCurrentIndex(chooser.body_part.findText("Head"))
    assert "gui_threshold" in [m.id for m in chooser.shown()] and "gui_pseudo_ct" not in [m.id for m in chooser.shown()]
    chooser.search.setText("no such thing")
    assert not chooser.list.isEnabled()
    chooser.search.setText("")
    chooser.body_part.setCurrentIndex(0)
    assert chooser.list.count() == everything


def test_parameters_reach_the_run_and_reset_brings_defaults_back(driver, panel):
    from MedGenSlicerLib.panel_state import PanelState

    field = panel.parameters.fields["high"].widget
    field.setValue(90.0)
    driver.process()
    assert PanelState(panel.state.node).value(panel.method, "high") == 90.0
    ticket = driver.run(panel)
    assert json.loads(ticket.results()[0].GetAttribute("MedGen.parameters"))["high"] == 90.0
    driver.click(panel.reset)
    assert field.value() == 200.0


def test_cancel_leaves_the_scene_as_it_was_and_a_new_run_works(driver, panel):
    panel.parameters.fields["seconds"].widget.setValue(60.0)
    before = driver.scene.GetNumberOfNodes()
    ticket = driver.apply(panel)
    driver.wait(lambda: panel.run_bar.bar.value() > 0)
    assert panel.run_bar.button.text() == "Cancel" and ticket.state == "running"
    driver.click(panel.run_bar.button)
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "cancelled" and driver.scene.GetNumberOfNodes() == before
    assert panel.run_bar.button.text() == "Apply"
    panel.parameters.fields["seconds"].widget.setValue(0.0)
    assert driver.run(panel).state == "finished"


def test_a_failed_run_says_why_in_one_sentence(driver, panel):
    panel.state.set_value(panel.method, "fault", "raise")
    ticket = driver.run(panel)
    assert ticket.state == "failed" and ticket.results() == []
    assert panel.run_bar.problem.label.text() == "The image has no bright voxels."


def test_an_edited_result_is_recognised_measured_and_never_overwritten(driver, panel, tmp_path):
    """Correct opens the Segment Editor with the source; after painting, a new run makes a new node; Dice is shown; the
    case can be kept for training."""
    import SimpleITK as sitk
    import slicer

    from MedGenSlicerLib import correction, node_bridge

    first = driver.run(panel).results()[0]
    row = next(r for r in panel.results.rows if r.node_id == first.GetID())
    driver.click(row.correct)
    editor = driver.scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is first
    assert editor.GetSourceVolumeNode() is driver.scene.GetFirstNodeByName("Head MR")
    assert slicer.app.current_module == "SegmentEditor"
    edit(first)
    corrected = sitk.GetArrayFromImage(node_bridge.label_image(first))
    driver.open("MedGenSegment")
    driver.wait(lambda: correction.edited(first))
    driver.process()
    row = next(r for r in panel.results.rows if r.node_id == first.GetID())
    assert "Corrected by hand" in row.banner.label.text() and row.keep.isVisibleTo(row.widget)
    assert panel.results.table.columnCount() == 4
    change = {c.name: c for c in correction.changes(first)}["Bright"]
    assert change.after_ml > change.before_ml and 0 < change.dice < 1
    second = driver.run(panel).results()[0]
    assert second is not first and second.GetName() != first.GetName()
    assert np.array_equal(sitk.GetArrayFromImage(node_bridge.label_image(first)), corrected)
    assert not correction.edited(second)
    case = correction.keep_as_training_case(first, tmp_path)
    kept = sitk.ReadImage(str(tmp_path / "labelsTr" / f"{case}.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(kept), corrected)
    image = sitk.ReadImage(str(tmp_path / "imagesTr" / f"{case}_0000.nrrd"))
    assert np.allclose(image.GetOrigin(), kept.GetOrigin()) and image.GetSize() == kept.GetSize()
    assert json.loads((tmp_path / "dataset.json").read_text())["labels"] == {"background": 0, "Tissue": 1, "Bright": 2}


def test_nnunet_can_train_from_kept_cases(driver, panel, tmp_path):
    integrity = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity")  # extra `parity`
    from MedGenSlicerLib import correction

    node = driver.run(panel).results()[0]
    folder = tmp_path / "Dataset900_Kept"
    assert [correction.keep_as_training_case(node, folder) for _ in range(2)] == ["Head-MR", "Head-MR-2"]
    integrity.verify_dataset_integrity(str(folder), num_processes=1)  # raises where something does not fit


def test_an_edit_is_noticed_while_the_panel_is_open_once_for_many_strokes(driver, panel, monkeypatch):
    from MedGenSlicerLib import correction

    node = driver.run(panel).results()[0]
    looked = []
    real = correction.check
    monkeypatch.setattr(correction, "check", lambda node: looked.append(node) or real(node))
    for _stroke in range(3):
        edit(node)
        driver.process(50)
    assert not looked
    driver.wait(lambda: correction.edited(node), 10)
    driver.process(2 * correction.QUIET_MS)  # what it writes onto the result does not wake it again
    row = next(r for r in panel.results.rows if r.node_id == node.GetID())
    assert looked == [node] and "Corrected by hand" in row.banner.label.text()


def test_strokes_in_the_segment_editor_are_left_alone_until_the_panel_is_back(driver, panel, monkeypatch):
    from MedGenSlicerLib import correction

    node = driver.run(panel).results()[0]
    driver.open("MedGenJobs")
    edit(node)
    driver.process(2 * correction.QUIET_MS)
    assert not correction.edited(node)
    driver.open("MedGenSegment")
    driver.wait(lambda: correction.edited(node), 10)


def test_an_untouched_result_is_not_taken_for_edited(driver, panel):
    from MedGenSlicerLib import correction

    node = driver.run(panel).results()[0]
    node.CreateClosedSurfaceRepresentation()
    node.GetDisplayNode().SetOpacity(0.3)
    for _step in correction.check(node):
        pass
    assert not correction.edited(node)


def test_settings_and_results_survive_saving_and_loading_the_scene(driver, panel, tmp_path):
    from MedGenSlicerLib import correction

    panel.parameters.fields["low"].widget.setValue(70.0)
    first = driver.run(panel).results()[0]
    correction.open_editor(first)
    edit(first)
    driver.open("MedGenSegment")
    driver.wait(lambda: correction.edited(first))
    driver.save_scene(tmp_path)
    driver.scene.Clear(False)
    driver.process()
    assert panel.results.rows == []
    driver.load_scene(tmp_path)
    driver.wait(lambda: len(panel.results.rows) == 2)
    driver.process(200)
    assert panel.method.id == "gui_threshold"
    assert panel.parameters.fields["low"].widget.value() == 70.0
    assert panel.inputs.rows["image"].selector.currentNode().GetName() == "Head MR"
    labels = next(n for n in panel.state.results() if n.IsA("vtkMRMLSegmentationNode"))
    assert correction.edited(labels) and labels.GetNodeReference(correction.BEFORE_ROLE) is not None
    change = {c.name: c for c in correction.changes(labels)}["Bright"]
    assert 0 < change.dice < 1


def test_several_parameter_sets(driver, panel):
    panel.parameters.fields["low"].widget.setValue(60.0)
    first = panel.state.node
    panel.sets.addNode()
    driver.process()
    assert panel.state.node is not first
    panel.chooser.choose("gui_threshold")
    assert panel.parameters.fields["low"].widget.value() == 50.0
    panel.sets.setCurrentNode(first)
    driver.process()
    assert panel.parameters.fields["low"].widget.value() == 60.0


def test_synthetic_images_say_so_and_are_shown_beside_their_input(driver, panel):
    from MedGenSlicerLib import views

    panel.chooser.choose("gui_pseudo_ct")
    driver.process()
    ct, doubt = driver.run(panel).results()
    assert "synthetic" in ct.GetName() and ct.GetAttribute("MedGen.synthetic") == "1"
    row = next(r for r in panel.results.rows if r.node_id == ct.GetID())
    assert "not validated for treatment" in row.banner.label.text()
    assert ct.GetDisplayNode().GetLevel() == pytest.approx(40)
    assert views.comparing() and panel.results.back.isVisibleTo(panel.results.back.parentWidget())
    assert views.composite("MedGenLeft").GetBackgroundVolumeID() == driver.scene.GetFirstNodeByName("Head MR").GetID()
    assert views.composite("MedGenMiddle").GetBackgroundVolumeID() == ct.GetID()
    assert views.composite("MedGenRight").GetBackgroundVolumeID() == doubt.GetID()
    driver.click(panel.results.back)
    assert not views.comparing()


def test_a_closed_scene_leaves_the_users_own_views(driver, panel):
    from MedGenSlicerLib import views

    own = views.layout_node().GetViewArrangement()
    panel.chooser.choose("gui_pseudo_ct")
    driver.process()
    driver.run(panel)
    assert views.comparing()
    driver.scene.Clear(False)
    driver.process()
    assert views.layout_node().GetViewArrangement() == own


def test_the_mask_restricts_to_the_chosen_segment(driver, panel):
    import SimpleITK as sitk

    from MedGenSlicerLib import node_bridge

    mask = driver.run(panel).results()[0]
    panel.inputs.rows["mask"].selector.setCurrentNode(mask)
    driver.process()
    combo = panel.inputs.rows["mask"].segment
    combo.setCurrentIndex(combo.findText("Bright"))
    driver.process()
    node = driver.run(panel).results()[0]
    reference = driver.scene.GetFirstNodeByName("Head MR")
    assert set(np.unique(sitk.GetArrayFromImage(node_bridge.label_image(node, reference)))) == {0, 2}


def test_the_card_tells_paper_use_and_warnings(driver, panel):
    from MedGenSlicerLib import model_card

    html = model_card.card_html(panel.method)
    for words in ("Otsu", "Testing panels.", "Knows nothing of anatomy.", "Apache-2.0"):
        assert words in html


def test_no_stray_window_opens_and_every_control_has_a_tooltip(driver):
    from PySide6 import QtWidgets

    driver.head()
    widget = driver.open("MedGenSegment")
    widget.panel.chooser.choose("gui_threshold")
    driver.run(widget.panel)
    assert [w for w in QtWidgets.QApplication.topLevelWidgets() if w.isVisible() and w is not widget.parent] == []
    controls = (QtWidgets.QAbstractButton, QtWidgets.QComboBox, QtWidgets.QAbstractSpinBox, QtWidgets.QTableWidget)
    bare = [
        (type(w).__name__, w.property("text"))
        for w in widget.parent.findChildren(QtWidgets.QWidget)
        if isinstance(w, controls) and not w.toolTip() and not w.parentWidget().toolTip() and w.objectName() == ""
    ]
    assert bare == []


def sequence(driver, count: int = 3):
    """A browser with a proxy volume; frame n is n times brighter than 100."""
    import slicer

    frames = driver.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine frames")
    frames.SetIndexName("time")
    for number in range(count):
        node = driver.head(f"frame {number}", size=12)
        slicer.util.updateVolumeFromArray(node, slicer.util.arrayFromVolume(node) * (number + 1) // 2)
        frames.SetDataNodeAtValue(node, str(number * 0.5))
        driver.scene.RemoveNode(node)
    browser = driver.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Cine")
    browser.AddSynchronizedSequenceNodeID(frames.GetID())
    proxy = browser.GetProxyNode(frames)
    proxy.SetName("Cine MR")
    return browser, frames, proxy


def test_a_sequence_runs_frame_by_frame_into_the_same_browser(driver):
    import slicer

    from MedGenSlicerLib import node_bridge

    browser, frames, proxy = sequence(driver)
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_pseudo_ct")
    panel.inputs.rows["image"].selector.setCurrentNode(proxy)
    driver.process()
    row = panel.inputs.rows["image"]
    assert row.frames.text() == "All 3 frames"
    row.frames.setChecked(True)
    driver.process()
    panel.apply()
    driver.wait(lambda: not panel.controller.unfinished())
    driver.process(100)
    assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 3
    shown = [row.node() for row in panel.results.rows]
    assert len(shown) == 2 and all(browser.GetSequenceNode(node) is not None for node in shown)
    made = browser.GetSequenceNode(next(n for n in shown if n.GetAttribute("MedGen.output") == "ct"))
    assert made.GetNumberOfDataNodes() == 3 and made.GetNthIndexValue(2) == frames.GetNthIndexValue(2)
    for number in range(3):
        voxels = slicer.util.arrayFromVolume(frames.GetNthDataNode(number)).astype(float)
        expected = ((voxels.max() - voxels) / max(1e-6, voxels.max() - voxels.min()) * 1500 - 1000).astype(np.int16)
        image = node_bridge.volume_image(made.GetNthDataNode(number))
        assert np.abs(node_bridge.sitk.GetArrayFromImage(image) - expected).max() <= 1


def test_a_removed_or_renamed_result_is_shown_as_it_is(driver, panel):
    labels, counts = driver.run(panel).results()
    row = panel.results.rows[0]
    row.name.setText("My tissues")
    row.name.editingFinished.emit()
    assert labels.GetName() == "My tissues"
    driver.scene.RemoveNode(counts)
    driver.process(50)
    assert [r.node_id for r in panel.results.rows] == [labels.GetID()]
