"""Brains from codes, and a patient's code. All in the space of `medgen.imaging.brain_alignment`."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from torch import Tensor

from medgen.errors import BadInput
from medgen.imaging.brain_alignment import align_brain, model_grid, pooled, strip_brain, to_model
from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.resampling import resample_labels
from medgen.method import Context
from medgen.methods.brain_stylegan.codes import (
    Code,
    chosen_row,
    drawn,
    from_table,
    load_noise,
    save_noise,
    to_table,
)
from medgen.methods.brain_stylegan.projection import Found
from medgen.methods.brain_stylegan.projection import project as find_code
from medgen.methods.brain_stylegan.stored import Stored, load_stored
from medgen.nets.stylegan3d import Generator

UNIT = 255.0  # what the brightest voxel is in the images
PREVIEW_MM = 4.0
LARGE = 500_000  # voxels
WATCHED_SECONDS = 0.5
Inputs = dict[str, Any]


def stored_of(context: Context) -> Stored:
    path = context.weights
    assert path is not None
    return context.cached(("brain_stylegan", str(path), context.device), lambda: load_stored(path, context.device))


@torch.no_grad()
def picture(stored: Stored, code: Code) -> np.ndarray:
    """float32 [k, j, i], 0 to 1."""
    device = stored.network.mean_w.device
    noise = [values.to(device) for values in code.noise]
    return unit_range(stored.network(code.styles[None].to(device), noise, precision(stored.network))[0, 0])


def precision(network: Generator) -> torch.dtype:
    """What large networks are computed in: half the memory, and on many processors several times faster."""
    return torch.bfloat16 if math.prod(network.architecture.shape()) > LARGE else torch.float32


def unit_range(made: Tensor) -> np.ndarray:
    return ((made.cpu().float() + 1) / 2).clamp(0, 1).numpy()


def as_image(values: np.ndarray, voxel_mm: float, preview: bool = False) -> sitk.Image:
    """0..1 to an image of 0..255."""
    factor = max(1, round(PREVIEW_MM / voxel_mm)) if preview else 1
    return from_array(UNIT * (pooled(values, factor) if factor > 1 else values), model_grid(voxel_mm * factor))


def _made(stored: Stored, code: Code, parameters: dict[str, Any]) -> sitk.Image:
    return as_image(picture(stored, code), stored.voxel_mm, parameters["size"] == "preview")


def sample(inputs: Inputs, parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: brains (drawn, or those of the table), codes."""
    stored = stored_of(context)
    if "codes" in inputs:
        codes = from_table(stored.network, inputs["codes"])
    else:
        seeds = range(context.seed, context.seed + parameters["count"])
        codes = [drawn(stored.network, seed, parameters["truncation"]) for seed in seeds]
    brains = []
    for number, code in enumerate(codes):
        _step(context, "Making brains", number, len(codes))
        brains.append(_made(stored, code, parameters))
    return {"brains": brains, "codes": to_table(codes)}


def _two(inputs: Inputs, parameters: dict[str, Any], stored: Stored) -> tuple[Code, Code]:
    found = []
    for name in ("a", "b"):
        code = chosen_row(from_table(stored.network, inputs[name]), parameters[f"row_{name}"])
        content = inputs.get(f"noise_{name}")
        if content is not None:
            code = replace(code, noise=load_noise(stored.network, content), projected=True)
        found.append(code)
    return found[0], found[1]


