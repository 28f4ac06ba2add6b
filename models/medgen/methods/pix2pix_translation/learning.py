"""The two variants of the paper, their ablations and the baselines: what is drawn, what is judged, one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.losses.adversarial import Adversarial, discriminator_loss, generator_loss
from medgen.methods.pix2pix_translation.net import PatchDiscriminator, UNetGenerator, initialise
from medgen.training.loop import Update

Array = npt.NDArray[Any]

SPACING_MM = 1.5  # of a slice's pixels
LOW_HU, HIGH_HU = -1000.0, 2000.0  # the window that [-1, 1] stands for
LEVELS, WIDTH, D_WIDTH = 6, 16, 32  # of the starter weights
PAPER_RATE, SHORT_RATE = 2e-4, 1e-3  # learning rates: for 650,000 steps, and of the generator for a few thousand
CROP = 128  # pixels of a training slice's side


# ---------------------------------------------------------------------------------------------------------- objectives


@dataclass(frozen=True)
class Objective:
    """What the generator is trained by. A pair is an input with its aligned (ugly) partner.

    to_ct: MR -> CT, else CT -> MR; unpaired: an unconditional discriminator judges translations of real scans against
    real scans of the other kind; conditional: one that sees the input, too, judges translations of pairs; l1: weight of
    |partner - translation|; cycle: weight of going there and back, which makes it a CycleGAN (see `CycleStep`); gan:
    'vanilla' or 'lsgan'; layers: of the discriminators; real_input: CT -> MR only, the part of the steps that take real
    CTs in place of the stand-in.
    """

    to_ct: bool
    unpaired: bool = False
    conditional: bool = False
    l1: float = 0.0
    cycle: float = 0.0
    gan: Adversarial = "vanilla"
    layers: int = 3
    real_input: float = 0.5


MR_TO_CT = {
    "paper": Objective(True, unpaired=True, l1=50),
    "l1": Objective(True, l1=50),
    "gan": Objective(True, unpaired=True),
    "pix2pix": Objective(True, conditional=True, l1=100),
    "cyclegan": Objective(True, unpaired=True, cycle=10, gan="lsgan", layers=4),
}
CT_TO_MR = {
    "paper": Objective(False, unpaired=True, conditional=True, l1=100),
    "gan": Objective(False, unpaired=True, real_input=1.0),
    "gan+cgan": Objective(False, unpaired=True, conditional=True),
    "pix2pix": Objective(False, conditional=True, l1=100, real_input=0.0),
    "cyclegan": Objective(False, unpaired=True, cycle=10, gan="lsgan", layers=4),
}


class TranslationStep:
    """One generator and the discriminators that the objective asks for."""

    def __init__(
        self,
        objective: Objective,
        levels: int = LEVELS,
        width: int = WIDTH,
        d_width: int = D_WIDTH,
        rate: float = PAPER_RATE,
    ) -> None:
        self.objective = objective
        self.networks: dict[str, nn.Module] = {"generator": initialise(UNetGenerator(1, 1, levels, width))}
        if objective.unpaired:
            self.networks["unpaired"] = initialise(PatchDiscriminator(1, objective.layers, d_width))
        if objective.conditional:
            self.networks["conditional"] = initialise(PatchDiscriminator(2, objective.layers, d_width))
        self.optimizers = _adams(self.networks, rate)

    def run(self, batch: dict[str, Any], update: Update) -> dict[str, float]:
        mr, standin, ct = batch["mr"], batch["standin"], batch["ct"]
        if self.objective.to_ct:
            return self._one(mr, standin, (mr, ct), update)
        if batch["real_input"]:
            return self._one(None, None, (ct, mr), update)
        return self._one(standin, mr, None, update)

    def _one(
        self, source: Tensor | None, partner: Tensor | None, free: tuple[Tensor, Tensor] | None, update: Update
    ) -> dict[str, float]:
        """source, partner: a pair, or None; free: an input whose translation is judged alone, and real examples of what
        it should look like, or None. Where both are given they have the same input."""
        objective, figures = self.objective, {}
        entry = source if source is not None else free[0]  # type: ignore[index]
        fake = self.networks["generator"](entry).float()
        loss = torch.zeros((), device=fake.device)
        if objective.unpaired and free is not None:
            figures["unpaired"] = self._judge("unpaired", free[1], fake.detach(), update)
            loss = loss + self._fool("unpaired", fake)
        if source is not None and partner is not None:
            if objective.conditional:
                pair, made = torch.cat([source, partner], 1), torch.cat([source, fake], 1)
                figures["conditional"] = self._judge("conditional", pair, made.detach(), update)
                loss = loss + self._fool("conditional", made)
            figures["l1"] = float((partner - fake).detach().abs().mean())
            loss = loss + objective.l1 * (partner - fake).abs().mean()
        update("generator", loss)
        return {**figures, "loss": float(loss.detach())}

    def _judge(self, name: str, real: Tensor, fake: Tensor, update: Update) -> float:
        network = self.networks[name].requires_grad_(True)
        loss = discriminator_loss(network(real).float(), network(fake).float(), self.objective.gan)
        update(name, loss)
        return float(loss.detach())

    def _fool(self, name: str, fake: Tensor) -> Tensor:
        network = self.networks[name].requires_grad_(False)
        return generator_loss(None, network(fake).float(), self.objective.gan)


class CycleStep:
    """CycleGAN, the baseline on unpaired scans alone: two generators and two unconditional discriminators. 'generator'
    translates to CT where the objective says so, else to MR; the other one is 'back'."""

    def __init__(
        self,
        objective: Objective,
        levels: int = LEVELS,
        width: int = WIDTH,
        d_width: int = D_WIDTH,
        rate: float = PAPER_RATE,
    ) -> None:
        self.objective = objective
        generators = {name: UNetGenerator(1, 1, levels, width, dropout=0.0) for name in ("generator", "back")}
        judges = {name: PatchDiscriminator(1, objective.layers, d_width) for name in ("judge", "judge_back")}
        self.networks: dict[str, nn.Module] = {n: initialise(net) for n, net in {**generators, **judges}.items()}
        self.optimizers = _adams(self.networks, rate)

    def run(self, batch: dict[str, Any], update: Update) -> dict[str, float]:
        source, target = (batch["mr"], batch["ct"])[:: 1 if self.objective.to_ct else -1]
        ahead, back = self.networks["generator"], self.networks["back"]
        fakes = {"judge": ahead(source).float(), "judge_back": back(target).float()}
        for name, real in (("judge", target), ("judge_back", source)):
            network = self.networks[name].requires_grad_(True)
            loss = discriminator_loss(network(real).float(), network(fakes[name].detach()).float(), self.objective.gan)
            update(name, loss)
        for name, grad in (("generator", "judge"), ("back", "judge_back")):
            # one optimiser steps at a time; the other generator only carries the gradient
            fakes = {"judge": ahead(source).float(), "judge_back": back(target).float()}
            cycle = (back(fakes["judge"]) - source).abs().mean() + (ahead(fakes["judge_back"]) - target).abs().mean()
            judged = self.networks[grad].requires_grad_(False)
            fooled = generator_loss(None, judged(fakes[grad]).float(), self.objective.gan)
            total = fooled + self.objective.cycle * cycle.float()
            update(name, total)
        return {"cycle": float(cycle.detach()), "loss": float(total.detach())}


def _adams(networks: dict[str, nn.Module], rate: float) -> dict[str, torch.optim.Optimizer]:
    """rate: of generators; discriminators keep the paper's."""
    return {
        name: torch.optim.Adam(
            net.parameters(), rate if isinstance(net, UNetGenerator) else min(rate, PAPER_RATE), betas=(0.5, 0.999)
        )
        for name, net in networks.items()
    }


