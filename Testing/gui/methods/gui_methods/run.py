"""The work of the test methods."""

from __future__ import annotations

import os
import time

import numpy as np
import SimpleITK as sitk

from medgen.errors import BadInput


def threshold(inputs, parameters, context):
    start = time.monotonic()
    context.progress.log(f"note: {parameters['note']}")
    if parameters["fault"] == "raise":
        raise BadInput("The image has no bright voxels.")
    if parameters["fault"] == "die":
        os.kill(os.getpid(), 9)
    while time.monotonic() - start < parameters["seconds"]:
        context.progress.raise_if_cancelled()
        context.progress.report("Thinking", min(0.99, (time.monotonic() - start) / parameters["seconds"]))
        time.sleep(0.02)
    image = inputs["image"]
    labels = sitk.Cast(image > parameters["low"], sitk.sitkUInt8) + sitk.Cast(
        image > parameters["high"], sitk.sitkUInt8
    )
    if "mask" in inputs:
        labels = labels * inputs["mask"]
    voxels = sitk.GetArrayViewFromImage(labels)
    counts = [int((voxels == value).sum()) for value in (1, 2)]
    context.progress.notice("Thresholds know no anatomy.")
    return {"labels": labels, "counts": {"structure": ["Tissue", "Bright"], "voxels": counts}}


def pseudo_ct(inputs, parameters, context):
    image = sitk.Cast(inputs["image"], sitk.sitkFloat32)
    statistics = sitk.StatisticsImageFilter()
    statistics.Execute(image)
    scaled = (statistics.GetMaximum() - image) / max(1e-6, statistics.GetMaximum() - statistics.GetMinimum())
    return {"ct": sitk.Cast(scaled * 1500 - 1000, sitk.sitkInt16), "doubt": scaled}


def synthetic_ct(inputs, parameters, context):
    """Bright is bone, grey soft tissue, the rest air; what is given as a mask counts as it is given."""
    image = inputs["image"]
    body = inputs.get("body", image > 50)
    bone = inputs.get("bone", image > 200)
    air = inputs.get("air", (image < 0) * 0)
    classes = body * 1
    for value, mask in ((2, bone), (3, air)):
        classes = sitk.Mask(classes, mask, value, 1)
    ct = sitk.Cast(classes, sitk.sitkInt16) * 0 - 1000
    for value, hu in ((1, 40), (2, 900), (3, -1000)):
        ct = sitk.Mask(ct, classes == value, hu, 1)
    doubt = sitk.Cast(sitk.GradientMagnitude(sitk.Cast(ct, sitk.sitkFloat32)), sitk.sitkFloat32)
    return {"ct": ct, "segments": sitk.Cast(classes, sitk.sitkUInt8), "uncertainty": doubt}


def fill(inputs, parameters, context):
    """Frame n of the result holds the noise of the chosen sample where the mask is; noise differs from sample to
    sample."""
    mask = sitk.GetArrayFromImage(inputs["mask"]).reshape(-1)[: inputs["frames"][0].GetNumberOfPixels()] > 0
    filled, samples = [], []

    def made(frame, sample):
        values = sitk.GetArrayFromImage(frame)
        grey = values[..., :3].mean(-1) if frame.GetNumberOfComponentsPerPixel() > 1 else values.astype(float)
        noise = np.random.default_rng(sample).integers(50, 200, grey.size)
        image = sitk.GetImageFromArray(np.where(mask, noise, grey.reshape(-1)).reshape(grey.shape).astype(np.uint8))
        image.CopyInformation(frame)
        return image

    for number, frame in enumerate(inputs["frames"]):
        until = time.monotonic() + parameters["seconds"]
        context.progress.report("Filling", number / len(inputs["frames"]), f"{number + 1}")
        while time.monotonic() < until:
            context.progress.raise_if_cancelled()
            time.sleep(0.02)
        context.progress.raise_if_cancelled()
        filled.append(made(frame, parameters["sample"]))
    samples = [made(inputs["frames"][0], n + 1) for n in range(parameters["samples"])]
    stack = np.stack([sitk.GetArrayFromImage(s) for s in samples]).astype(np.float32)
    mean, spread = (sitk.GetImageFromArray(part / 255) for part in (stack.mean(0), stack.std(0)))
    for image in (mean, spread):
        image.CopyInformation(samples[0])
    return {"inpainted": filled, "samples": samples, "mean": mean, "spread": spread,
            "filled": sitk.Cast(inputs["mask"] > 0, sitk.sitkUInt8)}  # fmt: skip


def synthetic_spr(inputs, parameters, context):
    image = inputs["image"]
    bone, body = (sitk.Cast(image > level, sitk.sitkFloat32) for level in (200, 50))
    return {"spr": 0.001 + 1.019 * body + 0.5 * bone}


def everything(inputs, parameters, context):
    image = inputs["image"]
    byte = sitk.Cast(sitk.RescaleIntensity(image), sitk.sitkUInt8)
    return {
        "frames": inputs.get("frames", [image, image + 1]),
        "photo": inputs.get("photo", sitk.Compose(byte, byte, byte)),
        "labels": inputs.get("labels", sitk.Cast(byte > 100, sitk.sitkUInt8)),
        "points": inputs.get("points", [[1.0, 2.0, 3.0]]),
        "planes": inputs.get("planes", [{"origin": [1.0, 2.0, 3.0], "normal": [0.0, 0.6, 0.8]}]),
        "roi": inputs.get(
            "roi", {"center": [0, 0, 0], "axes": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "size_mm": [1, 2, 3]}
        ),
        "table": inputs.get("table", {"x": [1.0, 2.0], "name": ["a", "b"]}),
        "plot": {"x": [0.0, 1.0], "y": [2.0, 3.0]},
        "transform": inputs.get("transform", [[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]),
        "model": inputs.get("model", b"\x00\x01bytes"),
    }
