"""Filling a hole in a still or a cine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from safetensors.torch import load_file
from skimage.morphology import convex_hull_image

from medgen.errors import BadInput
from medgen.imaging.ultrasound import coloured_share, fan_mask, full_scale, grey_frame
from medgen.method import Context
from medgen.methods.us_inpainting.filling import (
    BATCH,
    Filler,
    Grey,
    Mask,
    Region,
    biharmonic_fill,
    grown,
    regions,
    speckle_table,
)
from medgen.methods.us_inpainting.needle import find_needle, needle_table
from medgen.methods.us_inpainting.net import HierarchicalInpainter, from_state
from medgen.weights import fitting

DOPPLER_SHARE = 0.01
LARGEST_SHARE = 0.4  # of the fan
SMALLEST_FRAME = 16  # pixels: network and blending halve it again and again


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: frames, mask; outputs: as `spec.INPAINTING` lists them, all on the frames' grid. Refuses colour Doppler
    and masks that are empty, outside the fan or larger than 40 % of it."""
    frames: list[sitk.Image] = inputs["frames"]
    first, last = chosen_range(parameters, len(frames))
    context.progress.report("Finding the fan", 0.0)
    white = max(full_scale(frame) for frame in frames)
    shape = grey_frame(frames[first], white).shape
    if min(shape) < SMALLEST_FRAME:
        raise BadInput(f"The frames are too small: {SMALLEST_FRAME} pixels are needed each way.")
    refuse_doppler(frames[first : last + 1])
    inside = fan_of(frames[first : last + 1], white)
    hole = checked_hole(mask_array(inputs["mask"], shape), inside, parameters, context)
    found = regions(hole, inside, parameters["feather"], parameters["context"])
    touched = np.zeros(hole.shape, bool)
    for region in found:
        touched[region.box] |= region.ramp > 0

    context.progress.report("Loading the network", 0.02)
    filler = Filler(
        found,
        load_network(context),
        parameters["samples"],
        parameters["temperature"],
        context.generator(),
        context.device,
        max(1, round(BATCH * context.batch_scale)),
    )
    before = grey_frame(frames[first], white)
    context.progress.report("Filling", 0.05)
    fills = filler.fill(before, context.progress.raise_if_cancelled)
    job = _Job(frames, (first, last), white, found, touched, parameters, context)
    filled = job.fill(filler, fills)
    after = grey_frame(filled[first], white)
    outputs = {
        "inpainted": filled,
        "samples": [put_back(frames[first], fill, touched, white) for fill in fills],
        "mean": put_back(frames[first], fills.mean(0), touched, white),
        "spread": on_grid(np.where(touched, fills.std(0), np.float32(0)), frames[first]),
        "filled": on_grid(np.where(hole, 1, np.where(touched, 2, 0)).astype(np.uint8), frames[first]),
        "speckle": speckle_table(after, found),
    }
    return outputs | (_needle(before, after, inside, frames[first]) if parameters["needle"] else {})


# --------------------------------------------------------------------------------------------------------- before a run


def chosen_range(parameters: dict[str, Any], count: int) -> tuple[int, int]:
    """First and last frame, from 0. Raises BadInput where the cine is shorter."""
    if parameters["frames"] == "all":
        return 0, count - 1
    first, last = parameters["first"] - 1, max(parameters["first"], parameters["last"]) - 1
    if last >= count:
        raise BadInput(f"The range ends at frame {last + 1}, but there are only {count} frames.")
    return first, last


def refuse_doppler(frames: list[sitk.Image]) -> None:
    """Looks at up to ten of the frames."""
    if any(coloured_share(frame) > DOPPLER_SHARE for frame in _spaced(frames)):
        raise BadInput("These frames show colour Doppler; only grey B-mode can be filled.")


