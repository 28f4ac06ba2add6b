"""The claims of Wolleb et al., MICCAI 2020, that this project repeats, on the paper's synthetic set.

`medgen prove descargan`; what each check is, README.md tells. The set is generated at 64 x 64 pixels, 300 images of
each class; every comparison has the same seed, steps and data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from medgen.method import Progress, SilentProgress
from medgen.methods.descargan.net import Discriminator, Generator
from medgen.methods.descargan.phantom import Pairs, draw_pairs
from medgen.methods.descargan.spec import SPEC
from medgen.methods.descargan.train import DescarganStep, Weights
from medgen.metrics.overlap import dice
from medgen.metrics.ranking import auroc
from medgen.proofs import Mode, check, verdict

Checks = list[dict[str, Any]]
SIDE, WIDTH, EACH, BATCH = 64, 16, 300, 10
STEPS = {"normal": 1500, "full": 10_000}
Float32 = npt.NDArray[np.float32]


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: the networks' sizes; normal: 1500 steps, without the variants of the generator; full: 10,000, all."""
    progress = progress or SilentProgress()
    checks = _parameters()
    if mode == "quick":
        skipped = ["The synthetic set, on which networks are trained, is left out by --quick."]
        return verdict(SPEC.id, checks, skipped)
    rng = np.random.default_rng(seed)
    learnt, tested = draw_pairs(EACH, SIDE, rng), draw_pairs(60, SIDE, rng)
    whole = Weights()
    variants: dict[str, tuple[dict[str, bool], Weights]] = {
        "full": ({}, whole),
        "no identity loss": ({}, replace(whole, identity=0.0)),
    }
    skipped = []
    if mode == "full":
        variants |= {"one head": ({"one_head": True}, whole), "top skip": ({"top_skip": True}, whole)}
    else:
        skipped.append("One head, and a skip at full resolution, are compared by --full.")
    found = {}
    for number, (name, (options, weights)) in enumerate(variants.items()):
        progress.report(f"Training: {name}", number / (len(variants) + 1))
        found[name] = scores(trained(learnt, options, weights, STEPS[mode], seed), tested)
    progress.report("Training: autoencoder", 0.9)
    found["autoencoder"] = scores(autoencoder(learnt, STEPS[mode] // 5, seed), tested)
    return verdict(SPEC.id, checks + _claims(found), skipped)


def _parameters() -> Checks:
    with torch.device("meta"):
        counts = {8_528_262: Generator(), 18_170_180: Discriminator()}
    return [
        check(f"Parameters away from the paper's {expected:,}",
              abs(sum(p.numel() for p in network.parameters()) - expected), 0, 0, higher=False)
        for expected, network in counts.items()
    ]  # fmt: skip


def trained(learnt: Pairs, options: dict[str, bool], weights: Weights, steps: int, seed: int) -> nn.Module:
    """The generator after so many steps of the discriminator."""
    torch.manual_seed(seed)
    step = DescarganStep(Generator(WIDTH, **options), Discriminator(WIDTH // 2, SIDE), 3e-4, weights)

    def update(name: str, loss: Tensor) -> None:
        optimizer = step.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(step.networks[name].parameters(), 10.0)
        optimizer.step()

    label = torch.arange(BATCH) % 2
    for number in range(steps):
        rng = np.random.default_rng((seed, number))
        rows = rng.integers(0, EACH, BATCH)
        # unpaired: the two classes of a batch come from different scenes
        image = np.where((label == 0).numpy()[:, None, None, None], learnt.healthy[rows], learnt.diseased[rows])
        for axis in (2, 3):
            image = np.flip(image, axis) if rng.random() < 0.5 else image
        step.run({"image": torch.from_numpy(image.copy()), "label": label, "number": number}, update)
    return settled(step.networks["generator"], learnt)


@torch.no_grad()
def settled(generator: nn.Module, learnt: Pairs) -> nn.Module:
    """Batch normalisation measured anew: with momentum 0.01 the running figures lag behind a short training."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    generator.train()
    for start in range(0, 100, BATCH):
        for images in (learnt.healthy, learnt.diseased):
            generator(torch.from_numpy(images[start : start + BATCH]), 0)
    return generator.eval()


def autoencoder(learnt: Pairs, steps: int, seed: int) -> nn.Module:
    """Of the generator's size but with a bottleneck and no skips, trained on healthy images alone."""
    torch.manual_seed(seed)
    widths = (1, WIDTH, 2 * WIDTH, 4 * WIDTH)
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
    inner = widths[-1] * (SIDE // 8) ** 2
    layers += [nn.Flatten(), nn.Linear(inner, 64), nn.Linear(64, inner)]
    layers += [nn.Unflatten(1, (widths[-1], SIDE // 8, SIDE // 8))]
    for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
    network = nn.Sequential(*layers, nn.Tanh())
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for number in range(steps):
        rows = np.random.default_rng((seed, number)).integers(0, EACH, 4 * BATCH)
        image = torch.from_numpy(learnt.healthy[rows])
        optimizer.zero_grad()
        F.mse_loss(network(image), image).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def scores(network: nn.Module, tested: Pairs) -> dict[str, float]:
    """Against the truth healthy - diseased, cut at the average Otsu threshold of its absolute values."""

    def redrawn(images: Float32) -> Float32:
        x = torch.from_numpy(images)
        return (network(x, 0) if isinstance(network, Generator) else network(x)).numpy()

    truth = np.abs(tested.truth)
    cut = float(np.mean([threshold_otsu(t) for t in truth]))
    difference = redrawn(tested.diseased) - tested.diseased
    quiet = redrawn(tested.healthy) - tested.healthy
    return {
        "dice": float(np.mean([dice(np.abs(d) > cut, t > cut) for d, t in zip(difference, truth, strict=True)])),
        "auroc": auroc(np.abs(difference), truth > cut),
        "mse": float(np.mean((difference + tested.diseased - tested.healthy) ** 2)),
        "quiet": float(np.abs(quiet).mean() / np.abs(difference).mean()),
    }


def _claims(found: dict[str, dict[str, float]]) -> Checks:
    full, bare = found["full"], found["no identity loss"]
    checks = [
        check("Pixel AUROC", full["auroc"], 0.90, 0),
        check("Pixel AUROC over that without identity loss", full["auroc"], bare["auroc"], 0.03),
        check("Error of the redrawn image without identity loss, over the full one's", bare["mse"] / full["mse"], 2, 0),
        check("Dice over an autoencoder of healthy images", full["dice"], found["autoencoder"]["dice"], 0.15),
        check("Change of healthy images, as a share of diseased ones'", full["quiet"], 1 / 3, 0, higher=False),
    ]
    if "one head" in found:
        one, skip = found["one head"], found["top skip"]
        checks.append(check("Pixel AUROC over that with one head", full["auroc"], one["auroc"], 0))
        checks.append(check("Dice over that with a skip at full resolution", full["dice"], skip["dice"], 0))
    return checks
