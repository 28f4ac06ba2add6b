"""Many slices through encoding and guided decoding, in batches, with the encodings kept for the next run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgen.diffusion.networks import NoiseNetwork
from medgen.diffusion.sampling import Guide, Solver, clamped, decode, encode, round_trip_error
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.slice_memory import SliceMemory
from medgen.method import Context

BATCH = 8
SPACING = 1.5  # of the levels: with 25 steps up to 200 the round trip is off by 0.3 % instead of 2.0 % when even
GuidesOf = Callable[[slice], Sequence[Guide]]
Report = Callable[[float], None]


@dataclass(frozen=True)
class Setting:
    """level: how far into noise, 1..1000; steps: each way; clamp: cut the predicted image off at -1 and 1, as the
    papers' code does, which loses what is beyond."""

    level: int
    steps: int
    solver: Solver = "dpm2"
    clamp: bool = False


class Translator:
    """Encodes and decodes slices [n, c, h, w] (0..1, on the CPU) with a noise network on the context's device.

    encoder: the network on the way in, where it is another (or has another label). Between jobs of a worker the
    encodings of the slices stay in the context's cache, so that another guidance decodes only; `remembered` says how
    many of the last ones came from there.
    """

    def __init__(
        self,
        network: NoiseNetwork,
        setting: Setting,
        context: Context,
        encoder: NoiseNetwork | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.network, self.encoder, self.setting, self.context = network, encoder or network, setting, context
        self.schedule = schedule or Schedule()
        self.times = self.schedule.times(setting.level, setting.steps, SPACING)
        self.batch = max(1, round(BATCH * context.batch_scale))
        self.remembered = 0

    def encode(self, x: Tensor, report: Report = lambda fraction: None) -> Tensor:
        memory = SliceMemory.of(self.context)
        keys = self._keys(x, "encoding")
        self.remembered = sum(key in memory.values for key in keys)
        noise, found = self._noise(self.encoder), []

        def encodings(rows: list[int]) -> Tensor:
            images = x[rows].to(self.context.device)
            return encode(images, noise, self.schedule, self.times, self.setting.solver, self._tick).cpu()

        for part in self._batches(len(x)):
            self.context.progress.raise_if_cancelled()
            found += memory.fill(keys, list(range(part.start, part.stop)), encodings)
            report(part.stop / len(x))
        return torch.stack(found)

    def decode(
        self,
        latents: Tensor,
        guides_of: GuidesOf,
        report: Report = lambda fraction: None,
        network: NoiseNetwork | None = None,
    ) -> Tensor:
        """guides_of: the guides of the slices in this range of `latents`; network: another than the translator's."""
        noise, out = self._noise(network or self.network), torch.empty_like(latents)
        for rows in self._batches(len(latents)):
            here = latents[rows].to(self.context.device)
            guides = guides_of(rows)
            decoded = decode(here, noise, self.schedule, self.times, self.setting.solver, guides, self._tick)
            out[rows] = decoded.cpu()
            report(rows.stop / len(latents))
        return out

    def round_trip(self, x: Tensor, latents: Tensor, most: int = 4) -> float:
        """Relative error of encoding and decoding without guidance, on `most` slices spread over x. What comes back is
        kept as the encodings are."""
        rows = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).astype(int)).tolist()
        x, latents = x[rows], latents[rows]

        def returned(rows: list[int]) -> Tensor:
            return self.decode(latents[rows], lambda _rows: (), network=self.encoder)

        back = SliceMemory.of(self.context).fill(self._keys(x, "round trip"), list(range(len(x))), returned)
        return round_trip_error(x, torch.stack(back))

    def _keys(self, x: Tensor, what: str) -> list[bytes]:
        """Of the slices in the memory, with all that what is kept of them depends on."""
        known = (what, self.setting, str(self.context.weights), self.context.device, self.encoder.label)
        return SliceMemory.of(self.context).keys(x, known)

    def _noise(self, network: NoiseNetwork) -> Callable[[Tensor, int], Tensor]:
        return clamped(network, self.schedule, -1, 1) if self.setting.clamp else network

    def _tick(self) -> None:
        self.context.progress.raise_if_cancelled()

    def _batches(self, count: int) -> list[slice]:
        return [slice(start, min(start + self.batch, count)) for start in range(0, count, self.batch)]
