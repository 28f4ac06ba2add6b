"""The networks of nnU-Net v2 plans (plain and residual-encoder U-Nets), for inference.

Behaviour of the architectures that nnU-Net 2.x plans name (Isensee et al., doi:10.1038/s41592-020-01008-z; the residual
block is that of ResNet-D, He et al., doi:10.1109/CVPR.2019.00065), written anew; attributes are called as the tensors
of its checkpoints are. Names in a plan only choose from the tables here: nothing is ever imported on their behalf.
Dropout does nothing at inference, so there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medgen.errors import BadInput
from medgen.nets.unet3d import InstanceNorm

MAX_STAGES, MAX_FEATURES, MAX_PATCH_VOXELS = 12, 2048, 2**27
PARTS: dict[str, Any] = {
    "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d, "InstanceNorm2d": InstanceNorm, "InstanceNorm3d": InstanceNorm,
    "BatchNorm2d": nn.BatchNorm2d, "BatchNorm3d": nn.BatchNorm3d, "LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU,
    "GELU": nn.GELU, "Dropout2d": nn.Dropout2d, "Dropout3d": nn.Dropout3d,
}  # fmt: skip
PART_KEYS = ("conv_op", "norm_op", "dropout_op", "nonlin")
LAYER_KEYS = {*PART_KEYS, *(f"{key}_kwargs" for key in PART_KEYS), "conv_bias"}
NETWORKS = {"PlainConvUNet", "ResidualEncoderUNet"}

# ----------------------------------------------------------------------------------------------------------- the layers


@dataclass(frozen=True)
class _Layers:
    """The kinds of layer that a plan chooses. norm: of a number of channels."""

    conv: Callable[..., nn.Module]
    norm: Callable[[int], nn.Module]
    nonlin: Callable[[], nn.Module]
    bias: bool


def _layers(arguments: Mapping[str, Any]) -> _Layers:
    def kind(key: str) -> Any:
        name = arguments.get(key)
        return None if name is None else PARTS[str(name).rsplit(".", 1)[-1]]

    norm, nonlin = kind("norm_op"), kind("nonlin")
    return _Layers(
        conv=kind("conv_op"),
        norm=lambda channels: norm(channels, **(arguments.get("norm_op_kwargs") or {})) if norm else nn.Identity(),
        nonlin=lambda: nonlin(**(arguments.get("nonlin_kwargs") or {})) if nonlin else nn.Identity(),
        bias=bool(arguments.get("conv_bias", False)),
    )


def _each(value: Any, count: int) -> list[Any]:
    """One entry for each of `count`, where a plan may also give one for all."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise ValueError(f"{count} entries are needed, not {len(values)}")
    return values


