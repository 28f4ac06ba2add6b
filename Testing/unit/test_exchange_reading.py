"""A DICOM folder becomes images that lie where the slices lie, with the values the scanner meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless

from medgen.benchmarks.exchange_sources import GEOMETRIES, Geometry, voxels, write_source, write_ultrasound
from medgen.errors import BadInput
from medgen.exchange.reading import Series, read_dicom_folder, read_series

REGULAR = [g for g in GEOMETRIES if g.name not in ("gantry_tilt", "variable_spacing")]


def only(folder: Path) -> Series:
    [series] = read_dicom_folder(folder)
    return series


def geometry_named(name: str) -> Geometry:
    return next(g for g in GEOMETRIES if g.name == name)


@pytest.mark.parametrize("geometry", REGULAR, ids=lambda g: g.name)
def test_every_voxel_lies_where_its_slice_says(geometry: Geometry, tmp_path: Path) -> None:
    series = only(write_source(geometry, tmp_path))
    image, values = series.image, voxels(geometry)
    assert isinstance(image, sitk.Image) and not series.notes
    for i, j, k in [(0, 0, 0), (5, 3, values.shape[0] - 1), tuple(n - 1 for n in geometry.size)]:
        offset = np.array([i, j]) * geometry.spacing_mm[:2]
        point = geometry.positions[k] + offset @ np.array(geometry.axes)
        index = image.TransformPhysicalPointToContinuousIndex(point.tolist())
        assert np.allclose(index, np.round(index), atol=1e-4)
        assert image[tuple(round(v) for v in index)] == values[k, j, i]


def test_a_tilted_gantry_is_resampled_and_said(tmp_path: Path) -> None:
    geometry = geometry_named("gantry_tilt")
    series = only(write_source(geometry, tmp_path))
    assert not series.follows_slices
    assert series.notes == ["The gantry was tilted by 15.0 degrees: resampled to a right-angled grid."]
    image, values = series.image, voxels(geometry)
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)).T @ np.reshape(image.GetDirection(), (3, 3)), np.eye(3))
    for i, j, k in [(32, 30, 0), (32, 35, 20), (20, 10, 35)]:  # in the flat parts of the phantom
        point = geometry.positions[k] + np.array([i, j]) @ np.array(geometry.axes)
        assert (
            abs(
                sitk.GetArrayFromImage(image)[image.TransformPhysicalPointToIndex(point.tolist())[::-1]]
                - values[k, j, i]
            )
            <= 3
        )


def test_uneven_slices_are_resampled_and_said(tmp_path: Path) -> None:
    geometry = geometry_named("variable_spacing")
    series = only(write_source(geometry, tmp_path))
    assert "1.5 mm" in series.notes[0] and series.image.GetSize()[2] == 43
    array, values = sitk.GetArrayFromImage(series.image), voxels(geometry)
    for k, height in enumerate(geometry.heights):
        assert (array[int(height)] == values[k]).all()
    assert np.abs(array[17] - (values[16].astype(float) + values[17]) / 2).max() <= 1


def test_several_series_in_one_folder_stay_apart(tmp_path: Path) -> None:
    write_source(geometry_named("axial"), tmp_path / "a")
    write_source(geometry_named("sagittal"), tmp_path / "b")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    assert sorted(s.modality for s in read_dicom_folder(tmp_path)) == ["CT", "MR"]
    with pytest.raises(BadInput, match="holds 2 images"):
        read_series(tmp_path)


def test_copies_of_a_file_are_no_second_volume(tmp_path: Path) -> None:
    folder = write_source(GEOMETRIES[0], tmp_path)
    alone, _ = read_series(folder)
    first = sorted(folder.glob("*.dcm"))[0]
    (folder / "copy of it.dcm").write_bytes(first.read_bytes())
    image, _ = read_series(folder)
    assert image.GetSize() == alone.GetSize()


def test_echoes_in_one_series_become_one_volume_each(tmp_path: Path) -> None:
    write_source(geometry_named("axial"), tmp_path / "a")
    for number, file in enumerate(sorted((tmp_path / "a").iterdir())):
        data = pydicom.dcmread(file)
        for echo in (10, 20):
            data.EchoTime, data.SOPInstanceUID = echo, f"1.2.3.{number}.{echo}"
            data.RescaleIntercept = echo
            data.save_as(tmp_path / f"{number}_{echo}.dcm")
        file.unlink()
    first, second = read_dicom_folder(tmp_path)
    assert first.description.endswith("(1 of 2)")
    gap = sitk.GetArrayFromImage(second.image).astype(int) - sitk.GetArrayFromImage(first.image)
    assert (gap == 10).all()


@pytest.mark.parametrize("syntax", ["", RLELossless, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize(("frames", "colour"), [(1, False), (4, False), (3, True)])
def test_ultrasound_stills_and_cines(syntax: str, frames: int, colour: bool, tmp_path: Path) -> None:
    if syntax == JPEGLosslessSV1:
        pixels = write_ultrasound(tmp_path / "a.dcm", frames, colour)
        compress_by_dcmtk(tmp_path / "a.dcm")
    else:
        pixels = write_ultrasound(tmp_path / "a.dcm", frames, colour, syntax)
    image = only(tmp_path).image
    images = image if isinstance(image, list) else [image]
    assert len(images) == frames
    assert (np.stack([sitk.GetArrayFromImage(i) for i in images]) == pixels).all()
    assert images[0].GetSpacing() == pytest.approx((0.2, 0.3))


def compress_by_dcmtk(path: Path, *options: str) -> None:
    import shutil
    import subprocess

    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmtk (dcmcjpeg) is not installed")
    subprocess.run(["dcmcjpeg", *(options or ("+e1",)), str(path), str(path)], check=True)


def test_lossy_ybr_colour_comes_back_as_rgb(tmp_path: Path) -> None:
    pixels = write_ultrasound(tmp_path / "a.dcm", 3, True)
    compress_by_dcmtk(tmp_path / "a.dcm", "+eb", "+q", "95", "+cy")
    stored = pydicom.dcmread(tmp_path / "a.dcm")
    assert stored.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert stored.PhotometricInterpretation.startswith("YBR")
    array = np.stack([sitk.GetArrayFromImage(i) for i in only(tmp_path).image])
    assert np.abs(array.astype(int) - pixels).mean() < 4


def test_a_file_cut_short_gets_one_sentence(tmp_path: Path) -> None:
    file = sorted(write_source(geometry_named("axial"), tmp_path).iterdir())[3]
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(BadInput, match="cannot be decoded"):
        _ = only(tmp_path).image


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no DICOM image"):
        read_dicom_folder(tmp_path)
