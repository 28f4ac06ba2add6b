"""What fast sampling costs: anomaly maps with the shipped setting against the full sampler (500 steps of DDIM each
way), same networks, same slices of heads that no training saw; and seconds a slice."""

from __future__ import annotations

import time
from typing import Any

import torch

from medgen.diffusion.held_out import available, held_out_slices
from medgen.diffusion.translation import Setting
from medgen.errors import MedGenError
from medgen.imaging.phantoms import TEST_HEADS
from medgen.method import Context
from medgen.methods.diffusion_anomaly.infer import networks_of, pseudo_healthy
from medgen.methods.diffusion_anomaly.proof import GUIDANCE, LEVEL, STEPS, changes, scaled
from medgen.methods.diffusion_anomaly.spec import SPEC
from medgen.metrics.ranking import auroc
from medgen.weights import checked_weights

PAPER_EVALUATIONS = 1000  # of the noise network for one slice: 500 to encode, 500 to decode
RATIO_BAR, LOSS_BAR, SECONDS_BAR = 0.05, 0.01, 4.0


def run(quick: bool) -> dict[str, Any]:
    """12 slices of four heads; quick: 3 of one. Two threads."""
    if not available():
        raise MedGenError("This bench renders held-out heads from the shared data, which is not on this machine.")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    context = Context(weights=checked_weights(SPEC.id, SPEC.weights[0])[0])
    networks = networks_of(context)
    slices = held_out_slices([TEST_HEADS[0]] if quick else TEST_HEADS, 1, 0, seed=1)
    slices = slices.rows(slices.diseased)
    areas, round_trips = {}, {}
    for name, setting in {
        "fast": Setting(LEVEL, STEPS),
        "ddim_same_steps": Setting(LEVEL, STEPS, "ddim"),
        "full": Setting(500, 500, "ddim"),
        "full_same_level": Setting(LEVEL, LEVEL, "ddim"),
    }.items():
        change = changes(slices, networks, setting, GUIDANCE, context)
        areas[name] = auroc(scaled(change)[slices.brain], slices.lesion[slices.brain])
        _, round_trips[name] = pseudo_healthy(slices.images[:3], networks, setting, 0.0, context)
    started = time.perf_counter()
    changes(slices.rows(slices.diseased & (slices.kind == slices.kind[0])), networks, Setting(LEVEL, STEPS), GUIDANCE,
            Context(weights=context.weights))  # fmt: skip
    seconds = (time.perf_counter() - started) / int((slices.kind == slices.kind[0]).sum())
    ratio = 2 * STEPS / PAPER_EVALUATIONS
    loss = max(areas["full"], areas["full_same_level"]) - areas["fast"]
    return {
        "name": "diffusion",
        "passed": ratio <= RATIO_BAR and loss <= LOSS_BAR and seconds <= SECONDS_BAR,
        "details": {
            "evaluation_ratio": ratio,
            "auroc_loss": loss,
            "auroc": areas,
            "round_trip_error": round_trips,
            "seconds_per_slice": seconds,
            "slices": len(slices),
            "level": LEVEL,
            "steps": STEPS,
            "guidance": GUIDANCE,
            "bars": {"evaluation_ratio": RATIO_BAR, "auroc_loss": LOSS_BAR, "seconds_per_slice": SECONDS_BAR},
        },
    }
