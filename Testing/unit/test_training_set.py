"""What `medgen batch` made of labelled frames, as a training set of pairs."""

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medgen import io
from medgen.benchmarks.exchange_sources import write_ultrasound
from medgen.errors import BadInput
from medgen.exchange.training_set import write_training_set
from medgen.methods.us_style_transfer.spec import STYLE_TRANSFER

PORTS = {port.name: port for port in STYLE_TRANSFER.outputs}


def case(folder: Path, samples: int, edges: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """A case as the batch leaves it; returns its pictures and labels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    pictures = [rng.integers(0, 256, (48, 64)).astype(np.uint8) for _ in range(samples)]
    truth = np.zeros((48, 64), np.uint8)
    truth[10:20, 30:40], truth[30:35, 5:15] = 1, 2
    values = {
        "restyled": [sitk.GetImageFromArray(pictures[0][None])],
        "labels": sitk.GetImageFromArray(truth[None]),
        "styles": {"sample": [*range(1, samples + 1)], "edge_correlation": [0.9] * samples, "edges": edges},
    }
    if samples > 1:
        values["samples"] = [sitk.GetImageFromArray(p[None]) for p in pictures]
    for name, value in values.items():
        io.write_value(PORTS[name], value, folder)
    facts = {"method": "us_style_transfer", "seed": 3, "weights_sha256": "ab", "parameters": {"style": "sampled"}}
    (folder / "provenance.json").write_text(json.dumps(facts))
    return pictures, truth


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_every_sample_is_a_pair_but_not_one_whose_edges_moved(tmp_path):
    pictures, truth = case(tmp_path / "batch" / "a", 3, ["kept", "moved", "kept"])
    single, _ = case(tmp_path / "batch" / "b2", 1, ["kept"])
    manifest = write_training_set(tmp_path / "batch", tmp_path / "out")
    rows = list(csv.DictReader(manifest.open()))
    assert [(row["case"], row["sample"], row["left_out"]) for row in rows] == [
        ("a", "1", ""), ("a", "2", "edges moved"), ("a", "3", ""), ("b2", "1", ""),
    ]  # fmt: skip
    assert rows[1]["image"] == "" and len(list((tmp_path / "out" / "images").iterdir())) == 3
    assert np.array_equal(read(tmp_path / "out" / rows[2]["image"]), pictures[2])
    assert np.array_equal(read(tmp_path / "out" / rows[3]["image"]), single[0])
    assert np.array_equal(read(tmp_path / "out" / rows[2]["labels"]), truth)
    assert all(row["synthetic"] == "yes" and row["weights_sha256"] == "ab" for row in rows)


def test_a_set_of_which_nothing_can_be_used_has_its_manifest(tmp_path):
    case(tmp_path / "batch" / "a", 2, ["moved", "moved"])
    rows = list(csv.DictReader(write_training_set(tmp_path / "batch", tmp_path / "out").open()))
    assert [row["left_out"] for row in rows] == ["edges moved"] * 2 and not (tmp_path / "out" / "images").exists()


def test_a_dicom_source_gives_derived_dicom_and_a_seg_that_refers_to_it(tmp_path):
    pictures, truth = case(tmp_path / "batch" / "a", 1, ["kept"])
    (tmp_path / "source").mkdir()
    write_ultrasound(tmp_path / "source" / "still.dcm")
    (tmp_path / "cases.csv").write_text("case,frames\na,source\n")
    manifest = write_training_set(tmp_path / "batch", tmp_path / "out", tmp_path / "cases.csv")
    [row] = csv.DictReader(manifest.open())
    picture, segments = (pydicom.dcmread(tmp_path / "out" / row[name]) for name in ("dicom", "dicom_seg"))
    assert np.array_equal(picture.pixel_array, pictures[0])
    assert "DERIVED" in picture.ImageType and "SYNTHETIC" in picture.SeriesDescription
    assert np.array_equal(segments.pixel_array.reshape(2, 48, 64) > 0, np.stack([truth == 1, truth == 2]))
    assert segments.ReferencedSeriesSequence[0].SeriesInstanceUID == picture.SeriesInstanceUID


@pytest.mark.parametrize("scale", [1 / 255, 16.0])
def test_pictures_of_a_source_without_8_bits_keep_their_greys(scale, tmp_path):
    pictures, _truth = case(tmp_path / "batch" / "a", 1, ["kept"])
    pictures[0][0, 0] = 255
    next((tmp_path / "batch" / "a").glob("restyled.*")).unlink()
    made = sitk.GetImageFromArray((pictures[0] * np.float32(scale))[None])
    io.write_value(PORTS["restyled"], [made], tmp_path / "batch" / "a")
    [row] = csv.DictReader(write_training_set(tmp_path / "batch", tmp_path / "out").open())
    assert np.array_equal(read(tmp_path / "out" / row["image"]), pictures[0])


def test_a_source_may_be_one_dicom_file_among_others_after_a_column_of_a_parameter(tmp_path):
    pictures, _truth = case(tmp_path / "batch" / "a", 1, ["kept"])
    (tmp_path / "stills").mkdir()
    for name in ("one.dcm", "two.dcm"):
        write_ultrasound(tmp_path / "stills" / name)
    (tmp_path / "cases.csv").write_text("case,style,frames\na,sampled,stills/one.dcm\n")
    manifest = write_training_set(tmp_path / "batch", tmp_path / "out", tmp_path / "cases.csv")
    [row] = csv.DictReader(manifest.open())
    assert np.array_equal(pydicom.dcmread(tmp_path / "out" / row["dicom"]).pixel_array, pictures[0])


def test_a_table_of_sources_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        write_training_set(tmp_path / "batch", tmp_path / "out", tmp_path / "cases.csv")


def test_without_labels_there_is_no_training_set(tmp_path):
    (tmp_path / "batch" / "a").mkdir(parents=True)
    with pytest.raises(BadInput, match="labels"):
        write_training_set(tmp_path / "batch", tmp_path / "out")
