"""Cutting planes, masking what is unknown, voting over directions: multiplanar U-Net."""

import numpy as np
import pytest
import torch

from medgen.methods.multiplanar_unet.learning import masked_cross_entropy
from medgen.methods.multiplanar_unet.sampling import (
    SparseVolume,
    cut,
    near_plane,
    orientations,
    plane_axes,
    plane_points,
    random_rotation,
    training_planes,
    vote,
    widest_disagreement,
)
from medgen.nets.unet2d import UNet2d


def _volume(shape=(20, 24, 28), seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    labels = (image > 0.5).astype(np.uint8)
    known = near_plane(shape, (10, 0, 0), (1, 0, 0)) | near_plane(shape, (9.3, 11.8, 14.1), (1, 2, 1))
    return SparseVolume(image, labels, known, float(np.percentile(image, 1)))


@pytest.mark.parametrize(("axis", "index"), [(0, 7), (1, 3), (2, 27)])
def test_axis_aligned_plane_is_the_stored_slice(axis, index):
    volume = _volume((16, 16, 32))
    centre = (np.array(volume.image.shape) - 1) / 2
    centre[axis] = index
    normal = np.eye(3)[axis]
    image, labels, known, _ = cut(volume, plane_points(centre, *plane_axes(normal), 32))
    stored = [np.moveaxis(part, axis, 0)[index] for part in (volume.image, volume.labels, volume.known)]
    rows, columns = ((32 - n) // 2 for n in stored[0].shape)
    inside = np.s_[rows : rows + stored[0].shape[0], columns : columns + stored[0].shape[1]]
    for found, expected in zip((image, labels, known), stored, strict=True):
        np.testing.assert_array_equal(found[inside], expected)


def test_outside_is_padding_and_unknown():
    volume = _volume()
    points = plane_points((-5.0, 0, 0), (0, 1, 0), (0, 0, 1), 8)
    image, _, known, inside = cut(volume, points)
    assert (image == np.float32(volume.pad)).all() and not known.any() and inside == 0


def test_plane_leaves_no_holes_when_cut_obliquely():
    rng = np.random.default_rng(1)
    volume = _volume((40, 40, 40))
    normal = random_rotation(rng)[0]
    known = near_plane(volume.image.shape, (20, 20, 20), normal)
    sparse = SparseVolume(volume.image, volume.labels, known, volume.pad)
    _, _, seen, _ = cut(sparse, plane_points((20.0, 20, 20), *plane_axes(normal), 20))
    assert seen.all()


def test_training_planes_carry_labels_and_repeat_with_the_seed():
    volume = _volume((32, 32, 32))
    planes = training_planes(volume, 6, 32, np.random.default_rng(3))
    again = training_planes(volume, 6, 32, np.random.default_rng(3))
    np.testing.assert_array_equal(planes.images, again.images)
    assert (planes.known.mean((1, 2)) > 0.002).all()
    assert planes.known.mean() < 0.5  # sparse lines, not whole planes


@pytest.mark.parametrize("channels", [1, 3])
def test_unknown_labels_change_neither_loss_nor_gradient(channels):
    torch.manual_seed(0)
    network = UNet2d(channels, width=4, pools=2)
    image = torch.randn(2, 1, 16, 16)
    known = torch.rand(2, 16, 16) < 0.1
    top = max(2, channels)
    labels = torch.randint(0, top, known.shape)
    rubbish = torch.where(known, labels, torch.randint(0, top, known.shape))
    assert not torch.equal(labels, rubbish)
    results = []
    for truth in (labels, rubbish):
        network.zero_grad()
        loss = masked_cross_entropy(network(image), truth, known)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    known_changed = torch.where(known, 1 - labels.clamp(max=1), labels)
    assert masked_cross_entropy(network(image), known_changed, known) != results[0][0]


def test_vote_with_identity_network_gives_the_image_back_and_visits_every_voxel_k_times():
    z, y, x = np.mgrid[:24, :22, :26].astype(np.float32)
    sphere = (1 / (1 + np.exp(np.hypot(np.hypot(z - 12, y - 11), x - 13) - 8))).astype(np.float32)
    ways = orientations(5, np.random.default_rng(2))
    result = vote(sphere, 0.0, ways, lambda planes: planes)
    assert (result.visits == 5).all()
    assert result.mean.shape == (1, 24, 22, 26)
    # two of five directions are interpolated twice
    np.testing.assert_allclose(result.mean[0].numpy(), sphere, atol=0.03)
    exact = vote(sphere, 0.0, ways[:3], lambda planes: planes)
    np.testing.assert_allclose(exact.mean[0].numpy(), sphere, atol=1e-6)
    assert exact.spread.max() < 1e-3


def test_next_plane_is_where_the_spread_is_and_not_one_that_is_done():
    spread = np.zeros((20, 20, 20), np.float32)
    spread[:, 12] = 1
    assert widest_disagreement(spread, []) == (1, 12)
    axis, index = widest_disagreement(spread, [(np.array([0.0, 11.0, 0.0]), np.array([0.0, -1.0, 0.0]))])
    assert axis != 1 or abs(index - 11) >= 3


def test_full_width_network_has_the_papers_parameter_count():
    with torch.device("meta"):
        network = UNet2d()
    assert sum(p.numel() for p in network.parameters()) == 31_044_289
