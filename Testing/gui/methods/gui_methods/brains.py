"""Balls with a hole: a code is (radius of the ball, radius of the hole); the coarse half is the ball, the fine half the
hole."""

from __future__ import annotations

import time

import numpy as np
import SimpleITK as sitk

FULL, PREVIEW = 32, 8


def code_of(seed, truncation):
    draw = np.random.default_rng(seed).uniform(-1, 1, 2)
    return [10 + 3 * truncation * draw[0], 4 + 2 * truncation * draw[1]]


def table(codes, names):
    return {"name": names, **{f"w{i + 1}": [float(c[i]) for c in codes] for i in range(2)}}


def rows(given):
    return [[float(given["w1"][i]), float(given["w2"][i])] for i in range(len(given["name"]))]


def ball(code, size="full"):
    side = FULL if size == "full" else PREVIEW
    step = FULL / side
    k, j, i = (np.mgrid[:side, :side, :side] + 0.5) * step - FULL / 2
    radius = np.sqrt(k**2 + j**2 + i**2)
    image = sitk.GetImageFromArray(np.where(radius > code[0], 0, np.where(radius < code[1], 0.3, 1)).astype(np.float32))
    image.SetSpacing([4.0 * step] * 3)
    image.SetOrigin([-2.0 * FULL + 2.0 * step] * 3)
    return image


def wait(parameters, context, share=1.0):
    until = time.monotonic() + parameters["seconds"] * share
    while time.monotonic() < until:
        context.progress.raise_if_cancelled()
        time.sleep(0.01)
    context.progress.raise_if_cancelled()


def make(inputs, parameters, context):
    wait(parameters, context)
    if "codes" in inputs:
        codes, names = rows(inputs["codes"]), inputs["codes"]["name"]
    else:
        seeds = [context.seed + n for n in range(parameters["count"])]
        codes = [code_of(seed, parameters["truncation"]) for seed in seeds]
        names = [f"seed {seed}" for seed in seeds]
    return {"brains": [ball(c, parameters["size"]) for c in codes], "codes": table(codes, names)}


def mixed(coarse, fine, crossover):
    return [coarse[0] if crossover >= 1 else fine[0], coarse[1] if crossover >= 4 else fine[1]]


def mix(inputs, parameters, context):
    wait(parameters, context)
    a, b = rows(inputs["a"])[parameters["row_a"] - 1], rows(inputs["b"])[parameters["row_b"] - 1]
    code, size = mixed(a, b, parameters["crossover"]), parameters["size"]
    return {"mix": ball(code, size), "a": ball(a, size), "b": ball(b, size), "codes": table([code], ["mix"])}


def grid(inputs, parameters, context):
    coarse, fine = rows(inputs["coarse"]), rows(inputs["fine"])
    made = []
    for r, a in enumerate(coarse):
        for c, b in enumerate(fine):
            wait(parameters, context, 1 / (len(coarse) * len(fine)))
            made.append(ball(mixed(a, b, parameters["crossover"]), parameters["size"]))
            context.progress.partial(f"{r + 1},{c + 1}", made[-1])
            context.progress.report("Mixing", len(made) / (len(coarse) * len(fine)))
    return {"grid": made}


def project(inputs, parameters, context):
    image = inputs["image"]
    for step in range(parameters["steps"]):
        wait(parameters, context, 1 / parameters["steps"])
        code = [6 + 4 * step / parameters["steps"], 4.0]
        message = f"step {step + 1} of {parameters['steps']}, MSE {1 / (step + 1):.4f}"
        context.progress.report("Projecting", step / parameters["steps"], message)
        context.progress.partial("reconstruction", ball(code))
    values = sitk.Cast(image, sitk.sitkFloat32)
    return {
        "reconstruction": values * 0.9,
        "difference": values * -0.1,
        "codes": table([code], ["patient"]),
        "to_patient": [[1, 0, 0, -10.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    }


def training_set(inputs, parameters, context):
    wait(parameters, context)
    return {"brains": [ball(code_of(1000 + n, 1.0)) for n in range(parameters["count"])]}


def volumes(inputs, parameters, context):
    """Counts the hole as ventricles and the rest of the ball as white matter."""
    values = sitk.GetArrayViewFromImage(inputs["image"])
    ml = float(np.prod(inputs["image"].GetSpacing())) / 1000
    hole, ball = int(np.isclose(values, 0.3).sum()), int((values > 0.5).sum())
    return {
        "volumes": {"structure": ["Lateral ventricles", "Cerebral white matter"], "volume_ml": [hole * ml, ball * ml]}
    }
