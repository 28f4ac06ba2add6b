"""MedGenBatch clicked through: a folder in, a broken file among it, stop, go on, the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


def write_case(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(8**3, dtype=np.int16).reshape(8, 8, 8)), str(path))


@pytest.fixture
def panel(driver, tmp_path):
    from MedGenSlicerLib import method_catalogue

    made = driver.open("MedGenBatch").batch
    made.method = method_catalogue.find("identity")
    made.folder.setText(str(tmp_path / "out"))
    made.update()
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    cases = tmp_path / "cases"
    cases.mkdir()
    for name in ("anna.nii.gz", "bert.nrrd"):
        write_case(cases / name)
    (cases / "broken.nrrd").write_bytes(b"none")
    (cases / "notes.txt").write_text("no image")
    return cases


def test_a_folder_runs_with_its_broken_file_named(driver, panel, folder):
    assert not panel.start_button.isEnabled() and "Add the cases" in panel.message.text()
    panel.add(folder)
    assert [panel.table.item(row, 0).text() for row in range(3)] == ["anna", "bert", "broken"]
    driver.click(panel.start_button)
    assert panel.start_button.text() == "Stop" and not panel.add_folder.isEnabled()
    driver.wait(lambda: panel.process is None, 90)
    assert [panel.table.item(row, 1).text() for row in range(3)] == ["done", "done", "failed"]
    assert "broken.nrrd" in panel.table.item(2, 2).text()
    assert panel.message.text() == "2 of 3 done, 1 failed." and panel.report.isEnabled()
    assert (panel.out() / "anna" / "image.nii.gz").is_file()


def test_a_stopped_batch_goes_on_with_the_rest(driver, panel, folder):
    panel.use_table(Path(_slow_table(folder)))
    driver.click(panel.start_button)
    driver.wait(lambda: any(state == "done" for state, _note in panel.states().values()), 90)
    driver.click(panel.start_button)
    assert panel.start_button.text() == "Start" and "goes on" in panel.message.text()
    done = {p.parent.name: p.stat().st_mtime_ns for p in panel.out().glob("*/provenance.json")}
    assert 0 < len(done) < 4
    driver.click(panel.start_button)
    driver.wait(lambda: panel.process is None, 90)
    assert panel.message.text() == "4 of 4 done, 0 failed."
    for name, stamp in done.items():
        assert (panel.out() / name / "provenance.json").stat().st_mtime_ns == stamp


def _slow_table(folder: Path) -> Path:
    path = folder / "table.csv"
    rows = "".join(f"case{n},bert.nrrd,{0 if n == 0 else 2}\n" for n in range(4))
    path.write_text("case,image,seconds\n" + rows)
    return path


def test_a_table_without_the_inputs_says_which_column_is_missing(driver, panel, folder):
    path = folder / "table.csv"
    path.write_text("case,picture\na,bert.nrrd\n")
    panel.use_table(path)
    assert not panel.start_button.isEnabled() and "'image'" in panel.message.text()


def test_an_empty_folder_says_so(driver, panel, tmp_path):
    (tmp_path / "empty").mkdir()
    panel.add(tmp_path / "empty")
    assert "holds no image files" in panel.message.text()
