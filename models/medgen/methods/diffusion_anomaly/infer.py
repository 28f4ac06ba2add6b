"""Encode every slice part-way into noise, decode it toward 'healthy', and map what changed."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from medgen.diffusion.guidance import toward_class
from medgen.diffusion.networks import ANY_LABEL, NoiseNetwork, compile_for_gpu, load_networks
from medgen.diffusion.sampling import Draws, Guide, ancestral, round_trip_error
from medgen.diffusion.schedule import Schedule
from medgen.diffusion.slice_memory import SliceMemory
from medgen.diffusion.studies import study_of
from medgen.diffusion.translation import Setting, Translator
from medgen.imaging.brain_study import BRAIN_SEQUENCES, PIXEL_MM, BrainStudy, chosen_slices
from medgen.imaging.islands import without_islands
from medgen.method import Context
from medgen.metrics.overlap import dice
from medgen.nets.diffusion_unet import DiffusionUNet

HEALTHY = 0
SULCUS = 8  # pixels: half as wide as the widest
LABELS = {"healthy": HEALTHY, "any": ANY_LABEL}
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: any of FLAIR, T2, T1, T1c, and brain and roi. outputs: as the spec says, all images on the grid of the
    first sequence there is. Raises BadInput."""
    context.progress.report("Loading the networks", 0.0)
    networks = networks_of(context)
    if parameters["compile"]:
        compile_for_gpu(networks["denoiser"], context)
    study = study_of(inputs, context)
    with_brain = chosen_slices(study, 0, np.inf, study.brain)
    box = study.inside(inputs.get("roi"))
    rows = chosen_slices(study, parameters["from_mm"], parameters["to_mm"], box)
    diseased = np.zeros(len(study.brain), np.float32)
    diseased[with_brain] = probability_diseased(study.slices[with_brain], networks["classifier"], context)
    if parameters["slices"] == "suspicious":
        rows = rows[diseased[rows] >= 0.5]
    healthy, redrawn = study.slices.copy(), Redrawing(networks, parameters, context)
    if len(rows):
        healthy[rows] = redrawn(study.slices[rows])
    context.progress.report("Measuring what changed", 0.96)
    inside = shrunk(study.brain, parameters["rim"]) & box
    change = anomaly_map(study.slices, healthy, inside, parameters["smoothing"])
    found, cut = segment(change, inside, rows, parameters, study)
    outputs: dict[str, Any] = {"anomaly": study.to_scan(found.astype(np.uint8)), "anomaly_map": study.to_scan(change)}
    for channel, name in enumerate(BRAIN_SEQUENCES):
        if study.present[channel]:
            outputs[f"healthy_{name}"] = study.to_scan(np.clip(healthy[:, channel], 0, 1) * study.brain)
    voxel_ml = float(np.prod(study.grid.spacing_mm) / 1000)
    report = {
        "slices": len(with_brain),
        "slices redrawn": len(rows),
        "slices likely diseased": int((diseased >= 0.5).sum()),
        "anomaly, ml": round(float(found.sum()) * voxel_ml, 2),
        "threshold": round(cut, 4),
        "round-trip error without guidance": round(redrawn.error, 4),
        "encodings from the cache": redrawn.remembered,
    }
    flair = BRAIN_SEQUENCES.index("FLAIR")
    if study.present[flair]:
        ranks = equalised(study.slices[:, flair], study.brain)
        bright = (ranks >= parameters["percentile"] / 100) & study.brain & box
        outputs["flair_threshold"] = study.to_scan(bright.astype(np.uint8))
        report["FLAIR threshold, ml"] = round(float(bright.sum()) * voxel_ml, 2)
        report["Dice of both"] = round(dice(found, bright), 3)
    outputs["diseased"] = along_the_slices(study, with_brain, diseased)
    outputs["report"] = {"quantity": list(report), "value": list(report.values())}
    return outputs


