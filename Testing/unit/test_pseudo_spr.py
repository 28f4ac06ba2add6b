"""Stopping power from MR: channels and bone made ready, damage on purpose, exact water depths, whole volumes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from all_bone import AllBone
from safetensors.torch import save_file
from scipy import ndimage

from medgen.catalogue import find_method
from medgen.errors import BadInput
from medgen.imaging import head_structures
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.imaging.phantoms import analytic_head, render_mr
from medgen.imaging.water_path import spr_from_hu
from medgen.method import Context, SilentProgress
from medgen.methods.pseudo_spr import infer, learning
from medgen.methods.pseudo_spr.spec import CHANNELS
from medgen.methods.pseudo_spr.train import cosine, read_case, render_case
from medgen.metrics.overlap import assd_mm
from medgen.nets.unet3d import UNet3d
from medgen.spec import ImageFacts

SPEC = find_method("pseudo_spr")
DEFAULTS = SPEC.check_parameters({"overlap": "0.25", "structures": False})


# ------------------------------------------------------------------------------------------------------------ learning


def test_missing_channels_are_zero_and_bone_holds_the_leading_channel_inside_the_bone() -> None:
    rng = np.random.default_rng(0)
    body, bone = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    body[1:5], bone[2:4, 2:4, 2:4] = True, True
    t1, fat = (rng.uniform(0, 100, body.shape).astype(np.float32) for _ in range(2))
    stack = learning.network_input({"t1": t1, "fat": fat}, bone, body)
    assert stack.shape == (4, 6, 6, 6) and CHANNELS == ("water", "t1", "fat")
    assert not stack[0].any()
    assert abs(stack[1][body].mean()) < 1e-5 and abs(stack[1][body].std() - 1) < 1e-5
    np.testing.assert_array_equal(stack[3], np.where(bone, stack[1], 0))
    assert not learning.network_input({"t1": t1}, None, body)[3].any()


def test_targets_go_there_and_back_and_the_loss_is_l1_plus_l2() -> None:
    spr = torch.tensor([0.001, 1.0, 2.0])
    torch.testing.assert_close(learning.from_target(learning.to_target(spr)), spr)
    off = learning.to_target(spr) + torch.tensor([0.0, 3.0, -1.0])
    assert float(learning.spr_loss(off, spr)) == pytest.approx(4 / 3 + 10 / 3, rel=1e-5)


def test_damage_reaches_two_voxels_at_most_and_both_ways() -> None:
    bone = np.zeros((15, 15, 15), bool)
    bone[4:11, 4:11, 4:11] = True
    sizes = {int(learning.damaged(bone, np.random.default_rng(seed)).sum()) for seed in range(40)}
    assert len(sizes) == 5 and 3**3 in sizes and 7**3 in sizes and max(sizes) < 11**3


@pytest.fixture(scope="module")
def case() -> learning.Case:
    return render_case(analytic_head(np.random.default_rng(1), spacing_mm=3.0), np.random.default_rng(2))


def test_a_rendered_case_has_dark_bone_and_air_but_their_spr_differs(case: learning.Case) -> None:
    bone, spr = np.asarray(case.bone) != 0, np.asarray(case.spr, np.float32)
    water = np.asarray(case.channels["water"], np.float32)
    air = case.body & (spr < 0.1)
    soft = case.body & (spr > 0.98) & (spr < 1.07) & ~bone
    assert air.sum() > 50
    assert max(water[bone].mean(), water[air].mean()) < water[soft].mean() - 0.5
    assert spr[bone].mean() > 1.2 > 0.2 > spr[air].mean()
    assert (spr[~case.body] == np.float32(np.float16(learning.AIR_SPR))).mean() > 0.9


def test_batches_repeat_and_leave_out_channels_as_the_recipe_says(case: learning.Case) -> None:
    recipe = learning.Recipe(patch=32, batch=2)
    first, second = (learning.draw_batch([case], recipe, (3, 4)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and first[0].shape == (2, 4, 32, 32, 32)
    for seed in range(8):
        inputs, spr = learning.draw_batch([case], recipe, (0, seed))
        present = inputs.flatten(2).any(2)
        assert present[:, :3].any(1).all() and spr.shape == (2, 1, 32, 32, 32)
    only = learning.Recipe(("water",), drop=0.0, drop_bone=1.0, patch=32, batch=4)
    inputs, _ = learning.draw_batch([case], only, (0, 0))
    assert inputs[:, 0].any() and not inputs[:, 1:].any()


def test_the_rate_rises_and_falls() -> None:
    assert cosine(0, 1000) < 0.1 and cosine(50, 1000) == pytest.approx(1.0) and cosine(999, 1000) < 0.02


def test_a_patients_folder_needs_a_channel_and_a_target(tmp_path: object, case: learning.Case) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    with pytest.raises(BadInput, match="none of water"):
        read_case(folder)
    head = analytic_head(np.random.default_rng(1), spacing_mm=4.0)
    mr = sitk.Cast(head > 0, sitk.sitkFloat32) * 100
    sitk.WriteImage(mr, str(folder / "t1.nii.gz"))
    with pytest.raises(BadInput, match="neither spr"):
        read_case(folder)
    sitk.WriteImage(sitk.Cast(head > 0, sitk.sitkFloat32) * 1500 - 1000, str(folder / "ct.nii.gz"))
    found = read_case(folder)
    assert set(found.channels) == {"t1"}
    assert np.asarray(found.bone)[np.asarray(found.body)].mean() > 0.8  # 500 HU everywhere inside


# ----------------------------------------------------------------------------------------------------------- inference


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> object:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    network = UNet3d(learning.INPUTS, 1, 2)
    save_file({name: value.half() for name, value in network.state_dict().items()}, path)
    return path


def scan(direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1), seed: int = 0) -> sitk.Image:
    z, y, x = np.mgrid[:18, :30, :28].astype(np.float32)
    inside = ((z - 9) / 7) ** 2 + ((y - 15) / 12) ** 2 + ((x - 14) / 11) ** 2 < 1
    noise = np.random.default_rng(seed).uniform(0, 40, inside.shape)
    return from_array((inside * 300 + noise + 5 * x * inside).astype(np.float32),
                      Grid((28, 30, 18), (3.0, 3.0, 4.0), (5.0, -20.0, 7.0), direction))  # fmt: skip


OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), OBLIQUE], ids=["plain", "oblique"])
def test_any_subset_of_channels_gives_a_map_on_the_leading_grid(direction: tuple[float, ...], weights: object) -> None:
    image = scan(direction)
    other = sitk.Resample(scan(direction, 1), (20, 20, 12), sitk.Transform(), sitk.sitkLinear, image.GetOrigin(),
                          (4.0, 4.5, 6.0), image.GetDirection())  # fmt: skip
    for inputs in ({"fat": image}, {"t1": image, "fat": other}, {"water": image, "t1": other, "fat": other}):
        made = infer.run(inputs, DEFAULTS, Context(weights=weights))
        assert set(made) == {"spr", "segments"}
        assert Grid.of(made["spr"]) == Grid.of(made["segments"]) == Grid.of(image)
        spr = to_array(made["spr"])
        assert spr.min() >= 0 and abs(spr[0, 0, 0] - DEFAULTS["air_spr"]) < 1e-6
        assert set(np.unique(to_array(made["segments"]))) <= {0, 1, 2}


def test_a_permuted_and_flipped_copy_gives_the_same_answer_in_the_world(weights: object) -> None:
    image = scan()
    other = sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True))
    first, second = (infer.run({"t1": i}, DEFAULTS, Context(weights=weights))["spr"] for i in (image, other))
    again = sitk.Resample(second, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_allclose(to_array(again), to_array(first), atol=1e-4)


def test_overrides_scale_calibration_and_bone_switch(weights: object) -> None:
    image = scan()
    masks = {name: np.zeros((18, 30, 28), np.uint8) for name in ("air", "metal", "bone")}
    masks["air"][8, 14, 14], masks["metal"][9, 15, 15], masks["bone"][5:8, 10:14, 10:14] = 1, 1, 1
    inputs = {"water": image, **{name: from_array(mask, image) for name, mask in masks.items()}}
    made = infer.run(inputs, {**DEFAULTS, "scale": "relative", "synthetic_ct": True}, Context(weights=weights))
    spr = to_array(made["spr"])
    assert spr[8, 14, 14] == np.float32(0.001) and spr[9, 15, 15] == np.float32(3.2)
    np.testing.assert_array_equal(to_array(made["scaled"]), np.rint(1000 * (spr.astype(float) - 1)).astype(np.int16))
    middle = (spr > 0.01) & (spr < 2.5)
    np.testing.assert_allclose(spr_from_hu(to_array(made["ct"]))[middle], spr[middle], atol=1e-4)
    without = infer.run(inputs, {**DEFAULTS, "use_bone": False}, Context(weights=weights))
    assert not np.array_equal(to_array(without["spr"]), spr)
    table = {"HU": [-1000, 0, 3000], "SPR": [0.001, 0.5, 5.0]}
    site = infer.run({**inputs, "calibration": table}, DEFAULTS, Context(weights=weights))
    body = (spr > 0.9) & (spr < 1.0)
    assert (to_array(site["spr"])[body] < 0.51).all()  # what was just below water is just below the table's water


def test_the_body_found_ends_at_the_skin(weights: object) -> None:
    rng = np.random.default_rng(0)
    labels = analytic_head(rng, 2.0)
    mr = render_mr(labels, "T1", rng)
    _, body = infer.predict({"t1": mr}, {}, 0.25, Context(weights=weights))
    head = np.stack([ndimage.binary_fill_holes(plane) for plane in to_array(labels) != 0])
    assert assd_mm(to_array(body) != 0, head, (2.0, 2.0, 2.0)) < 1.0


def test_spr_that_does_not_fit_the_structure_becomes_typical_but_the_users_bone_wins(
    weights: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_structures, "load_head_network", lambda _path, _context: AllBone(0.3))
    image, listening = scan(), Listening()
    fitting, none = {**DEFAULTS, "structures": True}, from_array(np.zeros((18, 30, 28), np.uint8), image)

    def middle(**inputs: sitk.Image) -> np.ndarray:
        context = Context(progress=listening, weights=weights)
        return to_array(infer.run(inputs, fitting, context)["spr"])[7:11, 11:19, 11:17]

    bone = spr_from_hu(1150.0)
    assert (middle(t1=image) == bone).all() and (middle(water=image) == bone).all()
    assert not listening.sentences
    assert (middle(t1=image, bone=none) < bone).all()
    assert (middle(fat=image) < bone).all()
    assert "cannot be found in a water-suppressed MR" in listening.sentences[-1]


@pytest.mark.parametrize(("scale", "expected"), [("relative", [-999, 0, 570]), ("times", [1, 1000, 1570])])
def test_export_scales(scale: str, expected: list[int]) -> None:
    assert infer.scaled(np.array([0.001, 1.0, 1.57], np.float32), scale).tolist() == expected


def test_water_of_100_mm_is_100_mm_deep_along_any_line() -> None:
    """The paper's quantity, exact to 0.1 mm (it is to 1e-6) through an oblique block of SPR 1."""
    spr = from_array(np.ones((40, 60, 70), np.float32), Grid((70, 60, 40), (2.0, 2.0, 3.0), (1, 2, 3), OBLIQUE))
    middle = Grid.of(spr).to_world([[35, 30, 20]])[0]
    lines = []
    for way in ((1, 0, 0), (0.6, 0.8, 0), (0.1, -0.7, 0.7)):
        half = 50 * np.array(way) / np.linalg.norm(way)
        lines.append([(middle - half).tolist(), (middle + half).tolist()])
    found = infer.depths(spr, lines)
    assert found["depths"]["water_equivalent_mm"] == pytest.approx([100.0] * 3, abs=0.01)
    assert found["profile"]["water_equivalent_depth_mm"][-1] == pytest.approx(100.0, abs=0.01)
    assert infer.depths(spr, []) == {}


