"""The claims of Paavilainen et al. 2021 that this project repeats, and the figures of the starter weights.

`medgen prove pix2pix_mr_to_ct`; what each check is, README.md tells. Data: rendered heads of the shared data; MR and
stand-in of 1 to 7, CT of 8 to 14 (other people), 17 to 20 to test; analytic heads where the shared data is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.stats import wasserstein_distance
from torch import nn

from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import from_array, pad, to_array
from medgen.imaging.intensity import unit_to_hu
from medgen.imaging.phantoms import (
    TEST_HEADS,
    TRAIN_HEADS,
    analytic_head,
    crop_to_head,
    load_head,
    render_ct,
    render_mr,
)
from medgen.imaging.phantoms.tissue import BONE, MARROW
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.pix2pix_translation.infer import ct_to_mr, flicker, mr_to_ct
from medgen.methods.pix2pix_translation.learning import (
    CT_TO_MR,
    HIGH_HU,
    LOW_HU,
    MR_TO_CT,
    SHORT_RATE,
    Objective,
    Patient,
    TranslationStep,
    draw_batch,
    held_then_linear,
    hu_unit,
    with_couch,
)
from medgen.methods.pix2pix_translation.net import PatchDiscriminator
from medgen.methods.pix2pix_translation.slices import ct_unit
from medgen.methods.pix2pix_translation.spec import CT_TO_MR as CT_TO_MR_SPEC
from medgen.methods.pix2pix_translation.spec import MR_TO_CT as MR_TO_CT_SPEC
from medgen.methods.pix2pix_translation.train import render_patient
from medgen.metrics.overlap import dice
from medgen.proofs import Mode, check, verdict
from medgen.shared_data import measured_head_ct, shared_folder
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
Array = npt.NDArray[Any]
LEVELS, WIDTH, D_WIDTH = 6, 16, 32
LAYERS = 2  # of the discriminators: patches of 34 pixels, as the slices have 128
BONE_HU, BODY_HU = 250.0, -300.0
STEPS = {"normal": 1600, "full": 6000}
EVERY = 4  # of a test head's slices one is translated


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: receptive fields, and the starter weights on one head; normal: the paper's ablations, one seed, 1600
    steps an arm, too, and four heads; full: three seeds of 6000 steps."""
    progress = progress or SilentProgress()
    skipped = [
        "FID and KID need Inception weights: the distance of HU histograms stands in for them.",
    ]
    if shared_folder() is None:
        skipped.append("The shared data is not on this machine: analytic heads take the place of rendered ones.")
    checks = receptive_fields()
    if mode == "quick":
        skipped.append("The paper's ablations, which train, are left out by --quick.")
    else:
        checks += ablations(range(seed, seed + (3 if mode == "full" else 1)), STEPS[mode], progress)
    checks += real_couch(skipped)
    checks += starter(seed, 1 if mode == "quick" else len(TEST_HEADS), progress)
    return verdict(MR_TO_CT_SPEC.id, checks, skipped)


# ---------------------------------------------------------------------------------------------------- receptive fields


def receptive_fields() -> Checks:
    """Side of the square of pixels that move one score of the discriminator, by its gradient."""
    return [
        check(f"PatchGAN of {n} layers: pixels away from {side}", abs(gradient_side(n) - side), 0, 0, higher=False)
        for n, side in ((3, 70), (4, 142), (5, 286))
    ]


def gradient_side(layers: int) -> int:
    """Instance normalisation sees the whole image by its statistics, so it is taken out."""
    network = PatchDiscriminator(1, layers, 2).double()
    for index, layer in enumerate(network.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            network.layers[index] = nn.Identity()
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, 0.1, 1.0)  # no two paths cancel
    image = torch.zeros(1, 1, 400, 400, dtype=torch.float64, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert image.grad is not None
    touched = torch.nonzero(image.grad[0, 0])
    return int((touched.max(0).values - touched.min(0).values).max()) + 1


# ----------------------------------------------------------------------------------------------------------- ablations


@dataclass(frozen=True)
class Test:
    """Slices [z, y, x] of a head that no arm saw: mr, its stand-in and CT, with a couch and without, in [-1, 1]; bone
    and body by the labels."""

    patient: Patient
    bone: npt.NDArray[np.bool_]
    body: npt.NDArray[np.bool_]


def _head(number: int, seed: int) -> Any:
    rng = np.random.default_rng((seed, number))
    return analytic_head(rng, 2.0) if shared_folder() is None else crop_to_head(load_head(number))


def _patient(number: int, seed: int) -> Patient:
    return render_patient(_head(number, seed), np.random.default_rng((seed, number)), contrasts=1)


def _test(number: int, seed: int) -> Test:
    patient = _patient(number, seed)
    assert patient.standin is not None
    standin = np.asarray(patient.standin, np.float32)
    return Test(patient, np.abs(standin - hu_unit(500)) < 0.01, standin > hu_unit(-500))


def fit(patients: list[Patient], objective: Objective, steps: int, seed: int, progress: Progress) -> nn.Module:
    """The generator after `steps`; the same seed draws the same slices for every arm of a direction."""
    torch.manual_seed(seed)
    step = TranslationStep(replace(objective, layers=LAYERS), LEVELS, WIDTH, D_WIDTH, SHORT_RATE)

    def update(name: str, loss: torch.Tensor) -> None:
        step.optimizers[name].zero_grad()
        loss.backward()
        step.optimizers[name].step()

    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in step.optimizers.items()}
    for number in range(steps):
        progress.raise_if_cancelled()
        for name, optimizer in step.optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[name] * held_then_linear(number, steps)
        with torch.autocast("cpu", torch.bfloat16):
            step.run(draw_batch(patients, objective, (seed + 1, number)), update)
    return step.networks["generator"].eval()


