"""Rendered slices of heads that no training saw, for proofs and benchmarks of the brain methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medgen.diffusion.training import CLEAR_LESION
from medgen.imaging.brain_study import Float32, Mask
from medgen.imaging.phantoms.anatomy import load_head
from medgen.imaging.phantoms.brain_set import KINDS, brain_box, render_study
from medgen.shared_data import shared_folder


@dataclass(frozen=True)
class HeldOut:
    """images: float32 [n, 4, 128, 128]; lesion, brain: bool [n, 128, 128]; kind: int [n], index into KINDS."""

    images: Float32
    lesion: Mask
    brain: Mask
    kind: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, mask: npt.NDArray[np.bool_]) -> HeldOut:
        return HeldOut(self.images[mask], self.lesion[mask], self.brain[mask], self.kind[mask])

    @property
    def diseased(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.lesion.reshape(len(self), -1).sum(1) >= CLEAR_LESION)

    @property
    def healthy(self) -> npt.NDArray[np.bool_]:
        return np.asarray(~self.lesion.reshape(len(self), -1).any(1))


def available() -> bool:
    return shared_folder() is not None


def held_out_slices(heads: range | list[int], diseased: int, healthy: int, seed: int, kinds: int = 3) -> HeldOut:
    """From each head and each of the first `kinds` kinds of lesion, so many slices with a clear lesion and without,
    drawn at random. Raises BadInput without the shared data."""
    parts: list[HeldOut] = []
    for number in heads:
        labels = brain_box(load_head(number))
        for kind in range(1, 1 + kinds):
            rng = np.random.default_rng((seed, number, kind))
            images, lesion, brain = render_study(labels, KINDS[kind], rng)
            whole = HeldOut(images, lesion > 0, brain, np.full(len(images), kind))
            large = brain.reshape(len(brain), -1).sum(1) >= 1500
            for wanted, count in ((whole.diseased & large, diseased), (whole.healthy & large, healthy)):
                found = np.flatnonzero(wanted)
                taken = np.zeros(len(images), bool)
                taken[rng.choice(found, min(count, len(found)), replace=False)] = True
                parts.append(whole.rows(taken))
    return HeldOut(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.lesion for p in parts]),
        np.concatenate([p.brain for p in parts]),
        np.concatenate([p.kind for p in parts]),
    )
