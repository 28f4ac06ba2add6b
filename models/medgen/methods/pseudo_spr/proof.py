"""The claims of Yawson et al. 2023 that this project repeats, and the figures of the starter weights.

`medgen prove pseudo_spr`; what each check is, README.md tells. Data: rendered heads of the shared data, 1 to 8 to learn
from, 17 and 18 to test the experiments, 17 to 20 the starter weights; analytic heads where the shared data is missing.
MAE is in thousandths of SPR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage

from medgen.imaging.foreground import foreground_mask
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.imaging.phantoms import (
    TEST_HEADS,
    TRAIN_HEADS,
    analytic_head,
    crop_to_head,
    load_head,
    render_mr,
    resample_labels,
)
from medgen.imaging.sliding_window import sliding_window
from medgen.imaging.water_path import spr_from_hu, water_path
from medgen.method import Context, Progress, SilentProgress
from medgen.methods.pseudo_spr.infer import predict, run
from medgen.methods.pseudo_spr.learning import (
    AIR_SPR,
    PATCH,
    SPACING_MM,
    Case,
    Recipe,
    draw_batch,
    from_target,
    in_half_precision,
    load_network,
    network_input,
)
from medgen.methods.pseudo_spr.spec import CHANNELS, SPR
from medgen.methods.pseudo_spr.train import SprStep, cosine, make_case, render_case
from medgen.metrics.overlap import assd_mm
from medgen.metrics.synthetic_ct import figures
from medgen.proofs import Mode, check, verdict
from medgen.shared_data import measured_head_ct, shared_folder
from medgen.weights import checked_weights

Checks = list[dict[str, Any]]
Array = npt.NDArray[Any]
SPACING, SMALL, WIDTH, WIDEST, BATCH = 2.0, 32, 16, 64, 2  # of the trainings here: mm, voxels, channels, patches
ARMS = {"Exp2 (fat-suppressed)": (("water",), False), "Exp3 (both Dixon)": (("water", "fat"), False),
        "Exp4 (both and bone)": (("water", "fat"), True)}  # fmt: skip
NEAR_MM, LINES, Q = 4.0, 50, 4095.0


def prove(mode: Mode = "normal", seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """quick: exact checks, the body found, and the starter weights on one head; normal: the paper's experiments with 3
    seeds and 200 steps, too, and four heads; full: 1500 steps."""
    progress = progress or SilentProgress()
    skipped: list[str] = []
    if shared_folder() is None:
        skipped.append("The shared data is not on this machine: analytic heads take the place of rendered ones.")
    checks = [_water_block(), *_honesty()]
    if mode == "quick":
        skipped.append("The paper's experiments, which train, are left out by --quick.")
    else:
        checks += _experiments(seed, {"normal": 200, "full": 1500}[mode], progress)
        checks += _real_ct(skipped, seed)
    checks += [_skin(seed), *_starter(seed, 1 if mode == "quick" else len(TEST_HEADS), progress)]
    return verdict(SPR.id, checks, skipped)


# ------------------------------------------------------------------------------------------------------- exact checks


def _water_block() -> dict[str, Any]:
    grid = Grid((70, 60, 50), (1.7, 2.0, 2.5), (0, 0, 0), (0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1))
    block = from_array(np.ones((50, 60, 70), np.float32), grid)
    middle = grid.to_world([[34.5, 29.5, 24.5]])[0]
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(20):
        half = rng.standard_normal(3)
        half *= 50 / np.linalg.norm(half)
        worst = max(worst, abs(water_path(block, middle - half, middle + half).total_mm - 100))
    return check("WET of 100 mm of SPR 1, 20 directions, worst error (mm)", worst, 0.1, 0, higher=False)


def _honesty() -> Checks:
    """No report of ours can show a PSNR above 20 log10(Q / MAE); the paper's own figures do, at Q = 4095."""
    rng, over = np.random.default_rng(0), -math.inf
    for scale in (1.0, 30.0, 1000.0):
        for power in (1, 3, 9):
            a, b = np.zeros(5000), scale * rng.standard_normal(5000) ** power
            found = figures(a, b, q=Q)
            over = max(over, found.psnr_db - 20 * math.log10(Q / found.mae))
    paper = min(psnr - 20 * math.log10(Q / mae) for mae, psnr in ((32.08, 55.74), (15.15, 59.78), (19.41, 58.76)))
    return [
        check("Our PSNR above 20 log10(4095 / MAE), worst (dB)", over, 0, 0, higher=False),
        check("The paper's PSNR above 20 log10(4095 / MAE), least (dB)", paper, 0, 0),
    ]