def mix(inputs: Inputs, parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: mix, a, b, codes (of the mix, one w for every layer)."""
    stored = stored_of(context)
    first, second = _two(inputs, parameters, stored)
    both = first.mixed_with(second, parameters["crossover"])
    found = {}
    for number, (name, code) in enumerate((("mix", both), ("a", first), ("b", second))):
        _step(context, "Mixing", number, 3)
        found[name] = _made(stored, code, parameters)
        context.progress.partial(name, found[name])
    return {**found, "codes": to_table([both])}


def grid(inputs: Inputs, parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: grid (row by row), codes of every cell. Each cell is shown as soon as it is made, as 'row,column'."""
    stored = stored_of(context)
    coarse, fine = (from_table(stored.network, inputs[name]) for name in ("coarse", "fine"))
    cells: list[sitk.Image] = []
    codes: list[Code] = []
    for row, first in enumerate(coarse):
        for column, second in enumerate(fine):
            _step(context, "Mixing", len(cells), len(coarse) * len(fine))
            codes.append(first.mixed_with(second, parameters["crossover"]))
            cells.append(_made(stored, codes[-1], parameters))
            context.progress.partial(f"{row + 1},{column + 1}", cells[-1])
    return {"grid": cells, "codes": to_table(codes)}


def interpolate(inputs: Inputs, parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: path, codes. Straight in w; the noise turns from that of A to that of B, and so keeps its spread."""
    stored = stored_of(context)
    first, second = _two(inputs, parameters, stored)
    frames, codes = [], []
    for number, share in enumerate(np.linspace(0, 1, parameters["steps"]).tolist()):
        _step(context, "Making frames", number, parameters["steps"])
        cosine, sine = float(np.cos(share * np.pi / 2)), float(np.sin(share * np.pi / 2))
        noise = [cosine * a + sine * b for a, b in zip(first.noise, second.noise, strict=True)]
        name = f"{1 - share:.0%} {first.name}, {share:.0%} {second.name}"
        codes.append(Code(name, first.styles.lerp(second.styles, share), noise, first.seed))
        frames.append(_made(stored, codes[-1], parameters))
    return {"path": frames, "codes": to_table(codes)}


def training_set(inputs: Inputs, parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: brains, the first `count` that are kept, one of each head before the second of any."""
    assert context.weights is not None
    state = load_file(context.weights)
    if "images" not in state:
        raise BadInput(f"'{context.weights.name}' holds no training brains.")
    images = state["images"][: parameters["count"]].numpy().astype(np.float32)
    voxel = float(parameters["voxels"])
    pool = images.shape[1] // model_grid(voxel).size[2]
    return {"brains": [as_image(pooled(image, pool) / np.float32(UNIT), voxel) for image in images]}


def _step(context: Context, stage: str, number: int, total: int) -> None:
    context.progress.raise_if_cancelled()
    context.progress.report(stage, number / total, f"{number + 1} of {total}")


# ---------------------------------------------------------------------------------------------------------- projection


def project(inputs: Inputs, parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """outputs: reconstruction and difference on the grid of the T1, codes, noise, fit, to_patient."""
    stored = stored_of(context)
    context.progress.report("Preparing the brain", 0.0)
    scan = inputs["image"]
    brain = strip_brain(scan, inputs.get("mask"))
    context.progress.raise_if_cancelled()
    context.progress.report("Aligning the brain", 0.03)
    if "transform" in inputs:
        to_patient = affine_of(np.asarray(inputs["transform"], dtype=np.float64))
    else:
        to_patient = align_brain(brain.image, stored.template).GetInverse()
    target = to_model(brain.image, to_patient.GetInverse(), stored.voxel_mm)
    found = _watched(stored, target, parameters, context)
    context.progress.report("Back to the patient", 0.98)
    model = as_image(unit_range(found.picture), stored.voxel_mm)
    back = sitk.Resample(model, scan, to_patient, sitk.sitkLinear, 0.0, sitk.sitkFloat32) * (brain.unit / UNIT)
    inside = to_array(resample_labels(brain.brain, scan)) != 0
    difference = np.where(inside, to_array(back) - to_array(scan).astype(np.float32), np.float32(0))
    w = stored.network.for_layers(found.w[None].cpu())[0]
    code = Code("projected T1", w, found.noise)
    return {
        "reconstruction": back,
        "difference": from_array(difference, scan),
        "codes": to_table([code]),
        "noise": save_noise(found.noise),
        "fit": {
            "step": list(range(len(found.errors)))[::10],
            "error": [fine / 4 for fine, _ in found.errors[::10]],  # of intensities in 0..1
            "pooled error": [coarse / 4 for _, coarse in found.errors[::10]],
        },
        "to_patient": matrix_of(to_patient).tolist(),
    }


def _watched(stored: Stored, target: np.ndarray, parameters: dict[str, Any], context: Context) -> Found:
    shown = time.monotonic()

    def watch(step: int, error: float, made: Tensor) -> None:
        nonlocal shown
        context.progress.raise_if_cancelled()
        message = f"step {step + 1} of {parameters['steps']}, MSE {error / 4:.4f}"
        context.progress.report("Projecting", 0.06 + 0.9 * step / parameters["steps"], message)
        if step == 0 or time.monotonic() - shown > WATCHED_SECONDS:
            shown = time.monotonic()
            context.progress.partial("reconstruction", as_image(unit_range(made), stored.voxel_mm))

    wanted = torch.from_numpy(2 * target - 1)[None, None].to(stored.network.mean_w.device)
    options = {name: parameters[name] for name in ("steps", "rate", "optimise_noise", "pooled")}
    return find_code(stored.network, wanted, **options, seed=context.seed, watch=watch)


def affine_of(matrix: np.ndarray) -> sitk.AffineTransform:
    """Raises BadInput for a matrix that flattens space."""
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-6:
        raise BadInput("The transform has no inverse.")
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    """4x4, of any affine transform whatever its centre."""
    matrix = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, 3] = origin
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
    return matrix
