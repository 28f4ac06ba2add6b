"""The sliding window gives MONAI's answer where there is foreground, and runs only the windows it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from medgen.errors import Cancelled
from medgen.imaging.sliding_window import sliding_window

SHAPES = [
    ((20, 17, 25), (8, 8, 8), 0.5),
    ((20, 17, 25), (8, 12, 32), 0.25),  # wider than the volume along the last axis
    ((3, 17, 1), (8, 8, 8), 0.7),  # one voxel thin
    ((40, 50), (16, 64), 0.5),
    ((33, 32), (16, 16), 0.0),
    ((12, 12, 12), (4, 4, 4), 0.9),
    ((15, 16, 17), (7, 5, 9), 0.3),
]


def network(dimensions: int, channels: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d if dimensions == 3 else torch.nn.Conv2d
    return convolution(2, channels, 3, padding=1).eval()


def case(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    volume = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32))
    foreground = torch.zeros(shape, dtype=torch.bool)
    foreground[tuple(slice(n // 3, max(n // 3 + 1, n // 2)) for n in shape)] = True
    return volume, foreground


def monai(volume: torch.Tensor, net: torch.nn.Module, patch: tuple[int, ...], overlap: float) -> torch.Tensor:
    with torch.no_grad():
        return SlidingWindowInferer(patch, 2, overlap, mode="gaussian")(volume[None], net)[0]


@pytest.mark.parametrize(("shape", "patch", "overlap"), SHAPES)
def test_same_as_monai(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> None:
    volume, foreground = case(shape)
    net = network(len(shape))
    expected = monai(volume, net, patch, overlap)
    torch.testing.assert_close(sliding_window(volume, net, patch, overlap, batch=3), expected, atol=1e-5, rtol=0)
    masked = sliding_window(volume, net, patch, overlap, batch=3, foreground=foreground, fill=-7)
    torch.testing.assert_close(masked[:, foreground], expected[:, foreground], atol=1e-5, rtol=0)
    assert (masked[:, ~foreground] == -7).all()


@pytest.mark.parametrize(("shape", "patch", "overlap"), SHAPES[:4])
def test_labels_and_probabilities_are_those_of_the_scores(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    volume, foreground = case(shape)
    for channels in (1, 4):
        net = network(len(shape), channels)
        scores = monai(volume, net, patch, overlap)
        labels = sliding_window(volume, net, patch, overlap, foreground=foreground, reduce="argmax")
        expected = scores.argmax(0) if channels > 1 else scores[0] > 0
        assert labels.dtype == torch.uint8 and tuple(labels.shape) == shape
        assert (labels[foreground] == expected[foreground]).float().mean() > 0.999  # a tie may turn
        assert not labels[~foreground].any()
        chances = sliding_window(volume, net, patch, overlap, reduce="probability")
        torch.testing.assert_close(chances, scores.softmax(0) if channels > 1 else scores.sigmoid(), atol=1e-5, rtol=0)


def test_windows_of_air_never_reach_the_network() -> None:
    volume, foreground = torch.zeros(1, 64, 64, 64), torch.zeros(64, 64, 64, dtype=torch.bool)
    foreground[4:12, 4:12, 4:12] = True
    seen = []

    def counting(windows: torch.Tensor) -> torch.Tensor:
        seen.append(len(windows))
        return windows

    sliding_window(volume, counting, (16, 16, 16), 0.5, batch=4, foreground=foreground)
    assert sum(seen) == 8 and max(seen) == 4  # starts 0 and 8 along each axis, of seven
    seen.clear()
    assert not sliding_window(volume, counting, (16,) * 3, foreground=foreground & False, reduce="argmax").any()
    assert sum(seen) == 1


def test_class_scores_are_held_for_one_patch_of_planes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    real = torch.zeros

    def watched(*size: object, **options: object) -> torch.Tensor:
        nonlocal largest
        tensor = real(*size, **options)  # type: ignore[call-overload]
        largest = max(largest, tensor.numel())
        return tensor

    monkeypatch.setattr(torch, "zeros", watched)
    volume = torch.ones(1, 128, 20, 20)
    sliding_window(volume, lambda x: x.expand(-1, 30, -1, -1, -1), (16, 16, 16), reduce="argmax")
    assert largest == 16 * 30 * 20 * 20


def test_progress_rises_to_one_and_can_end_the_run() -> None:
    volume, fractions = torch.zeros(1, 32, 32), []
    sliding_window(volume, torch.nn.Identity(), (8, 8), batch=5, progress=fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] == 1 and len(fractions) > 5

    def cancel(fraction: float) -> None:
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        sliding_window(volume, torch.nn.Identity(), (8, 8), progress=cancel)


@pytest.mark.parametrize(("patch", "overlap"), [((8, 8), 1.0), ((8, 8), -0.1), ((8, 8, 8), 0.5)])
def test_what_cannot_be_is_refused(patch: tuple[int, ...], overlap: float) -> None:
    with pytest.raises(ValueError):
        sliding_window(torch.zeros(1, 32, 32), torch.nn.Identity(), patch, overlap)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu_stays_near_full_precision() -> None:
    volume, _ = case((20, 17, 25))
    net = network(3).cuda()
    full = sliding_window(volume, net, (8, 8, 8), device="cuda")
    half = sliding_window(volume, net, (8, 8, 8), device="cuda", half=True)
    assert full.device.type == "cpu"
    assert 0 < (full - half).abs().max() < 0.02
