"""Many cases: broken ones do not stop the others, a stopped batch goes on, and the report says what happened."""

from __future__ import annotations

import csv
import gc
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.batch import DONE, FAILED, Row, Settings, read_table, run_batch, run_row
from medgen.batch_report import THUMBNAIL, write_report, write_thumbnail
from medgen.catalogue import find_method
from medgen.errors import BadInput
from medgen.running import PROVENANCE
from medgen.spec import Label, LabelMap


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(8**3, dtype=np.int16).reshape(8, 8, 8)), str(path))
    return path


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["image", "a.nrrd"], "column 'case'"),
        (["case,image"], "at least one row"),
        (["case,image,colour", "a,a.nrrd,red"], "no parameter 'colour'"),
        (["case,image", "a,a.nrrd", "a,b.nrrd"], "Two cases"),
        (["case,image", "../a,a.nrrd"], "cannot be a folder's name"),
        (["case,image", ".running,a.nrrd"], "cannot be a folder's name"),
    ],
)
def test_a_wrong_table_is_refused_with_a_sentence(tmp_path: Path, lines: list[str], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        read_table(write(tmp_path / "table.csv", *lines), find_method("identity"))


def test_broken_cases_fail_alone_and_a_second_start_does_only_them(tmp_path: Path, image: Path) -> None:
    (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\nthis is none")
    table = write(
        tmp_path / "table.csv",
        "case,image,seconds",
        "good,image.nrrd,",
        "gone,nowhere.nrrd,",
        "broken,broken.nrrd,",
        "eager,image.nrrd,-1",
    )
    spec, out = find_method("identity"), tmp_path / "out"
    statuses = run_batch(read_table(table, spec), Settings("identity", out), workers=2)
    assert {name: s.state for name, s in statuses.items()} == {
        "good": DONE,
        "gone": FAILED,
        "broken": FAILED,
        "eager": FAILED,
    }
    assert "no file" in statuses["gone"].sentence and "-1" in statuses["eager"].sentence
    page = write_report(spec, statuses, out).read_text("utf-8")
    assert "1 done, 3 failed" in page and "good/thumbnail.png" in page and "nowhere.nrrd" in page
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["good"]
    stamp = (out / "good" / "provenance.json").stat().st_mtime_ns

    sitk.WriteImage(sitk.ReadImage(str(image)), str(tmp_path / "nowhere.nrrd"))
    again = run_batch(read_table(table, spec), Settings("identity", out))
    assert again["gone"].state == DONE and again["broken"].state == FAILED
    assert (out / "good" / "provenance.json").stat().st_mtime_ns == stamp
    with (out / "status.csv").open(newline="", encoding="utf-8") as file:
        assert [line["state"] for line in csv.DictReader(file)] == [DONE, DONE, FAILED, FAILED]


def test_a_failure_that_nobody_foresaw_stops_one_case_only(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_arguments: object) -> None:
        raise ArithmeticError("of a library")

    monkeypatch.setattr("medgen.batch.read_case", burst)
    status = run_row(Row("a", {"image": image}, {}), Settings("identity", tmp_path / "out"))
    assert status.state == FAILED and "ArithmeticError: of a library" in status.sentence


def test_a_folder_that_this_method_did_not_make_does_not_count_as_done(tmp_path: Path, image: Path) -> None:
    rows, out = [Row("a", {"image": image}, {})], tmp_path / "out"
    (out / "a").mkdir(parents=True)  # as where the results are to go beside the images of the case
    (out / "a" / "slice.dcm").touch()
    with pytest.raises(BadInput, match="holds no result of a batch"):
        run_batch(rows, Settings("identity", out))
    (out / "a" / PROVENANCE).write_text('{"method": "another"}')
    with pytest.raises(BadInput, match="a result of 'another'"):
        run_batch(rows, Settings("identity", out))
    assert not (out / "status.csv").exists()


def test_a_status_table_that_a_spreadsheet_saved_does_not_stop_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / PROVENANCE).write_text('{"method": "identity"}')
    (tmp_path / "status.csv").write_bytes(b"case;state;seconds;sentence\r\na;done;1,5;\r\n")
    statuses = run_batch([Row("a", {}, {})], Settings("identity", tmp_path))
    assert statuses["a"].state == DONE


def test_a_dask_cluster_runs_the_cases(tmp_path: Path, image: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        statuses = run_batch(
            [Row(name, {"image": image}, {}) for name in "ab"],
            Settings("identity", tmp_path / "out"),
            cluster=cluster.scheduler_address,
        )
    assert [s.state for s in statuses.values()] == [DONE, DONE]
    copy = sitk.ReadImage(str(tmp_path / "out" / "b" / "image.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(copy), sitk.GetArrayFromImage(sitk.ReadImage(str(image))))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense"])
def test_no_cluster_at_the_address_is_one_sentence(
    address: str, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracebacks: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", tracebacks.append)
    with pytest.raises(BadInput, match="no dask scheduler"):
        run_batch([Row("a", {"image": image}, {})], Settings("identity", tmp_path / "out"), cluster=address)
    gc.collect()
    assert not tracebacks


def test_a_case_without_its_label_map_has_a_picture_all_the_same(tmp_path: Path, image: Path) -> None:
    write_thumbnail(find_method("diffusion_edit"), {"FLAIR": sitk.ReadImage(str(image))}, tmp_path)  # a series has none
    assert (tmp_path / THUMBNAIL).is_file()


def test_a_thumbnail_draws_each_label_in_its_own_colour(tmp_path: Path) -> None:
    grey = sitk.GetImageFromArray(np.zeros((20, 20, 20), np.float32))
    marks = np.zeros((20, 20, 20), np.uint8)
    marks[5:15, 5:15, 5:15] = 1
    sitk.WriteImage(sitk.GetImageFromArray(marks), str(tmp_path / "segments.nii.gz"))
    labels = (Label(1, "first", (255, 0, 0)), Label(2, "absent", (0, 255, 0)))
    spec = replace(find_method("identity"), outputs=(LabelMap("segments", "Segments", labels=labels),))
    write_thumbnail(spec, {"image": grey}, tmp_path)
    red, green, blue = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / THUMBNAIL)))[80, 80]
    assert red > 100 and green == blue == 0
