"""New images of a small cohort, through the method as a panel calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medgen.errors import BadInput, Cancelled
from medgen.method import Context, SilentProgress
from medgen.methods.rhvae_sampling.infer import run
from medgen.methods.rhvae_sampling.learning import Settings, fit, negative_elbo
from medgen.methods.rhvae_sampling.net import Rhvae
from medgen.methods.rhvae_sampling.spec import RHVAE_SAMPLING
from medgen.methods.rhvae_sampling.tables import closest_pairs
from medgen.methods.rhvae_sampling.train import train

SHORT = {"epochs": 3, "latent": 3, "steps": 20, "count": 4, "frames": 4}


def blob(seed: int, size: tuple[int, ...] = (20, 16), radius: float = 4.0) -> sitk.Image:
    """A bright disc or ball somewhere, as another patient for every seed; axes of `size` are i, j, k."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.arange(n) - n / 2 for n in reversed(size)), indexing="ij")
    squared = sum((axis - rng.uniform(-2, 2)) ** 2 for axis in grid)
    image = sitk.GetImageFromArray((1000 / (1 + np.exp(np.sqrt(squared) - radius))).astype(np.float32))
    image.SetSpacing([1.5] * len(size))
    image.SetOrigin([10.0] * len(size))
    return image


def sample(images: list[sitk.Image], context: Context | None = None, **given: Any) -> dict[str, Any]:
    ports = {"labels", "mask", "model"}
    inputs = {"images": images} | {name: value for name, value in given.items() if name in ports}
    chosen = {name: value for name, value in given.items() if name not in ports}
    return run(inputs, RHVAE_SAMPLING.check_parameters({**SHORT, **chosen}), context or Context(seed=1))


COHORT = [blob(seed) for seed in range(6)] + [blob(seed, radius=6.0) for seed in range(6)]
CLASSES = {"id": [f"patient {n}" for n in range(12)], "label": ["small"] * 6 + ["large"] * 6}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return sample(COHORT, labels=CLASSES)


def test_every_class_gets_its_images(result: dict[str, Any]) -> None:
    assert result["codes"]["label"] == ["large"] * 4 + ["small"] * 4
    assert set(result["codes"]["synthetic"]) == {"yes"}
    assert len(result["synthetic"]) == 8 and len(result["geodesic"]) == 4
    first = result["synthetic"][0]
    assert (first.GetSize(), first.GetSpacing(), first.GetOrigin()) == ((20, 16), (1.5, 1.5), (10.0, 10.0))
    assert sitk.GetArrayViewFromImage(first).max() > 100  # the cohort's intensities, not 0 to 1
    assert len(result["training"]["loss"]) == 3


def test_map_and_pairs_tell_of_every_image(result: dict[str, Any]) -> None:
    kinds = result["map"]["kind"]
    assert [kinds.count(kind) for kind in ("cohort", "synthetic", "geodesic")] == [12, 8, 4]
    rows = {name: result["map"]["name"][n] for n, name in enumerate(result["map"]["name"]) if kinds[n] == "cohort"}
    assert set(rows) == set(CLASSES["id"])
    assert sorted(result["similarity"]["synthetic image"]) == list(range(1, 9))
    assert set(result["similarity"]["cohort image"]) <= set(CLASSES["id"])
    chart = result["chart"]
    drawn = {name: sum(value == value for value in column) for name, column in chart.items()}
    assert (drawn["cohort"], drawn["synthetic"], drawn["geodesic"]) == (6, 4, 4)
    assert 0 < drawn["inside the cohort"] < 24 * 24


def test_same_seed_same_images_and_a_kept_model_draws_them_again(result: dict[str, Any]) -> None:
    again = sample(COHORT, labels=CLASSES)
    kept = sample(COHORT, labels=CLASSES, model=result["model"])
    for number in range(8):
        image = sitk.GetArrayViewFromImage(result["synthetic"][number])
        assert np.array_equal(image, sitk.GetArrayViewFromImage(again["synthetic"][number]))
        assert np.abs(image - sitk.GetArrayViewFromImage(kept["synthetic"][number])).max() < 2  # of 1000: float16
    assert "training" not in kept


