"""Stands for the network of the head's structures: what is brighter than a threshold is cortical bone."""

import torch

from medgen.imaging.head_labels import CLASSES


class AllBone(torch.nn.Module):
    pools = 1

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        classes = torch.where(planes[:, 0] > self.above, 19, 0)
        return 20.0 * torch.nn.functional.one_hot(classes, CLASSES).movedim(-1, 1)
