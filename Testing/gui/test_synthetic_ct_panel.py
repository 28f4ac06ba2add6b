"""MedGenSyntheticCT clicked through, with the real worker: run, look, correct densities, check, export."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def panel(driver):
    driver.head()
    panel = driver.open("MedGenSyntheticCT").panel
    panel.chooser.choose("gui_synthetic_ct")
    driver.process()
    return panel


def array(node) -> np.ndarray:
    import slicer

    return slicer.util.arrayFromVolume(node)


def choose(form_row, node) -> None:
    form_row.selector.setCurrentNode(node)


def segments_of(results):
    return next(n for n in results if n.IsA("vtkMRMLSegmentationNode"))


def paint(node, segment: int, box: tuple[slice, slice, slice]) -> None:
    """What the Segment Editor does to voxels of the shared label image."""
    import slicer

    from MedGenSlicerLib import correction

    image = node.GetSegmentation().GetLayerDataObject(0, correction.binary_name())
    correction.layer_of(node).voxels[box] = segment
    image.Modified()
    node.GetSegmentation().InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)


def reference_like(driver, node, change):
    import slicer

    made = driver.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Reference CT")
    slicer.util.updateVolumeFromArray(made, change(array(node)).astype(np.float32))
    made.CopyOrientation(node)
    made.CreateDefaultDisplayNodes()
    return made


def line(driver, start, end):
    import vtk

    node = driver.scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "Beam")
    for point in (start, end):
        node.AddControlPoint(vtk.vtkVector3d(*point))
    return node


def check(driver, panel):
    driver.click(panel.tools.check)
    ticket = panel.ticket
    driver.wait(lambda: ticket.ended)
    driver.process(50)
    assert ticket.state == "finished", ticket.error
    return {n.GetAttribute("MedGen.output"): n for n in ticket.results()}


# ---------------------------------------------------------------------------------------------------------------- look


def test_the_result_lies_beside_the_mr_and_says_what_it_is(driver, panel):
    from MedGenSlicerLib import view_banner, views

    tools = panel.tools
    assert not tools.check.isEnabled() and "no synthetic image" in tools.check.toolTip()
    ct, segments, _doubt = driver.run(panel).results()
    assert tools.image() is ct and tools.source().GetName() == "Head MR"
    groups = {name: views.slice_node(name).GetViewGroup() for name in ("MedGenLeft", "MedGenRight", "Red")}
    assert groups["MedGenLeft"] == groups["MedGenRight"] != groups["Red"]  # or Slicer moves the user's own views along
    left, right = views.composite("MedGenLeft"), views.composite("MedGenRight")
    assert left.GetBackgroundVolumeID() == tools.source().GetID() and right.GetBackgroundVolumeID() == ct.GetID()
    assert not segments.GetDisplayNode().GetVisibility2DFill()  # filled, they would hide the densities
    banners = view_banner._banner.actors
    assert banners["MedGenRight"].GetVisibility() and not view_banner.shows_synthetic(left)
    row = next(r for r in panel.results.rows if r.node_id == ct.GetID())
    assert "not validated for treatment" in row.banner.label.text()
    driver.click(tools.look.blend)
    assert not views.comparing() and banners["Red"].GetVisibility()
    tools.look.opacity.setValue(0)
    driver.process()
    assert not banners["Red"].GetVisibility()  # nothing of it is seen
    tools.look.opacity.setValue(80)
    assert views.composite("Red").GetForegroundOpacity() == pytest.approx(0.8) and banners["Red"].GetVisibility()


def test_the_views_of_a_loaded_scene_say_it_too(driver, panel, tmp_path):
    from MedGenSlicerLib import view_banner

    driver.run(panel)
    driver.click(panel.tools.look.blend)
    banner = view_banner._banner.actors["Red"]
    assert banner.GetVisibility()
    driver.save_scene(tmp_path)
    driver.scene.Clear(False)
    driver.process()
    assert not banner.GetVisibility()
    driver.load_scene(tmp_path)
    assert banner.GetVisibility()


def test_windows_uncertainty_and_surface(driver, panel):
    import slicer

    from MedGenSlicerLib import views

    ct, _segments, doubt = driver.run(panel).results()
    look = panel.tools.look
    for name, level, width in (("brain", 40, 80), ("soft", 40, 400), ("bone", 500, 2000), ("full", 500, 3000)):
        driver.click(look.windows[name])
        assert (ct.GetDisplayNode().GetLevel(), ct.GetDisplayNode().GetWindow()) == (level, width)
        assert f"{level - width / 2:g} to" in look.windows[name].toolTip()
    driver.click(look.uncertainty)
    assert views.composite("Red").GetForegroundVolumeID() == doubt.GetID()
    assert doubt.GetDisplayNode().GetApplyThreshold()
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert [legend.GetTitleText() for legend in legends] == ["Uncertainty"]
    driver.click(look.surface)
    (model,) = [n for n in slicer.util.getNodesByClass("vtkMRMLModelNode") if n.GetAttribute("MedGen.method")]
    bounds, bone = [0.0] * 6, np.argwhere(array(ct) == 900)
    model.GetRASBounds(bounds)
    low, high = (bone.min(0)[::-1] - 0.5) * 4 - 80, (bone.max(0)[::-1] + 0.5) * 4 - 80
    assert np.allclose(bounds[::2], low, atol=2) and np.allclose(bounds[1::2], high, atol=2)
    assert "synthetic" in model.GetName() and model.GetAttribute("MedGen.synthetic") == "1"
    (banner,) = (
        slicer.app.layoutManager().three_d_widget.renderWindow().GetRenderers().GetFirstRenderer().GetViewProps()
    )
    assert banner.GetVisibility() and "not validated for treatment" in banner.GetInput()
    driver.click(look.surface)
    assert not model.GetDisplayVisibility() and not banner.GetVisibility()
    assert not look.difference.isEnabled() and "reference" in look.difference.toolTip()


def test_only_the_ct_itself_can_be_looked_at_corrected_and_exported_as_a_ct(driver, panel):
    from MedGenSlicerLib import densities, export_files

    ct, _segments, doubt = driver.run(panel).results()
    part = driver.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Part of it, in HU too (synthetic)")
    part.CopyOrientation(ct)
    for name in ct.GetAttributeNames():
        part.SetAttribute(name, ct.GetAttribute(name))
    part.SetAttribute("MedGen.output", "high")
    assert doubt.GetAttribute("MedGen.unit") == "HU" and densities.synthetic_volumes() == [ct]
    offered = {node: [each.id for each in export_files.formats(node)] for node in (ct, part, doubt)}
    assert offered[ct][0] == "ct" and offered[part] == offered[doubt] == ["nifti", "nrrd"]


def test_volumes_that_do_not_overlap_are_warned_of_before_the_run(driver):
    panel = driver.open("MedGenSyntheticCT").panel
    panel.chooser.choose("pseudo_spr")
    t1, fat = driver.head("T1"), driver.head("Dixon fat")
    for port, node in (("t1", t1), ("fat", fat)):
        panel.inputs.rows[port].selector.setCurrentNode(node)
    driver.process()
    assert "elsewhere" not in panel.inputs.rows["fat"].warning.label.text()
    fat.SetOrigin(500, 0, 0)
    panel.update()
    assert "elsewhere than 'T1'" in panel.inputs.rows["fat"].warning.label.text()
    assert panel.run_bar.button.text() == "Run anyway"
    moved = driver.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    back = np.eye(4)
    back[:3, 3] = -580, -80, -80
    import slicer

    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(back))
    fat.SetAndObserveTransformNodeID(moved.GetID())  # which brings it there
    panel.update()
    assert "elsewhere" not in panel.inputs.rows["fat"].warning.label.text()


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("pseudo_spr", {"water": "Dixon water", "t1": "T1 fat sat", "fat": "Dixon fat"}),
        ("pseudo_spr", {"water": None, "t1": None, "fat": "Patient dixon fat"}),
        ("pseudo_spr", {"water": None, "t1": "MR T1", "fat": None}),
        ("diffusion_segmentation", {"FLAIR": "T2 FLAIR", "T2": "T2 TSE", "T1": "T1", "T1c": "T1 with contrast"}),
        ("diffusion_segmentation", {"FLAIR": None, "T2": "T2 with motion", "T1": None, "T1c": None}),
        ("diffusion_segmentation", {"FLAIR": None, "T2": None, "T1": None, "T1c": "T1 with contrast"}),
        ("diffusion_segmentation", {"FLAIR": None, "T2": None, "T1": None, "T1c": "T1 MPRAGE Gd"}),
        ("diffusion_segmentation", {"FLAIR": None, "T2": None, "T1": "T1 without contrast", "T1c": "t1ce"}),
    ],
)
def test_each_mr_goes_to_the_input_that_asks_for_it(driver, method, wanted):
    nodes = {name: driver.head(name) for name in wanted.values() if name}
    panel = driver.open("MedGenSyntheticCT" if method != "diffusion_segmentation" else "MedGenSegment").panel
    panel.chooser.choose(method)
    driver.process()
    assert {port: panel.state.input_node(port) for port in wanted} == {p: nodes.get(n) for p, n in wanted.items()}


# ------------------------------------------------------------------------------------------------------------- correct


def test_an_override_makes_a_new_volume_and_can_be_taken_back(driver, panel):
    from MedGenSlicerLib import densities, provenance, views

    ct, segments, _doubt = driver.run(panel).results()
    paint(segments, 3, (slice(18, 21), slice(18, 21), slice(18, 21)))  # an air pocket
    before = array(ct).copy()
    correct = panel.tools.correct
    choose(correct.form.rows["override"], segments)
    driver.process()
    assert not correct.override.isEnabled() and "which segment" in correct.override.toolTip()  # there are three
    combo = correct.form.rows["override"].segment
    combo.setCurrentIndex(combo.findText("Bone"))
    driver.process()
    assert correct.preset.currentText() == "Bone" and correct.value.value() == 700
    combo.setCurrentIndex(combo.findText("Air"))
    driver.process()
    assert correct.preset.currentText() == "Air" and correct.value.value() == -1000
    driver.click(correct.override)
    driver.wait(lambda: panel.tools.image() is not ct)
    made = panel.tools.image()
    expected = before.copy()
    expected[18:21, 18:21, 18:21] = -1000
    assert np.array_equal(array(made), expected) and np.array_equal(array(ct), before)
    assert made.GetName() == "Head MR CT (synthetic), Air = -1000 HU" and made in panel.state.results()
    assert provenance.is_synthetic(made) and provenance.reference_of(made) is provenance.reference_of(ct)
    assert made.GetAttribute("MedGen.method") == "gui_synthetic_ct"
    assert densities.overrides(made) == [{"segment": "Air", "value": -1000.0, "unit": "HU", "ml": 27 * 0.064}]
    assert views.composite("MedGenRight").GetBackgroundVolumeID() == made.GetID()
    check(driver, panel)
    assert all(row.node_id != made.GetID() for row in panel.results.rows)  # the check is the newest
    combo.setCurrentIndex(combo.findText("Bone"))
    correct.value.setValue(1200)
    driver.process()
    driver.click(correct.override)
    driver.wait(lambda: panel.tools.image() is not made)
    twice = panel.tools.image()
    assert [each["value"] for each in densities.overrides(twice)] == [-1000.0, 1200.0]
    assert {made.GetID(), twice.GetID()} <= {row.node_id for row in panel.results.rows}  # listed, ready for export
    for older in (made, ct):
        driver.click(correct.undo)
        assert panel.tools.image() is older
    assert not correct.undo.isEnabled() and np.array_equal(array(ct), before)
    assert views.composite("MedGenRight").GetBackgroundVolumeID() == ct.GetID()


def test_stopping_power_has_its_own_values(driver, panel):
    panel.chooser.choose("gui_synthetic_spr")
    (spr,) = driver.run(panel).results()
    correct, look = panel.tools.correct, panel.tools.look
    titles = {correct.preset.itemText(i): i for i in range(correct.preset.count())}
    values = {}
    for title, index in titles.items():
        correct.preset.setCurrentIndex(index)
        values[title] = correct.value.value()
    assert values["Air"] == 0.001 and values["Metal (titanium)"] == 3.2
    assert look.beside.text() == "MR | SPR" and correct.value.suffix() == " SPR"
    driver.click(look.windows["soft"])
    assert spr.GetDisplayNode().GetLevel() == pytest.approx(1.0)


def test_an_empty_segment_is_refused_with_a_sentence(driver, panel):
    ct, segments, _doubt = driver.run(panel).results()
    row = panel.tools.correct.form.rows["override"]
    choose(row, segments)
    driver.process()
    row.segment.setCurrentIndex(row.segment.findText("Air"))
    driver.process()
    driver.click(panel.tools.correct.override)
    driver.wait(lambda: panel.results.message.label.text() != "")
    assert "'Air' is empty" in panel.results.message.label.text() and panel.tools.image() is ct


def test_an_override_is_seen_though_the_views_show_the_mr(driver, panel):
    from MedGenSlicerLib import views

    ct, segments, _doubt = driver.run(panel).results()
    views.own_layout()
    for each in views.composites():  # as the Segment Editor leaves them
        each.SetBackgroundVolumeID(panel.tools.source().GetID())
    row = panel.tools.correct.form.rows["override"]
    choose(row, segments)
    driver.process()
    row.segment.setCurrentIndex(row.segment.findText("Bone"))
    driver.process()
    driver.click(panel.tools.correct.override)
    driver.wait(lambda: panel.tools.image() is not ct)
    assert views.comparing() and views.is_displayed(panel.tools.image())


def test_what_was_corrected_by_hand_is_the_next_run_s_input(driver, panel):
    from MedGenSlicerLib import views

    ct, segments, _doubt = driver.run(panel).results()
    assert panel.inputs.rows["bone"].selector.currentNode() is None
    box = (slice(5, 9), slice(18, 22), slice(18, 22))
    paint(segments, 2, box)
    driver.click(next(r for r in panel.results.rows if r.node_id == segments.GetID()).correct)
    assert not views.comparing()  # the editor would show the MR twice
    driver.open("MedGenSegment")
    driver.open("MedGenSyntheticCT")
    driver.wait(lambda: panel.inputs.rows["bone"].selector.currentNode() is segments)
    assert panel.inputs.rows["body"].segment.currentText() == "Body"
    assert panel.inputs.rows["bone"].segment.currentText() == "Bone"
    told = panel.results.message.label.text()
    assert told.count("is used in the next run") == 3 and "'Body'" in told and "'Bone'" in told and "'Air'" in told
    choose(panel.inputs.rows["body"], None)  # the user may say otherwise, and it stays so
    choose(panel.inputs.rows["air"], None)
    driver.process(50)
    assert panel.inputs.rows["body"].selector.currentNode() is None
    again = driver.run(panel).results()[0]
    assert (array(again)[box] == 900).all() and not (array(ct)[box] == 900).any()
    other = driver.head("Another patient's MR")
    choose(panel.inputs.rows["image"], other)
    panel.state.node.UnsetParameter(f"option.fed.gui_synthetic_ct.bone.{segments.GetID()}")  # as if never offered
    choose(panel.inputs.rows["bone"], None)
    driver.process(50)
    assert panel.inputs.rows["bone"].selector.currentNode() is None  # another patient's bone is no input


def test_bone_and_air_are_looked_for_in_the_mr(driver, panel, monkeypatch):
    """With the head weights; here only what is asked for, and what becomes of the answer."""
    asked = []
    monkeypatch.setattr(panel, "start", lambda method, inputs, values: asked.append((method.id, inputs, values)))
    driver.click(panel.tools.correct.find)
    (method, inputs, values) = asked[0]
    assert method == "multiplanar_unet" and values == {"structures": "bone_air"}
    assert inputs["image"][0].GetName() == "Head MR"
    segments = segments_of(driver.run(panel).results())
    segments.SetAttribute("MedGen.output", "bone_air")
    panel.update()
    assert panel.inputs.rows["bone"].selector.currentNode() is segments
    assert panel.inputs.rows["air"].segment.currentText() == "Air"


# --------------------------------------------------------------------------------------------------------------- check


def test_a_check_tells_errors_shows_them_and_measures_along_a_line(driver, panel):
    import slicer

    from MedGenSlicerLib import node_bridge, views

    ct = driver.run(panel).results()[0]
    reference = reference_like(driver, ct, lambda voxels: np.where(voxels == 900, 1000, voxels))
    form = panel.tools.form
    choose(form.rows["reference"], reference)
    choose(form.rows["lines"], line(driver, (-70, -2, -2), (70, -2, -2)))
    driver.process()
    made = check(driver, panel)
    metrics = node_bridge.table(made["metrics"])
    bone = metrics["region"].index("bone")
    assert metrics["ME (HU)"][bone] == -100 and metrics["Dice"][bone] in (1, "1.0", 1.0)
    table = next(row for row in panel.results.rows if row.node() is made["metrics"])
    driver.click(table.eye)
    assert views.table_shown(made["metrics"]) and not views.comparing()
    driver.click(table.eye)
    assert not views.table_shown(made["metrics"])
    driver.click(panel.tools.look.difference)
    difference = made["difference"]
    assert (array(difference)[array(ct) == 900] == -100).all()
    display = difference.GetDisplayNode()
    assert display.GetLevel() == 0 and display.GetWindow() == 200  # centred at 0
    colour = [0.0] * 4
    display.GetColorNode().GetColor(127, colour)
    assert min(colour[:3]) > 0.95  # white where they agree
    shown = [views.composite(f"MedGen{place}").GetBackgroundVolumeID() for place in ("Left", "Middle", "Right")]
    assert shown == [ct.GetID(), reference.GetID(), difference.GetID()]
    assert all(views.composite(f"MedGen{place}").GetLinkedControl() for place in ("Left", "Middle", "Right"))
    assert panel.results.table.isVisibleTo(panel.results.table.parentWidget())
    assert panel.results.table.horizontalHeaderItem(1).text() == "MAE (HU)"
    paths = node_bridge.table(made["water_paths"])
    millimetres = 4 * np.count_nonzero(array(ct)[19, 19] == 900)
    assert paths["difference (mm)"][0] == pytest.approx(-millimetres * 100 * 0.4 / 700, abs=0.01)
    chart = made["water_depth"]
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    assert chart.GetNthPlotSeriesNode(0).GetTableNode().GetNumberOfRows() > 250
    assert panel.tools.look.difference.isEnabled() and panel.tools.image() is ct
    slicer.mrmlScene.RemoveNode(reference)
    driver.process()
    driver.click(panel.tools.look.difference)  # with what is left


def test_without_a_reference_the_water_path_is_plotted_by_the_table_that_was_edited(driver, panel, monkeypatch):
    import slicer

    from MedGenSlicerLib import node_bridge, views

    own = views.layout_node().GetViewArrangement()
    plotted = []
    monkeypatch.setattr(views, "show_chart", lambda chart, shown: plotted.append((chart, shown)))
    ct = driver.run(panel).results()[0]
    form = panel.tools.form
    choose(form.rows["lines"], line(driver, (-70, -2, -2), (70, -2, -2)))
    form.rows["calibration"].make_new()
    driver.process()
    assert views.layout_node().GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView
    driver.click(panel.results.back)
    assert views.layout_node().GetViewArrangement() == own
    table = panel.state.input_node("calibration")
    assert node_bridge.table(table)["HU"][0] == -1024
    for row in range(table.GetNumberOfRows()):  # everything is twice as dense as water
        table.GetTable().SetValueByName(row, "SPR", 2.0 + row * 1e-9)
    table.Modified()
    made = check(driver, panel)
    assert set(made) == {"histogram", "water_paths", "water_depth", "spr_profile"}
    assert node_bridge.table(made["water_paths"])["WET synthetic (mm)"] == pytest.approx([280.0], abs=0.01)
    assert made["histogram"].GetNumberOfPlotSeriesNodes() == 1  # no reference, no line for it
    assert plotted == [(made["water_depth"], True)]
    assert panel.tools.image() is ct


def test_a_line_is_placed_with_two_clicks(driver, panel):
    import slicer

    driver.run(panel)
    panel.tools.form.rows["lines"].make_new()
    node = panel.state.input_node("lines")
    assert node.IsA("vtkMRMLMarkupsLineNode")
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place and not interaction.GetPlaceModePersistence()
    driver.process()
    assert panel.tools.form.rows["lines"].selector.currentNode() is node
    driver.click(panel.tools.check)  # no point yet
    ticket = panel.ticket
    driver.wait(lambda: ticket.ended)
    assert ticket.state == "failed" and "two points" in panel.run_bar.problem.label.text()


def test_the_scene_keeps_everything(driver, panel):
    """The choice, the overrides and the difference's colours survive what a saved scene keeps of nodes."""
    from MedGenSlicerLib import densities

    driver.run(panel)
    node = panel.tools.image()
    node.SetAttribute(densities.OVERRIDES, json.dumps([{"segment": "Air", "value": 1, "unit": "HU", "ml": 2.0}]))
    assert panel.state.node.GetNodeReference("input.synthetic_ct.image") is node
    driver.scene.Clear(False)
    driver.process(50)
    assert panel.tools.image() is None and densities.synthetic_volumes() == []