class Listening(SilentProgress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def notice(self, sentence: str) -> None:
        self.sentences.append(sentence)


def moved(image: sitk.Image, mm: float) -> sitk.Image:
    image = sitk.Image(image)
    image.SetOrigin([v + mm for v in image.GetOrigin()])
    return image


def test_bad_inputs_get_a_sentence(weights: object) -> None:
    image, listening = scan(), Listening()
    context = Context(progress=listening, weights=weights)
    with pytest.raises(BadInput, match="at least one MR"):
        infer.run({}, DEFAULTS, context)
    with pytest.raises(BadInput, match="do not overlap"):
        infer.run({"t1": image, "fat": moved(image, 80)}, DEFAULTS, context)
    infer.run({"t1": image, "fat": moved(image, 15)}, DEFAULTS, context)
    assert any("covers only" in sentence for sentence in listening.sentences)
    with pytest.raises(BadInput, match="two points"):
        infer.run({"t1": image, "lines": [[0, 0, 0]]}, DEFAULTS, context)
    with pytest.raises(BadInput, match="rise with HU"):
        infer.run({"t1": image, "calibration": {"HU": [0, 1], "SPR": [1, 1]}}, DEFAULTS, context)
    empty = from_array(np.zeros((18, 30, 28), np.uint8), image)
    with pytest.raises(BadInput, match="empty"):
        infer.run({"t1": image, "body": empty}, DEFAULTS, context)


def facts(low: float = 0, high: float = 500, modality: str = "", spacing: float = 1.0, size: int = 200) -> ImageFacts:
    return ImageFacts((size,) * 3, (spacing,) * 3, low, high, (low, (low + high) / 2, high), modality)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (facts(-1000, 2000), "CT"),
        (facts(modality="CT"), "CT"),
        (facts(spacing=5.0), "thin bone"),
        (facts(size=60), "covered"),
        (facts(5, 5), "contrast"),
        (replace(facts(), maximum=6000), "metal"),
    ],
)
def test_doubtful_channels_are_warned_about(image: ImageFacts, word: str) -> None:
    found = SPEC.fitness({"water": facts(), "fat": image})
    assert [w.input for w in found] == ["fat"] and word in found[0].sentence


def test_one_channel_alone_is_said_to_be_weaker_and_good_ones_pass() -> None:
    assert "one MR channel" in SPEC.fitness({"t1": facts()})[0].sentence
    assert SPEC.fitness({"t1": facts(), "water": facts(modality="MR")}) == []