@torch.no_grad()
def translated(network: nn.Module, slices: Array) -> npt.NDArray[np.float32]:
    """[z, y, x] in [-1, 1] to the same."""
    planes = torch.from_numpy(np.asarray(slices, np.float32))[:, None]
    height, width = planes.shape[2:]
    padded = F.pad(planes, (0, -width % 2**LEVELS, 0, -height % 2**LEVELS), value=-1.0)
    return torch.cat([network(part) for part in padded.split(8)])[:, 0, :height, :width].numpy()


def hu_of(unit: Array) -> npt.NDArray[np.float32]:
    return unit_to_hu(np.asarray(unit, np.float32), LOW_HU, HIGH_HU)


def in_the_body(hu: Array) -> Array:
    """The values inside the outline, cavities too."""
    return hu[outline(hu)]


def outline(hu: Array) -> npt.NDArray[np.bool_]:
    return np.stack([ndimage.binary_fill_holes(plane) for plane in hu > BODY_HU])


def entropy(hu: Array) -> float:
    """Of the histogram of what is bone, bins of 25 HU, nats; 0 without bone."""
    counts, _ = np.histogram(hu[hu > BONE_HU], np.arange(BONE_HU, HIGH_HU + 25, 25))
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum())


def to_ct_figures(network: nn.Module, tests: list[Test], real: Array) -> dict[str, float]:
    """real: HU in the bodies of CTs of the training's CT domain."""
    made, truth, rows = [], [], []
    for test in tests:
        hu = hu_of(translated(network, test.patient.mr[0][::EVERY]))
        true, body, bone = hu_of(test.patient.ct[::EVERY]), test.body[::EVERY], test.bone[::EVERY]  # type: ignore[index]
        # where the stand-in is wrong: cavities that it fills, bone that it makes even
        wrong = body & ((true < BODY_HU) | (np.abs(true - 500) > 200) & bone)
        rows.append(((dice(hu > BONE_HU, bone) + dice(outline(hu), body)) / 2, np.abs(hu - true)[wrong].mean()))
        made.append(hu[body])
        truth.append(true[body])
    hu, true = np.concatenate(made), np.concatenate(truth)
    overlap, error = (float(v) for v in np.mean(rows, axis=0))
    return {
        "w1": float(wasserstein_distance(hu[::17], real)),
        "dice": overlap,
        "mae_where_standin_is_wrong": error,
        "entropy": entropy(hu) / entropy(true),
    }


def couch_left(network: nn.Module, tests: list[Test]) -> float:
    """Mean intensity (0 to 1) that a translation of CTs with a couch leaves around the body."""
    left = []
    for test in tests:
        assert test.patient.ct_couch is not None
        around = ~ndimage.binary_dilation(test.body[::EVERY], iterations=3)
        left.append(((translated(network, test.patient.ct_couch[::EVERY]) + 1) / 2)[around].mean())
    return float(np.mean(left))


