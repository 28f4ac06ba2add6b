"""Finding weights and making sure that they are what their card says.

A folder of weights belongs to one method: `<id>/` with safetensors files and `card.json`:

    {"title", "files": {"name.safetensors": {"sha256": "..."}}, "training_data", "command", "seed", "steps", "device",
     "commit", "figures": {...}, "licence", "intended_use", "known_failures": [...], "trained_on_rendered": bool}

Starter weights lie in Resources/Weights, the user's own in `user_data_folder()/Weights`. Python 3.9, standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgen.errors import BadInput

STARTER_WEIGHTS = Path(__file__).resolve().parents[2] / "Resources" / "Weights"


def user_data_folder() -> Path:
    """Where the user's own weights and settings lie: MEDGEN_DATA, or what the system provides for application data."""
    if "MEDGEN_DATA" in os.environ:
        return Path(os.environ["MEDGEN_DATA"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "MedGen"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "MedGen"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "medgen"


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """To build a network of a weights file in, on the CPU: a GPU without room is no fault of the weights.

    Raises BadInput where they turn out to be another method's.
    """
    try:
        yield
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadInput(f"The weights '{path.name}' are not of this method.") from error


def weights_folders(method_id: str) -> list[Path]:
    """Where a method's weights may lie, the starters first."""
    return [STARTER_WEIGHTS / method_id, user_data_folder() / "Weights" / method_id]


def list_weights(method_id: str) -> list[Path]:
    """Every weights file of a method that a card names, the starters first."""
    found = []
    for folder in weights_folders(method_id):
        if (folder / "card.json").is_file():
            found += [folder / name for name in sorted(load_card(folder)["files"]) if (folder / name).is_file()]
    return found


def find_weights(method_id: str, name: str) -> Path:
    """The file of that name, or the file itself if `name` is a full path. Raises BadInput."""
    own_path = Path(name).is_absolute()
    candidates = [Path(name)] if own_path else [folder / name for folder in weights_folders(method_id)]
    for path in candidates:
        if path.is_file():
            return path
    raise BadInput(f"The weights '{name}' of method '{method_id}' are missing (looked for {candidates[-1]}).")


def load_card(folder: Path) -> dict[str, Any]:
    """The card of a folder of weights. Raises BadInput if there is none or it cannot be read."""
    path = folder / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"The weights in {folder} have no card.json, so they cannot be checked.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"The card {path} cannot be read ({error}).") from None
    if not isinstance(card, dict) or not isinstance(card.get("files"), dict):
        raise BadInput(f"The card {path} does not list its files.")
    return card


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while portion := file.read(1 << 20):
            digest.update(portion)
    return digest.hexdigest()


def checked_weights(method_id: str, name: str) -> tuple[Path, str]:
    """A weights file and its SHA-256, which is the one on its card. Raises BadInput if it is missing or another one."""
    path = find_weights(method_id, name)
    entry = load_card(path.parent)["files"].get(path.name)
    if not isinstance(entry, dict) or "sha256" not in entry:
        raise BadInput(f"The weights '{path.name}' are not on their card {path.parent / 'card.json'}.")
    actual = file_sha256(path)
    if actual != entry["sha256"]:
        raise BadInput(f"The weights '{path.name}' are damaged or not what their card says (wrong SHA-256).")
    return path, actual
