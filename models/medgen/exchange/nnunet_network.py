"""The networks of nnU-Net v2 plans, from the classes that nnU-Net itself uses (dynamic_network_architectures).

Names in a plan only choose from the tables here: nothing else is ever imported on their behalf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from medgen.errors import BadInput

MAX_STAGES, MAX_FEATURES, MAX_PATCH_VOXELS = 12, 2048, 2**27
NETWORKS = {"PlainConvUNet", "ResidualEncoderUNet"}
PARTS: dict[str, Any] = {
    "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d, "InstanceNorm2d": nn.InstanceNorm2d, "InstanceNorm3d": nn.InstanceNorm3d,
    "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d, "LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU,
    "GELU": nn.GELU, "Dropout2d": nn.Dropout2d, "Dropout3d": nn.Dropout3d,
}  # fmt: skip
PART_KEYS = ("conv_op", "norm_op", "dropout_op", "nonlin")


def check_architecture(architecture: Mapping[str, Any], patch: list[int]) -> None:
    """Raises BadInput for a network that MedGen does not know, or of absurd size."""
    kind = str(architecture["network_class_name"]).rsplit(".", 1)[-1]
    if kind not in NETWORKS:
        raise BadInput(f"The network '{kind}' is not one MedGen knows ({', '.join(sorted(NETWORKS))}).")
    arguments = architecture["arch_kwargs"]
    for key in PART_KEYS:
        name = arguments.get(key)
        if name is not None and str(name).rsplit(".", 1)[-1] not in PARTS:
            raise BadInput(f"The plan names the layer '{name}', which MedGen does not know.")
    features = arguments["features_per_stage"]
    sane = len(features) == arguments["n_stages"] <= MAX_STAGES and all(0 < f <= MAX_FEATURES for f in features)
    voxels = 1
    for n in patch:
        voxels *= max(1, int(n))
    if not sane or len(patch) not in (2, 3) or min(patch) < 1 or voxels > MAX_PATCH_VOXELS:
        raise BadInput(f"The plan asks for a network of absurd size (patch {patch}, features {features}).")


def build_network(model: Mapping[str, Any], stage: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of a stage with the weights of one fold. Raises BadInput where they do not fit each other."""
    from dynamic_network_architectures.architectures import unet

    architecture = stage["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    for key in PART_KEYS:
        if arguments.get(key) is not None:
            arguments[key] = PARTS[str(arguments[key]).rsplit(".", 1)[-1]]
    channels = len(model["channels"]) + (len(model["foreground"]) if stage["after_previous"] else 0)
    kind = getattr(unet, str(architecture["network_class_name"]).rsplit(".", 1)[-1])
    try:
        with torch.device("meta"):  # no memory is taken before the weights are known to fit
            network: nn.Module = kind(
                input_channels=channels, num_classes=model["heads"], deep_supervision=False, **arguments
            )
        # the encoder's tensors have several names; one of each is stored
        left = network.load_state_dict(dict(state), strict=False, assign=True)
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, IndexError) as error:
        raise BadInput("The weights of this nnU-Net do not fit its plan.") from error
    if left.unexpected_keys or any(t.is_meta for t in (*network.parameters(), *network.buffers())):
        raise BadInput("The weights of this nnU-Net do not fit its plan.")
    return network
