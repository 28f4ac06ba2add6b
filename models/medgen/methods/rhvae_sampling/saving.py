"""Fitted models as bytes that a later run takes back: safetensors, names 'class/what'."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medgen.errors import BadInput
from medgen.methods.rhvae_sampling.geometry import Metric
from medgen.methods.rhvae_sampling.learning import Fitted
from medgen.methods.rhvae_sampling.net import Rhvae

NETWORK = "network."


def to_bytes(models: Mapping[str, Fitted]) -> bytes:
    """Networks in float16, all else in float64."""
    tensors: dict[str, Tensor] = {}
    for label, model in models.items():
        metric = model.metric
        kept = {
            "codes": model.codes,
            "centroids": metric.centroids,
            "matrices": metric.matrices,
            "reach": torch.tensor([metric.temperature, metric.floor], dtype=torch.float64),
        }
        kept |= {NETWORK + name: value.half() for name, value in model.network.state_dict().items()}
        tensors |= {f"{label}/{name}": value.cpu().contiguous() for name, value in kept.items()}
    return save(tensors)


def from_bytes(content: bytes, device: str) -> dict[str, Fitted]:
    """Raises BadInput for what `to_bytes` did not write."""
    try:
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in load(content).items():
            label, _slash, name = key.rpartition("/")
            parts.setdefault(label, {})[name] = value
        return {label: _model(kept, device) for label, kept in parts.items()}
    except (SafetensorError, KeyError, RuntimeError, ValueError, IndexError):
        raise BadInput("The trained model cannot be read; give the one of an earlier run of this method.") from None


def _model(kept: dict[str, Tensor], device: str) -> Fitted:
    state = {name[len(NETWORK) :]: value.float() for name, value in kept.items() if name.startswith(NETWORK)}
    network = Rhvae(state["centre"], kept["codes"].shape[1])
    network.load_state_dict(state)
    temperature, floor = kept["reach"].tolist()
    metric = Metric(kept["centroids"], kept["matrices"], temperature, floor)
    return Fitted(network.to(device).eval(), metric, kept["codes"])