def ablations(seeds: range, steps: int, progress: Progress) -> Checks:
    """Table 4 of the paper, its de-quantisation, and its robustness to couches."""
    mr_side = [_patient(number, 0) for number in TRAIN_HEADS[:7]]
    ct_side = [Patient(ct=p.ct, ct_couch=p.ct_couch) for p in (_patient(number, 0) for number in TRAIN_HEADS[7:])]
    patients = [*(Patient(p.mr, p.standin) for p in mr_side), *ct_side]
    tests = [_test(number, 7) for number in TEST_HEADS[:2]]
    real = np.concatenate([in_the_body(hu_of(p.ct[::9])) for p in ct_side if p.ct is not None])[::17]
    arms: dict[str, list[dict[str, float]]] = {}
    couch: dict[str, list[float]] = {}
    for index, seed in enumerate(seeds):
        for number, name in enumerate(("l1", "gan", "paper")):
            progress.report("MR to CT", (index + number / 5) / len(seeds) * 0.8, name)
            network = fit(patients, MR_TO_CT[name], steps, seed, progress)
            arms.setdefault(name, []).append(to_ct_figures(network, tests, real))
        for number, name in enumerate(("pix2pix", "paper")):
            progress.report("CT to MR", (index + (3 + number) / 5) / len(seeds) * 0.8, name)
            couch.setdefault(name, []).append(couch_left(fit(patients, CT_TO_MR[name], steps, seed, progress), tests))

    def mean(name: str, figure: str) -> float:
        return float(np.mean([row[figure] for row in arms[name]]))

    told = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, {steps} steps"
    wrong = "mae_where_standin_is_wrong"
    left, plain = (float(np.mean(couch[name])) for name in ("paper", "pix2pix"))
    return [
        check(f"M->C: HU histogram W1 to real CT, GAN+L1 against 0.7 of L1 ({told})", mean("paper", "w1"),
              0.7 * mean("l1", "w1"), 0, False),
        check("M->C: Dice of bone and body, GAN+L1 against GAN + 0.15", mean("paper", "dice"), mean("gan", "dice"),
              0.15),
        check("M->C: MAE (HU) where the stand-in is wrong, GAN+L1 against L1", mean("paper", wrong), mean("l1", wrong),
              0, False),
        check("M->C: entropy of bone HU over the truth's, GAN+L1 (bar 0.8)", mean("paper", "entropy"), 0.8, 0),
        check("M->C: entropy of bone HU over the truth's, L1 alone (bar 0.5)", mean("l1", "entropy"), 0.5, 0, False),
        check("C->M: intensity left round the body, couch in: both discriminators against 0.3 of pix2pix", left,
              0.3 * plain, 0, False),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- starter weights


def real_couch(skipped: list[str]) -> Checks:
    """A real head CT with its head rest, body and all given to the shipped network."""
    ct = measured_head_ct()
    if ct is None:
        skipped.append("The real head CT of Debian's invesalius-examples is not on this machine (MEDGEN_HEAD_CT).")
        return []
    context = Context(weights=checked_weights(CT_TO_MR_SPEC.id, CT_TO_MR_SPEC.weights[0])[0])
    off = CT_TO_MR_SPEC.check_parameters({"fill_outside": False})
    mr = to_array(ct_to_mr({"ct": ct}, off, context)["mr"]).astype(np.float32)
    body = to_array(foreground_mask(ct)) != 0
    rest = ~ndimage.binary_dilation(body, iterations=5) & (to_array(ct).astype(np.float32) > -500)
    left = float(mr[rest].mean() / mr[body].mean())
    return [check("Real CT, C->M: brightness of the head rest over the head's (bar 0.3)", left, 0.3, 0, False)]


def starter(seed: int, heads: int, progress: Progress) -> Checks:
    """The shipped networks on rendered heads that they never saw, through the method's own code."""
    contexts = [Context(weights=checked_weights(s.id, s.weights[0])[0]) for s in (MR_TO_CT_SPEC, CT_TO_MR_SPEC)]
    rows = []
    for index, number in enumerate(TEST_HEADS[:heads]):
        progress.report("Starter weights", 0.8 + 0.2 * index / heads)
        head, rng = pad(_head(number, seed), (0, 0, 0), (0, 24, 0)), np.random.default_rng((seed + 3, number))
        mr, ct = render_mr(head, "T1", rng), render_ct(head, rng)
        made, fitted = (
            to_array(
                mr_to_ct({"mr": mr}, MR_TO_CT_SPEC.check_parameters({"structures": fit}), contexts[0])["ct"]
            ).astype(np.float32)
            for fit in (False, True)
        )
        true, labels = to_array(ct).astype(np.float32), to_array(head).astype(np.int32)
        body = np.stack([ndimage.binary_fill_holes(plane) for plane in labels > 0])
        bone = np.isin(labels, (BONE, MARROW))
        spacing = head.GetSpacing()
        couch_unit = with_couch(ct_unit(true), rng)
        laid = from_array(hu_of(couch_unit), ct)
        off = CT_TO_MR_SPEC.check_parameters({"fill_outside": False})
        back = to_array(ct_to_mr({"ct": laid}, off, contexts[1])["mr"]).astype(np.float32)
        around = ~ndimage.binary_dilation(body, iterations=4)
        in_couch = around & (couch_unit > hu_unit(-500))
        rows.append({
            "mae": np.abs(made - true)[body].mean(),
            "water": np.abs(0 - true)[body].mean(),
            "bone": dice(made > BONE_HU, (true > BONE_HU) & bone),
            "fitted_mae": np.abs(fitted - true)[body].mean(),
            "fitted_bone": dice(fitted > BONE_HU, (true > BONE_HU) & bone),
            "flicker": flicker(made, spacing, body) / flicker(true, spacing, body),
            "couch": back[in_couch].mean() / back[body].mean(),
        })  # fmt: skip
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return [
        check("Starter M->C, T1, fitted to structures: MAE in the body, HU", mean["fitted_mae"], 90, 0, False),
        check("Starter M->C, fitted: Dice of bone, above 250 HU (bar 0.7)", mean["fitted_bone"], 0.7, 0),
        check("The network alone: MAE in the body (HU) against water everywhere", mean["mae"], mean["water"], 0, False),
        check("The network alone: Dice of bone, above 250 HU (bar 0.7)", mean["bone"], 0.7, 0),
        check("The network alone: |z-gradient| of synthetic over true CT (bar 1.3)", mean["flicker"], 1.3, 0, False),
        check("Starter C->M: brightness of the couch over the body's (bar 0.1)", mean["couch"], 0.1, 0, False),
    ]
