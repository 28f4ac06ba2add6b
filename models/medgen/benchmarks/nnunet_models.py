"""Tiny nnU-Net v2 results folders, made and trained for a few steps by nnU-Net's own classes.

Needs the package `nnunetv2` (extra `parity`). Import nothing of nnunetv2 before `make_results`: it reads its folders
from the environment once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESAMPLE = "resample_data_or_seg_to_shape"


def _architecture(flat: bool, kind: str) -> dict[str, Any]:
    size, dims = 3, 2 if flat else 3
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 12],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[size] * dims] * 3,
            "strides": [[1] * dims, [2] * dims, [2] * dims],
            blocks: [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _configuration(
    patch: Sequence[int], spacing: Sequence[float], channels: int, kind: str = "PlainConvUNet", masked: bool = False
) -> dict[str, Any]:
    flat = len(patch) == 2
    return {
        "data_identifier": "d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization", *["ZScoreNormalization"] * (channels - 1)],
        "use_mask_for_norm": [masked] * channels,
        "resampling_fn_data": RESAMPLE,
        "resampling_fn_seg": RESAMPLE,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": RESAMPLE,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": _architecture(flat, kind),
        "batch_dice": True,
    }


def plans(channels: int, transpose: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Plans with every configuration that nnU-Net's planner makes, at toy sizes."""
    known = {"mean": 60.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 300.0}
    lowres = _configuration((16, 24, 24), (2.6, 2.2, 2.2), channels)
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return {
        "dataset_name": "Dataset901_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.5, 1.0, 1.0],
        "original_median_shape_after_transp": [64, 96, 96],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(a) for a in np.argsort(transpose)],
        "configurations": {
            "2d": _configuration((64, 64), (1.0, 1.0), channels),
            "3d_fullres": _configuration((16, 32, 32), (1.5, 1.0, 1.0), channels, "ResidualEncoderUNet", masked=True),
            "3d_thick": _configuration((8, 32, 32), (5.0, 1.0, 1.0), channels),
            "3d_lowres": {**lowres, "next_stage": "3d_cascade_fullres"},
            "3d_cascade_fullres": cascade,
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): known for c in range(channels)},
    }


def dataset(channels: int, regions: bool) -> dict[str, Any]:
    labels: dict[str, Any] = {"background": 0, "organ": 1, "lesion": 2, "vessel": 3}
    if regions:
        labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3}
    made = {"channel_names": {str(c): ("CT" if c == 0 else "T1") for c in range(channels)}, "labels": labels,
            "numTraining": 4, "file_ending": ".nii.gz"}  # fmt: skip
    return {**made, "regions_class_order": [1, 2, 3]} if regions else made


def phantom(shape: Sequence[int], channels: int, seed: int = 0) -> np.ndarray:
    """float32 [channels, z, y, x]: a body in empty air, organs of several brightnesses, noise."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (z**2 / 1.2 + y**2 / 0.8 + x**2 / 0.7) < 0.9
    image = np.where(body, 40, 0) + 120 * ((x - 0.3) ** 2 + y**2 + z**2 < 0.1) - 80 * ((x + 0.4) ** 2 + y**2 < 0.05)
    image = image + body * rng.normal(0, 15, image.shape)
    return np.stack([image * (1 + c) for c in range(channels)]).astype(np.float32)


def _steps(trainer: Any, channels: int, regions: bool, steps: int, seed: int) -> None:
    """A few of the trainer's own steps on pieces of the phantom."""
    generator = torch.Generator().manual_seed(seed)
    patch = trainer.configuration_manager.patch_size
    scales = trainer._get_deep_supervision_scales() or [[1] * len(patch)]
    for _ in range(steps):
        data = torch.randn((2, channels, *patch), generator=generator)
        data = torch.nn.functional.avg_pool3d(data, 5, 1, 2) * 5 if len(patch) == 3 else data
        whole = (data[:, :1] > 0.3).long() + (data[:, :1] > 0.8).long() + (data[:, :1] > 1.4).long()
        targets = []
        for scale in scales:
            stride = [round(1 / s) for s in scale]
            part = whole[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
            targets.append(torch.cat([part >= k for k in (1, 2, 3)], 1).float() if regions else part.float())
        trainer.train_step({"data": data, "target": targets})


def make_results(
    root: Path,
    configuration: str,
    *,
    channels: int = 1,
    regions: bool = False,
    folds: int = 1,
    steps: int = 6,
    transpose: Sequence[int] = (0, 1, 2),
) -> Path:
    """A results folder as `nnUNetv2_train` leaves it; a cascade's first stage must have been made in the same root."""
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", str(root / name))
        Path(os.environ[f"nnUNet_{name}"]).mkdir(parents=True, exist_ok=True)
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plan, data = plans(channels, transpose), dataset(channels, regions)
    folder = root / plan["dataset_name"] / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    prepared = Path(os.environ["nnUNet_preprocessed"]) / plan["dataset_name"] / "d"  # noqa: SIM112
    prepared.mkdir(parents=True, exist_ok=True)
    (prepared / "case.npz").touch()  # the trainer looks at the files' kind, not into them
    for fold in range(folds):
        torch.manual_seed(fold)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = nnUNetTrainer(
                {**plan, "continue_training": False}, configuration, fold, data, device=torch.device("cpu")
            )
            trainer.initialize()
            inputs = channels + (3 if "cascade" in configuration else 0)
            _steps(trainer, inputs, regions, steps, fold)
            trainer.inference_allowed_mirroring_axes = tuple(range(len(trainer.configuration_manager.patch_size)))
            (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
            trainer.set_deep_supervision_enabled(False)
            trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(json.dumps(data))
    return folder