def run_slice(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """The slice nearest to the point, redrawn; images on that slice's own grid of 128 x 128 pixels."""
    networks = networks_of(context)
    study = study_of(inputs, context)
    point = np.array([parameters[name] for name in ("r_mm", "a_mm", "s_mm")])
    rows = chosen_slices(study, 0, np.inf, study.brain)
    normal = study.grid.axes[:, 2] * (-1, -1, 1)
    row = rows[np.abs((study.centres_ras[rows] - point) @ normal).argmin()]
    here = slice(row, row + 1)
    redrawn = Redrawing(networks, parameters, context)
    x = study.slices[here]
    healthy = redrawn(x)
    change = anomaly_map(x, healthy, shrunk(study.brain[here], parameters["rim"]), parameters["smoothing"])
    chance = float(probability_diseased(x, networks["classifier"], context)[0])
    outputs: dict[str, Any] = {"anomaly_map": study.one_slice(change, row)}
    for channel, name in enumerate(BRAIN_SEQUENCES):
        if study.present[channel]:
            outputs[f"healthy_{name}"] = study.one_slice(np.clip(healthy[:, channel], 0, 1) * study.brain[here], row)
    report = {
        "P(diseased)": round(chance, 4),
        "round-trip error without guidance": round(redrawn.error, 4),
        "encodings from the cache": redrawn.remembered,
    }
    return {**outputs, "report": {"quantity": list(report), "value": list(report.values())}}


def along_the_slices(study: BrainStudy, rows: npt.NDArray[np.int64], diseased: Float32) -> dict[str, Any]:
    """P(diseased) of the slices, and where the middle of each is, RAS."""
    columns: dict[str, Any] = {"position_mm": study.positions_mm[rows].round(1), "p_diseased": diseased[rows].round(4)}
    for axis, name in enumerate(("r_mm", "a_mm", "s_mm")):
        columns[name] = study.centres_ras[rows, axis].round(2)
    return {name: values.tolist() for name, values in columns.items()}


class Redrawing:
    """Slices [n, c, h, w] redrawn as healthy with the chosen options. After a call: error, the relative difference
    that the setting makes without guidance; remembered, how many slices' encodings were still known."""

    def __init__(self, networks: dict[str, nn.Module], parameters: dict[str, Any], context: Context) -> None:
        self.networks, self.parameters, self.context = networks, parameters, context
        self.error, self.remembered = 0.0, 0

    def __call__(self, slices: Float32) -> Float32:
        chosen = self.parameters
        level, steps = chosen["noise_level"], min(chosen["steps"], chosen["noise_level"])
        noise = NoiseNetwork(cast(DiffusionUNet, self.networks["denoiser"]), label=LABELS[chosen["label"]])
        if chosen["solver"] == "ddpm":
            return self._at_random(slices, noise, level, steps)
        setting = Setting(level, steps, chosen["solver"], chosen["clamp"])
        drawn, self.error, self.remembered = translated(
            slices, noise, self.networks["classifier"], setting, chosen["guidance"], self.context
        )
        return drawn

    def _at_random(self, slices: Float32, noise: NoiseNetwork, level: int, steps: int) -> Float32:
        drawn = at_random(slices, noise, self._guides(), level, steps, self.context)
        self.error = round_trip_error(
            torch.from_numpy(slices[:4]),
            torch.from_numpy(at_random(slices[:4], noise, [], level, steps, self.context)),
        )
        return drawn

    def _guides(self) -> list[Guide]:
        return guides_of(self.networks["classifier"], self.parameters["guidance"])


def networks_of(context: Context) -> dict[str, nn.Module]:
    """'denoiser' and 'classifier', kept for the next job."""
    path = context.weights
    assert path is not None
    return context.cached(("diffusion_anomaly", str(path), context.device), lambda: load_networks(path, context.device))


@torch.no_grad()
def probability_diseased(slices: Float32, classifier: nn.Module, context: Context, batch: int = 16) -> Float32:
    """[n], of the slices without noise; kept for the next job."""
    memory = SliceMemory.of(context)
    x = torch.from_numpy(slices)
    keys = memory.keys(x, ("chance", str(context.weights), context.device))

    def chances(rows: list[int]) -> list[float]:
        logits = classifier(x[rows].to(context.device), torch.ones(len(rows), device=context.device))
        found: list[float] = logits.float().softmax(1)[:, 1 - HEALTHY].cpu().tolist()
        return found

    found: list[float] = []
    for start in range(0, len(slices), batch):
        context.progress.raise_if_cancelled()
        found += memory.fill(keys, list(range(start, min(start + batch, len(slices)))), chances)
    return np.array(found, np.float32)


def guides_of(classifier: nn.Module, guidance: float) -> list[Guide]:
    def logits(x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = classifier(x, t)
        return found

    return [toward_class(logits, HEALTHY, guidance)] if guidance else []


def translated(
    slices: Float32, noise: NoiseNetwork, classifier: nn.Module, setting: Setting, guidance: float, context: Context
) -> tuple[Float32, float, int]:
    """The slices [n, c, h, w] redrawn as healthy, the round-trip error of the setting without guidance, and how many
    encodings came from the cache."""
    translator = Translator(noise, setting, context)
    guides = guides_of(classifier, guidance)
    x = torch.from_numpy(slices)
    latents = translator.encode(x, lambda f: context.progress.report("Encoding", 0.02 + 0.38 * f, _words(f, len(x))))
    drawn = translator.decode(
        latents,
        lambda _rows: guides,
        lambda f: context.progress.report("Redrawing as healthy", 0.4 + 0.5 * f, _words(f, len(x))),
    )
    context.progress.report("Measuring the round trip", 0.92)
    return drawn.numpy(), translator.round_trip(x, latents), translator.remembered


def _words(fraction: float, count: int) -> str:
    return f"{round(fraction * count)} of {count} slices"


def at_random(
    slices: Float32, noise: NoiseNetwork, guides: list[Guide], level: int, steps: int, context: Context
) -> Float32:
    """The paper's ablation: noise at random up to the level, then ancestral sampling; it changes basic anatomy."""
    schedule, parts = Schedule(), []
    times = schedule.times(level, steps)
    for row in range(0, len(slices), 8):
        x = torch.from_numpy(slices[row : row + 8]).to(context.device)
        draws = Draws([(context.seed, row + i) for i in range(len(x))])
        noisy = schedule.add_noise(x, draws.like(x), torch.full((len(x),), level, device=x.device))
        tick = context.progress.raise_if_cancelled
        parts.append(ancestral(noisy, noise.predict, schedule, times, draws, guides, tick=tick).cpu().numpy())
        context.progress.report("Redrawing as healthy", 0.1 + 0.8 * min(1.0, (row + 8) / len(slices)))
    return np.concatenate(parts)


def anomaly_map(slices: Float32, healthy: Float32, inside: Mask, smoothing: float) -> Float32:
    """[n, h, w]: sum over the sequences of |x - x_0|, smoothed in each slice by so many pixels, 0 outside. A sequence
    that is not there is 0 in both but for what the network draws into it, so it is left out."""
    present = slices.reshape(*slices.shape[:2], -1).any(axis=(0, 2))
    change = np.abs(slices - healthy)[:, present].sum(1)
    return np.asarray(ndimage.gaussian_filter(change, (0, smoothing, smoothing)) * inside)


def shrunk(brain: Mask, pixels: int) -> Mask:
    """[n, h, w], every slice's brain without so many pixels along its outline. Sulci, which a tight mask leaves out, do
    not count as outline: most of the cortex would go."""
    if not pixels:
        return brain
    margin = SULCUS + 1
    outline = np.zeros_like(brain)
    for row, plane in enumerate(brain):
        closed = ndimage.binary_closing(np.pad(plane, margin), iterations=SULCUS)[margin:-margin, margin:-margin]
        outline[row] = ndimage.binary_erosion(ndimage.binary_fill_holes(closed), np.ones((3, 3)), iterations=pixels)
    return outline & brain


def segment(
    change: Float32, inside: Mask, rows: npt.NDArray[np.int64], parameters: dict[str, Any], study: BrainStudy
) -> tuple[Mask, float]:
    """The anomaly and the threshold that cut it out of the map."""
    values = change[rows][inside[rows]]
    if not values.size or values.max() <= 0:
        return np.zeros(change.shape, bool), 0.0
    if parameters["threshold"] == "otsu":
        from skimage.filters import threshold_otsu

        cut = float(threshold_otsu(values))
    elif parameters["threshold"] == "fixed":
        cut = parameters["value"]
    else:
        cut = float(np.percentile(values, parameters["percentile"]))
    voxels = round(parameters["smallest"] / (PIXEL_MM**2 * study.grid.spacing_mm[2]))
    return without_islands((change > cut) & inside, voxels), cut


def equalised(values: Float32, brain: Mask) -> Float32:
    """Rank of every voxel among the brain's, 0..1 (histogram equalisation); 0 outside. Meissen et al. 2021 found that a
    threshold on it rivals networks on bright lesions."""
    out = np.zeros(values.shape, np.float32)
    inside = values[brain]
    order = np.searchsorted(np.sort(inside), inside, side="right")
    out[brain] = order / max(len(inside), 1)
    return out
