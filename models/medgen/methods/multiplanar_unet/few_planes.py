"""The paper's use: learn from a few finished planes of one volume, segment all of it, propose the next plane.

The image is brought to a grid of cubic voxels ("the working grid") and cut there; the mask comes back on the image's
own grid. How thick the paint is does not matter: a voxel near a plane takes the label painted where it falls on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from medgen.errors import BadInput
from medgen.imaging.geometry import Grid, from_array, paste_back, to_array
from medgen.imaging.intensity import robust_z_score
from medgen.imaging.resampling import grid_like, resample, resample_labels
from medgen.method import Context
from medgen.methods.multiplanar_unet.learning import fit, probabilities
from medgen.methods.multiplanar_unet.sampling import (
    CutPlanes,
    SparseVolume,
    multiple,
    near_plane,
    orientations,
    painted_planes,
    training_planes,
    vote,
    widest_disagreement,
)
from medgen.metrics.overlap import dice
from medgen.nets.unet2d import UNet2d, unet_from_state

Array = npt.NDArray[Any]
VoxelPlane = tuple[Array, Array]  # point and normal, z, y, x, in voxels of the working grid
LARGEST_WINDOW = 128  # pixels: larger volumes are learnt from in windows, which a CPU needs
LARGEST_VOLUME = 512**3
COPIES = 128  # cuts of the painted planes as they are, where no other planes are asked for


@dataclass(frozen=True)
class Case:
    """A volume to learn from. values: the painted label behind each class 1..n."""

    grid: Grid
    volume: SparseVolume
    planes: list[VoxelPlane]
    values: list[int]

    @property
    def channels(self) -> int:
        return 1 if len(self.values) == 1 else 1 + len(self.values)


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """inputs: image, painted, planes, optional model and roi; see `spec.FEW_PLANES` for parameters and outputs."""
    context.progress.report("Preparing the volume", 0.0)
    torch.manual_seed(context.seed)
    image = _region(inputs["image"], inputs.get("roi"))
    case = prepare(image, inputs["painted"], inputs["planes"], parameters["spacing_mm"])
    if len(case.planes) < 4:
        context.progress.notice(f"Only {len(case.planes)} finished slices: four or more give a steadier result.")
    folds = len(case.planes) if parameters["leave_one_out"] and len(case.planes) > 1 else 0
    share = 0.75 / (folds + 1)  # of the progress bar for each training

    held_out: dict[str, list[Any]] = {"slice": [], "dice": []}
    for fold in range(folds):
        rest = [plane for number, plane in enumerate(case.planes) if number != fold]
        network, _ = learn(case, rest, parameters, context, None, f"Leaving out slice {fold + 1}", share * fold, share)
        held_out["slice"].append(fold + 1)
        held_out["dice"].append(round(held_out_dice(case, fold, network, parameters["threshold"], context.device), 4))
    network, losses = learn(
        case, case.planes, parameters, context, inputs.get("model"), "Learning", share * folds, share
    )
    outputs = segment(case, network, image, inputs["image"], parameters, context)
    outputs["training"] = {"update": list(range(1, len(losses) + 1)), "loss": losses}
    outputs["model"] = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    if folds:
        outputs["held_out"] = held_out
    return outputs


# ---------------------------------------------------------------------------------------------------------- preparation


def _region(image: sitk.Image, roi: dict[str, Any] | None) -> sitk.Image:
    """The voxels of the image in the ROI's bounding box. Raises BadInput if there are none."""
    if roi is None:
        return image
    signs = np.array(np.meshgrid(*([(-0.5, 0.5)] * 3))).reshape(3, -1).T
    corners = np.asarray(roi["center"]) + (signs * roi["size_mm"]) @ np.asarray(roi["axes"]).T
    index = Grid.of(image).to_index(corners)
    low = np.maximum(np.ceil(index.min(0) - 0.5), 0).astype(int)
    high = np.minimum(np.floor(index.max(0) + 0.5) + 1, image.GetSize()).astype(int)
    if (high - low < 2).any():
        raise BadInput("The region (ROI) does not overlap the image.")
    return sitk.RegionOfInterest(image, (high - low).tolist(), low.tolist())


