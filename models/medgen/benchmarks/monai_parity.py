"""Does an imported MONAI bundle give, voxel for voxel, what the bundle's own inference writes?

Bundles of the networks that the model zoo uses most, with untrained weights and the zoo's kind of configuration; run
once by `monai.bundle.run` on a file (needs pytorch-ignite, extra `parity`) and once as a method.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [8, 16, 24],
             "strides": [2, 2], "num_res_units": 1, "norm": "instance"},
    "SegResNet": {"_target_": "SegResNet", "spatial_dims": 3, "init_filters": 8, "in_channels": 1, "out_channels": 3,
                  "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    "DynUNet": {"_target_": "DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
                "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 24]},
}  # fmt: skip


def _metadata(name: str) -> dict[str, Any]:
    channels = {"0": "background", "1": "organ", "2": "lesion"}
    return {
        "name": f"Toy {name}",
        "version": "0.1.0",
        "task": "Toy segmentation",
        "authors": "MedGen",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "format": "hounsfield", "modality": "CT", "num_channels": 1,
                                 "channel_def": {"0": "image"}}},
            "outputs": {"pred": {"type": "image", "format": "segmentation", "num_channels": 3, "channel_def":
            channels}},
        },
    }  # fmt: skip


def _inference(network: dict[str, Any]) -> dict[str, Any]:
    def step(name: str, **options: Any) -> dict[str, Any]:
        return {"_target_": name, "keys": "image", **options}

    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob(@bundle_root + '/cases/*.nii.gz')))",
        "device": "$torch.device('cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [
            step("LoadImaged"), step("EnsureChannelFirstd"), step("Orientationd", axcodes="RAS"),
            step("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
            step("ScaleIntensityRanged", a_min=-100, a_max=200, b_min=0.0, b_max=1.0, clip=True),
            step("EnsureTyped"),
        ]},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 16], "sw_batch_size": 2, "overlap": 0.5,
                    "mode": "gaussian"},
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
             "nearest_interp": False, "to_tensor": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False},
        ]},
        "handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'",
                      "load_dict": {"model": "@network"}}],
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
                      "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing",
                      "val_handlers": "@handlers", "amp": False},
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def make_bundle(folder: Path, name: str) -> Path:
    """A bundle folder with weights drawn from a fixed seed."""
    from monai.bundle import ConfigParser

    torch.manual_seed(0)
    network = ConfigParser({"network": NETWORKS[name]}).get_parsed_content("network")
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    (folder / "configs" / "metadata.json").write_text(json.dumps(_metadata(name)))
    (folder / "configs" / "inference.json").write_text(json.dumps(_inference(NETWORKS[name])))
    return folder


def case() -> sitk.Image:
    """A turned, anisotropic CT phantom."""
    z, y, x = np.indices((22, 52, 44))
    values = np.where((x - 22) ** 2 + (y - 26) ** 2 < 300, 40.0, -900.0) + 8 * np.sin(x / 2 + z) * np.cos(y / 3)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing((1.2, 1.1, 2.6))
    image.SetOrigin((-31.0, 12.5, 80.25))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.05, 0.2)
    image.SetDirection(turn.GetMatrix())
    return image


def own_inference(bundle: Path) -> np.ndarray:
    """What `monai.bundle.run` writes for the case in the bundle's folder `cases`; axes k, j, i."""
    from monai.bundle import run

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(config_file=str(bundle / "configs" / "inference.json"), meta_file=str(bundle / "configs" / "metadata.json"),
            bundle_root=str(bundle))  # fmt: skip
    [written] = (bundle / "eval").glob("*.nii.gz")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(written)))


def _check(root: Path, name: str) -> dict[str, Any]:
    from medgen.exchange.monai_bundle import run
    from medgen.exchange.monai_import import import_monai, pack, read_bundle
    from medgen.method import Context
    from medgen.weights import checked_weights

    bundle = make_bundle(root / name, name)
    digest = hashlib.sha256(pack(read_bundle(bundle))).hexdigest()
    spec = import_monai(bundle, digest)
    (bundle / "cases").mkdir()
    file = bundle / "cases" / "case.nii.gz"
    sitk.WriteImage(case(), str(file))
    context = Context(weights=checked_weights(spec.id, spec.weights[0])[0])
    outputs = run({spec.inputs[0].name: sitk.ReadImage(str(file))}, {}, context)
    ours, theirs = sitk.GetArrayFromImage(outputs["segmentation"]), own_inference(bundle)
    return {"differing_voxels": int((ours != theirs).sum()), "labels": np.unique(theirs).tolist()}


def run(quick: bool) -> dict[str, Any]:
    """quick: one network instead of three."""
    if importlib.util.find_spec("ignite") is None:
        return {"name": "monai_parity", "passed": False, "details": {"missing": "the package pytorch-ignite"}}
    kept = os.environ.get("MEDGEN_DATA")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["MEDGEN_DATA"] = str(Path(temporary) / "data")
            names = ["UNet"] if quick else list(NETWORKS)
            each = {name: _check(Path(temporary), name) for name in names}
    finally:
        os.environ.pop("MEDGEN_DATA") if kept is None else os.environ.update(MEDGEN_DATA=kept)
    worst = max(entry["differing_voxels"] for entry in each.values())
    several = all(len(entry["labels"]) > 1 for entry in each.values())  # a constant image would prove nothing
    return {
        "name": "monai_parity",
        "passed": worst == 0 and several,
        "details": {"differing_voxels": worst, "each": each},
    }
