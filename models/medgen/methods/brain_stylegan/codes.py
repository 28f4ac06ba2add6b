"""Codes as users keep them: a table with a row for each brain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from medgen.errors import BadInput
from medgen.nets.stylegan3d import Generator, mixed

Noise = list[Tensor]
LARGEST_SEED = 2**62


@dataclass(frozen=True)
class Code:
    """styles: [styles, latent], a w for each layer; noise: of each layer, [1, 1, k, j, i]; seed: of that noise, unless
    it was `projected`; truncation: that the code was drawn with, 1 where it was not drawn."""

    name: str
    styles: Tensor
    noise: Noise
    seed: int = 0
    truncation: float = 1.0
    projected: bool = False

    def mixed_with(self, fine: Code, crossover: int) -> Code:
        """Layers below `crossover` from this one, the others from `fine`. So is projected noise; drawn noise is of one
        seed throughout, so that the mix can be made again from its row in a table."""
        styles = mixed(self.styles[None], fine.styles[None], crossover)[0]
        of_coarse = self if crossover else fine
        of_fine = fine if self.projected or fine.projected else of_coarse
        noise = [*of_coarse.noise[:crossover], *of_fine.noise[crossover:]]
        return Code(f"{self.name} x {fine.name}", styles, noise, of_coarse.seed)


def noise_of(network: Generator, seed: int) -> Noise:
    return network.noise(1, torch.Generator().manual_seed(seed))


@torch.no_grad()
def drawn(network: Generator, seed: int, truncation: float) -> Code:
    """The same seed draws the same brain."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, network.architecture.latent, generator=generator).to(network.mean_w.device)
    w = network.truncated(network.mapped(z), truncation)
    return Code(f"seed {seed}", network.for_layers(w)[0], noise_of(network, seed), seed, truncation)


def to_table(codes: Sequence[Code]) -> dict[str, list[Any]]:
    """Columns name, seed, truncation, w1, w2, ...: one w where all layers of all codes have the same, else that of
    every layer after each other."""
    same = all(bool((code.styles == code.styles[0]).all()) for code in codes)
    rows = torch.stack([code.styles[0] if same else code.styles.flatten() for code in codes]).double().cpu()
    table: dict[str, list[Any]] = {
        "name": [code.name for code in codes],
        "seed": [code.seed for code in codes],
        "truncation": [code.truncation for code in codes],
    }
    return {**table, **{f"w{n + 1}": column.tolist() for n, column in enumerate(rows.T)}}


def from_table(network: Generator, table: Mapping[str, Sequence[Any]]) -> list[Code]:
    """Every row; numbers may be texts, columns that are none of ours are left out. Raises BadInput for a table that
    these weights have no use for."""
    count = next(n for n in range(len(table) + 1) if f"w{n + 1}" not in table)
    styles, latent = network.architecture.styles, network.architecture.latent
    if count not in (latent, styles * latent):
        raise BadInput(
            f"A row of codes has {count} numbers w; these weights take {latent}, or {styles * latent} with one set for "
            "every layer."
        )
    rows = len(table["w1"])
    if not rows:
        raise BadInput("The table of codes is empty.")
    found = []
    for row in range(rows):
        values = torch.tensor([_number(table[f"w{n + 1}"][row], row) for n in range(count)]).to(network.mean_w)
        code = values.reshape(styles, latent) if count != latent else values.expand(styles, latent)
        name = str(table["name"][row]) if "name" in table else f"row {row + 1}"
        seed = int(abs(_number(table["seed"][row], row))) % LARGEST_SEED if "seed" in table else 0
        found.append(Code(name, code, noise_of(network, seed), seed))
    return found


def _number(value: Any, row: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"Row {row + 1} of the codes holds '{value}', which is no number.")
    return number


def chosen_row(codes: Sequence[Code], row: int) -> Code:
    """row: counted from 1."""
    if row > len(codes):
        raise BadInput(f"There is no row {row}: the table of codes has {len(codes)}.")
    return codes[row - 1]


# --------------------------------------------------------------------------------------------------------------- noise


def save_noise(noise: Noise) -> bytes:
    """As float16, which is finer than it matters."""
    return save({f"layer{n}": values.half().contiguous().cpu() for n, values in enumerate(noise)})


def load_noise(network: Generator, content: bytes) -> Noise:
    """Raises BadInput for anything but the noise maps of a network of this size."""
    shapes = network.architecture.noise_shapes
    try:
        state = load(content)
        noise = [state[f"layer{n}"].to(network.mean_w) for n in range(len(shapes))]
    except (SafetensorError, KeyError):
        noise = []
    if len(noise) != len(state if noise else ()) or [tuple(n.shape[2:]) for n in noise] != shapes:
        raise BadInput("The detail of the projection belongs to other weights, or is none.")
    return noise