def prepare(image: sitk.Image, painted: sitk.Image, planes: list[dict[str, Any]], spacing_mm: float) -> Case:
    """The sparse volume of an image and its finished planes. spacing_mm: of the working grid, 0 for the image's
    smallest. Raises BadInput when no plane cuts the image or nothing is painted on the planes."""
    grid = grid_like(image, spacing_mm or min(image.GetSpacing()))
    if np.prod(grid.size) > LARGEST_VOLUME:
        raise BadInput("The volume has too many voxels of that size; choose larger voxels or a region (ROI).")
    values = robust_z_score(to_array(resample(image, grid)).astype(np.float32))
    cuts = [cut for cut in (_in_voxels(plane, grid) for plane in planes) if near_plane(values.shape, *cut).any()]
    if not cuts:
        raise BadInput("None of the finished slices cuts the image: mark a painted slice as complete first.")
    numbers, known = np.zeros(values.shape, np.int32), np.zeros(values.shape, bool)
    for cut in cuts:
        near = near_plane(values.shape, *cut)
        numbers[near] = _painted_at(near, cut, grid, painted)
        known |= near
    found = [int(value) for value in np.unique(numbers) if value > 0]
    if not found:
        raise BadInput("Nothing is painted on the finished slices.")
    if len(found) > 250:
        raise BadInput("More than 250 segments are painted; this method takes fewer.")
    labels = np.searchsorted([0, *found], numbers).astype(np.uint8)
    return Case(grid, SparseVolume(values, labels, known, float(np.percentile(values, 1))), cuts, found)


def _in_voxels(plane: dict[str, Any], grid: Grid) -> VoxelPlane:
    point = grid.to_index([plane["origin"]])[0]
    normal = grid.axes.T @ np.asarray(plane["normal"], float)
    if np.linalg.norm(normal) < 1e-6:
        raise BadInput("A finished slice has no direction (its normal is zero).")
    return point[::-1], normal[::-1] / np.linalg.norm(normal)


def _painted_at(near: npt.NDArray[np.bool_], plane: VoxelPlane, grid: Grid, painted: sitk.Image) -> Array:
    """The painted label where each voxel near a plane falls on that plane; 0 outside the painted map."""
    point, normal = plane
    index = np.argwhere(near).astype(float)
    index -= ((index - point) @ normal)[:, None] * normal
    array = sitk.GetArrayViewFromImage(painted)
    where = np.rint(Grid.of(painted).to_index(grid.to_world(index[:, ::-1]))).astype(int)[:, ::-1]
    inside = ((where >= 0) & (where < array.shape)).all(1)
    labels = np.zeros(len(index), np.int32)
    labels[inside] = array[tuple(where[inside].T)]
    return labels


# ------------------------------------------------------------------------------------------------------------- learning


def learn(
    case: Case, planes: list[VoxelPlane], parameters: dict[str, Any], context: Context, model: bytes | None,
    stage: str, start: float, share: float,
) -> tuple[UNet2d, list[float]]:  # fmt: skip
    """Trains a network, new or continued from `model`, on the planes. start, share: of the progress bar."""
    network = _continued(model, case.channels) if model else UNet2d(case.channels, int(parameters["width"]))
    known = np.zeros(case.volume.known.shape, bool)
    for plane in planes:
        known |= near_plane(known.shape, *plane)
    sparse = SparseVolume(case.volume.image, case.volume.labels, known, case.volume.pad)
    rng = np.random.default_rng(context.seed)
    context.progress.report(stage, start, "cutting planes")
    cuts = _cuts(sparse, planes, parameters["training_planes"], 2**network.pools, rng, context)
    updates = parameters["updates"]

    def report(update: int, loss: float) -> None:
        context.progress.raise_if_cancelled()
        context.progress.report(stage, start + share * (update + 1) / updates, f"update {update + 1}, loss {loss:.3f}")

    losses = fit(network, cuts, updates, parameters["learning_rate"], context.generator(), context.device, report)
    return network, losses