# -------------------------------------------------------------------------------------------------- paper's experiments


@dataclass(frozen=True)
class Errors:
    """Thousandths of SPR, and mm."""

    body: float
    near: float
    wet_mm: float


def mean_errors(rows: list[Errors]) -> Errors:
    return Errors(*(float(np.mean([getattr(row, name) for row in rows])) for name in ("body", "near", "wet_mm")))


def _head(number: int, spacing_mm: float, rng: np.random.Generator) -> sitk.Image:
    """The labels of head `number`; of an analytic one at `spacing_mm` without the shared data."""
    return analytic_head(rng, spacing_mm) if shared_folder() is None else crop_to_head(load_head(number))


def _case(number: int, spacing_mm: float, seed: int) -> Case:
    """Head `number` rendered at `spacing_mm`."""
    rng = np.random.default_rng((seed, number))
    return render_case(resample_labels(_head(number, spacing_mm, rng), spacing_mm), rng, spacing_mm)


def _fit(cases: list[Case], channels: tuple[str, ...], bone: bool, steps: int, seed: int, progress: Progress) -> Any:
    """A network trained from scratch; the same seed draws the same patches for every arm."""
    torch.manual_seed(seed)
    step = SprStep(WIDTH, 2e-3, WIDEST)
    network, optimizer = step.networks["unet"], step.optimizers["unet"]
    recipe = Recipe(channels, drop=0.0, drop_bone=0.0 if bone else 1.0, reach=1, patch=SMALL, batch=BATCH)

    def update(_name: str, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()

    for number in range(steps):
        progress.raise_if_cancelled()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(number, steps, 20)
        with torch.autocast("cpu", torch.bfloat16):
            step.run(draw_batch(cases, recipe, (seed + 1, number)), update)
    return network.eval()


def predicted(network: Any, case: Case, channels: tuple[str, ...], bone: Array | None, patch: int) -> Array:
    """SPR of a case, float32 [z, y, x], air outside the body."""
    arrays = {name: np.asarray(case.channels[name], np.float32) for name in channels}
    body = np.asarray(case.body) != 0
    volume = torch.from_numpy(network_input(arrays, None if bone is None else bone != 0, body))
    half, inside = in_half_precision(network), torch.from_numpy(body)
    values = sliding_window(volume, half, (patch,) * 3, 0.25, batch=4, foreground=inside)
    spr = from_target(values[0]).clamp(min=AIR_SPR).numpy()
    spr[~body] = AIR_SPR
    return spr


def errors(found: Array, case: Case, spacing_mm: float, seed: int) -> Errors:
    """MAE in the body and within 4 mm of bone or of air in it, and mean |WET error| along LINES lines through it."""
    truth, body = np.asarray(case.spr, np.float32), np.asarray(case.body) != 0
    near = ndimage.distance_transform_edt(~edges(case), spacing_mm) <= NEAR_MM
    wrong = 1000 * np.abs(found - truth)
    images = [_image(values, spacing_mm) for values in (found, truth)]
    lines = _lines(case, spacing_mm, seed)
    totals = np.array([[water_path(image, *line).total_mm for line in lines] for image in images])
    return Errors(
        float(wrong[body].mean()), float(wrong[body & near].mean()), float(np.abs(totals[0] - totals[1]).mean())
    )


def edges(case: Case) -> npt.NDArray[np.bool_]:
    """Bone, and air in the body."""
    body = ndimage.binary_erosion(np.asarray(case.body) != 0, iterations=2)
    return np.asarray(((np.asarray(case.bone) != 0) | (np.asarray(case.spr, np.float32) < 0.5)) & body)


def _image(spr: Array, spacing_mm: float) -> sitk.Image:
    image = sitk.GetImageFromArray(spr)
    image.SetSpacing((spacing_mm,) * 3)
    return image


def _lines(case: Case, spacing_mm: float, seed: int) -> list[tuple[list[float], list[float]]]:
    """From outside the head through a random point of its middle half to 20 mm beyond that point."""
    rng = np.random.default_rng(seed)
    size = np.array(case.body.shape[::-1]) * spacing_mm
    lines = []
    for _ in range(LINES):
        target = size * rng.uniform(0.35, 0.65, 3)
        way = rng.standard_normal(3)
        way[2] = abs(way[2]) * 0.7  # from the sides and above, not through the cut neck
        way /= np.linalg.norm(way)
        reach = min(float(((np.where(way > 0, size, 0) - target) / way).min()), 300.0) - spacing_mm
        lines.append(((target + reach * way).tolist(), (target - 20 * way).tolist()))
    return lines


def _experiments(seed: int, steps: int, progress: Progress) -> Checks:
    learnt = [_case(number, SPACING, seed) for number in TRAIN_HEADS[:8]]
    tests = [_case(number, SPACING, seed + 50) for number in TEST_HEADS[:2]]
    rows: dict[str, list[Errors]] = {}

    def note(name: str, network: Any, channels: tuple[str, ...], bones: list[Array | None]) -> None:
        for case, bone in zip(tests, bones, strict=True):
            rows.setdefault(name, []).append(
                errors(predicted(network, case, channels, bone, SMALL), case, SPACING, seed)
            )

    for number in range(3):
        for index, (name, (channels, bone)) in enumerate(ARMS.items()):
            progress.report("Experiments", (number * len(ARMS) + index) / (3 * len(ARMS)) * 0.85, name)
            network = _fit(learnt, channels, bone, steps, seed + number, progress)
            note(name, network, channels, [np.asarray(case.bone) if bone else None for case in tests])
            if bone:
                thin = [ndimage.binary_erosion(np.asarray(case.bone) != 0) for case in tests]
                note("Exp4, bone eroded by a voxel", network, channels, list(thin))
    for case in tests:
        water = np.where(np.asarray(case.body) != 0, 1.0, AIR_SPR).astype(np.float32)
        rows.setdefault("water only", []).append(errors(water, case, SPACING, seed))
    mean = {name: mean_errors(found) for name, found in rows.items()}
    one, two, bone_arm = (mean[name] for name in ARMS)
    thin_arm, water_arm = mean["Exp4, bone eroded by a voxel"], mean["water only"]
    told = f"3 seeds, {steps} steps"
    return [
        check(
            f"Exp4 against 0.85 Exp3, MAE within 4 mm of bone or air ({told})", bone_arm.near, 0.85 * two.near, 0, False
        ),
        check("Exp4 against Exp3, MAE in the body", bone_arm.body, two.body, 0, False),
        check("Exp4 with bone eroded by a voxel against Exp3, MAE near bone or air", thin_arm.near, two.near, 0, False),
        check("Exp3 against 0.95 Exp2, MAE in the body", two.body, 0.95 * one.body, 0, False),
        check("Exp4 against Exp3, mean |WET error| over 50 lines (mm)", bone_arm.wet_mm, two.wet_mm, 0, False),
        check("Exp4 against water everywhere, mean |WET error| (mm)", bone_arm.wet_mm, water_arm.wet_mm, 0, False),
    ]


# ----------------------------------------------------------------------------------------------------- starter weights


def _dixon_of_ct(ct: sitk.Image, rng: np.random.Generator) -> Case:
    """Dixon and T1-like channels of a real CT, simply drawn: water 1 in soft tissue, 0.1 in fat, 0.05 in
    bone, 0 in air; fat 0.05, 1, 0.05 (1 in marrow), 0; bone and air both dark; bias, blur and Rician noise."""
    hu, body = to_array(ct).astype(np.float32), to_array(foreground_mask(ct)) != 0
    hu[~body] = -1000
    bone = ndimage.binary_opening(hu > 250) | (hu > 500)
    closed = ndimage.binary_closing(bone, iterations=3)
    marrow = closed & ~bone & (hu > 60)
    fat = (hu > -250) & (hu < -30) & ~closed
    soft = (hu >= -30) & ~closed
    water = 1.0 * soft + 0.1 * fat + 0.05 * bone + 0.1 * marrow
    fatty = 0.05 * soft + 1.0 * fat + 0.05 * bone + 1.0 * marrow
    images = {}
    for name, clean in (("water", water), ("t1", 0.55 * water + 0.9 * fatty), ("fat", fatty)):
        blurred = ndimage.gaussian_filter(clean.astype(np.float32), 0.5)
        blurred *= 1 + 0.15 * np.cos(np.linspace(-1, 1, hu.shape[2]) * 2 + rng.uniform(-1, 1)).astype(np.float32)
        noise = 0.02 * rng.standard_normal((2, *hu.shape)).astype(np.float32)
        images[name] = from_array(np.hypot(blurred + noise[0], noise[1]), ct)
    return make_case(images, from_array(closed, ct), from_array(spr_from_hu(hu), ct))


def _real_ct(skipped: list[str], seed: int) -> Checks:
    """The shipped network on channels drawn from a real head CT: anatomy and bone that no phantom has."""
    ct = measured_head_ct()
    if ct is None:
        skipped.append("The real head CT of Debian's invesalius-examples is not on this machine (MEDGEN_HEAD_CT).")
        return []
    case = _dixon_of_ct(ct, np.random.default_rng(seed))
    network = load_network(Context(weights=checked_weights(SPR.id, SPR.weights[0])[0]))
    water = np.where(np.asarray(case.body) != 0, 1.0, AIR_SPR).astype(np.float32)
    found = [predicted(network, case, CHANNELS, bone, PATCH) for bone in (np.asarray(case.bone), None)]
    with_bone, without, none = (errors(spr, case, SPACING_MM, seed) for spr in (*found, water))
    return [
        check("Real CT, starter: MAE near bone or air, bone against 0.85 of none", with_bone.near, 0.85 * without.near,
              0, False),
        check("Real CT, starter, bone: mean |WET error| against water (mm)", with_bone.wet_mm, none.wet_mm, 0, False),
    ]  # fmt: skip


def _as_run(case: Case, channels: tuple[str, ...]) -> Array:
    """SPR as users get it who have no bone segment."""
    images = {name: np.asarray(case.channels[name], np.float32) for name in channels}
    inputs = {name: _image(values - values.min(), SPACING_MM) for name, values in images.items()}
    body = _image(np.asarray(case.body).astype(np.uint8), SPACING_MM)
    context = Context(weights=checked_weights(SPR.id, SPR.weights[0])[0])
    return to_array(run({**inputs, "body": body}, SPR.check_parameters({}), context)["spr"]).astype(np.float32)


def _skin(seed: int) -> dict[str, Any]:
    """Nobody gives a body: where the one found ends."""
    context, distances = Context(weights=checked_weights(SPR.id, SPR.weights[0])[0]), []
    for number in TEST_HEADS:
        rng = np.random.default_rng((seed, number))
        head = _head(number, SPACING_MM, rng)
        _, found = predict({"t1": render_mr(head, "T1", rng)}, {}, 0.5, context)
        body = np.stack([ndimage.binary_fill_holes(plane) for plane in to_array(head) != 0])
        distances.append(assd_mm(to_array(found) != 0, body, tuple(reversed(head.GetSpacing()))))
    return check("Body found in T1: mean distance to the skin (mm)", float(np.mean(distances)), 1.0, 0, higher=False)


def _starter(seed: int, heads: int, progress: Progress) -> Checks:
    """The shipped network on rendered heads that it never saw: some subsets of channels, with bone and without."""
    network = load_network(Context(weights=checked_weights(SPR.id, SPR.weights[0])[0]))
    subsets: tuple[tuple[str, ...], ...] = (CHANNELS, ("t1",))
    rows: dict[tuple[tuple[str, ...], bool], list[Errors]] = {}
    fit: dict[tuple[str, ...], list[Errors]] = {}
    water_rows = []
    for index, number in enumerate(TEST_HEADS[:heads]):
        case = _case(number, SPACING_MM, seed + 90)
        water = np.where(np.asarray(case.body) != 0, 1.0, AIR_SPR).astype(np.float32)
        water_rows.append(errors(water, case, SPACING_MM, seed))
        for channels in subsets if heads > 1 else subsets[:1]:
            for bone in (True, False):
                progress.raise_if_cancelled()
                progress.report("Starter weights", 0.85 + 0.15 * index / heads)
                found = predicted(network, case, channels, np.asarray(case.bone) if bone else None, PATCH)
                rows.setdefault((channels, bone), []).append(errors(found, case, SPACING_MM, seed))
            fit.setdefault(channels, []).append(errors(_as_run(case, channels), case, SPACING_MM, seed))
    water_wet = float(np.mean([e.wet_mm for e in water_rows]))
    water_body = float(np.mean([e.body for e in water_rows]))
    checks = []
    for channels in subsets if heads > 1 else subsets[:1]:
        name = "+".join(channels)
        near, plain = (float(np.mean([e.near for e in rows[channels, bone]])) for bone in (True, False))
        wet = float(np.mean([e.wet_mm for e in rows[channels, False]]))
        body = float(np.mean([e.body for e in rows[channels, False]]))
        checks += [
            check(f"Starter, {name}: MAE near bone or air, bone against 0.85 of none", near, 0.85 * plain, 0, False),
            check(f"Starter, {name}, no bone: MAE in the body against water everywhere", body, water_body, 0, False),
            check(f"Starter, {name}, no bone: mean |WET error| against water (mm)", wet, water_wet, 0, False),
            check(f"Starter, {name}, no bone, fitted to structures: MAE in the body against the network alone",
                  mean_errors(fit[channels]).body, body, 0, False),
            check("the same: mean |WET error| against the network alone (mm)", mean_errors(fit[channels]).wet_mm, wet,
                  0, False),
        ]  # fmt: skip
    return checks
