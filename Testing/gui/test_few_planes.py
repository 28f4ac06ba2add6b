"""The few-planes workflow with the real method: paint, 'This slice is complete', Apply, next slice, go on."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def panel(driver):
    driver.head("Any image", size=32, spacing=3.0)
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("multiplanar_unet_few_planes")
    driver.process()
    for name, value in (("updates", 20), ("training_planes", 8), ("orientations", 1)):
        panel.state.set_value(panel.method, name, value)
    return panel


def paint(driver, node, mask) -> None:
    """What the brush does: voxels of the first segment, on the reference grid."""
    import slicer

    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    reference = driver.scene.GetFirstNodeByName("Any image")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment_id, reference)


def test_paint_run_continue(driver, panel):
    import slicer

    from MedGenSlicerLib import views

    driver.click(panel.inputs.rows["painted"].layout.itemAt(2).widget())
    assert slicer.app.current_module == "SegmentEditor"
    painted = panel.state.input_node("painted")
    voxels = slicer.util.arrayFromVolume(driver.scene.GetFirstNodeByName("Any image"))
    mask = np.zeros(voxels.shape, bool)
    mask[16], mask[:, 16] = voxels[16] > 50, voxels[:, 16] > 50
    paint(driver, painted, mask)
    driver.open("MedGenSegment")
    for view in ("Red", "Green"):  # both lie at 0 mm, where voxel 16 is
        panel.extra.view.setCurrentIndex(panel.extra.view.findText(view))
        driver.click(panel.extra.complete)
    planes = panel.state.input_nodes("planes")
    assert len(planes) == 2
    assert np.allclose(np.abs(planes[0].GetNormalWorld()), [0, 0, 1], atol=1e-6)
    assert np.allclose(planes[0].GetOriginWorld(), [0, 0, 0], atol=1e-6)
    assert panel.inputs.rows["planes"].count.text() == "2 planes"
    ticket = driver.run(panel, 120)
    assert ticket.state == "finished", ticket.error
    suggested = panel.extra.next_plane()
    assert suggested is not None
    assert suggested.GetLocked() and not suggested.GetDisplayNode().GetHandlesInteractive()
    driver.click(panel.extra.suggest)
    _point, normal = views.slice_plane("Green")
    assert abs(np.dot(normal, suggested.GetNormalWorld())) == pytest.approx(1)
    model = panel.state.input_node("model")
    assert model is not None and model.GetAttribute("MedGen.output") == "model"
    panel.extra.go_on.setChecked(False)
    driver.process()
    assert panel.state.input_node("model") is None