def _cuts(
    sparse: SparseVolume, planes: list[VoxelPlane], count: int, block: int, rng: np.random.Generator, context: Context
) -> CutPlanes:
    side = multiple(max(sparse.image.shape), block)
    if count == 0:
        return painted_planes(sparse, planes, side, max(1, COPIES // len(planes)), rng)
    return training_planes(sparse, count, min(side, LARGEST_WINDOW), rng, context.progress.raise_if_cancelled)


def _continued(model: bytes, channels: int) -> UNet2d:
    try:
        network = unet_from_state(load(model))
    except (SafetensorError, KeyError, RuntimeError, ValueError):
        raise BadInput("The model to continue from cannot be read.") from None
    if network.head.out_channels != channels:
        raise BadInput("The model to continue from was trained on another number of segments.")
    return network


def held_out_dice(case: Case, fold: int, network: UNet2d, threshold: float, device: str) -> float:
    """Mean Dice over the structures on one plane that the network did not learn from."""
    side = multiple(max(case.volume.image.shape), 2**network.pools)
    plane = painted_planes(case.volume, [case.planes[fold]], side)
    with torch.inference_mode():
        scores = probabilities(network(torch.from_numpy(plane.images)[:, None].to(device))).cpu()
    found, known = decide(scores.movedim(1, 0), threshold).numpy(), plane.known
    truth = plane.labels * known
    present = [value for value in np.unique(truth) if value > 0] or [1]
    return float(np.mean([dice((found == value) & known, truth == value) for value in present]))


# ------------------------------------------------------------------------------------------------------------ inference


def decide(probability: torch.Tensor, threshold: float) -> torch.Tensor:
    """Probabilities [c, ...] to classes uint8 [...]: the likeliest structure where all structures together reach the
    threshold."""
    if len(probability) == 1:
        return (probability[0] >= threshold).to(torch.uint8)
    return (probability[1:].argmax(0) + 1).mul(probability[1:].sum(0) >= threshold).to(torch.uint8)


def segment(
    case: Case, network: UNet2d, region: sitk.Image, image: sitk.Image, parameters: dict[str, Any], context: Context
) -> dict[str, Any]:
    """All images on the grid of `image`; `region` is the part of it that was learnt from."""

    @torch.inference_mode()
    def predict(planes: torch.Tensor) -> torch.Tensor:
        context.progress.raise_if_cancelled()
        planes = planes.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return probabilities(network(planes))

    def report(fraction: float) -> None:
        context.progress.report("Segmenting", 0.75 + 0.23 * fraction)

    ways = orientations(parameters["orientations"], np.random.default_rng(context.seed))
    batch = max(1, round(8 * context.batch_scale))
    volume = case.volume
    result = vote(volume.image, volume.pad, ways, predict, 2**network.pools, batch, report)
    context.progress.report("Returning to the image's grid", 0.98)

    values = np.array([0, *case.values], np.int32)
    classes = values[decide(result.mean, parameters["threshold"]).numpy()]
    kind = np.uint8 if values.max() < 256 else np.int16
    foreground = result.mean[0] if case.channels == 1 else 1 - result.mean[0]

    def back(array: Array, labels: bool) -> sitk.Image:
        working = from_array(array, case.grid)
        return paste_back(resample_labels(working, region) if labels else resample(working, region), image)

    axis, index = widest_disagreement(result.spread.numpy(), case.planes)
    return {
        "segmentation": back(classes.astype(kind), True),
        "probability": sitk.Clamp(back(foreground.clamp(0, 1).numpy(), False), sitk.sitkFloat32, 0.0, 1.0),
        "disagreement": back(result.spread.numpy(), False),
        "next_plane": [_in_world(axis, index, case.grid)],
    }


def _in_world(axis: int, index: int, grid: Grid) -> dict[str, list[float]]:
    middle = (np.array(grid.size) - 1) / 2
    middle[2 - axis] = index  # array axis z, y, x is index axis k, j, i
    return {"origin": grid.to_world([middle])[0].tolist(), "normal": grid.axes[:, 2 - axis].tolist()}
