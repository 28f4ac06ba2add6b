"""The same on one chest X-ray, squeezed to the networks' square."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.filters import threshold_otsu

from medgen.imaging.brain_study import SIDE
from medgen.imaging.xray_set import xray_slice, xray_to_scan
from medgen.method import Context
from medgen.methods.diffusion_anomaly.infer import Redrawing, anomaly_map, networks_of, probability_diseased


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: image. outputs: as the spec says, on the image's grid. Raises BadInput where it is no single image."""
    context.progress.report("Loading the networks", 0.0)
    networks, image = networks_of(context), inputs["image"]
    x = xray_slice(image, SIDE)[None, None]
    chance = float(probability_diseased(x, networks["classifier"], context)[0])
    redrawn = Redrawing(networks, parameters, context)
    drawn = redrawn(x)
    change = anomaly_map(x, drawn, np.ones((1, SIDE, SIDE), bool), parameters["smoothing"])[0]
    cut = float(threshold_otsu(change))
    return {
        "anomaly": xray_to_scan((change > cut).astype(np.uint8), image),
        "anomaly_map": xray_to_scan(change, image),
        "healthy": xray_to_scan(np.clip(drawn[0, 0], 0, 1), image),
        "report": {
            "quantity": ["P(diseased)", "threshold", "round-trip error without guidance", "encodings from the cache"],
            "value": [round(chance, 4), round(cut, 4), round(redrawn.error, 4), redrawn.remembered],
        },
    }
