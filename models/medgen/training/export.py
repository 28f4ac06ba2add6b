"""Trained networks into a folder that the project loads from: safetensors and their card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

import medgen
from medgen.errors import BadInput
from medgen.weights import file_sha256

Config = TypeVar("Config")


def chosen_config(configs: Mapping[str, Config], name: str) -> Config:
    """Raises BadInput for a name that is not there."""
    if name not in configs:
        raise BadInput(f"There is no training configuration '{name}' (known: {', '.join(configs)}).")
    return configs[name]


def made_by(method: str, config: str, seed: int, steps: int, device: str) -> dict[str, Any]:
    """The fields of a card that say how the weights are made again, and those that are alike for all of them; the
    method adds title, training_data and intended_use."""
    return {
        "command": f"medgen train {method} --config {config}",
        "seed": seed,
        "steps": steps,
        "device": device,
        "commit": f"medgen {medgen.__version__}",
        "figures": {},
        "licence": "Apache-2.0",
        "known_failures": [],
        "trained_on_rendered": True,
    }


def export_weights(
    state: dict[str, Tensor],
    folder: Path,
    name: str,
    card: dict[str, Any],
    half: bool = True,
    metadata: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Writes `name` (float16 unless `half` is off; integers stay), adds it with its hash to the folder's card.json.

    card: the fields that `medgen.weights` lists, but 'files'; metadata: texts kept in the file. Returns the whole
    card. Raises ValueError for a field that is missing.
    """
    needed = {"title", "training_data", "command", "seed", "steps", "device", "commit", "figures", "licence",
              "intended_use", "known_failures", "trained_on_rendered"}  # fmt: skip
    if needed - card.keys():
        raise ValueError(f"the card lacks {', '.join(sorted(needed - card.keys()))}")
    folder.mkdir(parents=True, exist_ok=True)
    kind = torch.float16 if half else torch.float32
    cast = {key: (v.to(kind) if v.is_floating_point() else v).contiguous().cpu() for key, v in state.items()}
    save_file(cast, folder / name, metadata)
    path = folder / "card.json"
    files = json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else {}
    whole = {**card, "files": {**files, name: {"sha256": file_sha256(folder / name)}}}
    path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return whole
