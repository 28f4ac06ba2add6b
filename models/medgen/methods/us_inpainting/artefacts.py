"""First masks of artefacts in a still or a cine, for a person to correct."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.imaging.ultrasound import full_scale, grey_frame
from medgen.imaging.ultrasound_artefacts import find_reverberation, find_shadows, find_text
from medgen.method import Context
from medgen.methods.us_inpainting.infer import fan_of, on_grid, refuse_doppler
from medgen.methods.us_inpainting.spec import ARTEFACTS

FRAMES_SEEN = 16


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: frames. outputs: artefacts, on the grid of the first frame; found. Text is sought over the cine, the
    others in its first frame. Raises BadInput for colour Doppler."""
    frames: list[sitk.Image] = inputs["frames"]
    refuse_doppler(frames)
    white = max(full_scale(frame) for frame in frames)
    context.progress.report("Finding the fan", 0.0)
    inside = fan_of(frames, white)
    seen = [grey_frame(frame, white) for frame in frames[:: -(-len(frames) // FRAMES_SEEN)]]
    level = parameters["sensitivity"]
    masks = {}
    for value, (name, find) in enumerate(
        {
            "shadow": lambda: find_shadows(seen[0], inside, level),
            "reverberation": lambda: find_reverberation(seen[0], inside, level),
            "text": lambda: find_text(seen, inside, level),
        }.items()
    ):
        context.progress.raise_if_cancelled()
        context.progress.report("Finding artefacts", (value + 1) / 4)
        if parameters[name]:
            masks[name] = find()
    labels = np.zeros(inside.shape, np.uint8)
    for name, value in (("shadow", 3), ("reverberation", 2), ("text", 1)):  # the surest is written last
        if name in masks:
            labels[masks[name]] = value
    shares = [round(float((labels == label.value).sum() / inside.sum()), 4) for label in ARTEFACTS]
    return {
        "artefacts": on_grid(labels, frames[0]),
        "found": {"kind": [label.name for label in ARTEFACTS], "share_of_fan": shares},
    }