def test_the_geodesic_joins_the_two_chosen_images() -> None:
    made = sample(COHORT[:6], from_image=2, to_image=5, count=1)
    table = made["map"]
    ends = [
        [table[c][n] for c in ("component 1", "component 2")]
        for name, kind in (("2", "cohort"), ("1", "geodesic"), ("5", "cohort"), ("4", "geodesic"))
        for n in range(len(table["kind"]))
        if table["kind"][n] == kind and table["name"][n] == name
    ]
    assert ends[0] == pytest.approx(ends[1]) and ends[2] == pytest.approx(ends[3])


@pytest.mark.parametrize("sampler", ["hmc", "walk", "prior"])
def test_every_sampler_draws(sampler: str) -> None:
    made = sample(COHORT[:6], sampler=sampler)
    assert set(made["codes"]["sampler"]) == {sampler} and len(made["synthetic"]) == 4


def test_volumes_are_learnt_whole_with_convolutions_or_by_a_slice() -> None:
    volumes = [blob(seed, (30, 24, 18), 6.0) for seed in range(5)]
    whole = sample(volumes, size=24, epochs=1, count=2)["synthetic"][0]  # 24 x 20 x 15 is more than 64 x 64
    assert whole.GetSize() == (24, 20, 15)
    assert np.allclose(whole.GetSpacing(), 45 / 24)
    flat = sample(volumes, content="slice", axis="j", position=50, epochs=1, count=2)["synthetic"][0]
    assert flat.GetSize() == (30, 1, 18)
    assert flat.TransformIndexToPhysicalPoint((0, 0, 0)) == pytest.approx((10, 10 + 12 * 1.5, 10))


def test_only_what_lies_in_the_region_is_learnt() -> None:
    mask = sitk.Image(20, 16, sitk.sitkUInt8)
    mask.CopyInformation(COHORT[0])
    mask[4:16, 4:12] = 1
    made = sample(COHORT[:6], mask=mask)["synthetic"][0]
    assert made.GetSize() == (12, 8)
    assert made.GetOrigin() == pytest.approx((10 + 6, 10 + 6))
    with pytest.raises(BadInput, match="region is empty"):
        sample(COHORT[:6], mask=mask * 0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda: sample(COHORT[:4]), "At least 5"),
        (lambda: sample([*COHORT, blob(0, (16, 16))]), "Image 13 is of another size"),
        (lambda: sample([*COHORT, COHORT[0] * 0]), "Image 13 shows nothing"),
        (lambda: sample(COHORT, labels={"class": ["a"] * 12}), "no column 'label'"),
        (lambda: sample(COHORT, labels={"label": ["a"] * 3}), "3 rows for 12"),
        (lambda: sample(COHORT, labels={"label": ["a"] * 11 + ["b"]}), "Class 'b' has 1"),
        (lambda: sample(COHORT, labels=CLASSES, from_image=1, to_image=12), "two classes"),
        (lambda: sample(COHORT, from_image=13), "no image 13"),
        (lambda: sample(COHORT, model=b"no model"), "cannot be read"),
        (lambda: sample([blob(n, (160, 160, 30)) for n in range(5)], size=160, count=5000), "do not fit in memory"),
    ],
)
def test_what_cannot_be_used_is_refused(change: Callable[[], object], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        change()


def test_a_model_of_another_cohort_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="another cohort"):
        sample(COHORT, model=result["model"])  # without the classes
    with pytest.raises(BadInput, match="another cohort"):
        sample([blob(n, (24, 16)) for n in range(12)], labels=CLASSES, model=result["model"])