# -------------------------------------------------------------------------------------------------------------- export


def dialog_for(driver, panel, node, format_id, folder):
    from MedGenSlicerLib import export_dialog

    row = next(r for r in panel.results.rows if r.node_id == node.GetID())
    driver.click(row.export)
    dialog = export_dialog._open[0]
    dialog.format.setCurrentIndex([f.id for f in dialog.formats].index(format_id))
    dialog.folder.setText(str(folder))
    driver.process()
    return dialog


def test_the_pre_flight_names_the_scale_and_what_was_set_by_hand(driver, panel, tmp_path):
    from MedGenSlicerLib import densities

    panel.chooser.choose("gui_synthetic_spr")
    (spr,) = driver.run(panel).results()
    entry = {"segment": "Air", "value": 0.001, "unit": "SPR", "ml": 1.7}
    spr.SetAttribute(densities.OVERRIDES, json.dumps([entry]))
    dialog = dialog_for(driver, panel, spr, "ct_relative", tmp_path)
    assert "1000 x (SPR - 1)" in dialog.format.currentText()
    words = dialog.checks.text()
    assert "'Air' (1.7 ml) was set to 0.001 SPR by hand." in words and "synthetic" in words
    assert "planning system reads CT numbers as this scale" in words


def test_a_chart_is_exported_as_its_table(driver, panel, tmp_path):
    driver.run(panel)
    made = check(driver, panel)
    dialog = dialog_for(driver, panel, made["histogram"], "csv", tmp_path)
    driver.click(dialog.button)
    (path,) = tmp_path.glob("*.csv")
    assert path.read_text().splitlines()[0] == "HU or SPR,synthetic"