def held_then_linear(step: int, steps: int) -> float:
    """Factor on the learning rate: 1 for three fifths of the steps, then in a straight line to 0 (paper: 30 + 20
    epochs)."""
    return min(1.0, (steps - step) / (0.4 * steps))


# ---------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Patient:
    """Slices [z, y, x] in [-1, 1] on pixels of SPACING_MM, float16. mr: one array a contrast; standin: aligned with
    them; ct: without the couch, ct_couch: with one; used only beside other heads' MR."""

    mr: Sequence[Array] = ()
    standin: Array | None = None
    ct: Array | None = None
    ct_couch: Array | None = None


def draw_batch(
    patients: Sequence[Patient], objective: Objective, seed: tuple[int, int], size: int = 4
) -> dict[str, Any]:
    """mr, standin and ct, float32 [size, 1, CROP, CROP], the CTs of other patients, and real_input (bool): whether this
    batch goes by real CTs. MR -> CT takes MR of any contrast and CTs without couch; CT -> MR the first contrast and CTs
    with their couch. seed: (run, step), the same gives the same.
    """
    rng = np.random.default_rng(seed)
    cts = [patient.ct if objective.to_ct else patient.ct_couch for patient in patients]
    usable = [n for n, p in enumerate(patients) if p.mr and (objective.cycle or p.standin is not None)]
    rows: dict[str, list[Tensor]] = {"mr": [], "standin": [], "ct": []}
    for _ in range(size):
        number = usable[int(rng.integers(len(usable)))]
        patient, others = patients[number], [ct for n, ct in enumerate(cts) if ct is not None and n != number]
        ct = others[int(rng.integers(len(others)))]
        mr = patient.mr[int(rng.integers(len(patient.mr))) if objective.to_ct else 0]
        standin = mr if patient.standin is None else patient.standin  # a CycleGAN does not look at it
        z = int(rng.integers(len(standin)))
        pair = cropped(np.stack([mr[z], standin[z]]).astype(np.float32), rng)
        rows["mr"].append(_rescanned(pair[:1], rng) if objective.to_ct else pair[:1])
        rows["standin"].append(pair[1:])
        rows["ct"].append(cropped(ct[int(rng.integers(len(ct)))][None].astype(np.float32), rng))
    stacked: dict[str, Any] = {name: torch.stack(row) for name, row in rows.items()}
    return {**stacked, "real_input": bool(rng.random() < objective.real_input)}


