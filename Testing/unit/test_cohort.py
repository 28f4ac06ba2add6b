"""A folder of synthetic images with its manifest: made, interrupted, continued, checked. The worker is played: the gate
itself is tested elsewhere."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medgen import cohort
from medgen.catalogue import find_method
from medgen.cohort import Cohort, check_cohort, make_cohort
from medgen.errors import BadInput, MedGenError
from medgen.spec import Float, Image, Int, MethodSpec, Table
from medgen.worker.jobs import JobRequest

MAKER = replace(
    find_method("identity"),
    id="maker",
    inputs=(),
    outputs=(Image("brains", "Brains", kind="set", synthetic=True), Table("codes", "Codes")),
    parameters=(Int("count", "Brains", 3),),
)


class PlayedWorker:
    def __init__(self, fail_at: int = -1) -> None:
        self.requests: list[JobRequest] = []
        self.fail_at = fail_at

    def run(self, request: JobRequest, on_event: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        if request.seed == self.fail_at:
            raise MedGenError("The worker stopped.")
        self.requests.append(request)
        provenance = {"method": request.method_id, "device": "cpu", "parameters": request.parameters}
        provenance |= {"weights_sha256": "abc", "started_utc": "2026"}
        if request.method_id == "generator_gate":
            flags = {"flag": ["COLLAPSED"], "raised": ["no"], "why": ["they differ"]}
            return {"flags": flags, "scores": {"measure": ["a"], "value": [1 / 3]}}, provenance
        images = [ball(request.seed + n) for n in range(int(request.parameters.get("count", 1)))]
        return {"brains": images, "codes": {"name": [f"seed {request.seed}"], "w1": [0.5]}}, provenance


def ball(seed: int) -> sitk.Image:
    return sitk.GetImageFromArray(np.full((4, 4, 4), seed, np.float32))


def asked(folder: Path, **changes: Any) -> Cohort:
    return replace(Cohort(MAKER, 4, folder, seed=10), **changes)


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_has_its_seed_in_the_manifest_and_its_code_beside_it(tmp_path: Path) -> None:
    lines: list[str] = []
    files = make_cohort(asked(tmp_path), PlayedWorker(), lines.append)  # type: ignore[arg-type]
    rows = manifest(tmp_path)
    assert [row["file"] for row in rows] == [path.name for path in files] and len(files) == 4
    assert [row["seed"] for row in rows] == ["10", "11", "12", "13"]
    assert all(row["synthetic"] == "yes" and "synthetic" in row["file"] for row in rows)
    assert rows[0]["weights_sha256"] == "abc" and json.loads(rows[0]["parameters"]) == {"count": 1}
    assert sitk.ReadImage(str(files[2]))[0, 0, 0] == 12
    with (tmp_path / "codes.csv").open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["seed 10", "seed 11", "seed 12", "seed 13"]
    assert lines[-1].startswith("4 of 4 made")


def test_a_cohort_that_broke_off_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MedGenError):
        make_cohort(asked(tmp_path), PlayedWorker(fail_at=12), lambda line: None)  # type: ignore[arg-type]
    assert len(manifest(tmp_path)) == 2
    worker = PlayedWorker()
    make_cohort(asked(tmp_path), worker, lambda line: None)  # type: ignore[arg-type]
    assert [request.seed for request in worker.requests] == [12, 13]
    assert len(manifest(tmp_path)) == 4


def test_another_seed_makes_other_images(tmp_path: Path) -> None:
    make_cohort(asked(tmp_path), PlayedWorker(), lambda line: None)  # type: ignore[arg-type]
    worker = PlayedWorker()
    make_cohort(asked(tmp_path, seed=50), worker, lambda line: None)  # type: ignore[arg-type]
    assert [row["seed"] for row in manifest(tmp_path)] == ["50", "51", "52", "53"] and len(worker.requests) == 4


@pytest.mark.parametrize(("mark", "separator"), [("\ufeff", ","), ("", ";")])
def test_tables_that_a_spreadsheet_saved_do_not_stop_a_cohort(mark: str, separator: str, tmp_path: Path) -> None:
    make_cohort(asked(tmp_path, count=2), PlayedWorker(), lambda line: None)  # type: ignore[arg-type]
    for name in ("manifest.csv", "codes.csv"):
        text = (tmp_path / name).read_text("utf-8").replace(",", separator)
        (tmp_path / name).write_text(mark + text, "utf-8")
    make_cohort(asked(tmp_path), PlayedWorker(), lambda line: None)  # type: ignore[arg-type]
    assert [row["seed"] for row in manifest(tmp_path)] == ["10", "11", "12", "13"]


@pytest.mark.parametrize("change", [{"parameters": {"truncation": 0.5}}, {"weights": "others.safetensors"}])
def test_other_parameters_or_weights_make_other_images(change: dict[str, Any], tmp_path: Path) -> None:
    spec = replace(MAKER, parameters=(*MAKER.parameters, Float("truncation", "Truncation", 1.0)))
    make_cohort(asked(tmp_path, spec=spec), PlayedWorker(), lambda line: None)  # type: ignore[arg-type]
    worker = PlayedWorker()
    make_cohort(asked(tmp_path, spec=spec, **change), worker, lambda line: None)  # type: ignore[arg-type]
    assert len(worker.requests) == 4


def test_the_gate_reports_on_all_of_them_against_a_folder_of_real_ones(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for number in range(5):
        sitk.WriteImage(ball(number), str(real / f"{number}.nrrd"))
    worker, wanted = PlayedWorker(), asked(tmp_path / "out", real=real)
    files = make_cohort(wanted, worker, lambda line: None)  # type: ignore[arg-type]
    flags = check_cohort(wanted, files, worker)  # type: ignore[arg-type]
    gate = worker.requests[-1]
    assert len(gate.inputs["real"]) == 5 and len(gate.inputs["synthetic"]) == 4 and gate.parameters == {"runs": 1}
    assert flags == {"flag": ["COLLAPSED"], "raised": ["no"], "why": ["they differ"]}
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "they differ" in page and "0.3333" in page and "synthetic" in page


def test_without_real_images_the_training_set_of_the_method_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, MethodSpec] = {"generator_gate": find_method("generator_gate")}
    monkeypatch.setattr(cohort, "load_catalogue", lambda: known)
    files = make_cohort(asked(tmp_path), PlayedWorker(), lambda line: None)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="folder with real images"):
        check_cohort(asked(tmp_path), files, PlayedWorker())  # type: ignore[arg-type]
    known["maker_training_set"] = replace(MAKER, id="maker_training_set")
    worker = PlayedWorker()
    check_cohort(asked(tmp_path), files, worker)  # type: ignore[arg-type]
    assert [request.method_id for request in worker.requests] == ["maker_training_set", "generator_gate"]


def test_a_method_that_needs_an_image_makes_no_cohort(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="seed alone"):
        make_cohort(replace(asked(tmp_path), spec=find_method("identity")), PlayedWorker(), print)  # type: ignore[arg-type]
