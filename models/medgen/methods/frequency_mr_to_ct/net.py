"""The network of Shi et al. 2021: a base network, a layer that parts its features into low and high frequencies, and a
refinement of the high ones by long, thin convolutions. Also the critic of the high-frequency image."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medgen.nets.unet3d import PAPER_WIDEST, SLOPE, Encoder3d, FewOutputs, Pooling, UNet3d, conv_norm

BOX = 0.0  # what `lowpass` holds for the box filter of 16 voxels


class Split(NamedTuple):
    """All [batch, 1, z, y, x], in the target's units: the low- and the high-frequency image, and the share of the
    features (0 to 1) that went to the high one; but features, which are parted, [batch, width, z, y, x]. The synthetic
    CT is low + high."""

    low: Tensor
    high: Tensor
    share: Tensor
    features: Tensor

    @property
    def ct(self) -> Tensor:
        return self.low + self.high


class Refinement(nn.Module):
    """Three chains of three one-dimensional convolutions of length `kernel`, each along the axes in another order,
    summed: the support of a kernel^3 box for 9 kernel channels^2 weights (section 3, '3D symmetric factorisation').

    Each convolution starts near the identity: three in a row of 13 random weights each blur what the base network sees,
    and short trainings do not get over that.
    """

    def __init__(self, channels: int, kernel: int = 13) -> None:
        super().__init__()
        shapes = [(kernel, 1, 1), (1, kernel, 1), (1, 1, kernel)]
        self.chains = nn.ModuleList(
            nn.Sequential(
                *(conv_norm(channels, channels, shapes[(first + step) % 3], single=step == 2) for step in range(3))
            )
            for first in range(3)
        )
        for weight in self.parameters():
            if weight.dim() == 5:
                noise = 0.1 * nn.init.kaiming_normal_(torch.empty_like(weight), SLOPE)
                nn.init.dirac_(weight)
                weight.data += noise

    def forward(self, features: Tensor) -> Tensor:
        return reduce(torch.add, (chain(features) for chain in self.chains))  # a tenth of the time of stack and sum


class FrequencyNet(nn.Module):
    """forward: MR z-scores, float [batch, 1, z, y, x], sizes multiples of 2**pools, to a `Split`, linear.

    lowpass: of the training target, sigma in voxels, or BOX; kept with the weights, for the reader only.
    """

    lowpass: Tensor

    def __init__(
        self,
        width: int = 32,
        kernel: int = 13,
        pools: int = 3,
        pooling: Pooling = "max",
        lowpass: float = 15.0,
        widest: int = PAPER_WIDEST,
    ) -> None:
        super().__init__()
        self.base = UNet3d(1, 1, width, pools, pooling, widest)  # its last layer makes the low-frequency image
        self.part = FewOutputs(width, 2)
        self.refine = Refinement(width, kernel)
        self.high = FewOutputs(width, 1)
        for last in (self.base.head, self.high):
            nn.init.zeros_(last.weight)  # the first images are flat, not noise of thousands of HU
        self.register_buffer("lowpass", torch.tensor(lowpass))

    def forward(self, mr: Tensor) -> Split:
        features = self.base.features(mr)
        share = self.part(features).softmax(1)
        refined = self.refine(share[:, :1] * features)
        return Split(self.base.head(share[:, 1:] * features), self.high(refined), share[:, :1], features)


class Critic(nn.Module):
    """One score for a high-frequency image, float [batch, 1, z, y, x], seen beside its MR where `conditioned`: as
    channels, not along a spatial axis as the authors' code has it."""

    def __init__(self, width: int = 32, conditioned: bool = True) -> None:
        super().__init__()
        self.conditioned = conditioned
        self.encoder = Encoder3d(2 if conditioned else 1, width, 3, "average")
        self.score = nn.Linear(self.encoder.widths[-1], 1)

    def forward(self, high: Tensor, mr: Tensor) -> Tensor:
        seen = torch.cat([high, mr], dim=1) if self.conditioned else high
        return self.score(self.encoder(seen)[-1].mean((2, 3, 4)))[:, 0]


def network_from_state(state: dict[str, Tensor]) -> FrequencyNet:
    """The network whose weights these are: its shape follows from theirs. float32."""
    width = state["base.head.weight"].shape[1]
    kernel = max(state["refine.chains.0.0.0.weight"].shape[2:])
    pools = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("base.up."))
    widest = state[f"base.encoder.blocks.{pools}.0.0.weight"].shape[0]
    network = FrequencyNet(width, kernel, pools, widest=widest)
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network
