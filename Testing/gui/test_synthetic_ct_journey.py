"""From a DICOM MR of a head to a CT series for planning: run, give an air pocket its density, export, read again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


@pytest.fixture
def series(tmp_path, monkeypatch):
    """The MR of an analytic head, 4 mm voxels, as an oblique DICOM series: (folder, what was read back)."""
    from medgen.benchmarks import exchange_sources
    from medgen.exchange.reading import read_dicom_folder
    from medgen.imaging.phantoms import analytic_head, render_mr

    rng = np.random.default_rng(5)
    mr = sitk.GetArrayFromImage(render_mr(analytic_head(rng, 4.0), "T1", rng))
    monkeypatch.setattr(exchange_sources, "voxels", lambda geometry: np.rint(300 * mr).astype(np.int16))
    oblique = next(g.axes for g in exchange_sources.GEOMETRIES if g.name == "oblique")
    geometry = exchange_sources.Geometry("head", mr.shape[::-1], (4.0, 4.0, 4.0), oblique, "MR")
    folder = exchange_sources.write_source(geometry, tmp_path / "series")
    return folder, read_dicom_folder(folder)[0]


@pytest.fixture
def panel(driver, series):
    from MedGenSlicerLib import node_bridge

    volume = driver.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Head MR")
    node_bridge.fill_volume(volume, series[1].image)
    volume.CreateDefaultDisplayNodes()
    panel = driver.open("MedGenSyntheticCT").panel
    return panel


def export(driver, panel, node, format_id: str, source: Path, folder: Path) -> None:
    from MedGenSlicerLib import export_dialog

    row = next(r for r in panel.results.rows if r.node_id == node.GetID())
    driver.click(row.export)
    dialog = export_dialog._open[0]
    dialog.format.setCurrentIndex([f.id for f in dialog.formats].index(format_id))
    dialog.folder.setText(str(folder))
    dialog.source.setText(str(source))
    driver.process()
    driver.click(dialog.button)
    driver.wait(lambda: dialog.process is None, 120)
    assert "Written" in dialog.status.label.text(), dialog.status.label.text()
    dialog.dialog.close()


def conforms(path: Path) -> None:
    """As dciodvfy judges; silent where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


def override(driver, panel, segmentation, segment: str):
    row = panel.tools.correct.form.rows["override"]
    row.selector.setCurrentNode(segmentation)
    driver.process()
    row.segment.setCurrentIndex(row.segment.findText(segment))
    driver.process()
    before = panel.tools.image()
    driver.click(panel.tools.correct.override)
    driver.wait(lambda: panel.tools.image() is not before)
    return panel.tools.image()


def test_mr_to_an_overridden_ct_series_with_exact_values_and_geometry(driver, panel, series, tmp_path):
    import pydicom
    import slicer

    from medgen.exchange.reading import read_dicom_folder
    from MedGenSlicerLib import correction

    folder, source = series
    panel.chooser.choose("gui_synthetic_ct")
    ct, segments, _doubt = driver.run(panel).results()
    pocket = (slice(28, 31), slice(20, 24), slice(20, 23))
    correction.layer_of(segments).voxels[pocket] = 3
    segments.GetSegmentation().GetLayerDataObject(0, correction.binary_name()).Modified()
    made = override(driver, panel, segments, "Air")
    expected = slicer.util.arrayFromVolume(ct).copy()
    assert (expected[pocket] != -1000).any()
    expected[pocket] = -1000

    export(driver, panel, made, "ct", folder, tmp_path / "out")
    (out,) = (tmp_path / "out").iterdir()
    again = read_dicom_folder(out)[0]
    assert np.array_equal(sitk.GetArrayFromImage(again.image), expected)  # HU, exactly
    assert again.image.GetSize() == source.image.GetSize()
    for told, wanted in (("GetOrigin", 1e-4), ("GetSpacing", 1e-6), ("GetDirection", 1e-6)):
        assert np.allclose(getattr(again.image, told)(), getattr(source.image, told)(), atol=wanted), told
    assert again.patient_id == source.patient_id and again.study_uid == source.study_uid
    assert again.frame_of_reference_uid == source.frame_of_reference_uid
    first = pydicom.dcmread(sorted(out.iterdir())[0])
    assert first.Modality == "CT" and first.ImageType[0] == "DERIVED" and "SYNTHETIC" in first.SeriesDescription
    assert "Air = -1000 HU" in first.DerivationDescription  # set by hand, and said so
    conforms(sorted(out.iterdir())[10])


