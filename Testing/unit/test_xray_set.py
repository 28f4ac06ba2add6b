"""Chest X-rays to learn from."""

from __future__ import annotations

import numpy as np
import torch

from medgen.imaging.xray_set import XraySampler, XraySet


def test_batches_of_xrays_are_moved_a_little_and_spare_the_held_out() -> None:
    side = 64
    y, x = np.mgrid[:side, :side]
    far = np.hypot(y - 31.5, x - 31.5)
    discs = np.stack([0.5 * (far < 8), 0.5 * (far < 16), np.ones((side, side))]).astype(np.float32)
    known = XraySet(discs[[0, 1, 2, 2]], np.array([0, 1, 0, 1]), np.array([False, False, True, True]))
    draw, places = XraySampler(known, seed=0, batch=8), []
    for step in range(4):
        batch = draw(step)
        assert torch.equal(batch["image"], draw(step)["image"]) and batch["label"].tolist() == [0, 1] * 4
        for image, label in zip(batch["image"][:, 0].numpy(), batch["label"].tolist(), strict=True):
            assert 0.5**1.25 - 1e-4 <= image.max() <= 0.5**0.8 + 1e-4  # a held-out image is all 1
            disc = np.argwhere(image > image.max() / 2)
            radius = np.sqrt(len(disc) / np.pi)
            assert 0.9 < radius / (16 if label else 8) < 1.12
            places.append(disc.mean(0) - 31.5)
    assert 1 < np.abs(places).max() < 0.04 * side * 1.08 + 0.5
