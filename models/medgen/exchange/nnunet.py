"""An imported nnU-Net v2 as a method of the catalogue: run by this project's engine, without nnU-Net.

The weights file holds the description of the model beside the tensors (see `nnunet_import`). Windows, weights, float16
sums and mirroring are nnU-Net's, so that the scores are its own.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from medgen.errors import BadInput
from medgen.exchange.grid import refuse_other_grids
from medgen.exchange.nnunet_case import Case, prepare, to_labels
from medgen.exchange.nnunet_network import build_network
from medgen.imaging.sliding_window import Scheme, sliding_window
from medgen.method import Context


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Evenly spread from the first window to the last; a 2D network visits every slice."""
    if patch == 1:
        return list(range(size))
    count = math.ceil((size - patch) / (patch * (1 - overlap))) + 1
    step = (size - patch) / max(1, count - 1)
    return [int(np.round(step * i)) for i in range(count)]


def window_weights(patch: Sequence[int]) -> torch.Tensor:
    """A Gaussian of 1/8 of the patch, 10 in the middle; float16 [*patch], nowhere 0."""
    impulse = np.zeros(patch)
    impulse[tuple(n // 2 for n in patch)] = 1
    bell = ndimage.gaussian_filter(impulse, [n / 8 for n in patch], mode="constant")
    weights = torch.from_numpy(bell * (10 / bell.max())).half()
    weights[weights == 0] = weights[weights > 0].min()
    return weights


NNUNET = Scheme(window_starts, window_weights, torch.float16)


def read_model(weights: Path) -> dict[str, Any]:
    """The description in an imported weights file. Raises BadInput."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(weights), "pt") as file:
            return json.loads((file.metadata() or {})["medgen.nnunet"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadInput(f"'{weights.name}' is not an nnU-Net that MedGen imported.") from error


def _network(weights: Path, model: Mapping[str, Any], stage: int, fold: str, device: str) -> torch.nn.Module:
    from safetensors import safe_open

    prefix = f"{stage}/{fold}/"
    with safe_open(str(weights), "pt", device=device) as file:
        state = {key[len(prefix) :]: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    return build_network(model, model["stages"][stage], state).to(device).eval()


def _with_mirrors(network: torch.nn.Module, axes: Sequence[int], flat: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mean over all mirror images along the spatial `axes`. flat: a 2D network in windows one slice thick."""

    def plain(windows: torch.Tensor) -> torch.Tensor:
        return network(windows.squeeze(2)).unsqueeze(2) if flat else network(windows)

    dims = [axis + (3 if flat else 2) for axis in axes]
    flips = [c for count in range(1, len(dims) + 1) for c in itertools.combinations(dims, count)]

    def mirrored(windows: torch.Tensor) -> torch.Tensor:
        scores = plain(windows)
        for flip in flips:
            scores += plain(windows.flip(flip)).flip(flip)
        return scores.div_(len(flips) + 1)

    return mirrored if flips else plain


def predict_scores(
    data: np.ndarray,
    networks: Sequence[Callable[[], torch.nn.Module]],
    stage: Mapping[str, Any],
    context: Context,
    *,
    mirror: bool,
    overlap: float,
    progress: Callable[[float], None] = lambda _: None,
) -> np.ndarray:
    """float16 [classes, *spatial]: blended scores, the mean over the networks (folds).

    On a CPU windows run one by one, as nnU-Net's: several at once gain nothing there and take other sums, which float16
    makes a difference of some 1e-4 in the probabilities.
    """
    flat = len(stage["patch_size"]) == 2
    patch = [1, *stage["patch_size"]] if flat else stage["patch_size"]
    axes = stage["mirror_axes"] if mirror else ()
    total: torch.Tensor | None = None
    with torch.inference_mode():
        for turn, network in enumerate(networks):
            scores = sliding_window(
                torch.from_numpy(data), _with_mirrors(network(), axes, flat), patch, overlap,
                batch=max(1, int(8 * context.batch_scale)) if flat and context.device != "cpu" else 1,
                device=context.device, half=True, scheme=NNUNET,
                progress=lambda part, done=turn: progress((done + part) / len(networks)),  # type: ignore[misc]
            )  # fmt: skip
            total = scores if total is None else total.add_(scores)
        assert total is not None
        if len(networks) > 1:
            total /= len(networks)
    return total.numpy()


def _stack(images: Sequence[sitk.Image], reader: str) -> tuple[np.ndarray, sitk.Image]:
    """float32 [channels, z, y, x] as nnU-Net's reader would give it, and the image whose grid that is."""
    if reader.endswith("WithReorient"):
        images = [sitk.DICOMOrient(image, "RAS") for image in images]
    refuse_other_grids(images)
    arrays = [sitk.GetArrayViewFromImage(image) for image in images]
    if arrays[0].ndim == 2:
        arrays = [array[np.newaxis] for array in arrays]
    return np.stack(arrays, dtype=np.float32, casting="unsafe"), images[0]


def _spacing(image: sitk.Image) -> list[float]:
    """mm along z, y, x; a single picture counts as one very thick slice, as nnU-Net has it."""
    spacing = list(image.GetSpacing())[::-1]
    return [max(spacing) * 999, *spacing] if len(spacing) == 2 else spacing


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """The method that `MethodSpec.run` of an imported nnU-Net names. Output: 'segmentation'."""
    assert context.weights is not None
    weights = context.weights
    model = read_model(weights)
    array, image = _stack([inputs[channel["name"]] for channel in model["channels"]], model["reader"])
    previous: np.ndarray | None = None
    count = len(model["stages"])
    for number, stage in enumerate(model["stages"]):
        folds = [parameters["fold"]] if parameters["fold"] in stage["folds"] else stage["folds"]

        def network(fold: str, number: int = number) -> torch.nn.Module:
            key = ("nnunet", str(weights), number, fold, context.device)
            return context.cached(key, lambda: _network(weights, model, number, fold, context.device))

        def report(part: float, number: int = number, name: str = stage["configuration"]) -> None:
            context.progress.report(f"Segmenting ({name})", (number + part) / count)
            context.progress.raise_if_cancelled()

        report(0.0)
        case = prepare(array, _spacing(image), stage, model["transpose"], previous, model["foreground"])
        scores = predict_scores(
            case.data, [lambda fold=fold: network(fold) for fold in folds], stage, context,  # type: ignore[misc]
            mirror=parameters["mirroring"], overlap=parameters["overlap"], progress=report,
        )  # fmt: skip
        previous = _labels(scores, case, stage, model)
    assert previous is not None
    return {"segmentation": _like(previous, image, inputs[model["channels"][0]["name"]])}


def _labels(scores: np.ndarray, case: Case, stage: Mapping[str, Any], model: Mapping[str, Any]) -> np.ndarray:
    case.data = np.empty(0)  # no longer needed: its memory goes to the scores' resampling
    return to_labels(scores, case, stage, model["transpose"], model["regions"])


def _like(labels: np.ndarray, image: sitk.Image, original: sitk.Image) -> sitk.Image:
    """The label map as an image on the grid of the first input (`image` may be its reoriented copy)."""
    made = sitk.GetImageFromArray(labels if image.GetDimension() == 3 else labels[0])
    made.CopyInformation(image)
    if image.GetDirection() != original.GetDirection():
        made = sitk.Resample(made, original, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return made
