"""MR to CT and CT to MR of unpaired scans: exact facts of the networks, one update, whole volumes on their own grid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from all_bone import AllBone
from safetensors.torch import load_file, save_file
from torch import nn

from medgen.catalogue import find_method
from medgen.errors import BadInput
from medgen.imaging import head_structures
from medgen.imaging.bulk_density import bulk_density
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.imaging.phantoms import analytic_head, render_ct, render_mr
from medgen.method import Context
from medgen.methods.pix2pix_translation import infer, learning, train
from medgen.methods.pix2pix_translation.net import PatchDiscriminator, UNetGenerator, generator_from_state, patch_side
from medgen.methods.pix2pix_translation.train import render_patient
from medgen.spec import ImageFacts

TO_CT, TO_MR, BULK = (find_method(name) for name in ("pix2pix_mr_to_ct", "pix2pix_ct_to_mr", "bulk_density_ct"))


# ------------------------------------------------------------------------------------------------------------ networks


def kernels(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.ndim == 4)


def test_generators_have_the_sizes_of_pix2pix() -> None:
    with torch.device("meta"):
        assert kernels(UNetGenerator(3, 3, levels=8)) == 54_404_096  # unet_256: 54.414 M with its norms and biases
        paper = UNetGenerator(1, 1, levels=9)
    channels = [layer.out_channels for layer in paper.modules() if isinstance(layer, nn.Conv2d)]
    assert channels == [64, 128, 256, 512, 512, 512, 512, 512, 512]  # unet_512
    assert sum(isinstance(layer, nn.Dropout) for layer in paper.modules()) == 4


@pytest.mark.parametrize("levels", [3, 5, 6])
def test_generator_of_any_depth_keeps_the_size_and_comes_back_from_its_weights(levels: int) -> None:
    torch.manual_seed(0)
    network = UNetGenerator(1, 1, levels, width=2).eval()
    image = torch.randn(2, 1, 2 * 2**levels, 2**levels * 3)
    result = network(image)
    assert result.shape == image.shape and result.abs().max() <= 1
    again = generator_from_state(network.state_dict()).eval()
    torch.testing.assert_close(again(image), result)


@pytest.mark.parametrize(("layers", "side"), [(2, 34), (3, 70), (4, 142), (5, 286)])
def test_one_score_sees_exactly_its_patch(layers: int, side: int) -> None:
    """The gradient of one score is zero outside a square of that side and not on its border. Instance normalisation
    looks at the whole image by its statistics, so it is taken out."""
    network = PatchDiscriminator(1, layers, width=2).double()
    for index, layer in enumerate(network.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            network.layers[index] = nn.Identity()
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, 0.1, 1.0)  # no two paths cancel
    image = torch.rand(1, 1, 400, 400, dtype=torch.float64, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    touched = torch.nonzero(image.grad[0, 0])
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [side, side]
    assert patch_side(network) == side


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.fixture(scope="module")
def patients() -> list[learning.Patient]:
    rng = np.random.default_rng(0)
    return [render_patient(analytic_head(rng, spacing_mm=3.0), rng, contrasts=1) for _ in range(2)]


def test_stand_in_is_quantised_and_without_cavities_while_the_ct_has_them(patients: list[learning.Patient]) -> None:
    patient = patients[0]
    assert patient.standin is not None and patient.ct is not None and patient.ct_couch is not None
    assert 3 <= len(np.unique(patient.standin.astype(np.float32))) <= 4
    inside = np.asarray(patient.standin > -1)
    assert (patient.ct[inside] < learning.hu_unit(-500)).sum() > 20  # air that the stand-in lacks
    outside = ~inside
    assert (patient.ct_couch[outside] > learning.hu_unit(-400)).sum() > 50 > 0
    assert np.array_equal(patient.ct_couch[inside], patient.ct[inside])


@pytest.mark.parametrize(
    ("objective", "moved"),
    [
        (learning.MR_TO_CT["paper"], {"generator", "unpaired"}),
        (learning.MR_TO_CT["l1"], {"generator"}),
        (learning.MR_TO_CT["pix2pix"], {"generator", "conditional"}),
        (learning.CT_TO_MR["paper"], {"generator", "unpaired", "conditional"}),
    ],
)
def test_an_update_moves_the_networks_of_the_objective(
    objective: learning.Objective, moved: set[str], patients: list[learning.Patient]
) -> None:
    torch.manual_seed(0)
    step = learning.TranslationStep(objective, levels=5, width=2, d_width=2)
    assert set(step.networks) == moved
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in step.networks.items()}

    def update(name: str, loss: torch.Tensor) -> None:
        step.optimizers[name].zero_grad()
        loss.backward()
        step.optimizers[name].step()

    for real_input in (False, True):
        batch = learning.draw_batch(patients, objective, (0, 0), 1)
        step.run({**batch, "real_input": real_input}, update)
    for name, net in step.networks.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True)), name


def test_cycle_gan_moves_four_networks(patients: list[learning.Patient]) -> None:
    objective = learning.MR_TO_CT["cyclegan"]
    step = learning.CycleStep(objective, levels=5, width=2, d_width=2)
    losses = []
    figures = step.run(learning.draw_batch(patients, objective, (0, 0), 1), lambda n, loss: losses.append(n))
    assert sorted(losses) == ["back", "generator", "judge", "judge_back"] and figures["cycle"] > 0


def test_a_batch_shows_ct_of_other_patients_only(patients: list[learning.Patient]) -> None:
    marked = [learning.Patient(p.mr, p.standin, np.full_like(p.ct, number), None) for number, p in enumerate(patients)]
    marked[0] = learning.Patient((), None, marked[0].ct, None)  # a CT alone
    for number in range(5):
        batch = learning.draw_batch(marked, learning.MR_TO_CT["paper"], (0, number), 2)
        assert batch["ct"].max() <= 1e-3  # never patient 1's, whose MR it is
        again = learning.draw_batch(marked, learning.MR_TO_CT["paper"], (0, number), 2)
        assert torch.equal(batch["mr"], again["mr"])


def test_pairs_stay_aligned_through_mirror_zoom_and_crop() -> None:
    rng = np.random.default_rng(1)
    slices = np.repeat(rng.uniform(-1, 1, (1, 90, 140)).astype(np.float32), 2, axis=0)
    for seed in range(4):
        found = learning.cropped(slices, np.random.default_rng(seed))
        assert found.shape == (2, learning.CROP, learning.CROP)
        assert torch.equal(found[0], found[1])


def write_scans(folder: Path) -> None:
    """Two patients' MR, two others' CT; no stand-in."""
    for kind in ("mr", "ct"):
        (folder / kind).mkdir()
        for number in range(2):
            head = analytic_head(np.random.default_rng(number), spacing_mm=6.0)
            rng = np.random.default_rng(9)
            image = render_mr(head, "T1", rng) if kind == "mr" else render_ct(head, rng)
            sitk.WriteImage(image, str(folder / kind / f"{kind}{number}.nii.gz"))


@pytest.mark.parametrize("config", ["pix2pix", "cyclegan"])
def test_the_baselines_train_on_a_users_scans(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(train.CONFIGS["smoke"], objective=train.CONFIGS[config].objective)
    monkeypatch.setitem(train.CONFIGS, config, tiny)
    write_scans(tmp_path)
    if config == "pix2pix":  # learns from pairs
        with pytest.raises(BadInput, match="stand-in"):
            train.train(tmp_path, tmp_path / "out", config)
        (tmp_path / "standin").mkdir()
        for path in (tmp_path / "mr").iterdir():
            image = sitk.ReadImage(str(path))
            inside = to_array(image) > to_array(image).mean()
            ct = from_array(np.where(inside, 40, -1000).astype(np.int16), image)
            sitk.WriteImage(ct, str(tmp_path / "standin" / path.name))
    train.train(tmp_path, tmp_path / "out", config)
    for name in ("mr_to_ct", "ct_to_mr"):
        weights = load_file(tmp_path / "out" / name / f"{name}.safetensors")
        assert generator_from_state(weights).levels == 3
        card = json.loads((tmp_path / "out" / name / "card.json").read_text())
        assert config in card["command"] and not card["trained_on_rendered"]


# ------------------------------------------------------------------------------------------------------------ inference


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = UNetGenerator(1, 1, 6, width=2)
    save_file({name: value.half() for name, value in network.state_dict().items()}, path)
    return Context(weights=path)


def scan(ct: bool, direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> sitk.Image:
    _, y, x = np.mgrid[:14, :50, :44].astype(np.float32)
    inside = ((y - 25) / 20) ** 2 + ((x - 21) / 17) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 5, inside.shape)
    values = np.where(inside, 40 if ct else 300, -1000 if ct else 0) + noise + inside * 3 * x
    return from_array(values.astype(np.float32), Grid((44, 50, 14), (3, 3, 5), (9.0, -20.0, 3.0), direction))


DEFAULTS = {"uncertainty": False, "fill_outside": True, "structures": False}
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), OBLIQUE], ids=["plain", "oblique"])
def test_results_lie_on_the_inputs_grid_with_air_outside(direction: tuple[float, ...], context: Context) -> None:
    mr, ct = scan(False, direction), scan(True, direction)
    parameters = {**DEFAULTS, "bone_hu": 700.0, "air_hu": -1000.0}
    made = infer.mr_to_ct({"mr": mr}, parameters, context)
    assert Grid.of(made["ct"]) == Grid.of(mr) and "spread" not in made
    hu = to_array(made["ct"])
    assert hu.min() >= -1024 and hu.max() <= 2000
    assert (hu[:, 0, 0] == -1000).all() and (hu[:, 25, 21] > -1000).all()
    back = infer.ct_to_mr(
        {"ct": ct, "contours": from_array((to_array(ct) > 0).astype(np.uint8), ct)}, DEFAULTS, context
    )
    assert Grid.of(back["mr"]) == Grid.of(ct) == Grid.of(back["carried"])
    assert (to_array(back["mr"])[:, 0, 0] == 0).all()


def test_a_permuted_and_flipped_copy_gives_the_same_answer_in_the_world(context: Context) -> None:
    mr = scan(False)
    other = sitk.Flip(sitk.PermuteAxes(mr, (2, 0, 1)), (True, False, True))
    parameters = {**DEFAULTS, "bone_hu": 700.0, "air_hu": -1000.0}
    first, second = (infer.mr_to_ct({"mr": i}, parameters, context)["ct"] for i in (mr, other))
    again = sitk.Resample(second, mr, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_allclose(to_array(again), to_array(first), atol=0.5)


def test_overrides_and_uncertainty(context: Context) -> None:
    mr = scan(False)
    bone, air = np.zeros((14, 50, 44), np.uint8), np.zeros((14, 50, 44), np.uint8)
    bone[4:8, 20:24, 20:24], air[9:11, 20:24, 20:24] = 1, 1
    inputs = {"mr": mr, "bone": from_array(bone, mr), "air": from_array(air, mr)}
    parameters = {**DEFAULTS, "uncertainty": True, "bone_hu": 800.0, "air_hu": -990.0}
    made = infer.mr_to_ct(inputs, parameters, context)
    hu = to_array(made["ct"])
    assert (hu[bone != 0] >= 250).all() and (hu[air != 0] == -990).all() and (hu[:, 0, 0] == -990).all()
    assert to_array(made["spread"]).max() > 0
    plain = infer.mr_to_ct(inputs, {**parameters, "uncertainty": False}, context)
    np.testing.assert_array_equal(hu, to_array(plain["ct"]))  # dropout is off in the result itself
    assert len(made["checks"]["check"]) == 3


def test_hu_that_do_not_fit_the_structure_become_typical_but_overrides_win(context: Context, monkeypatch) -> None:
    monkeypatch.setattr(head_structures, "load_head_network", lambda _path, _context: AllBone(0.3))
    mr, air = scan(False), np.zeros((14, 50, 44), np.uint8)
    air[9:11, 20:24, 20:24] = 1
    parameters = {**DEFAULTS, "structures": True, "bone_hu": 800.0, "air_hu": -990.0}
    heard: list[float] = []
    monkeypatch.setattr(context.progress, "report", lambda _stage, fraction, *_: heard.append(fraction))
    hu = to_array(infer.mr_to_ct({"mr": mr, "air": from_array(air, mr)}, parameters, context)["ct"])
    assert (hu[air != 0] == -990).all() and (hu[5:7, 20:30, 17:25] == 1150).all()
    assert heard == sorted(heard) and heard[0] >= 0 and heard[-1] <= 1  # progress never runs backwards


def test_an_empty_body_is_refused(context: Context) -> None:
    mr = scan(False)
    empty = from_array(np.zeros((14, 50, 44), np.uint8), mr)
    with pytest.raises(BadInput, match="empty"):
        infer.mr_to_ct({"mr": mr, "body": empty}, {**DEFAULTS, "bone_hu": 1, "air_hu": -1}, context)


def test_flicker_is_one_for_noise_and_larger_for_jumping_slices() -> None:
    rng = np.random.default_rng(0)
    noise, inside = rng.normal(size=(20, 40, 40)), np.ones((20, 40, 40), bool)
    assert abs(infer.flicker(noise, (1, 1, 1), inside) - 1) < 0.05
    assert infer.flicker(noise + 10 * (np.arange(20) % 2)[:, None, None], (1, 1, 1), inside) > 5


def facts(low: float, high: float, modality: str = "", spacing: float = 1.0, size: int = 200) -> ImageFacts:
    return ImageFacts((size,) * 3, (spacing,) * 3, low, high, (low, (low + high) / 2, high), modality)


@pytest.mark.parametrize(
    ("spec", "name", "image", "word"),
    [
        (TO_CT, "mr", facts(-1000, 2000), "CT"),
        (TO_CT, "mr", facts(0, 500, "CT"), "CT"),
        (TO_CT, "mr", facts(0, 500, spacing=7.0, size=40), "coarser"),
        (TO_CT, "mr", facts(0, 500, size=40), "covered"),
        (TO_MR, "ct", facts(0, 500), "Hounsfield"),
        (TO_MR, "ct", facts(-1000, 3071), "metal"),
    ],
)
def test_doubtful_inputs_are_warned_about(spec: object, name: str, image: ImageFacts, word: str) -> None:
    assert any(word in w.sentence for w in spec.fitness({name: image}))  # type: ignore[attr-defined]
    assert spec.fitness({}) == []  # type: ignore[attr-defined]


def test_a_good_input_is_not_warned_about() -> None:
    assert TO_CT.fitness({"mr": facts(0, 500, "MR")}) == []
    assert TO_MR.fitness({"ct": facts(-1000, 1900, "CT")}) == []


# ---------------------------------------------------------------------------------------------------------- stand-in


def test_bulk_density_layers_cover_each_other_and_stay_in_the_body() -> None:
    grid = Grid((6, 5, 4), (1, 1, 2), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    body, fat, bone = (np.zeros((4, 5, 6), np.uint8) for _ in range(3))
    body[1:3], fat[1:, :2], bone[:, 1:3] = 1, 1, 1
    hu = to_array(bulk_density(from_array(body, grid), [(from_array(fat, grid), -80), (from_array(bone, grid), 500)]))
    assert np.unique(hu[1]).tolist() == [-80, 40, 500]
    assert (hu[1, 0] == -80).all() and (hu[1, 1] == 500).all() and (hu[1, 4] == 40).all()
    assert (hu[0] == -1000).all() and (hu[3] == -1000).all()


def test_bulk_density_method_uses_its_parameters() -> None:
    grid = Grid((4, 4, 4), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    body, air = np.ones((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    air[1, 1, 1] = 1
    inputs = {"body": from_array(body, grid), "air": from_array(air, grid)}
    hu = to_array(infer.bulk_density_ct(inputs, BULK.check_parameters({"soft_hu": 20}), Context())["ct"])
    assert hu[1, 1, 1] == -1000 and (hu == 20).sum() == 63
    with pytest.raises(BadInput, match="empty"):
        infer.bulk_density_ct({"body": from_array(air * 0, grid)}, BULK.check_parameters({}), Context())