class _Unit(nn.Module):
    """Convolution, norm, activation."""

    def __init__(self, layers: _Layers, inputs: int, outputs: int, kernel: Any, stride: Any = 1, *, last: bool = False):
        """last: of a residual block's path, so without activation."""
        super().__init__()
        padding = [(k - 1) // 2 for k in kernel] if isinstance(kernel, (list, tuple)) else (kernel - 1) // 2
        self.conv = layers.conv(inputs, outputs, kernel, stride, padding, bias=layers.bias)
        self.norm = layers.norm(outputs)
        self.nonlin = nn.Identity() if last else layers.nonlin()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlin(self.norm(self.conv(x)))


class _Stack(nn.Module):
    """Units one after the other; the first takes the stride."""

    def __init__(self, layers: _Layers, count: int, inputs: int, outputs: int, kernel: Any, stride: Any = 1):
        super().__init__()
        self.convs = nn.Sequential(
            _Unit(layers, inputs, outputs, kernel, stride),
            *(_Unit(layers, outputs, outputs, kernel) for _ in range(count - 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class _Projection(nn.Module):
    """1 x 1 convolution without a bias, and norm: where the shortcut of a residual block must change channels."""

    def __init__(self, layers: _Layers, inputs: int, outputs: int):
        super().__init__()
        self.conv = layers.conv(inputs, outputs, 1, bias=False)
        self.norm = layers.norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class _ResidualBlock(nn.Module):
    """ResNet-D's basic block: the shortcut averages over the stride."""

    def __init__(self, layers: _Layers, inputs: int, outputs: int, kernel: Any, stride: Any = 1):
        super().__init__()
        self.conv1 = _Unit(layers, inputs, outputs, kernel, stride)
        self.conv2 = _Unit(layers, outputs, outputs, kernel, last=True)
        self.nonlin2 = layers.nonlin()
        shortcut: list[nn.Module] = []
        if any(s != 1 for s in _each(stride, len(stride) if isinstance(stride, (list, tuple)) else 1)):
            pool = nn.AvgPool2d if layers.conv is nn.Conv2d else nn.AvgPool3d
            shortcut.append(pool(stride, stride))
        if inputs != outputs:
            shortcut.append(_Projection(layers, inputs, outputs))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(self.conv1(x))
        out += self.skip(x)
        return self.nonlin2(out)


class _Residuals(nn.Module):
    """Residual blocks one after the other; the first takes the stride."""

    def __init__(self, layers: _Layers, count: int, inputs: int, outputs: int, kernel: Any, stride: Any):
        super().__init__()
        self.blocks = nn.Sequential(
            _ResidualBlock(layers, inputs, outputs, kernel, stride),
            *(_ResidualBlock(layers, outputs, outputs, kernel) for _ in range(count - 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


# --------------------------------------------------------------------------------------------------------- the networks


class _Decoder(nn.Module):
    """From the lowest stage up; only the last of the heads is used (the others are for training)."""

    def __init__(
        self, layers: _Layers, features: Sequence[int], kernels: Sequence[Any], strides: Sequence[Any],
        counts: Sequence[int], classes: int,
    ):  # fmt: skip
        super().__init__()
        transposed = nn.ConvTranspose2d if layers.conv is nn.Conv2d else nn.ConvTranspose3d
        ups, stages, heads = [], [], []
        for level, count in zip(range(len(features) - 2, -1, -1), counts, strict=True):
            width, stride = features[level], strides[level + 1]
            ups.append(transposed(features[level + 1], width, stride, stride, bias=layers.bias))
            stages.append(_Stack(layers, count, 2 * width, width, kernels[level]))
            heads.append(layers.conv(width, classes, 1, bias=True))
        self.transpconvs, self.stages = nn.ModuleList(ups), nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[torch.Tensor]) -> torch.Tensor:
        x = skips.pop()
        for up, stage in zip(self.transpconvs, self.stages, strict=True):
            x = stage(torch.cat((up(x), skips.pop()), 1))
        return self.seg_layers[-1](x)


class _Encoder(nn.Module):
    """The features of every stage, the finest first."""

    def __init__(self, stem: nn.Module | None, stages: list[nn.Module]):
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if hasattr(self, "stem"):
            x = self.stem(x)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class NnUnet(nn.Module):
    """[B, input_channels, *patch] -> scores [B, num_classes, *patch]. The arguments are those of a plan."""

    def __init__(
        self, kind: str, input_channels: int, num_classes: int, *, n_stages: int, features_per_stage: Sequence[int],
        kernel_sizes: Any, strides: Any, n_conv_per_stage_decoder: Any, n_conv_per_stage: Any = None,
        n_blocks_per_stage: Any = None, stem_channels: int | None = None, **layer_kinds: Any,
    ):  # fmt: skip
        super().__init__()
        unknown = set(layer_kinds) - LAYER_KEYS
        if unknown:
            raise TypeError(f"unknown arguments {sorted(unknown)}")
        layers, features = _layers(layer_kinds), list(features_per_stage)
        kernels, strides = _each(kernel_sizes, n_stages), _each(strides, n_stages)
        counts = _each(n_conv_per_stage if kind == "PlainConvUNet" else n_blocks_per_stage, n_stages)
        stem: nn.Module | None = None
        width = input_channels
        if kind == "ResidualEncoderUNet":
            width = stem_channels or features[0]
            stem = _Stack(layers, 1, input_channels, width, kernels[0])
        stages: list[nn.Module] = []
        for count, outputs, kernel, stride in zip(counts, features, kernels, strides, strict=True):
            shape = (layers, count, width, outputs, kernel, stride)
            # nnU-Net's plain stages lie in a list of one
            stages.append(nn.Sequential(_Stack(*shape)) if stem is None else _Residuals(*shape))
            width = outputs
        self.encoder = _Encoder(stem, stages)
        ups = _each(n_conv_per_stage_decoder, n_stages - 1)
        self.decoder = _Decoder(layers, features, kernels, strides, ups, num_classes)

        # channels last is faster on a CPU; in 2D it sums in another order than nnU-Net, and float16 scores show that
        self.layout = torch.contiguous_format if layers.conv is nn.Conv2d else torch.channels_last_3d

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(windows.contiguous(memory_format=self.layout)))


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
    architecture = stage["architecture"]
    kind = str(architecture["network_class_name"]).rsplit(".", 1)[-1]
    channels = len(model["channels"]) + (len(model["foreground"]) if stage["after_previous"] else 0)
    try:
        with torch.device("meta"):  # no memory is taken before the weights are known to fit
            network = NnUnet(kind, channels, model["heads"], **architecture["arch_kwargs"])
        # the tensors have several names in a checkpoint; one of each is stored
        left = network.load_state_dict(dict(state), strict=False, assign=True)
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, IndexError) as error:
        raise BadInput("The weights of this nnU-Net do not fit its plan.") from error
    if left.unexpected_keys or any(t.is_meta for t in (*network.parameters(), *network.buffers())):
        raise BadInput("The weights of this nnU-Net do not fit its plan.")
    return network.to(memory_format=network.layout)  # type: ignore[call-overload]
