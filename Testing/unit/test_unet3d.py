"""The base network of the MR-to-CT methods and the adversarial losses, against numbers worked out by hand."""

import math

import pytest
import torch

from medgen.losses.adversarial import discriminator_loss, generator_loss
from medgen.nets.unet3d import FewOutputs, InstanceNorm, UNet3d


def convolution(channels_in: int, channels_out: int, voxels: int = 27) -> int:
    return channels_in * channels_out * voxels + 2 * channels_out  # no bias; the normalisation has two numbers


def test_the_papers_width_has_the_papers_layers() -> None:
    down = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    merge = [(256 + 128, 128), (128, 128), (128 + 64, 64), (64, 64), (64 + 32, 32), (32, 32)]
    expected = sum(convolution(*pair) for pair in down + merge)
    expected += sum(convolution(w, w, 64) for w in (256, 128, 64)) + 32 * 27 + 1
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet3d().parameters()) == expected


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_sizes_and_channels(pooling) -> None:
    network = UNet3d(3, 2, width=2, pooling=pooling)
    image = torch.randn(2, 3, 16, 8, 24)
    assert network.features(image).shape == (2, 2, 16, 8, 24)
    assert network(image).shape == (2, 2, 16, 8, 24)


def test_half_precision_does_not_round_the_result() -> None:
    torch.manual_seed(0)
    network, image = UNet3d(width=2), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features, result = network.features(image), network(image)
    assert features.dtype == result.dtype == torch.float32
    assert not torch.equal(result, result.bfloat16().float())


@pytest.mark.parametrize("outputs", [1, 2])
def test_few_outputs_is_pytorchs_convolution_in_float32(outputs) -> None:
    torch.manual_seed(0)
    layer, image = FewOutputs(3, outputs), torch.randn(2, 3, 5, 6, 7)
    expected = torch.nn.functional.conv3d(image, layer.weight, layer.bias, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_instance_normalisation_is_pytorchs() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 4, 5, 6, 7) * 3 + 1
    norm = InstanceNorm(4)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    expected = torch.nn.functional.instance_norm(features, weight=norm.weight, bias=norm.bias)
    assert torch.allclose(norm(features), expected, atol=1e-5)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_relativistic_losses_by_hand() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, -2.0])
    a, b = [1 - -1, 3 - -1], [0 - 2, -2 - 2]  # real - mean(fake), fake - mean(real)
    wanted = sum(softplus(-v) for v in a) / 2 + sum(softplus(v) for v in b) / 2
    assert float(discriminator_loss(real, fake, "relativistic")) == pytest.approx(wanted / 2)
    exchanged = sum(softplus(v) for v in a) / 2 + sum(softplus(-v) for v in b) / 2
    assert float(generator_loss(real, fake, "relativistic")) == pytest.approx(exchanged / 2)


def test_vanilla_and_least_squares_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0]), torch.tensor([-1.0])
    assert float(discriminator_loss(real, fake, "vanilla")) == pytest.approx((softplus(-2) + softplus(-1)) / 2)
    assert float(generator_loss(None, fake, "vanilla")) == pytest.approx(softplus(1))
    assert float(discriminator_loss(real, fake, "lsgan")) == pytest.approx((1 + 1) / 2)
    assert float(generator_loss(None, fake, "lsgan")) == pytest.approx(4)
