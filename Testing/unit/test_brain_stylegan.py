"""The brain generator: its equations, its codes, and what a user gets of it (networks with random weights)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medgen.catalogue import find_method, load_run
from medgen.errors import BadInput, Cancelled
from medgen.imaging.brain_alignment import model_grid
from medgen.imaging.geometry import from_array, to_array
from medgen.method import Context, SilentProgress
from medgen.methods.brain_stylegan.codes import drawn, from_table, to_table
from medgen.methods.brain_stylegan.infer import affine_of
from medgen.methods.brain_stylegan.learning import (
    Config,
    Step,
    calibrated_error,
    gradient_penalty,
    path_lengths,
    spread_error,
)
from medgen.methods.brain_stylegan.projection import coarse, project
from medgen.methods.brain_stylegan.stored import state_to_store
from medgen.methods.brain_stylegan.train import CONFIGS, Material, principal_codes, train_stage
from medgen.nets.stylegan3d import (
    Architecture,
    Discriminator,
    Generator,
    ModulatedConv,
    halved,
    minibatch_deviation,
    mixed,
)
from medgen.weights import checked_weights

SMALL = Architecture((8, 8, 8), 8)
TURN = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.1, -0.06, 0.15, (12.0, -8.0, 20.0))  # scan to model


def small_generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    network = Generator(SMALL)
    for layer in network.layers:
        layer.strength.data.fill_(0.1)  # type: ignore[union-attr,operator]
    return network.requires_grad_(False).eval()


def phantom(shape: tuple[int, int, int] = (48, 56, 40)) -> np.ndarray:
    """A bright egg with two dark holes, one larger, 0..1: no symmetry that an alignment could confuse."""
    k, j, i = (
        np.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(shape)
    )
    body = ((k / 0.65) ** 2 + (j / 0.75) ** 2 + (i / 0.7) ** 2 + 0.2 * j * k) < 1
    values = np.where(body, 0.7 - 0.15 * k, 0.0)
    values[((k - 0.1) / 0.15) ** 2 + ((j + 0.2) / 0.3) ** 2 + ((i - 0.2) / 0.1) ** 2 < 1] = 0.15
    values[((k + 0.3) / 0.2) ** 2 + ((j - 0.4) / 0.15) ** 2 + ((i + 0.2) / 0.1) ** 2 < 1] = 0.3
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "brain.safetensors"
    state, metadata = state_to_store(small_generator(), torch.from_numpy(phantom()))
    save_file(state, path, metadata)
    return path


class Watching(SilentProgress):
    def __init__(self, stop_after: int | None = None) -> None:
        self.shown: dict[str, Any] = {}
        self.asked, self.stop_after = 0, stop_after

    def partial(self, name: str, value: Any) -> None:
        self.shown[name] = value

    def raise_if_cancelled(self) -> None:
        self.asked += 1
        if self.stop_after is not None and self.asked > self.stop_after:
            raise Cancelled("stop")


def run(suffix: str, weights: Path, inputs: dict[str, Any], progress: Any = None, seed: int = 0, **given: Any) -> Any:
    spec = find_method("brain_stylegan" + suffix)
    context = Context(progress or SilentProgress(), weights=weights, seed=seed)
    return load_run(spec)(inputs, spec.check_parameters(given), context)


def voxels(image: sitk.Image) -> np.ndarray:
    return to_array(image).astype(np.float64)


# ---------------------------------------------------------------------------------------------------------- equations


@pytest.mark.parametrize(
    ("filters", "latent", "millions"), [(96, 96, 6.6), (64, 64, 3.0), (32, 128, 0.9), (16, 64, 0.2)]
)
def test_both_networks_together_have_as_many_parameters_as_the_papers(
    filters: int, latent: int, millions: float
) -> None:
    with torch.device("meta"):
        architecture = Architecture((filters,) * 5, latent)
        networks = Generator(architecture), Discriminator(architecture)
    assert architecture.shape() == (96, 112, 80) and architecture.styles == 10
    count = sum(p.numel() for network in networks for p in network.parameters())
    assert round(count / 1e6, 1) == millions


def test_the_largest_configuration_makes_a_millimetre() -> None:
    assert Architecture((16,) * 6).shape() == (192, 224, 160)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_demodulation_keeps_unit_variance_for_any_style(scale: float) -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(32, 32, 4)
    layer.style.weight.data.zero_()
    layer.style.bias.data.copy_(scale * torch.linspace(0.5, 1.5, 32))
    made = layer(torch.randn(2, 32, 12, 12, 12), torch.zeros(2, 4))[..., 1:-1, 1:-1, 1:-1]
    assert float(made.detach().std()) == pytest.approx(1, abs=0.05)


def test_scaling_features_is_scaling_weights() -> None:
    torch.manual_seed(1)
    layer = ModulatedConv(5, 6, 4)
    x, w = torch.randn(2, 5, 4, 5, 6), torch.randn(2, 4)
    weight = layer.weight * layer.scale * layer.style(w)[:, None, :, None, None, None]
    weight = weight / weight.square().sum((2, 3, 4, 5), keepdim=True).add(1e-8).sqrt()
    wanted = torch.cat([F.conv3d(x[n : n + 1], weight[n], padding=1) for n in range(2)])
    assert torch.allclose(layer(x, w), wanted, atol=1e-5)


def test_halving_is_the_filter_1331() -> None:
    x = torch.randn(1, 2, 6, 8, 4)
    kernel = torch.tensor([1.0, 3, 3, 1]) / 8
    cube = (kernel[:, None, None] * kernel[:, None] * kernel).expand(2, 1, 4, 4, 4)
    assert torch.allclose(halved(x), F.conv3d(x, cube, stride=2, padding=1, groups=2), atol=1e-6)


def test_the_minibatch_channel_tells_equal_brains_from_different_ones() -> None:
    one = torch.randn(1, 3, 2, 2, 2)
    same = minibatch_deviation(one.expand(4, -1, -1, -1, -1))[:, -1]
    different = minibatch_deviation(torch.randn(4, 3, 2, 2, 2))[:, -1]
    assert float(same.max()) < 1e-3 < 0.3 < float(different.min())


def test_no_truncation_left_is_the_mean_brain_for_every_seed() -> None:
    network = small_generator()
    first, second = (drawn(network, seed, 0.0) for seed in (1, 2))
    assert torch.equal(first.styles, second.styles)


def test_mixing_takes_coarse_layers_from_the_first() -> None:
    a, b = torch.zeros(1, 6, 3), torch.ones(1, 6, 3)
    assert mixed(a, b, 4)[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1]
    assert torch.equal(mixed(a, b, 0), b) and torch.equal(mixed(a, b, 12), a)


def test_bfloat16_is_nearly_float32() -> None:
    network = small_generator()
    w, noise = network.for_layers(network.mapped(torch.randn(2, 8))), network.noise(2)
    exact, rough = network(w, noise), network(w, noise, torch.bfloat16)
    assert rough.dtype == torch.float32
    assert float((exact - rough).square().mean()) < 1e-3 * float(exact.var())


def test_path_length_is_the_norm_of_the_jacobians_product() -> None:
    """Of a generator whose picture is w[0] everywhere the length is |sum of y|, over the square root of the layers."""

    class Plain:
        def noise(self, count: int) -> list[torch.Tensor]:
            return []

        def __call__(self, w: torch.Tensor, noise: Any) -> torch.Tensor:
            return w[:, 0, 0].reshape(-1, 1, 1, 1, 1).expand(-1, 1, 4, 4, 4)

    torch.manual_seed(3)
    found = path_lengths(Plain(), torch.zeros(2000, 2, 3))  # type: ignore[arg-type]
    # y/8 summed over 64 voxels is N(0, 1); its mean absolute value is sqrt(2/pi), over sqrt(2) for the two layers
    assert float(found.mean()) == pytest.approx((2 / np.pi) ** 0.5 / 2**0.5, rel=0.05)


def test_the_gradient_penalty_of_a_linear_score_is_its_slope_squared() -> None:
    slope = torch.randn(1, 1, 2, 3, 4)
    score = lambda x: (slope * x).sum((1, 2, 3, 4))  # noqa: E731
    found = gradient_penalty(score, torch.randn(5, 1, 2, 3, 4))  # type: ignore[arg-type]
    assert float(found) == pytest.approx(float(slope.square().sum()), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- training


def some_material(latent: int = 8, count: int = 12) -> Material:
    base = F.avg_pool3d(torch.from_numpy(phantom())[None, None], 2)[0, 0].numpy()
    gains = np.linspace(0.7, 1.3, count, dtype=np.float32)
    images = 2 * np.clip(base * gains[:, None, None, None], 0, 1) - 1
    return Material(images, principal_codes(images, latent), phantom())


def test_principal_codes_have_unit_variance_and_follow_what_changes() -> None:
    made = some_material()
    assert made.codes[:, 0].std() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(made.codes[:, 0], np.arange(12))[0, 1]) > 0.99


def test_a_step_trains_both_networks_with_every_term(tmp_path: Path) -> None:
    config = Config(SMALL, steps=2, warm=1, batch=4, r1_every=1, path_every=1, half=False)
    step = Step(config, 0)
    terms: set[str] = set()
    before = [p.detach().clone() for p in (*step.generator.parameters(), *step.discriminator.parameters())]
    sample = some_material().batch(4, 0)

    def update(name: str, loss: torch.Tensor) -> None:
        step.optimizers[name].zero_grad()
        loss.backward()
        step.optimizers[name].step()

    for number in range(2):
        terms |= step.run(sample(number), update).keys()
    after = [*step.generator.parameters(), *step.discriminator.parameters()]
    assert terms == {"error", "spread", "generator", "path", "discriminator", "r1"}
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert float(step.generator.mean_w.abs().sum()) > 0


def test_the_calibrated_error_is_least_where_the_noise_is_as_large_as_what_it_stands_for() -> None:
    generator = torch.Generator().manual_seed(0)
    real, one, other = torch.randn(3, 8, 1, 12, 12, 12, generator=generator)
    errors = {scale: float(calibrated_error(scale * one, scale * other, real)) for scale in (0.0, 0.5, 1.0, 2.0)}
    assert min(errors, key=errors.__getitem__) == 1.0


def test_brains_nearer_to_the_mean_than_real_ones_have_a_spread_error() -> None:
    real, mean = torch.randn(4, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    assert float(spread_error(mean + (real - mean).flip(2), real, mean)) == pytest.approx(0, abs=1e-6)
    assert float(spread_error(mean + (real - mean) / 2, real, mean)) == pytest.approx(3 * np.log(4) ** 2, rel=1e-4)


def test_the_warm_start_rebuilds_and_a_larger_network_goes_on_from_it(tmp_path: Path) -> None:
    made = some_material()
    config = Config(replace(SMALL, skips=True), steps=20, warm=40, batch=4, half=False)  # errors that stay squared
    train_stage(config, made, tmp_path / "small", ema_decay=None)
    lines = (tmp_path / "small" / "log.jsonl").read_text().splitlines()
    errors = [float(line.split('"error": ')[1].split(",")[0].rstrip("}")) for line in lines]
    assert errors[-1] < 0.8 * errors[0]
    larger = Config(Architecture((8, 8, 8, 8), 8, skips=True), steps=1, warm=1, batch=1, half=False)
    double = Material(made.images.repeat(2, 1).repeat(2, 2).repeat(2, 3), made.codes, made.template)
    network, steps = train_stage(larger, double, tmp_path / "large", tmp_path / "small", ema_decay=None)
    assert steps == 1 and network.architecture.shape() == (48, 56, 40)


def test_a_network_with_skips_begins_as_good_as_the_one_it_grows_from() -> None:
    torch.manual_seed(0)
    small = Generator(Architecture((8, 8), 8, skips=True))
    step = Step(
        Config(Architecture((8, 8, 8), 8, skips=True), 1, 1), 0, (small.state_dict(), {}), torch.zeros(24, 28, 20)
    )
    w, noise = torch.randn(2, 1, 8).expand(-1, 6, -1), step.generator.noise(2)
    before = F.interpolate(small(w[:, :4], noise[:3]), scale_factor=2, mode="trilinear")
    after = step.generator(w, noise)
    assert float((after - before).detach().square().mean()) < 0.1 * float(before.detach().var())
    assert not torch.equal(after, before)


def test_what_is_learnt_begins_at_the_mean() -> None:
    network = small_generator()
    w, noise = torch.randn(1, 6, 8), network.noise(1)
    before = network(w, noise)
    network.begin_with(torch.full((24, 28, 20), 0.25))
    assert torch.allclose(network(w, noise) - 0.25, 0.1 * before, atol=1e-5)


def test_every_configuration_names_networks_that_follow_on_each_other() -> None:
    for stages in CONFIGS.values():
        for before, after in zip(stages, stages[1:], strict=False):
            assert after.config.architecture.filters[:-1] == before.config.architecture.filters


# -------------------------------------------------------------------------------------------------------------- codes


def test_codes_survive_a_table_of_texts_with_other_columns() -> None:
    network = small_generator()
    codes = [drawn(network, seed, 0.8) for seed in (4, 5)]
    table = {name: [str(v) for v in column] for name, column in to_table(codes).items()}
    found = from_table(network, {**table, "remark": ["", ""]})
    for a, b in zip(codes, found, strict=True):
        assert torch.allclose(a.styles, b.styles, atol=1e-6)
        assert all(torch.equal(x, y) for x, y in zip(a.noise, b.noise, strict=True))


def test_a_mix_keeps_a_code_for_every_layer() -> None:
    network = small_generator()
    first, second = drawn(network, 1, 1.0), drawn(network, 2, 1.0)
    both = first.mixed_with(second, 3)
    assert torch.allclose(from_table(network, to_table([both]))[0].styles, both.styles, atol=1e-6)
    assert torch.equal(both.styles[2], first.styles[2]) and torch.equal(both.styles[3], second.styles[3])


@pytest.mark.parametrize(
    "table",
    [
        {"name": ["a"]},
        {"w1": [0.0], "w2": [1.0]},
        {f"w{n}": ["x"] for n in range(1, 9)},
        {f"w{n}": [float("nan")] for n in range(1, 9)},
        {f"w{n}": [] for n in range(1, 9)},
    ],
)
def test_tables_that_are_no_codes_are_refused_in_one_sentence(table: dict[str, list[Any]]) -> None:
    with pytest.raises(BadInput) as refused:
        from_table(small_generator(), table)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------------------ methods


def test_the_same_seed_makes_the_same_brain_wherever_it_stands_in_a_run(weights: Path) -> None:
    three = run("", weights, {}, seed=5, count=3)
    alone = run("", weights, {}, seed=7)
    again = run("", weights, {"codes": three["codes"]})
    assert np.array_equal(voxels(three["brains"][2]), voxels(alone["brains"][0]))
    assert all(np.allclose(voxels(a), voxels(b), atol=0.01) for a, b in zip(three["brains"], again["brains"]))
    assert not np.array_equal(voxels(three["brains"][0]), voxels(three["brains"][1]))
    image = alone["brains"][0]
    assert image.GetSpacing() == (8.0, 8.0, 8.0) and image.GetSize() == (20, 28, 24)
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    assert np.allclose(centre, 0)


def test_a_mix_at_the_ends_is_one_of_the_two(weights: Path) -> None:
    codes = run("", weights, {}, count=2, truncation=1.0)["codes"]
    given = {"a": codes, "b": codes}
    for crossover, same in ((0, "b"), (6, "a"), (12, "a")):
        made = run("_mix", weights, given, crossover=crossover, row_b=2)
        assert np.array_equal(voxels(made["mix"]), voxels(made[same]))
    middle = run("_mix", weights, given, crossover=3, row_b=2)
    again = run("", weights, {"codes": middle["codes"]})
    assert not np.array_equal(voxels(middle["mix"]), voxels(middle["a"]))
    assert np.allclose(voxels(again["brains"][0]), voxels(middle["mix"]), atol=0.01)


def test_a_row_that_is_not_there_is_refused(weights: Path) -> None:
    codes = run("", weights, {})["codes"]
    with pytest.raises(BadInput, match="no row 2"):
        run("_mix", weights, {"a": codes, "b": codes}, row_b=2)


def test_the_grid_shows_every_cell_and_stops_between_them(weights: Path) -> None:
    codes = run("", weights, {}, count=3)["codes"]
    progress = Watching()
    made = run("_grid", weights, {"coarse": codes, "fine": codes}, progress)
    assert sorted(progress.shown) == [f"{r},{c}" for r in (1, 2, 3) for c in (1, 2, 3)]
    assert np.array_equal(voxels(progress.shown["2,3"]), voxels(made["grid"][5]))
    alone = run("_mix", weights, {"a": codes, "b": codes}, row_a=2, row_b=3)
    assert np.array_equal(voxels(made["grid"][5]), voxels(alone["mix"]))
    stopped = Watching(stop_after=4)
    with pytest.raises(Cancelled):
        run("_grid", weights, {"coarse": codes, "fine": codes}, stopped)
    assert len(stopped.shown) == 4


def test_a_film_begins_and_ends_with_its_brains(weights: Path) -> None:
    codes = run("", weights, {}, count=2)["codes"]
    film = run("_interpolate", weights, {"a": codes, "b": codes}, steps=3, row_b=2)
    ends = run("_mix", weights, {"a": codes, "b": codes}, row_b=2)
    assert len(film["path"]) == 3
    assert np.allclose(voxels(film["path"][0]), voxels(ends["a"]), atol=0.01)
    assert np.allclose(voxels(film["path"][2]), voxels(ends["b"]), atol=0.01)


# --------------------------------------------------------------------------------------------------------- projection


def test_projecting_a_brain_of_its_own_finds_it_again() -> None:
    network = small_generator()
    code = drawn(network, 3, 1.0)
    target = network(code.styles[None], code.noise)
    mean = network(network.for_layers(network.mapped(torch.randn(500, 8)).mean(0, keepdim=True)), code.noise)
    found = project(network, target, steps=40, rate=0.1)
    assert found.errors[-1][0] < 0.3 * float(F.mse_loss(mean, target))
    assert all(abs(float(n.mean())) < 1e-4 and float(n.std()) == pytest.approx(1, abs=1e-3) for n in found.noise)


def test_pictures_are_pooled_by_eight_where_that_fits() -> None:
    assert coarse(torch.zeros(1, 1, 48, 56, 40)).shape[2:] == (6, 7, 5)
    assert coarse(torch.zeros(1, 1, 24, 28, 20)).shape[2:] == (6, 7, 5)


def model_grid_image() -> sitk.Image:
    return from_array(phantom(), model_grid(4.0))


def oblique_scan() -> tuple[sitk.Image, sitk.Image]:
    """The phantom, turned, shifted and in other axes and units, and its mask."""
    size, spacing = (70, 84, 72), (3.0, 2.9, 3.1)
    direction = (0, 1, 0, -1, 0, 0, 0, 0, -1)
    axes = np.array(direction, float).reshape(3, 3)
    origin = np.array([-12.0, 8.0, -20.0]) - axes @ ((np.array(size) - 1) / 2 * spacing)
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing)
    grid.SetDirection(direction)
    grid.SetOrigin(origin.tolist())
    scan = sitk.Resample(model_grid_image(), grid, TURN, sitk.sitkLinear, 0.0) * 900.0
    return scan, sitk.Cast(scan > 50, sitk.sitkUInt8)


def test_a_turned_brain_is_brought_into_the_model_and_its_reconstruction_back(weights: Path) -> None:
    scan, mask = oblique_scan()
    progress = Watching()
    made = run("_project", weights, {"image": scan, "mask": mask}, progress, steps=10)
    assert made["reconstruction"].GetSize() == scan.GetSize()
    assert np.allclose(made["reconstruction"].GetOrigin(), scan.GetOrigin())
    assert progress.shown["reconstruction"].GetSize() == (20, 28, 24)
    inside = voxels(mask) != 0
    wanted = (voxels(made["reconstruction"]) - voxels(scan)) * inside
    assert np.allclose(voxels(made["difference"]), wanted, atol=1)
    assert [*made["fit"]["step"]] == [0, 10] and np.isfinite(made["fit"]["error"]).all()
    matrix = np.array(made["to_patient"])
    point = np.array([12.0, -8.0, 20.0])
    assert np.linalg.norm(matrix[:3, :3] @ point + matrix[:3, 3] - TURN.TransformPoint(point.tolist())) < 3  # mm
    again = run("_project", weights, {"image": scan, "mask": mask, "transform": made["to_patient"]}, steps=10)
    assert np.allclose(voxels(again["reconstruction"]), voxels(made["reconstruction"]), atol=1)
    moved = sitk.Resample(scan, model_grid_image(), affine_of(matrix).GetInverse(), sitk.sitkLinear, 0.0)
    assert np.corrcoef(voxels(moved).ravel(), phantom().ravel())[0, 1] > 0.95
    mixed_with_it = {"a": made["codes"], "b": made["codes"], "noise_a": made["noise"]}
    assert run("_mix", weights, mixed_with_it)["mix"].GetSize() == (20, 28, 24)


def test_a_head_with_its_skull_and_other_peoples_detail_are_refused(weights: Path) -> None:
    grid = model_grid(4.0)
    head = from_array(np.full(tuple(reversed(grid.size)), 100, np.float32), grid)
    with pytest.raises(BadInput, match="more than a brain"):
        run("_project", weights, {"image": head})
    codes = run("", weights, {})["codes"]
    with pytest.raises(BadInput, match="detail"):
        run("_mix", weights, {"a": codes, "b": codes, "noise_a": b"nothing"})


def test_a_projection_can_be_stopped(weights: Path) -> None:
    scan, mask = oblique_scan()
    with pytest.raises(Cancelled):
        run("_project", weights, {"image": scan, "mask": mask}, Watching(stop_after=4), steps=3000)


@pytest.mark.parametrize(("voxels", "size"), [("8", (20, 28, 24)), ("4", (40, 56, 48))])
def test_brains_that_were_learnt_from_come_in_the_networks_voxels(voxels: str, size: tuple[int, int, int]) -> None:
    path = checked_weights("brain_stylegan", "training_brains.safetensors")[0]
    brains = run("_training_set", path, {}, count=4, voxels=voxels)["brains"]
    assert len(brains) == 4 and all(image.GetSize() == size for image in brains)
    assert all(voxels_of.max() > 100 for voxels_of in map(to_array, brains))


def test_what_ships_makes_a_brain_and_not_a_patients() -> None:
    spec = find_method("brain_stylegan")
    path = checked_weights(spec.weights_id, spec.weights[0])[0]
    made = voxels(run("", path, {}, truncation=0.0)["brains"][0]).ravel()
    kept = checked_weights("brain_stylegan", "training_brains.safetensors")[0]
    learnt = [voxels(image).ravel() for image in run("_training_set", kept, {}, count=28)["brains"]]
    assert np.corrcoef(made, np.mean(learnt, 0))[0, 1] > 0.9
