"""Exported objects: what is in them, what other readers find, and what the pre-flight stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import grid_points_in_poly
from typer.testing import CliRunner

from medgen.benchmarks import exchange as bench
from medgen.benchmarks.exchange_sources import GEOMETRIES, write_source, write_ultrasound
from medgen.errors import BadInput, MedGenError
from medgen.exchange import commands, preflight, roi_names, rtstruct, seg, series
from medgen.exchange.contours import outlines
from medgen.exchange.reading import Series, read_dicom_folder
from medgen.spec import Label

PROVENANCE = {"method": "demo", "method_version": "2", "weights_sha256": "ab" * 32, "seed": 7, "parameters": {"x": 1}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return read_dicom_folder(write_source(GEOMETRIES[0], tmp_path_factory.mktemp("axial")))[0]


@pytest.fixture(scope="module")
def labelmap(source: Series) -> sitk.Image:
    return bench.phantom(source.image)


def test_bench_exports_conform_and_read_back() -> None:
    missing = bench.missing_tools()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    oblique = [g for g in GEOMETRIES if g.name == "oblique"]
    tally = bench.measure(tuple(oblique))
    assert tally.dicom_errors == 0, tally.error_lines
    assert tally.seg_differing_voxels == 0
    assert min(tally.dice_over_1ml) >= 0.99 and min(tally.dice_bead) >= 0.95
    assert tally.ct_hu_error == 0 and tally.ct_geometry_error_mm < 1e-4 and tally.ct_uid_faults == 0


def test_seg_says_what_and_by_whom(source: Series, labelmap: sitk.Image, tmp_path: Path) -> None:
    data = pydicom.dcmread(seg.export_seg(labelmap, bench.LABELS, source, tmp_path / "s.dcm", PROVENANCE, edited=True))
    assert (data.PatientID, data.StudyInstanceUID) == (source.patient_id, source.study_uid)
    assert data.FrameOfReferenceUID == source.frame_of_reference_uid
    shell = data.SegmentSequence[0]
    assert shell.SegmentLabel == "Shell" and shell.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert shell.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    assert shell.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "demo"
    assert any("ab" * 32 in e.get("ContributionDescription", "") for e in data.ContributingEquipmentSequence)
    referred = {i.ReferencedSOPInstanceUID for i in data.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred <= set(source.instance_uids) and referred


def test_overlapping_segments_are_both_kept(source: Series, tmp_path: Path) -> None:
    size = source.image.GetSize()
    masks = np.zeros((*size[::-1], 2), np.uint8)
    masks[5:15, 10:30, 10:30, 0] = masks[10:20, 20:40, 20:40, 1] = 1
    image = sitk.GetImageFromArray(masks, isVector=True)
    image.CopyInformation(source.image)
    path = seg.export_seg(image, bench.LABELS[:2], source, tmp_path / "s.dcm", PROVENANCE)
    found = bench._frames_by_pydicom(path, source.image)
    assert (found[1] == masks[..., 0]).all() and (found[2] == masks[..., 1]).all()


def test_rtstruct_lies_on_the_slices_of_its_series(source: Series, labelmap: sitk.Image, tmp_path: Path) -> None:
    assert rtstruct.export_rtstruct(labelmap, bench.LABELS, source, tmp_path / "r.dcm", PROVENANCE) == []
    data = pydicom.dcmread(tmp_path / "r.dcm")
    heights = {h.SOPInstanceUID: float(h.ImagePositionPatient[2]) for h in source.headers}
    assert [roi.ROIName for roi in data.StructureSetROISequence] == ["Shell", "Islands", "Bead"]
    for roi in data.ROIContourSequence:
        for contour in roi.ContourSequence:
            z = np.array(contour.ContourData[2::3], float)
            assert np.ptp(z) == 0 and z[0] == pytest.approx(
                heights[contour.ContourImageSequence[0].ReferencedSOPInstanceUID], abs=1e-4
            )
    assert data.RTROIObservationsSequence[0].RTROIInterpretedType == "ORGAN"


def test_rtstruct_on_a_finer_series_of_the_same_frame(source: Series, labelmap: sitk.Image, tmp_path: Path) -> None:
    """A mask on another grid (as from an oblique MR) is cut on the planning series' own slices."""
    size = [n // 2 for n in labelmap.GetSize()]
    coarse = sitk.Resample(
        labelmap, size, sitk.Transform(), sitk.sitkNearestNeighbor, labelmap.GetOrigin(),
        [s * 2 for s in labelmap.GetSpacing()], labelmap.GetDirection(),
    )  # fmt: skip
    rtstruct.export_rtstruct(coarse, bench.LABELS[:1], source, tmp_path / "r.dcm", PROVENANCE)
    [shell] = pydicom.dcmread(tmp_path / "r.dcm").ROIContourSequence
    heights = sorted({float(c.ContourData[2]) for c in shell.ContourSequence})
    assert np.allclose(np.diff(heights), source.image.GetSpacing()[2])


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_outlines_fill_back_to_the_same_pixels(mask: np.ndarray) -> None:
    filled = np.zeros_like(mask)
    for ring in outlines(mask.astype(float)):
        filled ^= grid_points_in_poly(mask.shape, ring)
    assert (filled == mask).all()


@pytest.mark.filterwarnings("error:The value length")  # of a string in the file
def test_synthetic_ct_says_that_it_is_synthetic(source: Series, tmp_path: Path) -> None:
    image = sitk.Cast(source.image, sitk.sitkFloat32)
    two = {**PROVENANCE, "weights_sha256": f"{'ab' * 32}, {'cd' * 32}"}  # weights of another method took part
    files = series.export_ct(image, source, tmp_path, two, new_frame_of_reference=True)
    data = pydicom.dcmread(files[7])
    assert list(data.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert "SYNTHETIC" in data.SeriesDescription and data.DerivationDescription.startswith("SYNTHETIC")
    made_by = data.ContributingEquipmentSequence[0]
    assert made_by.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
    assert all(any(part * 20 in version for version in made_by.SoftwareVersions) for part in ("ab", "cd"))
    assert data.FrameOfReferenceUID != source.frame_of_reference_uid
    assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == source.headers[7].SOPInstanceUID


@pytest.mark.parametrize(
    "scale, words",
    [("spr", "SPR, water = 1 "), ("times", "1000 x SPR, water"), ("relative", "1000 x (SPR - 1), water")],
)
def test_stopping_power_is_written_in_the_scale_that_was_asked_for(
    source: Series, tmp_path: Path, scale: str, words: str
) -> None:
    spr = np.random.default_rng(0).uniform(0.001, 3.2, source.image.GetSize()[::-1]).astype(np.float32)
    spr[0, 0, :3] = (0.001, 1.0, 3.2)
    image = sitk.GetImageFromArray(spr)
    image.CopyInformation(source.image)
    files = series.export_ct(image, source, tmp_path, PROVENANCE, unit="SPR", scale=scale)  # type: ignore[arg-type]
    found = sitk.GetArrayFromImage(read_dicom_folder(tmp_path)[0].image)
    expected = {"spr": spr, "times": 1000 * spr, "relative": 1000 * (spr - 1)}[scale]
    step = 0.001 if scale == "spr" else 1.0
    assert np.abs(found - expected).max() <= 0.501 * step
    assert found[0, 0, :3] / step == pytest.approx(expected[0, 0, :3] / step, abs=1e-3)
    data = pydicom.dcmread(files[0])
    assert (
        data.RescaleType == "US" and data.SeriesDescription.startswith(words) and "SYNTHETIC" in data.SeriesDescription
    )


def test_axial_option_levels_an_oblique_volume(tmp_path: Path) -> None:
    geometry = next(g for g in GEOMETRIES if g.name == "oblique")
    oblique = read_dicom_folder(write_source(geometry, tmp_path / "source"))[0]
    image = sitk.Cast(oblique.image, sitk.sitkFloat32)
    series.export_ct(image, oblique, tmp_path / "ct", PROVENANCE, axial=True)
    level = read_dicom_folder(tmp_path / "ct")[0].image
    assert np.allclose(level.GetDirection(), np.eye(3).ravel())
    middle = image.TransformIndexToPhysicalPoint((32, 36, 18))
    assert level[level.TransformPhysicalPointToIndex(middle)] == pytest.approx(image[32, 36, 18], abs=5)


def test_inpainted_ultrasound_keeps_calibration_and_is_marked(tmp_path: Path) -> None:
    write_ultrasound(tmp_path / "cine.dcm", 3)
    [cine] = read_dicom_folder(tmp_path)
    path = series.export_picture(cine.image, cine, tmp_path / "out" / "o.dcm", PROVENANCE)
    [back] = read_dicom_folder(path.parent)
    assert back.image[0].GetSpacing() == cine.image[0].GetSpacing() and len(back.image) == 3
    assert list(back.first.ImageType)[:2] == ["DERIVED", "SECONDARY"] and "SYNTHETIC" in back.description
    assert back.first.SOPInstanceUID != cine.first.SOPInstanceUID


def findings(kind: preflight.Kind, image: sitk.Image, reference: Series | None, labels: tuple[Label, ...] = ()) -> str:
    return " | ".join(f"{f.level}: {f.sentence}" for f in preflight.check(kind, image, reference, labels))


def test_preflight_names_each_problem(source: Series, labelmap: sitk.Image) -> None:
    shell = bench.LABELS[0]
    assert findings("seg", labelmap, source, bench.LABELS) == ""
    assert "no reference series" in findings("seg", labelmap, None, bench.LABELS)
    assert "required: Segment 'Ghost' is empty" in findings("seg", labelmap, source, (Label(9, "Ghost", (0, 0, 0)),))
    uncoded = (replace(shell, terminology=None),)
    assert "required: Segment 'Shell' has no coded" in findings("seg", labelmap, source, uncoded)
    assert "doubtful: Segment 'Shell' has no coded" in findings("rtstruct", labelmap, source, uncoded)
    assert "doubtful" in findings("rtstruct", labelmap, source, (replace(shell, name="n" * 17),))
    assert "required" in findings("rtstruct", labelmap, source, (replace(shell, name="n" * 65),))
    assert "Two segments" in findings("seg", labelmap, source, (shell, replace(shell, value=2)))
    moved = sitk.Image(labelmap)
    moved.SetOrigin((5000.0, 0.0, 0.0))
    assert "required: The image lies outside" in findings("seg", moved, source, bench.LABELS)
    hu = sitk.Cast(source.image, sitk.sitkFloat32)
    assert findings("ct", hu, source) == "" and "end at 3071" in findings("ct", hu + 3000, source)


def test_preflight_stops_a_mix_of_patients_and_writes_nothing(
    source: Series, labelmap: sitk.Image, tmp_path: Path
) -> None:
    other = read_dicom_folder(write_source(GEOMETRIES[9], tmp_path / "other"))[0]
    other.first.PatientID = "Q-2"
    with pytest.raises(BadInput, match="different patients"):
        seg.export_seg(labelmap, bench.LABELS, source, tmp_path / "s.dcm", PROVENANCE, inputs=[other])
    assert not (tmp_path / "s.dcm").exists()


def test_a_ct_series_is_not_written_among_the_slices_of_another(tmp_path: Path) -> None:
    (tmp_path / "0020.dcm").touch()
    done = CliRunner().invoke(commands.export_app, ["ct", "volume.nrrd", "-r", "source", "-o", str(tmp_path)])
    assert isinstance(done.exception, BadInput) and "choose another folder" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["0020.dcm"]


def test_a_file_in_the_place_of_the_folder_is_one_sentence(
    source: Series, labelmap: sitk.Image, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MedGenError, match="could not be written"):
        seg.export_seg(labelmap, bench.LABELS, source, tmp_path / "file" / "s.dcm", PROVENANCE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Left kidney", "Kidney_L"), ("spinal cord", "SpinalCord"), ("Right submandibular gland", "Glnd_Submand_R"),
     ("kidney_left", "Kidney_L"), ("Body outline", "External"), ("some long unheard-of structure", "SomeLongUnheardO")],
)  # fmt: skip
def test_tg263_names(name: str, expected: str) -> None:
    assert roi_names.suggest(name) == expected
    assert len(roi_names.suggest(name)) <= 16
