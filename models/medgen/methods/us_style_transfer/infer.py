"""One frame in other looks: its fan is cut out, restyled at the working size, and put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.ultrasound import bounding_box, coloured_share, fan_mask, frame_like, grey_frame
from medgen.method import Context
from medgen.methods.us_style_transfer.net import draw
from medgen.methods.us_style_transfer.style import Styler, edge_correlation, to_vector

STRIDE = 16  # of the deepest scale
SHARED = {"channels": 0.5, "noise": 0.0}
EDGES_MOVED = 0.6
COLOUR_REFUSED = 0.01  # of the fan's box
FLAT, MOST_GAIN = 0.02, 2.0  # least standard deviation that counts, and by how much fine detail may be raised
FEATHER = 2.0  # pixels over which the restyled fan fades into what lies outside


@dataclass(frozen=True)
class Prepared:
    """values: the fan's box at the working size, padded, [1, 1, h, w]; inside: the fan in it, 0 to 1; size: of the box
    at the working size, before the padding; grey, fan: of the whole frame; box: rows and columns."""

    values: Tensor
    inside: Tensor
    size: tuple[int, int]
    grey: np.ndarray
    fan: np.ndarray
    box: tuple[slice, slice]


def prepare(image: sitk.Image, longest: int, title: str) -> Prepared:
    """Raises BadInput for a frame without a fan, too small, or with colour Doppler in it."""
    grey = grey_frame(image)
    fan = fan_mask(grey)
    if min(grey.shape) < 32 or fan.sum() < 32 * 32:
        raise BadInput(f"{title} shows no ultrasound picture of at least 32 x 32 pixels.")
    if coloured_share(image) > COLOUR_REFUSED:
        raise BadInput(f"{title} has colour Doppler in it; restyling would turn flow into tissue. Use a B-mode frame.")
    return prepared_frame(grey, fan, longest)


def prepared_frame(grey: np.ndarray, fan: np.ndarray, longest: int) -> Prepared:
    """grey: [h, w], 0 to 1; fan: bool [h, w], not empty."""
    box = bounding_box(fan)
    height, width = grey[box].shape
    scale = longest / max(height, width)
    size = (max(STRIDE, round(height * scale)), max(STRIDE, round(width * scale)))
    values, inside = (_resized(torch.from_numpy(part.astype(np.float32)), size) for part in (grey[box], fan[box]))
    pad = (0, -size[1] % STRIDE, 0, -size[0] % STRIDE)
    return Prepared(F.pad(values, pad, mode="replicate"), F.pad(inside, pad), size, grey, fan, box)


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[h, w] to [1, 1, *size], averaging where it shrinks."""
    return F.interpolate(values[None, None], size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: restyled (the frames in the chosen style), samples (the first frame in every style, if there are
    several), labels (as they came), styles, style_code."""
    context.progress.report("Loading the network", 0.0)
    assert context.weights is not None
    path = context.weights
    styler: Styler = context.cached(
        ("us_style_transfer", str(path), context.device), lambda: Styler.load(path, context.device)
    )
    frames, size = inputs["frames"], int(parameters["size"])
    here = frame_range(parameters, len(frames))
    chosen = parameters["sample"] - 1
    vectors = choose_styles(styler, inputs, parameters, context)
    if chosen >= len(vectors):
        raise BadInput(f"There is no sample {chosen + 1}: the run makes {len(vectors)}.")
    first = prepare(frames[here.start], size, "The frame")
    total, pictures, rows = len(here) + len(vectors) - 1, [], []
    for number, vector in enumerate(vectors):
        _report(context, number, total)
        picture = restyle(styler, first, vector, parameters["strength"], parameters["keep_outside"])
        pictures.append(frame_like(picture, frames[here.start]))
        rows.append((number + 1, *styler.map.place(vector), edge_correlation(first.grey, picture, first.fan)))
    restyled = [frame_like(grey_frame(frame), frame) for frame in frames]
    restyled[here.start] = pictures[chosen]
    for number in here[1:]:
        _report(context, len(vectors) + number - here.start - 1, total)
        content = prepare(frames[number], size, f"Frame {number + 1}")
        picture = restyle(styler, content, vectors[chosen], parameters["strength"], parameters["keep_outside"])
        restyled[number] = frame_like(picture, frames[number])
    outputs = {"restyled": restyled, "styles": _table(rows), "style_code": styler.save(vectors[chosen])}
    moved = sum(row[-1] < EDGES_MOVED for row in rows)
    if moved:
        context.progress.notice(f"In {moved} of {len(rows)} samples edges moved (correlation below {EDGES_MOVED}).")
    if len(pictures) > 1:
        outputs["samples"] = pictures
    if "labels" in inputs:
        outputs["labels"] = inputs["labels"]
    return outputs


def frame_range(parameters: dict[str, Any], count: int) -> range:
    """Numbers of the frames to restyle, from 0. Raises BadInput for a range beyond the cine."""
    if parameters["frames"] == "all":
        return range(count)
    if parameters["first"] > count:
        raise BadInput(f"The cine has {count} frames; the first frame of the range is {parameters['first']}.")
    return range(parameters["first"] - 1, min(count, max(parameters["first"], parameters["last"])))


def _report(context: Context, done: int, total: int) -> None:
    context.progress.raise_if_cancelled()
    context.progress.report("Restyling", 0.1 + 0.9 * done / total, f"{done + 1} of {total}")


def _table(rows: list[tuple[int, float, float, float]]) -> dict[str, list[Any]]:
    number, x, y, edges = zip(*rows, strict=True)
    return {
        "sample": list(number),
        "map_x": [round(v, 3) for v in x],
        "map_y": [round(v, 3) for v in y],
        "edge_correlation": [round(v, 3) for v in edges],
        "edges": ["moved" if v < EDGES_MOVED else "kept" for v in edges],
    }


def choose_styles(styler: Styler, inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> list[Tensor]:
    """`samples` style vectors, one where the source is a single style. Raises BadInput where the source needs an input
    that is missing."""
    count, source, generator = parameters["samples"], parameters["style"], context.generator()
    spread, size = parameters["temperature"], int(parameters["size"])
    if source == "sampled":
        return [styler.drawn(generator, spread, SHARED[parameters["draw"]]) for _ in range(count)]
    if source == "map":
        return [styler.map.at(parameters["map_x"], parameters["map_y"])]  # there is nothing to draw
    if source == "image" and "style_image" not in inputs:
        raise BadInput("Choose a style image, or another source of the style.")
    if source == "image":
        frames = inputs["style_image"]
        around = styles_around(styler, prepare(frames[0], size, "The style image"), count, spread, generator)
        return [style_of_frames(styler, frames, size, "The style image"), *around[1:]]
    if "style_code" in inputs:
        first = styler.saved(inputs["style_code"])
    elif source == "interpolated" and "style_image" in inputs:
        first = style_of_frames(styler, inputs["style_image"], size, "The style image")
    else:
        raise BadInput("Choose a saved style" + (" or a style image." if source == "interpolated" else "."))
    if source == "code":
        return [first]
    if "second_image" in inputs:
        second = style_of_frames(styler, inputs["second_image"], size, "The second style image")
    else:
        second = styler.drawn(generator, spread, SHARED[parameters["draw"]])
    shares = np.linspace(0, 1, count).tolist() if count > 1 else [parameters["interpolation"]]
    return [first.lerp(second, share) for share in shares]


def style_of_frames(styler: Styler, frames: list[sitk.Image], size: int, title: str) -> Tensor:
    """The mean style of up to eight frames."""
    chosen = frames[:: max(1, -(-len(frames) // 8))]
    found = [styles_around(styler, prepare(f, size, title), 1, 0.0, torch.Generator())[0] for f in chosen]
    return torch.stack(found).mean(0)


@torch.no_grad()
def styles_around(
    styler: Styler, image: Prepared, count: int, temperature: float, generator: torch.Generator
) -> list[Tensor]:
    """The style of an image, then `count` - 1 drawn from what the encoder is unsure of."""
    network, values, inside = styler.network, image.values.to(styler.device), image.inside.to(styler.device)
    found = [to_vector(network.style_of(values, inside))]
    while len(found) < count:
        if network.style is None:
            found.append(found[0])
        else:
            latents = draw(network.posterior(values), generator, temperature)
            found.append(to_vector(network.style_of_latents(latents, inside)))
    return found


@torch.no_grad()
def restyle(styler: Styler, content: Prepared, style: Tensor, strength: float, keep_outside: bool) -> np.ndarray:
    """The whole frame, float32 [h, w], 0 to 1."""
    device = styler.device
    network, values, inside = styler.network, content.values.to(device), content.inside.to(device)
    with torch.autocast("cuda", torch.float16, enabled=device.type == "cuda"):
        made = network(values, styler.on_device(style), inside, strength)
    height, width = content.size
    box_size = content.grey[content.box].shape
    made = made[..., :height, :width].cpu()
    box = (_resized(made[0, 0], box_size)[0, 0].numpy() + fine_detail(content, made)).clip(0, 1)
    picture = content.grey.copy() if keep_outside else np.zeros_like(content.grey)
    weight = _feathered(content.fan)[content.box] if keep_outside else np.float32(1)
    picture[content.box] += weight * (box - picture[content.box])
    return picture


def fine_detail(content: Prepared, made: Tensor) -> np.ndarray:
    """What the frame shows in the fan's box, [h, w], that the working size cannot hold: its own, in the contrast of the
    restyled box (made, [1, 1, h, w] at the working size)."""
    height, width = content.size
    seen, inside = (part[..., :height, :width] for part in (content.values, content.inside))
    own = content.grey[content.box]
    lost = own - _resized(seen[0, 0], own.shape)[0, 0].numpy()
    spread, styled = (float(values[inside > 0.5].std()) for values in (seen, made))
    return min(styled / max(spread, FLAT), MOST_GAIN) * lost


def _feathered(fan: np.ndarray) -> np.ndarray:
    """1 deep in the fan, 0 outside it and on its rim."""
    from scipy import ndimage

    return np.clip(ndimage.distance_transform_edt(fan) / FEATHER, 0, 1).astype(np.float32)
