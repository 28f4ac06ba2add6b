"""What fast sampling costs: anomaly maps with the shipped setting against the full sampler (500 steps of DDIM each
way), same networks, same slices of heads that no training saw; and seconds a slice."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from medgen.diffusion.held_out import HeldOut, held_out_slices
from medgen.diffusion.networks import NoiseNetwork
from medgen.diffusion.translation import Setting, Translator
from medgen.errors import BadInput
from medgen.imaging.phantoms import TEST_HEADS
from medgen.method import Context
from medgen.methods.diffusion_anomaly.infer import HEALTHY, anomaly_map, guides_of, networks_of, shrunk
from medgen.methods.diffusion_anomaly.proof import GUIDANCE, LEVEL, RIM, SMOOTHING, STEPS, scaled
from medgen.methods.diffusion_anomaly.spec import SPEC
from medgen.metrics.ranking import auroc
from medgen.nets.diffusion_unet import DiffusionUNet
from medgen.weights import checked_weights

PAPER_EVALUATIONS = 1000  # of the noise network for one slice: 500 to encode, 500 to decode
RATIO_BAR, LOSS_BAR, SECONDS_BAR = 0.05, 0.01, 4.0


def run(quick: bool) -> dict[str, Any]:
    """12 slices of four heads; quick: 3 of one. Two threads."""
    try:
        context = Context(weights=checked_weights(SPEC.id, SPEC.weights[0])[0])
        slices = held_out_slices([TEST_HEADS[0]] if quick else TEST_HEADS, 1, 0, seed=1)
    except BadInput as error:  # the other benchmarks shall run all the same
        return {"name": "diffusion", "passed": False, "details": {"not measured": str(error)}}
    torch.set_num_threads(min(2, torch.get_num_threads()))
    networks = networks_of(context)
    slices = slices.rows(slices.diseased)
    settings = {
        "fast": Setting(LEVEL, STEPS),
        "ddim, same steps": Setting(LEVEL, STEPS, "ddim"),
        "full": Setting(500, 500, "ddim"),
        "full, same level": Setting(LEVEL, LEVEL, "ddim"),
    }
    found = {name: _measured(slices, networks, setting, context) for name, setting in settings.items()}
    areas = {name: figures["auroc"] for name, figures in found.items()}
    ratio = found["fast"]["evaluations"] / PAPER_EVALUATIONS
    loss = max(areas["full"], areas["full, same level"]) - areas["fast"]
    seconds = found["fast"]["seconds"]
    return {
        "name": "diffusion",
        "passed": ratio <= RATIO_BAR and loss <= LOSS_BAR and seconds <= SECONDS_BAR,
        "details": {
            "evaluation_ratio": ratio,
            "auroc_loss": loss,
            "by_setting": found,
            "slices": len(slices),
            "level": LEVEL,
            "steps": STEPS,
            "guidance": GUIDANCE,
            "bars": {"evaluation_ratio": RATIO_BAR, "auroc_loss": LOSS_BAR, "seconds_per_slice": SECONDS_BAR},
        },
    }


def _measured(slices: HeldOut, networks: dict[str, nn.Module], setting: Setting, context: Context) -> dict[str, float]:
    """Pixel AUROC of the map, round-trip error, evaluations and seconds for each slice."""
    denoiser = networks["denoiser"]
    assert isinstance(denoiser, DiffusionUNet)
    noise = NoiseNetwork(denoiser, label=HEALTHY)
    translator = Translator(noise, setting, context)
    x, guides = (
        torch.from_numpy(slices.images),
        guides_of(networks["classifier"], GUIDANCE),
    )
    started = time.perf_counter()
    latents = translator.encode(x)
    drawn = translator.decode(latents, lambda _rows: guides).numpy()
    seconds, evaluations = time.perf_counter() - started, noise.evaluations
    change = scaled(anomaly_map(slices.images, drawn, shrunk(slices.brain, RIM), SMOOTHING))
    return {
        "auroc": auroc(change[slices.brain], slices.lesion[slices.brain]),
        "round_trip_error": translator.round_trip(x, latents),
        "evaluations": evaluations / len(x),
        "seconds": seconds / len(x),
    }
