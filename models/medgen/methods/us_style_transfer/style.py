"""Styles as users keep them: drawn, mixed, saved, and laid out on a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor

from medgen.errors import BadInput
from medgen.methods.us_style_transfer.net import (
    Moments,
    Style,
    StyleTransfer,
    network_from_state,
    prior_latents,
)
from medgen.weights import file_sha256, fitting

DRAWN_SIZE = (256, 256)  # of the latents of a drawn style, whatever the frame: one seed is one style for a whole cine
NEIGHBOURS = 3
MAP = "map."  # names of the map's tensors in a weights file


def to_vector(style: Style) -> Tensor:
    """Means and standard deviations of all scales of one style, float32 [2 x sum of widths]."""
    return torch.cat([part[0].flatten().float().cpu() for m in style for part in (m.mean, m.std)])


def from_vector(vector: Tensor, widths: tuple[int, ...]) -> Style:
    parts = vector.split([width for width in widths for _ in range(2)])
    return [Moments(m.view(1, -1, 1, 1), s.view(1, -1, 1, 1)) for m, s in zip(parts[::2], parts[1::2], strict=True)]


@dataclass(frozen=True)
class StyleMap:
    """Styles of known frames in a plane: their principal components.

    codes: [n, d] vectors; mean, unit: [d], what a code is shifted and divided by; axes: [2, d].
    """

    codes: Tensor
    mean: Tensor
    unit: Tensor
    axes: Tensor

    @classmethod
    def of(cls, codes: Tensor) -> StyleMap:
        """Each number counts in its own standard deviations; the axes are scaled so that the codes spread by 1."""
        mean, unit = codes.mean(0), codes.std(0).clamp(min=1e-3)
        _u, _s, axes = torch.linalg.svd((codes - mean) / unit, full_matrices=False)
        axes = axes[:2] * axes[:2].sum(1, keepdim=True).sign()  # a principal axis has no sign of its own
        spread = ((codes - mean) / unit @ axes.T).std(0, keepdim=True).T.clamp(min=1e-6)
        return cls(codes, mean, unit, axes / spread)

    def place(self, vector: Tensor) -> tuple[float, float]:
        x, y = (((vector - self.mean) / self.unit) @ self.axes.T).tolist()
        return x, y

    def places(self) -> Tensor:
        return ((self.codes - self.mean) / self.unit) @ self.axes.T

    def at(self, x: float, y: float) -> Tensor:
        """A look for any place: the known ones nearby, each the more the nearer it is. On a known one it is that."""
        distance = (self.places() - torch.tensor([x, y])).norm(dim=1)
        near = distance.argsort()[:NEIGHBOURS]
        weight = 1 / distance[near].clamp(min=1e-6).square()
        return (self.codes[near] * (weight / weight.sum())[:, None]).sum(0)

    def state(self) -> dict[str, Tensor]:
        return {f"{MAP}{name}": getattr(self, name) for name in ("codes", "mean", "unit", "axes")}


@dataclass
class Styler:
    """A network with its map; `sha256` of its weights, which a saved style belongs to."""

    network: StyleTransfer
    map: StyleMap
    sha256: str

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Styler:
        """Raises BadInput for weights of another method."""
        state = load_file(path)
        with fitting(path):
            network = network_from_state(state)
            parts = [state[f"{MAP}{name}"].float() for name in ("codes", "mean", "unit", "axes")]
        return cls(network.to(device), StyleMap(*parts), file_sha256(path))

    @property
    def widths(self) -> tuple[int, ...]:
        return self.network.architecture.widths

    @property
    def device(self) -> torch.device:
        return self.network.arch.device

    def on_device(self, vector: Tensor) -> Style:
        return from_vector(vector.to(self.device), self.widths)

    @torch.no_grad()
    def drawn(self, generator: torch.Generator, temperature: float, shared: float) -> Tensor:
        """A style from the prior. Without latents in the network: a known style, chosen at random."""
        if self.network.style is None:
            return self.map.codes[int(torch.randint(len(self.map.codes), (), generator=generator))]
        latents = prior_latents(self.widths, DRAWN_SIZE, generator, shared, temperature)
        return to_vector(self.network.style_of_latents([z.to(self.device) for z in latents]))

    def save(self, vector: Tensor) -> bytes:
        return save({"style": vector.contiguous()}, {"weights": self.sha256})

    def saved(self, content: bytes) -> Tensor:
        """Raises BadInput for anything but a style of these weights."""
        try:
            vector = load(content).get("style")
        except SafetensorError:
            vector = None
        if vector is None or vector.shape != (2 * sum(self.widths),) or not bool(torch.isfinite(vector).all()):
            raise BadInput("The saved style is none of these weights: choose the weights it was made with.")
        if self.sha256.encode() not in content[: int.from_bytes(content[:8], "little") + 8]:
            raise BadInput("The saved style was made with other weights: choose those, or save it again.")
        return vector.float()


def edge_correlation(before: np.ndarray, after: np.ndarray, inside: np.ndarray) -> float:
    """Correlation of the gradient magnitudes of two pictures [h, w] within a mask; 0 where one is flat."""
    first, second = (np.hypot(*np.gradient(picture))[inside] for picture in (before, after))
    if first.std() < 1e-8 or second.std() < 1e-8:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