def _spaced(frames: list[sitk.Image]) -> list[sitk.Image]:
    return frames[:: -(-len(frames) // 10)]


def fan_of(frames: list[sitk.Image], white: float) -> Mask:
    """The convex hull of the fan over up to ten of the frames, so that a shadow in it belongs to it; the whole frame
    where none is found."""
    brightest = np.max([grey_frame(frame, white) for frame in _spaced(frames)], axis=0)
    inside = fan_mask(brightest)
    return convex_hull_image(inside) if inside.any() else np.ones(brightest.shape, bool)


def mask_array(mask: sitk.Image, shape: tuple[int, ...]) -> Mask:
    """bool [h, w] of a mask that is 2D or a volume of one slice. Raises BadInput for another size."""
    values = sitk.GetArrayViewFromImage(mask)
    if values.ndim == 3:
        values = values[0] if values.shape[0] == 1 else np.squeeze(values)
    if values.shape != shape:
        raise BadInput("The mask has another size than the frames.")
    return np.asarray(values != 0)


def checked_hole(painted: Mask, inside: Mask, parameters: dict[str, Any], context: Context) -> Mask:
    """The painted mask, grown, within the fan. Raises BadInput for masks that cannot be filled."""
    if not painted.any():
        raise BadInput("The mask is empty: paint over what is to be filled.")
    if not (painted & inside).any():
        raise BadInput("The mask lies outside the fan, where there is nothing to fill.")
    hole = grown(painted, parameters["dilation"]) & inside
    share = float((painted & inside).sum() / inside.sum())
    if share > LARGEST_SHARE:
        raise BadInput(f"The mask covers {share:.0%} of the fan; more than {LARGEST_SHARE:.0%} cannot be made up.")
    if (painted & ~inside).any():
        context.progress.notice("Part of the mask lies outside the fan and is left as it is.")
    return hole


def load_network(context: Context) -> HierarchicalInpainter:
    """The network of `context.weights`, kept for the next job. Raises BadInput for weights of another method."""
    path = context.weights
    assert path is not None

    def load() -> HierarchicalInpainter:
        with fitting(path):
            network = from_state(load_file(path))
        return network.to(context.device)

    return context.cached(("us_inpainting", str(path), context.device), load)


# ---------------------------------------------------------------------------------------------------------------- a run


@dataclass
class _Job:
    """Fills the frames of `chosen` (first, last) one at a time: memory grows with the result alone."""

    frames: list[sitk.Image]
    chosen: tuple[int, int]
    white: float
    found: list[Region]
    touched: Mask
    parameters: dict[str, Any]
    context: Context

    def fill(self, filler: Filler, fills: Grey) -> list[sitk.Image]:
        """fills: those of the first frame. Returns all frames."""
        first, last = self.chosen
        number = (self.parameters["sample"] - 1) % self.parameters["samples"]
        if self.parameters["result"] == "sample":
            filler.keep_only(number)
            fills = fills[number : number + 1]
        result = list(self.frames)
        for index in range(first, last + 1):
            self.context.progress.raise_if_cancelled()
            grey = grey_frame(self.frames[index], self.white)
            if self.parameters["result"] == "biharmonic":
                fills = biharmonic_fill(grey, self.found)
            elif index > first:
                if not self.parameters["steady"]:
                    filler.renew()
                fills = filler.fill(grey, self.context.progress.raise_if_cancelled)
            result[index] = put_back(self.frames[index], fills.mean(0), self.touched, self.white)
            done = (index - first + 1) / (last - first + 1)
            self.context.progress.report("Filling", 0.1 + 0.9 * done, f"frame {index + 1}")
        return result


def put_back(frame: sitk.Image, grey: Grey, touched: Mask, white: float) -> sitk.Image:
    """The frame with the grey values (0 to 1) where `touched`; everything else keeps its bits. Colour channels all take
    the grey value there."""
    values = sitk.GetArrayFromImage(frame)
    plane = values[0] if frame.GetDimension() == 3 else values
    scaled = grey[touched] * np.float32(white)
    scaled = np.rint(scaled) if plane.dtype.kind in "iu" else scaled
    if frame.GetNumberOfComponentsPerPixel() > 1:
        plane[touched, :3] = scaled[:, None].astype(plane.dtype)
    else:
        plane[touched] = scaled.astype(plane.dtype)
    made = sitk.GetImageFromArray(values, isVector=frame.GetNumberOfComponentsPerPixel() > 1)
    made.CopyInformation(frame)
    return made


def on_grid(values: npt.NDArray[Any], frame: sitk.Image) -> sitk.Image:
    """[h, w] as an image with the frame's geometry."""
    made = sitk.GetImageFromArray(values[None] if frame.GetDimension() == 3 else values)
    made.CopyInformation(frame)
    return made


def _needle(before: Grey, after: Grey, inside: Mask, frame: sitk.Image) -> dict[str, Any]:
    lines = {"as it is": find_needle(before, inside), "filled": find_needle(after, inside)}
    outputs: dict[str, Any] = {"needle_lines": needle_table(lines)}
    line = lines["filled"]
    if line is not None and frame.GetDimension() == 3:
        ends = ((column, row, 0.0) for row, column in (line.entry, line.tip))
        outputs["needle"] = [list(frame.TransformContinuousIndexToPhysicalPoint(end)) for end in ends]
    return outputs