def test_contours_of_body_and_bone_go_with_it(driver, panel, series, tmp_path):
    import pydicom

    from MedGenSlicerLib import export_files

    panel.chooser.choose("gui_synthetic_ct")
    _ct, segments, _doubt = driver.run(panel).results()
    findings = export_files.findings(segments, export_files.formats(segments)[0], series[0])
    for words in ("belong to a synthetic image", "'Air' is empty and will be left out"):
        assert any(words in sentence and not stops for stops, sentence in findings)
    for format_id, names in (("seg", "SegmentSequence SegmentLabel"), ("rtstruct", "StructureSetROISequence ROIName")):
        export(driver, panel, segments, format_id, series[0], tmp_path / format_id)
        (path,) = (tmp_path / format_id).glob("*.dcm")
        sequence, attribute = names.split()
        data = pydicom.dcmread(path)
        assert [getattr(item, attribute) for item in data[sequence]] == ["Body", "Bone"]
        assert data.SeriesDescription.endswith("[SYNTHETIC]")
        made_by = [item.ContributionDescription for item in data.ContributingEquipmentSequence]
        assert any(words.startswith("SYNTHETIC") for words in made_by)
        conforms(path)


def test_two_exports_at_once_do_not_disturb_each_other(driver, panel, series, tmp_path):
    """Each is started before the first has ended, as a user in a hurry does."""
    from MedGenSlicerLib import export_dialog

    panel.chooser.choose("gui_synthetic_ct")
    _ct, segments, _doubt = driver.run(panel).results()
    dialogs = []
    for name in ("one", "two"):
        dialogs.append(export_dialog.show(segments))
        dialogs[-1].folder.setText(str(tmp_path / name))
        dialogs[-1].source.setText(str(series[0]))
        driver.process()
        driver.click(dialogs[-1].button)
        assert all(each.process is not None for each in dialogs)
    driver.wait(lambda: all(each.process is None for each in dialogs), 240)
    for each in dialogs:
        assert "Written" in each.status.label.text(), each.status.label.text()
        each.dialog.close()
    assert all(len(list((tmp_path / name).glob("*.dcm"))) == 1 for name in ("one", "two"))


def test_a_transform_that_dicom_does_not_get_is_told(driver, panel, series):
    from MedGenSlicerLib import export_files

    panel.chooser.choose("gui_synthetic_ct")
    moved = driver.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
    panel.inputs.reference().SetAndObserveTransformNodeID(moved.GetID())
    ct = driver.run(panel).results()[0]
    dicom, nifti = (export_files.formats(ct)[i] for i in (0, 1))
    told = [
        [s for _stops, s in export_files.findings(ct, each, series[0]) if "'Moved'" in s] for each in (dicom, nifti)
    ]
    assert [len(each) for each in told] == [1, 0] and "lie where the source series lies" in told[0][0]


def test_stopping_power_in_the_scale_that_was_chosen(driver, panel, series, tmp_path):
    import slicer

    from medgen.exchange.reading import read_dicom_folder

    panel.chooser.choose("gui_synthetic_spr")
    (spr,) = driver.run(panel).results()
    export(driver, panel, spr, "ct_relative", series[0], tmp_path / "out")
    (out,) = (tmp_path / "out").iterdir()
    values = sitk.GetArrayFromImage(read_dicom_folder(out)[0].image)
    assert np.abs(values - 1000 * (slicer.util.arrayFromVolume(spr) - 1)).max() <= 0.501
    conforms(sorted(out.iterdir())[10])
