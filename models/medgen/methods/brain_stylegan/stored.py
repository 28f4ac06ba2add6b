"""A generator as its weights file holds it: the network, and the brain that its training brains were aligned to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import SimpleITK as sitk
import torch
from safetensors import safe_open
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.brain_alignment import FIELD_MM, TEMPLATE_MM, model_grid
from medgen.imaging.geometry import from_array
from medgen.nets.stylegan3d import Architecture, Generator

ARCHITECTURE, TEMPLATE = "architecture", "template"


@dataclass(frozen=True)
class Stored:
    """template: float32, 0..1, on the model's grid of 4 mm."""

    network: Generator
    template: sitk.Image

    @property
    def voxel_mm(self) -> float:
        return FIELD_MM[2] / self.network.architecture.shape()[0]


def state_to_store(network: Generator, template: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata for `export_weights`."""
    return {**network.state_dict(), TEMPLATE: template}, {ARCHITECTURE: json.dumps(asdict(network.architecture))}


def load_stored(path: Path, device: str = "cpu") -> Stored:
    """Raises BadInput for weights of something else."""
    with safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get(ARCHITECTURE, "{}"))
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
    if TEMPLATE not in state or "filters" not in facts:
        raise BadInput(f"'{path.name}' holds no brain generator.")
    template = state.pop(TEMPLATE).numpy()
    network = Generator(Architecture(**{**facts, "filters": tuple(facts["filters"])}))
    network.load_state_dict(state)
    network.requires_grad_(False)
    return Stored(network.to(torch.device(device)).eval(), from_array(template, model_grid(TEMPLATE_MM)))
