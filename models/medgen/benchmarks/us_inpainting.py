"""Ten real frames that no training saw, of five machines or more: the shipped weights against Telea's fill, the
biharmonic one and the network trained on squared error. Telea's needs opencv-python-headless (extra `parity`).

`picture(path)` draws the ten for the README.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.errors import MedGenError
from medgen.methods.us_inpainting.filling import Grey, Mask, biharmonic_fill, regions
from medgen.methods.us_inpainting.masks import brush_mask
from medgen.methods.us_inpainting.proof import FEATHER, SAMPLES, draws, load_arm, psnr_ssim, seam, speckle_ratio
from medgen.shared_data import shared_folder
from medgen.training.ultrasound_frames import UltrasoundFrame, real_frames

WINDOW = 128  # pixels of the window in which the hole lies
PICKS = {
    "timtrack S5": 1, "timtrack S10": 1, "dltrack 512x384": 2, "dltrack 512x285": 1, "carotid 202201121819140033VAS": 1,
    "fetal": 3, "pydicom SonoSite cine": 1,
}  # fmt: skip
MACHINES = {
    "timtrack S5": "TimTrack, not told", "timtrack S10": "TimTrack, not told", "dltrack 512x384": "DL_Track, not told",
    "dltrack 512x285": "Telemed", "carotid 202201121819140033VAS": "Mindray UMT-500Plus",
    "fetal": "GE Voluson E8 or 730", "pydicom SonoSite cine": "SonoSite Turbo",
}  # fmt: skip


@dataclass
class Case:
    """truth: float32, a window of a frame; hole: bool; fills: by arm, float32 [samples, h, w]."""

    machine: str
    truth: Grey
    hole: Mask
    fills: dict[str, Grey]


def cases(seed: int = 0) -> list[Case]:
    """Raises MedGenError without the shared data."""
    if shared_folder() is None:
        raise MedGenError("The ten real frames are in the shared data, which is not on this machine.")
    networks = {"HPI": load_arm("b_mode.safetensors"), "L2": load_arm("b_mode_l2.safetensors")}
    rng = np.random.default_rng((seed, 3))
    found = []
    for group, count in PICKS.items():
        members = [frame for frame in real_frames("test") if frame.group == group]
        for frame in members[:: max(1, len(members) // count)][:count]:
            truth = _window(frame, rng)
            hole = np.zeros(truth.shape, bool)
            hole[16:112, 16:112] = brush_mask(rng, 96, (0.08, 0.2))
            fills = {name: draws(network, truth, hole, seed) for name, network in networks.items()}
            fills["biharmonic"] = biharmonic_fill(truth, regions(hole, np.ones_like(hole), FEATHER, 2.5))
            if importlib.util.find_spec("cv2"):
                fills["Telea"] = _telea(truth, hole)[None]
            found.append(Case(MACHINES[group], truth, hole, fills))
    return found


def _window(frame: UltrasoundFrame, rng: np.random.Generator) -> Grey:
    """The brightest of 20 windows within the fan: a dark one has no speckle to keep."""
    best, chosen = -1.0, frame.grey[:WINDOW, :WINDOW]
    for _ in range(20):
        row, column = (int(rng.integers(max(1, n - WINDOW + 1))) for n in frame.grey.shape)
        box = (slice(row, row + WINDOW), slice(column, column + WINDOW))
        worth = float(np.minimum(frame.grey[box], 0.3).mean() * frame.inside[box].mean() ** 4)
        if worth > best:
            best, chosen = worth, frame.grey[box]
    return chosen


def _telea(truth: Grey, hole: Mask) -> Grey:
    import cv2

    image = np.rint(truth * 255).astype(np.uint8)
    filled = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA).astype(np.float32) / 255
    return np.where(hole, filled, truth)


def figures(case: Case) -> dict[str, tuple[float, float, float, float]]:
    """By arm: speckle-variance ratio and seam of the first fill, PSNR and SSIM of the mean."""
    found = {}
    for name, fills in case.fills.items():
        across, along = seam(fills[0], case.hole)
        rho = speckle_ratio(fills[0], case.truth, case.hole)
        found[name] = (rho, across / along, *psnr_ssim(fills.mean(0), case.truth, case.hole))
    return found


def run(quick: bool) -> dict[str, Any]:
    """quick: no difference. Passed: the median speckle ratio of HPI is 0.7 to 1.3, its median seam 0.8 to 1.2."""
    details: dict[str, Any] = {"columns": f"speckle ratio, seam, PSNR dB, SSIM (of the mean of {SAMPLES})"}
    everything: dict[str, list[tuple[float, ...]]] = {}
    for number, case in enumerate(cases(), 1):
        for name, values in figures(case).items():
            details[f"{number} {case.machine}: {name}"] = "{:.2f}, {:.2f}, {:.2f}, {:.3f}".format(*values)
            everything.setdefault(name, []).append(values)
    medians = {name: np.median(values, axis=0) for name, values in everything.items()}
    details |= {f"median: {name}": "{:.2f}, {:.2f}, {:.2f}, {:.3f}".format(*m) for name, m in medians.items()}
    speckle, joint = (float(v) for v in medians["HPI"][:2])
    return {"name": "us_inpainting", "passed": 0.7 <= speckle <= 1.3 and 0.8 <= joint <= 1.2, "details": details}


def picture(path: Path) -> None:
    """A row a frame: as it was, with its hole, two fills, four times their spread, the squared-error arm, biharmonic,
    Telea (where there is OpenCV)."""
    from PIL import Image

    rows = []
    for case in cases():
        holed = np.where(case.hole, np.float32(1), case.truth)
        hpi = case.fills["HPI"]
        spread = np.clip(4 * hpi.std(0), 0, 1)
        others = [fills[0] for name, fills in case.fills.items() if name != "HPI"]
        tiles = [case.truth, holed, hpi[0], hpi[1], spread, *others]
        rows.append(np.hstack([np.pad(tile, 2, constant_values=1) for tile in tiles]))
    Image.fromarray(np.rint(255 * np.vstack(rows)).astype(np.uint8)).save(path)
