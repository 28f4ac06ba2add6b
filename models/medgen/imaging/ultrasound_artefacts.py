"""Finding what does not belong to the tissue of a B-mode frame: burned-in text and callipers, reverberations, shadows.

Plain image analysis, no training: each finder makes a first mask that a person corrects. Arrays are [height, width],
grey values 0 to 1, beams run roughly from top to bottom; `inside` is the fan.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
STEADY = 2 / 255  # grey levels that a burned-in pixel may vary over a cine


def find_text(frames: list[Grey], inside: Mask, sensitivity: float = 0.5) -> Mask:
    """Glyphs and callipers: small thin shapes, nearly white, with edges sharper than a point-spread function leaves; in
    three or more frames that differ, thin shapes that never change where the tissue moves are taken at half the
    contrast, white or not."""
    middle = np.median(frames, axis=0).astype(np.float32) if len(frames) > 1 else frames[0]
    contrast = 0.6 - 0.4 * sensitivity
    size = 2 * max(3, round(max(middle.shape) / 100)) + 1
    thin = middle - ndimage.grey_opening(middle, size=size)
    sharp = middle - ndimage.minimum_filter(middle, footprint=ndimage.generate_binary_structure(2, 1))
    marks = (thin > contrast) & inside
    pieces, count = ndimage.label(marks & (sharp > contrast / 2) | marks & (middle > 0.9), np.ones((3, 3)))
    white, kept = _white(middle, inside), np.zeros(count + 1, bool)
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        piece = pieces[box] == number
        inked = float(sharp[box][piece].mean()) > contrast and middle[box][piece].max() >= 0.97 * white
        kept[number] = inked and _is_glyph(piece, inside.shape)
    found = kept[pieces]
    if len(frames) >= 3:
        spread = np.ptp(np.stack(frames), axis=0)
        moving = ndimage.uniform_filter(spread, 15) > 2 * STEADY  # where tissue moves, what stands still is no tissue
        found |= _large((spread <= STEADY) & (thin > contrast / 2) & moving, 4)
    return ndimage.binary_dilation(found, np.ones((3, 3))) & inside


def _white(grey: Grey, inside: Mask) -> float:
    return float(grey[inside].max()) if inside.any() else 1.0


def _is_glyph(piece: Mask, shape: tuple[int, ...]) -> bool:
    """Neither a single speckle nor a long wall."""
    height, width = piece.shape
    compact = max(height / shape[0], width / shape[1]) < 0.12 and width < 6 * height
    return bool(piece.sum() >= 4 and compact)


def find_reverberation(grey: Grey, inside: Mask, sensitivity: float = 0.5) -> Mask:
    """Comet tails, needles and what repeats below them: thick saturated patches, and columns that correlate with
    themselves moved by one distance along the beam and are brighter than what lies beside them."""
    if not inside.any():
        return np.zeros(grey.shape, bool)
    height = grey.shape[0]
    smooth = ndimage.gaussian_filter(grey, (0.7, 1.5))
    bands = smooth - ndimage.gaussian_filter1d(smooth, height / 40, axis=0)
    window = max(9, height // 8)
    power = ndimage.uniform_filter1d(bands**2, window, axis=0) + 1e-5
    repeats = np.zeros(grey.shape, np.float32)
    for lag in range(max(4, height // 64), height // 10):
        later = np.zeros_like(bands)
        later[:-lag] = bands[lag:]
        together = ndimage.uniform_filter1d(bands * later, window, axis=0)
        repeats = np.maximum(repeats, together / np.sqrt(power * np.roll(power, -lag, axis=0)))
    local = ndimage.gaussian_filter(smooth, height / 60)
    typical = float(np.median(smooth[inside]))
    bright = local > typical + 0.35 - 0.2 * sensitivity
    found = (repeats > 0.8 - 0.4 * sensitivity) & bright
    thick = max(4, height // 28)
    found |= ndimage.binary_opening(smooth > max(0.8 * _white(grey, inside), typical + 0.3), np.ones((thick, thick)))
    found = ndimage.binary_opening(ndimage.binary_closing(found & inside, iterations=3), np.ones((thick, thick)))
    return _large(found, 0.003 * inside.sum()) & inside


def find_shadows(grey: Grey, inside: Mask, sensitivity: float = 0.5) -> Mask:
    """Columns that stay far darker than the same depth elsewhere down to the bottom of the fan."""
    if not inside.any():
        return np.zeros(grey.shape, bool)
    smooth = ndimage.gaussian_filter(grey, (3, 2))
    at_depth = np.array([np.median(smooth[row][inside[row]]) if inside[row].any() else 0.0 for row in range(len(grey))])
    at_depth = ndimage.gaussian_filter1d(at_depth, 5)[:, None]
    dark = (smooth < (0.2 + 0.4 * sensitivity) * at_depth) | (smooth < 0.01)
    dark |= ~inside
    # from the bottom up: dark all the way
    to_bottom = np.flip(np.logical_and.accumulate(np.flip(dark, 0), 0), 0) & inside
    tissue = at_depth > 0.04  # where nothing echoes anywhere, nothing is a shadow
    found = ndimage.binary_opening(to_bottom & tissue, np.ones((max(5, grey.shape[0] // 12), 5)))
    return _large(found, 0.004 * inside.sum()) & inside


def _large(mask: Mask, least: float) -> Mask:
    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    keep = np.bincount(pieces.ravel()) >= max(least, 1)
    keep[0] = False
    return keep[pieces]
