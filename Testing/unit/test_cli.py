"""The files and the words of the command line, without a process of its own (Testing/e2e has the real ones)."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from medgen import cli, io
from medgen.errors import BadInput
from medgen.proofs import check, verdict
from medgen.running import whole_folder
from medgen.spec import ROI, Blob, Code, Image, Label, LabelMap, Planes, Points, Table, Terminology

PORT = {kind: kind("x", "X") for kind in (Points, Planes, ROI, Table, Blob, LabelMap)}


def markups(coordinates: str, **markup: Any) -> str:
    return json.dumps({"markups": [{"coordinateSystem": coordinates, **markup}]})


@pytest.mark.parametrize(("coordinates", "sign"), [("LPS", 1), ("RAS", -1)])
def test_slicers_markups_become_lps(coordinates: str, sign: int, tmp_path: Path) -> None:
    path = tmp_path / "m.mrk.json"
    path.write_text(markups(coordinates, controlPoints=[{"position": [1, 2, 3]}, {"position": [4, 5, 6]}]))
    assert io.read_value(PORT[Points], path)[0] == [[sign * 1, sign * 2, 3], [sign * 4, sign * 5, 6]]
    path.write_text(markups(coordinates, center=[1, 2, 3], normal=[0, 1, 0]))
    assert io.read_value(PORT[Planes], path)[0] == [{"origin": [sign, sign * 2, 3], "normal": [0, sign, 0]}]
    path.write_text(markups(coordinates, center=[1, 2, 3], orientation=[1, 0, 0, 0, 1, 0, 0, 0, 1], size=[7, 8, 9]))
    box = io.read_value(PORT[ROI], path)[0]
    assert (box["center"], box["size_mm"]) == ([sign, sign * 2, 3], [7, 8, 9])
    assert np.allclose(box["axes"], np.diag([sign, sign, 1]))


@pytest.mark.parametrize("text", ["{", '{"markups": []}', '{"markups": [{"center": [1, 2]}]}'])
def test_a_damaged_markup_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.mrk.json"
    path.write_text(text)
    with pytest.raises(BadInput, match="does not hold what input 'x'"):
        io.read_value(PORT[ROI], path)


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    table = {"name": ["a", 'b, "c"'], "ml": [1.5, 2.0]}
    (path,) = io.write_value(PORT[Table], table, tmp_path)
    assert io.read_value(PORT[Table], path)[0] == table


def test_a_table_that_excel_saved_has_its_first_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("label,id\r\n1,a\r\n".encode("utf-8-sig"))
    assert io.read_value(PORT[Table], tmp_path / "t.csv")[0] == {"label": [1.0], "id": ["a"]}


def test_json_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[" * 200_000)
    with pytest.raises(BadInput, match="does not hold"):
        io.read_value(PORT[Points], tmp_path / "p.json")


def test_bytes_and_points_come_back_as_they_were_written(tmp_path: Path) -> None:
    for kind, value in ((Blob, b"\0\xff"), (Points, [[1.0, -2.5, 3.0]]), (Planes, [{"origin": [1], "normal": [2]}])):
        (path,) = io.write_value(PORT[kind], value, tmp_path)
        assert io.read_value(PORT[kind], path)[0] == value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.b.nii", "a.nii.gz"])
def test_nan_is_seen_in_nifti_though_itk_hides_it(dtype: type, value: float, name: str, tmp_path: Path) -> None:
    values = np.ones((5, 6, 7), dtype)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name))
    io.read_image(tmp_path / name)
    values[4, 5, 6] = value
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name))
    with pytest.raises(BadInput, match="NaN"):
        io.read_image(tmp_path / name)


@pytest.mark.parametrize("place", [np.nan, np.inf])
def test_nifti_whose_voxels_begin_nowhere_is_refused(place: float, tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((5, 6, 7), np.float32)), str(path))
    data = bytearray(path.read_bytes())
    data[108:112] = np.float32(place).tobytes()  # vox_offset
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        io.read_image(path)


def test_nan_is_seen_in_the_other_byte_order(tmp_path: Path) -> None:
    header = np.zeros(352, np.uint8)

    def put(offset: int, kind: str, *numbers: float) -> None:
        data = np.frombuffer(np.array(numbers, ">" + kind).tobytes(), np.uint8)
        header[offset : offset + len(data)] = data

    put(0, "i4", 348)
    put(40, "i2", 3, 4, 4, 4, 1, 1, 1, 1)
    put(70, "i2", 16, 32)
    put(76, "f4", 1, 1, 1, 1)
    put(108, "f4", 352)
    header[344:348] = np.frombuffer(b"n+1\0", np.uint8)
    voxels = np.ones(64, ">f4")
    path = tmp_path / "big.nii.gz"
    path.write_bytes(gzip.compress(header.tobytes() + voxels.tobytes()))
    assert sitk.GetArrayFromImage(io.read_image(path)[0]).mean() == 1
    voxels[63] = np.nan
    path.write_bytes(gzip.compress(header.tobytes() + voxels.tobytes()))
    with pytest.raises(BadInput, match="NaN"):
        io.read_image(path)


def test_labels_saved_as_floating_point_are_labels_again(tmp_path: Path) -> None:
    path = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0.0, 1.0, 7.0]]], np.float32)), str(path))
    image = io.read_value(PORT[LabelMap], path)[0]
    assert image.GetPixelID() == sitk.sitkInt16
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0.0, 0.5, 7.0]]], np.float32)), str(path))
    assert io.read_value(PORT[LabelMap], path)[0].GetPixelID() == sitk.sitkFloat32  # the check refuses it


def test_a_sequence_is_read_from_one_file_or_a_folder_of_pictures(tmp_path: Path) -> None:
    frames = [np.full((4, 5), 10 * n, np.uint8) for n in range(3)]
    port = Image("x", "X", kind="sequence")
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(f) for f in frames]), str(tmp_path / "cine.nrrd"))
    (tmp_path / "pictures").mkdir()
    for number, frame in enumerate(frames):
        sitk.WriteImage(sitk.GetImageFromArray(frame), str(tmp_path / "pictures" / f"{number:03}.png"))
    for path in (tmp_path / "cine.nrrd", tmp_path / "pictures"):
        read = io.read_value(port, path)[0]
        assert [int(sitk.GetArrayFromImage(image).mean()) for image in read] == [0, 10, 20]


def test_a_flat_picture_is_written_as_png_and_a_volume_as_nifti(tmp_path: Path) -> None:
    port = Image("x", "X", kind="slice")
    assert io.write_value(port, sitk.Image(4, 5, sitk.sitkUInt8), tmp_path) == [tmp_path / "x.png"]
    assert io.write_value(port, sitk.Image([4, 5, 6], sitk.sitkUInt8), tmp_path) == [tmp_path / "x.nii.gz"]


def test_a_segmentation_keeps_names_colours_and_codes(tmp_path: Path) -> None:
    from medgen.exchange.segmentation_file import read_segmentation

    tissue = Terminology(Code("SCT", "85756007", "Tissue"), Code("SCT", "72167002", "Soft tissue"))
    labels = (
        Label(0, "Background", (0, 0, 0)),
        Label(2, "Soft", (10, 200, 30), tissue),
        Label(5, "Bone", (241, 214, 145)),
    )
    image = sitk.GetImageFromArray(np.array([[[0, 2, 5]]], np.uint8))
    files = io.write_value(LabelMap("x", "X", labels=labels), image, tmp_path)
    assert [path.name for path in files] == ["x.nii.gz", "x.seg.nrrd"]
    back, found = read_segmentation(files[1])
    assert found == labels[1:]
    assert sitk.GetArrayFromImage(back).tolist() == [[[0, 2, 5]]]


def test_an_export_takes_labels_saved_as_floating_point_for_labels(tmp_path: Path) -> None:
    from medgen.exchange.preflight import segment_array
    from medgen.exchange.segmentation_file import read_segmentation

    path = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0.0, 1.0, 2.0, 2.0]]])), str(path))
    image, labels = read_segmentation(path)
    masks = [segment_array(image, labels, n).tolist() for n in range(len(labels))]
    assert masks == [[[[False, True, False, False]]], [[[False, False, True, True]]]]
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0.0, 0.4, 0.6]]])), str(path))
    with pytest.raises(BadInput, match="whole numbers"):
        read_segmentation(path)


# ------------------------------------------------------------------------------------------------ whole or nothing


def test_an_interrupted_result_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("mine")
    for out in (tmp_path / "old", tmp_path / "new" / "deeper"):
        with pytest.raises(KeyboardInterrupt), whole_folder(out) as partial:
            (partial / "half.txt").write_text("half")
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "mine.txt"]


def test_a_finished_result_arrives_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "new" / "deeper") as partial:
        (partial / "a.txt").write_text("a")
        assert not (tmp_path / "new" / "deeper" / "a.txt").exists()
    assert [path.name for path in (tmp_path / "new" / "deeper").iterdir()] == ["a.txt"]


# -------------------------------------------------------------------------------------------------------- commands


def test_the_catalogue_as_json_says_all_that_a_caller_needs() -> None:
    done = CliRunner().invoke(cli.app, ["methods", "--json"])
    described = {method["id"]: method for method in json.loads(done.stdout)}
    assert "identity" not in described
    painted = described["multiplanar_unet_few_planes"]
    assert [port["name"] for port in painted["inputs"] if port["required"]] == ["image", "painted", "planes"]
    updates = next(p for p in painted["parameters"] if p["name"] == "updates")
    assert (updates["kind"], updates["minimum"], updates["maximum"]) == ("int", 20, 22400)


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_a_proof_prints_json_alone_though_libraries_chatter(
    passed: bool, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def prove(mode: str) -> dict[str, Any]:
        print("chatter")
        assert mode == "quick"
        return {"method": "m", "passed": passed, "checks": []}

    monkeypatch.setattr(cli, "_proof", lambda method: SimpleNamespace(prove=prove))
    monkeypatch.setattr(sys, "argv", ["medgen", "prove", "m", "--quick", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed, chatter = capfd.readouterr()
    assert end.value.code == code
    assert json.loads(printed) == {"method": "m", "passed": passed, "checks": []}
    assert "chatter" in chatter


def test_a_fault_of_ours_is_one_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(method: str) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(cli, "_proof", broken)
    monkeypatch.setattr(sys, "argv", ["medgen", "prove", "m"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert said == "This failed inside MedGen (ZeroDivisionError: by zero); --debug shows where.\n"


def test_a_proof_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    cli.show_proof(verdict("m", [check("Bar", 2.0, 1.0, 0)], ["Scans need the shared data."]))
    shown = capsys.readouterr().out
    assert "PASS" in shown and "Left out: Scans need the shared data." in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frob"], "No such command 'frob'"),
        (["run", "identity"], "Missing option '--out' / '-o'"),
        (["run", "identity", "-o", "x", "--seed", "-5"], "Invalid value for '--seed'"),
        (["prove", "--bogus"], "No such option: --bogus"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["medgen", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith(said) and error.count("\n") == 1


def test_weights_may_be_named_by_a_path_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    monkeypatch.setattr("medgen.running.run_case", lambda spec, request, *_rest: requests.append(request) or [])
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkInt16), "image.nrrd")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.safetensors").touch()
    for name in ("mine/a.safetensors", "starter.safetensors"):
        done = CliRunner().invoke(
            cli.app, ["run", "identity", "-i", "image=image.nrrd", "-o", "out", "--weights", name]
        )
        assert done.exit_code == 0, done.output
    assert [r.weights for r in requests] == [str(tmp_path / "mine" / "a.safetensors"), "starter.safetensors"]


def test_a_training_into_a_file_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(cli, "method_module", lambda *_asked: SimpleNamespace(train=pytest.fail))
    with pytest.raises(BadInput, match="cannot be written to"):
        cli.train("identity", tmp_path, tmp_path / "file")
