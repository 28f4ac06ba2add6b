"""Gaussian and Laplacian pyramids (Burt and Adelson, IEEE Trans Commun 1983;31:532), and blending with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 4
KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def _blur(image: Tensor) -> Tensor:
    channels = image.shape[1]
    kernel = torch.tensor(KERNEL, dtype=image.dtype, device=image.device)
    image = F.pad(image, (2, 2, 2, 2), mode="reflect")
    image = F.conv2d(image, kernel.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(image, kernel.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def _enlarged(image: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(image, like.shape[-2:], mode="bilinear", align_corners=False)


def gaussian_pyramid(image: Tensor, levels: int = LEVELS) -> list[Tensor]:
    """[n, c, h, w] -> `levels` images, the first as it is, each next blurred and half as large."""
    pyramid = [image]
    for _ in range(levels - 1):
        pyramid.append(_blur(pyramid[-1])[..., ::2, ::2])
    return pyramid


def laplacian_pyramid(image: Tensor, levels: int = LEVELS) -> list[Tensor]:
    """[n, c, h, w] -> `levels` images: what each halving loses, finest first, and the smallest image last."""
    gaussian = gaussian_pyramid(image, levels)
    pairs = zip(gaussian, gaussian[1:], strict=False)
    return [*(fine - _enlarged(coarse, fine) for fine, coarse in pairs), gaussian[-1]]


def collapsed(pyramid: list[Tensor]) -> Tensor:
    """The image of a Laplacian pyramid: exactly the one it was made of, but for rounding."""
    image = pyramid[-1]
    for detail in reversed(pyramid[:-1]):
        image = detail + _enlarged(image, detail)
    return image


def blended(inside: Tensor, outside: Tensor, weight: Tensor, levels: int = LEVELS) -> Tensor:
    """Each band of the two images is mixed with as soft a mask as the band is coarse. [n, 1, h, w] each; weight: 1
    where `inside` is taken, 0 where `outside` is."""
    bands = zip(
        laplacian_pyramid(inside, levels),
        laplacian_pyramid(outside, levels),
        gaussian_pyramid(weight, levels),
        strict=True,
    )
    return collapsed([b + w * (a - b) for a, b, w in bands])
