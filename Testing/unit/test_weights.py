"""Weights are found where they should lie, and used only if they are what their card says."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medgen import weights
from medgen.errors import BadInput
from medgen.weights import checked_weights, find_weights, list_weights, load_card, user_data_folder

DATA = b"not really weights"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Starter and user folder of method 'm'."""
    monkeypatch.setattr(weights, "STARTER_WEIGHTS", tmp_path / "starter")
    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path / "user"))
    both = tmp_path / "starter" / "m", tmp_path / "user" / "Weights" / "m"
    for folder in both:
        folder.mkdir(parents=True)
    return both


def put(folder: Path, name: str, digest: str | None = None) -> Path:
    path = folder / name
    path.write_bytes(DATA)
    card = json.loads((folder / "card.json").read_text()) if (folder / "card.json").exists() else {"files": {}}
    card["files"][name] = {"sha256": digest or hashlib.sha256(DATA).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card))
    return path


def test_starters_come_first_then_the_users_own(folders: tuple[Path, Path]) -> None:
    starter, user = folders
    a, b, mine = put(starter, "a.safetensors"), put(starter, "b.safetensors"), put(user, "mine.safetensors")
    (starter / "stray.safetensors").write_bytes(DATA)
    assert list_weights("m") == [a, b, mine]
    assert find_weights("m", "mine.safetensors") == mine
    assert find_weights("m", str(mine)) == mine
    assert checked_weights("m", "a.safetensors") == (a, hashlib.sha256(DATA).hexdigest())


def test_missing_weights(folders: tuple[Path, Path]) -> None:
    with pytest.raises(BadInput, match=r"'x\.safetensors' of method 'm' are missing"):
        checked_weights("m", "x.safetensors")


def test_changed_weights_are_refused(folders: tuple[Path, Path]) -> None:
    put(folders[0], "a.safetensors").write_bytes(DATA + b"!")
    with pytest.raises(BadInput, match="wrong SHA-256"):
        checked_weights("m", "a.safetensors")


@pytest.mark.parametrize("card", [None, "{", "[]", "{}", '{"files": []}', '{"files": {"a.safetensors": {}}}'])
def test_without_a_good_card_nothing_is_used(folders: tuple[Path, Path], card: str | None) -> None:
    (folders[0] / "a.safetensors").write_bytes(DATA)
    if card is not None:
        (folders[0] / "card.json").write_text(card)
    with pytest.raises(BadInput, match="card"):
        checked_weights("m", "a.safetensors")


@pytest.mark.parametrize("folder", [f for f in weights.STARTER_WEIGHTS.glob("*") if f.is_dir()], ids=lambda f: f.name)
def test_shipped_weights_are_what_their_cards_say(folder: Path) -> None:
    card = load_card(folder)
    keys = {"title", "training_data", "command", "seed", "licence", "intended_use", "known_failures"}
    assert keys | {"figures", "steps", "device", "commit", "trained_on_rendered"} <= set(card)
    for name in card["files"]:
        path, _ = checked_weights(folder.name, name)
        assert path.stat().st_size <= 4 * 2**20
    assert {path.name for path in folder.glob("*.safetensors")} == set(card["files"])


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/x"}, "/x/medgen"),
        ("linux", {}, "/home/u/.local/share/medgen"),
        ("darwin", {}, "/home/u/Library/Application Support/MedGen"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/MedGen"),
    ],
)
def test_user_data_folder(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEDGEN_DATA", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "HOME": "/home/u"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert user_data_folder() == Path(expected)


def test_weights_needs_the_standard_library_only() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import medgen.weights"
    models = str(Path(weights.__file__).parents[1])
    subprocess.run([sys.executable, "-I", "-S", "-c", code, models], check=True)