def test_a_run_can_be_cancelled_in_training_and_in_sampling() -> None:
    class Cancel(SilentProgress):
        def __init__(self, stage: str) -> None:
            self.stage, self.seen = stage, ""

        def report(self, stage: str, fraction: float, message: str = "") -> None:
            self.seen = stage

        def raise_if_cancelled(self) -> None:
            if self.seen.startswith(self.stage):
                raise Cancelled("Cancelled.")

    for stage in ("Learning", "Drawing", "Looking"):
        with pytest.raises(Cancelled):
            sample(COHORT[:6], Context(progress=Cancel(stage)))


def test_training_brings_the_loss_down_and_images_back() -> None:
    images = torch.from_numpy(np.stack([sitk.GetArrayFromImage(image) for image in COHORT])) / 1000
    told: list[float] = []
    model = fit(images, Settings(2, epochs=60), 0, report=lambda share, loss: told.append(loss))
    assert told[-1] < 0.6 * told[0]
    error = (model.images(model.codes) - images).square().mean()
    assert error < 0.3 * images.var(dim=0).mean()
    assert model.metric.temperature > 0 and model.metric.log_volume(model.codes).isfinite().all()


def test_the_loss_without_leapfrog_steps_is_that_of_a_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps of size 0 the Riemannian objective is the plain one and the density of the cooled momentum."""
    from medgen.methods.rhvae_sampling import learning

    monkeypatch.setattr(learning, "STEP", 0.0)
    torch.manual_seed(0)
    images = torch.rand(7, 8, 8)
    network = Rhvae(images.mean(0), 2)
    torch.manual_seed(1)
    plain = negative_elbo(network, images, 0.8, Settings(2, riemannian=False))
    torch.manual_seed(1)
    whole = negative_elbo(network, images, 0.8, Settings(2))
    torch.manual_seed(1)
    mean, log_variance, root = network(images)
    z = mean + (0.5 * log_variance).exp() * torch.randn(7, 2)
    inverse = torch.exp(-(torch.cdist(z, mean) ** 2) / 0.64)[:, :, None, None] * (root @ root.mT)
    inverse = inverse.sum(1) + 1e-3 * torch.eye(2)
    rho = torch.einsum("bjk,bk->bj", root, torch.randn(7, 2))
    density = 0.5 * torch.logdet(inverse) - 0.5 * torch.einsum("bj,bjk,bk->b", rho, inverse, rho)
    assert float(whole.detach()) == pytest.approx(float((plain - density.mean()).detach()), rel=1e-4)


def test_copies_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(8, 40, 40, generator=generator)
    made = torch.cat([torch.rand(2, 40, 40, generator=generator), real[5:6]])
    pairs = closest_pairs(made, real, [f"p{n}" for n in range(8)], ["a"] * 3, lambda share: None)
    assert (pairs["synthetic image"][0], pairs["cohort image"][0], pairs["nearly a copy"]) == (
        3,
        "p5",
        ["yes", "no", "no"],
    )


def test_a_trained_model_serves_a_run_on_the_same_folder(tmp_path: Any) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number, image in enumerate(COHORT):
        sitk.WriteImage(image, str(data / f"{number:02d}.nii.gz"))
    rows = [f"{label},{name}" for name, label in zip(CLASSES["id"], CLASSES["label"], strict=True)]
    (data / "labels.csv").write_text("\n".join(["label,id", *rows]) + "\n", encoding="utf-8-sig")  # as Excel does
    lines: list[str] = []
    progress = SilentProgress()
    progress.log = lines.append  # type: ignore[method-assign]
    path = train(data, tmp_path / "out", "smoke")
    train(data, tmp_path / "out", "smoke", progress=progress)  # goes on where it stopped: nothing is left to do
    assert len(lines) == 2
    made = sample(COHORT, labels=CLASSES, model=path.read_bytes(), size=16)
    assert len(made["synthetic"]) == 8 and made["synthetic"][0].GetSize() == (16, 13)
