"""Ultrasound frames: grey values, the region that the beam sweeps (the fan), colour Doppler.

Arrays are [height, width] of one frame; grey values are 0 to 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from skimage.morphology import convex_hull_image

from medgen.errors import BadInput

Grey = npt.NDArray[np.float32]
Inside = npt.NDArray[np.bool_]
REC_601 = np.array((0.299, 0.587, 0.114), np.float32)  # luminance of red, green, blue
BLACK = 3 / 255
FLAT = 1.5 / 255  # the local standard deviation that screen furniture stays below
COLOURED = 0.3  # difference between the channels above which a pixel is coloured: more than a tinted grey scale has


def pixels(image: sitk.Image) -> npt.NDArray[np.generic]:
    """[h, w] or [h, w, 3] of a frame that is 2D or a volume of one slice. Raises BadInput for a real volume."""
    values = sitk.GetArrayViewFromImage(image)
    if image.GetDimension() == 3:
        if values.shape[0] != 1:
            raise BadInput(f"One frame is needed, not a volume of {values.shape[0]} slices: take it as a sequence.")
        values = values[0]
    return values[..., :3] if image.GetNumberOfComponentsPerPixel() > 1 else values


def full_scale(image: sitk.Image) -> float:
    """The value that counts as white: 255 for 8 bits and what fits into them, else the frame's maximum."""
    highest = float(sitk.GetArrayViewFromImage(image).max())
    return 1.0 if highest <= 1 else 255.0 if highest <= 255 else highest


def grey_frame(image: sitk.Image, white: float | None = None) -> Grey:
    """Luminance, 0 to 1; negative values count as black. white: the value that becomes 1, `full_scale` of the frame if
    not given."""
    values = np.clip(pixels(image).astype(np.float32) / np.float32(white or full_scale(image)), 0, 1)
    return values @ REC_601 if values.ndim == 3 else values


def frame_like(values: Grey, image: sitk.Image) -> sitk.Image:
    """Grey values 0 to 1 as an image on the frame's grid, scaled as the frame was: uint8 where that held 0 to 255."""
    scale = full_scale(image)
    scaled = values * np.float32(scale)
    array = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8) if scale == 255 else scaled.astype(np.float32)
    made = sitk.GetImageFromArray(array[None] if image.GetDimension() == 3 else array)
    made.CopyInformation(image)
    return made


def coloured_share(image: sitk.Image) -> float:
    """Share of the pixels that are coloured, as flow in colour Doppler is; 0 for grey frames."""
    values = pixels(image)
    if values.ndim == 2:
        return 0.0
    return float((np.ptp(values.astype(np.float32), axis=-1) > COLOURED * full_scale(image)).mean())


def fan_mask(grey: Grey) -> Inside:
    """The largest region with texture, made convex, less the black that reaches the frame's border in a broad front:
    dark tissue at the fan's rim belongs to it. Empty for a frame without texture."""
    mean = ndimage.uniform_filter(grey, 7)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(grey * grey, 7) - mean * mean, 0))
    size = max(3, round(max(grey.shape) / 60))
    lively = np.pad(spread > FLAT, 2 * size, mode="edge")  # so that the fan keeps its rim at the frame's border
    lively = ndimage.binary_opening(ndimage.binary_closing(lively, iterations=size), iterations=size)
    lively = lively[2 * size : -2 * size, 2 * size : -2 * size]
    margin, broad = 4 * size, 2 * size
    black = np.pad(ndimage.maximum_filter(grey, 5) <= BLACK, margin, constant_values=True)

    def from_the_border(black: Inside) -> Inside:
        pieces, _ = ndimage.label(black)
        return (pieces == pieces[0, 0])[margin:-margin, margin:-margin]

    pieces, count = ndimage.label(lively & ~from_the_border(black))  # a line of text beside the fan is another piece
    if not count:
        return np.zeros(grey.shape, bool)
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    eroded = ndimage.distance_transform_edt(black) > broad
    opened = ndimage.distance_transform_edt(~eroded) <= broad
    return ndimage.binary_fill_holes(convex_hull_image(largest) & ~from_the_border(opened))


def bounding_box(inside: Inside) -> tuple[slice, slice]:
    """Rows and columns of a mask that is not empty."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
