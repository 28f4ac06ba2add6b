"""Export clicked through: plain files here, DICOM through `medgen export` in the worker's Python, on a real series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


@pytest.fixture
def panel(driver):
    driver.head()
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    return panel


def dialog_for(driver, panel, kind: str, format_id: str, folder: Path):
    from MedGenSlicerLib import export_dialog

    node = next(n for n in panel.state.results() if n.IsA(kind))
    row = next(r for r in panel.results.rows if r.node_id == node.GetID())
    driver.click(row.export)
    dialog = export_dialog._open[0]
    dialog.format.setCurrentIndex([f.id for f in dialog.formats].index(format_id))
    dialog.folder.setText(str(folder))
    driver.process()
    return dialog


@pytest.mark.parametrize("format_id, ending", [("nifti", ".nii.gz"), ("segnrrd", ".seg.nrrd")])
def test_segmentation_to_a_file_in_world_coordinates(driver, panel, tmp_path, format_id, ending):
    node = driver.run(panel).results()[0]
    parent = driver.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    if format_id == "nifti":
        node.SetAndObserveTransformNodeID(parent.GetID())
        matrix = parent.GetMatrixTransformToParent()
        matrix.SetElement(0, 3, 10.0)
        parent.SetMatrixTransformToParent(matrix)
    dialog = dialog_for(driver, panel, "vtkMRMLSegmentationNode", format_id, tmp_path)
    driver.click(dialog.button)
    (path,) = tmp_path.glob(f"*{ending}")
    assert str(path) in dialog.status.label.text()
    image = sitk.ReadImage(str(path))
    assert set(np.unique(sitk.GetArrayFromImage(image))) == {0, 1, 2}
    if format_id == "nifti":
        assert image.GetOrigin()[0] == pytest.approx(80 - 10)  # RAS -80 moved by 10 is LPS 70


def test_table_to_csv(driver, panel, tmp_path):
    driver.run(panel)
    dialog = dialog_for(driver, panel, "vtkMRMLTableNode", "csv", tmp_path)
    driver.click(dialog.button)
    (path,) = tmp_path.glob("*.csv")
    assert path.read_text().splitlines()[0] == "structure,voxels"


def test_dicom_without_its_source_says_what_is_missing(driver, panel, tmp_path):
    driver.run(panel)
    dialog = dialog_for(driver, panel, "vtkMRMLSegmentationNode", "seg", tmp_path)
    assert not dialog.button.isEnabled()
    assert "DICOM files of the source image" in dialog.checks.text()


def test_an_unwritable_folder_is_told(driver, panel, tmp_path):
    driver.run(panel)
    (tmp_path / "file").write_text("")
    dialog = dialog_for(driver, panel, "vtkMRMLSegmentationNode", "nifti", tmp_path / "file")
    driver.click(dialog.button)
    assert "could not be written" in dialog.status.label.text()


@pytest.fixture
def series(tmp_path):
    """An axial CT series, and the volume node that Slicer would make of it."""
    from medgen.benchmarks.exchange_sources import GEOMETRIES, write_source
    from medgen.exchange.reading import read_dicom_folder

    folder = write_source(GEOMETRIES[0], tmp_path / "series")
    return folder, read_dicom_folder(folder)[0]


@pytest.mark.parametrize("format_id", ["seg", "rtstruct"])
def test_segmentation_to_dicom(driver, series, tmp_path, format_id):
    import pydicom
    import slicer

    from MedGenSlicerLib import node_bridge

    folder, source = series
    volume = driver.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT MR")
    node_bridge.fill_volume(volume, source.image)
    panel = driver.open("MedGenSegment").panel
    panel.chooser.choose("gui_threshold")
    panel.inputs.rows["image"].selector.setCurrentNode(volume)
    panel.state.set_value(panel.method, "low", 0.0)
    panel.state.set_value(panel.method, "high", 40.0)
    assert driver.run(panel).state == "finished"
    dialog = dialog_for(driver, panel, "vtkMRMLSegmentationNode", format_id, tmp_path / "out")
    dialog.source.setText(str(folder))
    driver.process()
    driver.click(dialog.button)
    driver.wait(lambda: dialog.process is None, 90)
    assert "Written" in dialog.status.label.text(), dialog.status.label.text()
    (path,) = (tmp_path / "out").glob("*.dcm")
    dataset = pydicom.dcmread(path)
    if format_id == "seg":
        assert [s.SegmentLabel for s in dataset.SegmentSequence] == ["Tissue", "Bright"]
        assert {s.SegmentAlgorithmType for s in dataset.SegmentSequence} == {"AUTOMATIC"}
    else:
        assert [s.ROIName for s in dataset.StructureSetROISequence] == ["Tissue", "Bright"]
    assert not (Path(slicer.app.temporaryPath) / "MedGenExport").exists()  # it held the patient's image
