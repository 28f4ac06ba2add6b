"""One training step of the generator and its discriminator: the softplus losses of StyleGAN2, R1, path length and style
mixing. For small budgets half of each batch is anchored: those brains come from codes of real ones, which they are to
look like, and in a warm start nothing else is learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgen.nets.stylegan3d import Architecture, Discriminator, Generator, mixed
from medgen.training.loop import Update

PATH_DECAY, MEAN_W_RATE = 0.01, 0.005
CALIBRATED = (1, 2, 4)  # voxels along an axis


@dataclass(frozen=True)
class Config:
    """steps: in all; warm: at the start, in which the generator only rebuilds (in the last fifth of them the
    discriminator learns and the noise counts, until then the error is squared and the rate warm_rate times as high);
    betas: of Adam; anchor: weight of the error of rebuilt brains, 0 for a plain GAN; r1, path: weights of the two
    regularisers, 0 for none, taken every r1_every and path_every steps; mixing: share of drawn brains made of two
    styles; half: compute in bfloat16, but not the regularisers."""

    architecture: Architecture
    steps: int
    warm: int
    batch: int = 8
    learning_rate: float = 2e-3
    warm_rate: float = 2.0
    betas: tuple[float, float] = (0.5, 0.99)
    anchor: float = 5.0
    r1: float = 4.0
    r1_every: int = 16
    path: float = 2.0
    path_every: int = 8
    mixing: float = 0.9
    half: bool = True

    @property
    def alone(self) -> int:
        """Steps before the discriminator begins."""
        return self.warm * 4 // 5


class TrainedGenerator(nn.Module):
    """The generator, with what its path length regulariser remembers: the mean length so far."""

    path_mean: Tensor

    def __init__(self, network: Generator) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("path_mean", torch.zeros(()))


class Step:
    """start: weights of generator and discriminator to begin with, those of other shapes are left out: of networks of
    half the size, whose levels become the coarse ones; mean: picture to begin with."""

    def __init__(
        self,
        config: Config,
        seed: int,
        start: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None,
        mean: Tensor | None = None,
    ) -> None:
        self.config = config
        self.dtype = torch.bfloat16 if config.half else torch.float32
        torch.manual_seed(seed)
        self.generator, self.discriminator = Generator(config.architecture), Discriminator(config.architecture)
        for network, state in zip((self.generator, self.discriminator), start or (), strict=False):
            own = network.state_dict()
            network.load_state_dict({**own, **{k: v for k, v in state.items() if own[k].shape == v.shape}})
        if mean is not None:
            self.generator.begin_with(mean)
        self.trained = TrainedGenerator(self.generator)
        self.networks: dict[str, nn.Module] = {"generator": self.trained, "discriminator": self.discriminator}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(network.parameters(), config.learning_rate, betas=config.betas, eps=1e-8)
            for name, network in self.networks.items()
        }

    def run(self, batch: Any, update: Update) -> dict[str, float]:
        """batch: real brains [n, 1, k, j, i] in [-1, 1], their codes [n, latent], the number of the step."""
        real, codes, number = batch[0], batch[1], int(batch[2])
        config = self.config
        if number < config.alone:
            figures = {"error": config.anchor * F.mse_loss(self._rebuilt(codes), real)}
        elif number < config.warm:
            figures = {"error": self._error(self._rebuilt(codes), real, codes)}
        else:
            self.discriminator.requires_grad_(False)
            figures = self._fooling(real, codes)
            if config.path and number % config.path_every == 0:
                figures["path"] = config.path * config.path_every * self._path_length(len(real) // 2)
        update("generator", torch.stack(list(figures.values())).sum())
        self.discriminator.requires_grad_(True)
        if number >= config.alone:
            losses = {"discriminator": self._telling(real, codes)}
            if config.r1 and number % config.r1_every == 0:
                losses["r1"] = config.r1 / 2 * config.r1_every * gradient_penalty(self.discriminator, real)
            update("discriminator", torch.stack(list(losses.values())).sum())
            figures.update(losses)
        return {name: float(value.detach()) for name, value in figures.items()}

    def _styles(self, count: int) -> Tensor:
        """[count, styles, latent], some of two brains with a random crossover; moves the mean w."""
        network = self.generator
        latent = network.architecture.latent
        z = torch.randn(2, count, latent, device=network.mean_w.device)
        first, second = (network.mapped(part) for part in z)
        network.mean_w.lerp_(first.detach().mean(0), MEAN_W_RATE)
        styles = network.architecture.styles
        if float(torch.rand(())) >= self.config.mixing:
            return network.for_layers(first)
        crossover = int(torch.randint(1, styles, ()))
        return mixed(network.for_layers(first), network.for_layers(second), crossover)

    def _rebuilt(self, codes: Tensor) -> Tensor:
        """Brains made of the codes of real ones."""
        network = self.generator
        w = network.mapped(codes)
        network.mean_w.lerp_(w.detach().mean(0), MEAN_W_RATE)
        return network(network.for_layers(w), network.noise(len(w)), self.dtype)

    def _made(self, count: int, codes: Tensor) -> Tensor:
        """`count` brains: rebuilt ones of the codes at first, then drawn ones."""
        drawn = self.generator(self._styles(count - len(codes)), self.generator.noise(count - len(codes)), self.dtype)
        return torch.cat([self._rebuilt(codes), drawn]) if len(codes) else drawn

    def _anchored(self, codes: Tensor) -> Tensor:
        """Those that are rebuilt: half of them, where there is an anchor."""
        return codes[: len(codes) // 2 if self.config.anchor else 0]

    def _error(self, made: Tensor, real: Tensor, codes: Tensor) -> Tensor:
        """made: of the codes of the real ones."""
        return self.config.anchor * calibrated_error(made, self._rebuilt(codes), real)

    def _fooling(self, real: Tensor, codes: Tensor) -> dict[str, Tensor]:
        codes = self._anchored(codes)
        made = self._made(len(real), codes)
        figures = {"generator": F.softplus(-self.discriminator(made, self.dtype)).mean()}
        if len(codes):
            figures["error"] = self._error(made[: len(codes)], real[: len(codes)], codes)
            figures["spread"] = spread_error(made[len(codes) :], real, self.generator.mean_image)
        return figures

    def _telling(self, real: Tensor, codes: Tensor) -> Tensor:
        with torch.no_grad():
            made = self._made(len(real), self._anchored(codes))
        scores = self.discriminator(real, self.dtype), self.discriminator(made, self.dtype)
        return F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()

    def _path_length(self, count: int) -> Tensor:
        lengths = path_lengths(self.generator, self._styles(count))
        self.trained.path_mean.lerp_(lengths.detach().mean(), PATH_DECAY)
        return (lengths - self.trained.path_mean).square().mean()


def calibrated_error(one: Tensor, other: Tensor, real: Tensor) -> Tensor:
    """Two brains of each code, alike but for their noise, against the real one, [n, 1, k, j, i]: the fair continuous
    ranked probability score E|x - real| - E|x - x'| / 2 (Ferro 2014) of every voxel and of blocks of 2 and 4 voxels.
    It is least where the noise varies as much as real brains of a code do; a squared error is least without noise."""
    total = torch.zeros((), device=real.device)
    for side in CALIBRATED:
        a, b, truth = (F.avg_pool3d(values, side) for values in (one, other, real))
        total = total + ((a - truth).abs() + (b - truth).abs() - (a - b).abs()).mean() / 2
    return total


def spread_error(drawn: Tensor, real: Tensor, mean: Tensor) -> Tensor:
    """Squared logarithm of how much more drawn brains differ from the mean brain than real ones do, in detail of one
    voxel, of two, and in blocks of 4: brains of codes between those that are rebuilt would else come out near the mean,
    and smooth."""
    total = torch.zeros((), device=real.device)
    for of_drawn, of_real in zip(_bands(drawn - mean), _bands(real - mean), strict=True):
        total = total + (of_drawn.square().mean() / of_real.square().mean()).log().square()
    return total


def _bands(values: Tensor) -> list[Tensor]:
    """What each halving of [n, 1, k, j, i] loses, and what is left of two."""
    found = []
    for _ in range(2):
        half = F.avg_pool3d(values, 2)
        found.append(values - F.interpolate(half, size=values.shape[2:], mode="trilinear"))
        values = half
    return [*found, values]


def path_lengths(network: Generator, styles: Tensor) -> Tensor:
    """[n]: norm of the gradient of <picture, y / sqrt(voxels)> with respect to w, y ~ N(0, I) (3D-StyleGAN, eq. 1):
    summed over w, averaged over the layers. Differentiable."""
    if not styles.requires_grad:
        styles = styles.detach().requires_grad_()
    made = network(styles, network.noise(len(styles)))
    y = torch.randn_like(made) / made[0].numel() ** 0.5
    (gradient,) = torch.autograd.grad((made * y).sum(), styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def gradient_penalty(network: Discriminator, real: Tensor) -> Tensor:
    """R1: mean squared norm of the gradient of the scores of real brains (Mescheder et al., ICML 2018)."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(real).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3, 4)).mean()