def cropped(slices: npt.NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    """[k, y, x] -> [k, CROP, CROP]: mirrored left to right or not, zoomed by 0.8 to 1.25, cut at a random place; air
    (-1) comes in from outside."""
    height, width = slices.shape[1:]
    zoom = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    # how far the crop's middle may lie from the slice's, in units of half a slice
    shift = [max(0.0, 1 - CROP / (zoom * n)) * rng.uniform(-1, 1) for n in (width, height)]
    matrix = [[mirror * CROP / (zoom * width), 0.0, shift[0]], [0.0, CROP / (zoom * height), shift[1]]]
    grid = F.affine_grid(torch.tensor([matrix], dtype=torch.float32), [1, 1, CROP, CROP], align_corners=False)
    return F.grid_sample(torch.from_numpy(slices + 1)[None], grid, align_corners=False)[0] - 1


def _rescanned(mr: Tensor, rng: np.random.Generator) -> Tensor:
    """The brightness curve and noise of another scan."""
    values = ((mr + 1) / 2).clamp(0, 1) ** float(np.exp(rng.normal(0, 0.15)))
    noise = torch.from_numpy(rng.standard_normal(values.shape, np.float32)) * float(rng.uniform(0, 0.03))
    return ((values + noise) * 2 - 1).clamp(-1, 1)


def with_couch(ct: Array, rng: np.random.Generator) -> Array:
    """CT slices [z, y, x] in [-1, 1] with the shell of a head rest (or a flat couch) below the head, which lies on its
    back (y grows to the back)."""
    head = np.flatnonzero((ct > hu_unit(-500)).any((0, 2)))
    back = int(head[-1]) if head.size else ct.shape[1] // 2
    y, x = np.mgrid[: ct.shape[1], : ct.shape[2]].astype(np.float32)
    middle, curve = ct.shape[2] / 2 + rng.uniform(-6, 6), rng.uniform(0.0, 0.009)
    surface = back + rng.uniform(2, 5) - curve * (x - middle) ** 2
    inside = np.abs(x - middle) < rng.uniform(35, 60)
    thick = rng.uniform(4, 14)
    shell = inside & (((y > surface) & (y < surface + 1.5)) | ((y > surface + thick) & (y < surface + thick + 1.5)))
    foam = inside & (y >= surface + 1.5) & (y <= surface + thick)
    result = np.array(ct)
    for where, hu in ((shell, rng.uniform(-150, 300)), (foam, rng.uniform(-960, -850))):
        layer = np.broadcast_to(where, ct.shape) & (ct < hu_unit(-500))
        result[layer] = hu_unit(hu)
    return result


def hu_unit(hu: float) -> float:
    return (hu - LOW_HU) / (HIGH_HU - LOW_HU) * 2 - 1
