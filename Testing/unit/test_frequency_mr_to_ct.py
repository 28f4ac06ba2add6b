"""Frequency-supervised MR to CT: the exact facts of the network, geometry, what a run gives and refuses, training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from all_bone import AllBone
from scipy import ndimage

from medgen.errors import BadInput
from medgen.imaging import head_preparation, head_structures
from medgen.imaging.geometry import from_array, to_array
from medgen.imaging.phantoms import analytic_head, render_ct, render_mr
from medgen.imaging.sliding_window import sliding_window
from medgen.method import Context, SilentProgress
from medgen.methods.frequency_mr_to_ct import infer, train
from medgen.methods.frequency_mr_to_ct.loss import LOWEST_HU, RANGE_HU, frequency_loss, low_frequencies
from medgen.methods.frequency_mr_to_ct.net import BOX, Critic, FrequencyNet, Refinement, Split, network_from_state
from medgen.methods.frequency_mr_to_ct.proof import support
from medgen.methods.frequency_mr_to_ct.spec import FREQUENCY
from medgen.spec import ImageFacts
from medgen.training.paired_scans import read_pair


@pytest.mark.parametrize(("kernel", "weights"), [(3, 27_648), (7, 64_512), (13, 119_808), (19, 175_104)])
def test_the_refinement_has_the_papers_weights(kernel, weights) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Refinement(32, kernel).parameters() if p.dim() == 5) == weights


def test_the_refinement_sees_a_full_box() -> None:
    assert support(Refinement(4, 5)) == 5**3


def test_the_refinement_starts_near_the_identity() -> None:
    """What is sharp goes in and comes out sharp: an edge keeps its place and width before any training."""
    torch.manual_seed(0)
    edge = (torch.arange(24) >= 12).float().expand(1, 4, 24, 24, 24)
    with torch.no_grad():
        found = Refinement(4, 13)(edge)[0].mean(0)[12, 12]
    steps = found.diff()[6:-6].abs()
    assert int(steps.argmax()) == 5 and float(steps.max()) > 0.6 * float(steps.sum())


def test_classes_of_hu_for_the_tissue_term() -> None:
    hu = torch.tensor([-1000.0, -100.0, 40.0, 300.0, 1200.0]).reshape(1, 1, 1, 1, 5)
    assert train.tissue_classes((hu + 1024) / 3276.7).ravel().tolist() == [0, 1, 2, 3, 4]


def test_the_frequency_map_parts_the_features() -> None:
    torch.manual_seed(0)
    network = FrequencyNet(2, 3).eval()
    with torch.no_grad():
        found = network(torch.randn(2, 1, 16, 16, 16))
    assert all(part.shape == (2, 1, 16, 16, 16) for part in (found.low, found.high, found.share))
    assert 0 <= float(found.share.min()) <= float(found.share.max()) <= 1
    assert torch.equal(found.ct, found.low + found.high)


def test_a_network_comes_back_from_its_weights() -> None:
    network = FrequencyNet(3, 5, pools=2, lowpass=BOX)
    again = network_from_state(network.state_dict())
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in network.state_dict().items()}


def test_the_critic_sees_the_mr_beside_the_high_frequencies() -> None:
    torch.manual_seed(0)
    high, mr = torch.randn(2, 2, 1, 16, 16, 16)
    critic = Critic(2)
    assert critic(high, mr).shape == (2,)
    assert not torch.allclose(critic(high, mr), critic(high, 2 - mr.flip(2)))
    alone = Critic(2, conditioned=False)
    assert torch.equal(alone(high, mr), alone(high, 2 - mr.flip(2)))


def test_losses_by_hand() -> None:
    ct, high = torch.full((1, 1, 2, 2, 2), 0.5), torch.full((1, 1, 2, 2, 2), 0.1)
    # whole: 0.3 + 0.4 - 0.5 = 0.2 off; high: 0.3 off
    found = Split(low=ct - 0.2, high=high + 0.3, share=ct, features=ct)
    loss, whole = frequency_loss(found, ct, high, 2.0)
    assert float(whole) == pytest.approx(0.2)
    assert float(loss) == pytest.approx(2 * 0.3 + 0.2)


def test_the_low_pass_is_a_gaussian_of_15_voxels_or_a_box_of_16() -> None:
    hu = np.zeros((60, 64, 68), np.float32)
    hu[20:35, 20:50, 10:40] = 1000
    smooth = low_frequencies(hu)
    assert np.abs(smooth - ndimage.gaussian_filter(hu, 15, mode="nearest")).max() < 0.02 * smooth.max()
    impulse = np.zeros((40, 40, 40), np.float32)
    impulse[20, 20, 20] = 16**3
    box = low_frequencies(impulse, BOX)
    assert np.allclose(box[box > 0.5], 1) and (box > 0.5).sum() == 16**3


def test_an_identity_comes_back_through_the_windows() -> None:
    volume = torch.randn(1, 100, 90, 70)
    assert float((sliding_window(volume, lambda w: w, (48,) * 3, 0.5) - volume).abs().max()) < 1e-5


# ------------------------------------------------------------------------------------------------------------- running


@pytest.fixture(scope="module")
def mr() -> sitk.Image:
    return render_mr(analytic_head(np.random.default_rng(0), 4.0), "T1", np.random.default_rng(1))


class Bright(torch.nn.Module):
    """Stands for a network: HU 40 where the z-score is above -1, air elsewhere; voxel by voxel."""

    def forward(self, mr: torch.Tensor) -> Split:
        hu = torch.where(mr > -1, 40.0, -1000.0)
        unit = (hu - LOWEST_HU) / RANGE_HU
        return Split(unit, torch.zeros_like(unit), (mr > -1).float(), unit)


class Notices(SilentProgress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def notice(self, sentence: str) -> None:
        self.heard.append(sentence)


def run(inputs, monkeypatch, progress=None, **parameters):
    monkeypatch.setattr(infer, "SPACING_MM", 4.0)
    monkeypatch.setattr(infer, "load_network", lambda _context: Bright())
    given = {"remove_bias": False, "overlap": "0.25", "structures": False, **parameters}
    context = Context(progress=progress or SilentProgress())
    return infer.run(inputs, FREQUENCY.check_parameters(given), context)


def test_a_run_gives_hu_on_the_scans_grid(mr, monkeypatch) -> None:
    found = run({"mr": mr}, monkeypatch, frequency_maps=True)
    assert set(found) == {"ct", "outline", "segments", "high", "share"}
    for image in found.values():
        assert image.GetSize() == mr.GetSize() and image.GetOrigin() == mr.GetOrigin()
    hu, body = to_array(found["ct"]), to_array(found["outline"]) != 0
    assert found["ct"].GetPixelID() == sitk.sitkInt16
    assert (hu[~body] < -600).mean() > 0.98  # voxels on the skin hold both, as resampled
    assert np.percentile(hu[body], 75) == 40
    assert to_array(found["share"]).min() >= 0 and to_array(found["share"]).max() <= 1


def test_hu_that_do_not_fit_the_structure_become_typical_ones(mr, monkeypatch) -> None:
    monkeypatch.setattr(head_structures, "load_head_network", lambda _path, _context: AllBone(0.02))
    alone, held = (to_array(run({"mr": mr}, monkeypatch, structures=on)["ct"]) for on in (False, True))
    assert (alone == 1150).sum() == 0
    inside = ndimage.binary_erosion(alone == 40, iterations=2)
    assert inside.any() and (held[inside] == 1150).mean() > 0.99
    assert (held[:, :2, :2] == -1000).all()  # air round the head


def test_only_hu_out_of_the_range_of_their_structure_change() -> None:
    hu = np.array([-300.0, 50.0, 200.0, 700.0, 700.0, 30.0], np.float32)
    labels = np.array([3, 3, 19, 19, 23, head_structures.UNKNOWN], np.uint8)
    images = (sitk.GetImageFromArray(values.reshape(1, 1, 6)) for values in (hu, labels))
    found = head_structures.fitted(*images, head_structures.HU)
    assert found.ravel().tolist() == [10.0, 50.0, 1150.0, 700.0, 50.0, 30.0]


def test_the_result_names_the_weights_of_the_structures(mr, monkeypatch) -> None:
    monkeypatch.setattr(infer, "SPACING_MM", 4.0)
    monkeypatch.setattr(infer, "load_network", lambda _context: Bright())
    context = Context()
    infer.run({"mr": mr}, FREQUENCY.check_parameters({"remove_bias": False}), context)
    assert list(context.borrowed) == ["multiplanar_unet/head_mr.safetensors"]


def test_the_spread_of_one_answer_is_nought(mr, monkeypatch) -> None:
    found = run({"mr": mr}, monkeypatch, uncertainty=True)
    spread = to_array(found["uncertainty"])
    assert np.percentile(spread[to_array(found["outline"]) != 0], 40) == 0  # all but edges


def test_axes_and_flips_do_not_matter(mr, monkeypatch) -> None:
    turned = sitk.Flip(sitk.PermuteAxes(mr, [2, 0, 1]), [True, False, True])
    plain, other = (run({"mr": image}, monkeypatch)["ct"] for image in (mr, turned))
    back = sitk.Resample(other, mr, sitk.Transform(), sitk.sitkNearestNeighbor, -1000)
    assert np.array_equal(to_array(back), to_array(plain))


def test_a_tilted_grid_gives_the_same_in_the_world(mr, monkeypatch) -> None:
    tilt = sitk.Euler3DTransform()
    tilt.SetRotation(0.1, -0.15, 0.2)
    tilted = sitk.Image(mr)
    tilted.SetDirection(tilt.GetMatrix())
    tilted.SetOrigin(tilt.TransformPoint(mr.GetOrigin()))
    plain, other = (to_array(run({"mr": image}, monkeypatch)["ct"]) for image in (mr, tilted))
    assert np.abs(plain - other).mean() < 1


def test_a_reference_fills_the_table(mr, monkeypatch) -> None:
    reference = render_ct(analytic_head(np.random.default_rng(0), 4.0), np.random.default_rng(2))
    table = run({"mr": mr, "reference": reference}, monkeypatch)["metrics"]
    assert {"whole", "body", "soft", "bone", "bone edge"} <= set(table["region"])
    soft = table["region"].index("soft")
    assert table["MAE (HU)"][soft] < table["MAE (HU)"][table["region"].index("bone")]


def test_a_body_given_by_hand_is_kept(mr, monkeypatch) -> None:
    half = np.zeros(to_array(mr).shape, np.uint8)
    half[15:38, 15:38, 12:30] = 1
    found = run({"mr": mr, "body": from_array(half, mr)}, monkeypatch)
    outside = to_array(found["ct"])[half == 0]
    assert (outside < -600).mean() > 0.95
    with pytest.raises(BadInput, match="mask"):
        run({"mr": mr, "body": from_array(0 * half, mr)}, monkeypatch)


def test_a_cut_head_is_noticed(mr, monkeypatch) -> None:
    progress = Notices()
    run({"mr": mr}, monkeypatch, progress)
    assert not progress.heard
    run({"mr": mr[18:]}, monkeypatch, progress)
    assert "right" in progress.heard[0]


def test_no_contrast_is_refused(monkeypatch) -> None:
    with pytest.raises(BadInput, match="contrast"):
        run({"mr": sitk.Image(20, 20, 20, sitk.sitkFloat32) + 3}, monkeypatch)


def test_an_uncut_head_keeps_the_scans_extent_and_has_the_same_values(mr, monkeypatch) -> None:
    monkeypatch.setattr(head_preparation, "n4", lambda image, _mask: image * image)
    cut = head_preparation.prepare_head(mr, None, 4.0, remove_bias=True)
    uncut = head_preparation.prepare_head(mr, None, 4.0, remove_bias=True, cut=False)
    assert uncut.image.GetSize() == uncut.mask.GetSize() == uncut.whole.GetSize() > cut.image.GetSize()
    start = [int(i) for i in uncut.image.TransformPhysicalPointToIndex(cut.image.GetOrigin())]
    for whole, part in ((uncut.image, cut.image), (uncut.mask, cut.mask)):
        there = sitk.RegionOfInterest(whole, part.GetSize(), start)
        assert np.allclose(to_array(there), to_array(part), atol=1e-4)


def test_windows_stay_where_they_are_when_the_body_is_corrected(mr, monkeypatch) -> None:
    seen: list[tuple[int, ...]] = []

    def remember(volume, network, patch, *rest, foreground, **others):
        seen.append(tuple(volume.shape))
        return sliding_window(volume, network, patch, *rest, foreground=foreground, **others)

    monkeypatch.setattr(infer, "sliding_window", remember)
    half = np.zeros(to_array(mr).shape, np.uint8)
    half[15:38, 15:38, 12:30] = 1
    run({"mr": mr}, monkeypatch)
    run({"mr": mr, "body": from_array(half, mr)}, monkeypatch)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"minimum": -1000.0}, "CT"),
        ({"spacing_mm": (1.0, 1.0, 5.0)}, "thin bone"),
        ({"size": (256, 256, 90)}, "cuts the head"),
        ({"maximum": 20_000.0}, "metal"),
        ({"percentiles": (5.0, 5.0, 5.0)}, "contrast"),
    ],
)
def test_warnings_before_the_run(change, word) -> None:
    good = ImageFacts((256, 256, 200), (1.0, 1.0, 1.0), 0.0, 900.0, (0.0, 100.0, 700.0), "MR")
    assert not FREQUENCY.fitness({"mr": good})
    found = FREQUENCY.fitness({"mr": replace(good, **change)})
    assert any(word in warning.sentence for warning in found)


# ------------------------------------------------------------------------------------------------------------ training


def write_map(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(analytic_head(np.random.default_rng(number), 4.0), str(folder / f"map_{number:02d}.nii.gz"))


def test_training_on_label_maps_with_a_critic(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(train, "SPACING_MM", 4.0)
    maps = tmp_path / "maps"
    write_map(maps, 1)
    write_map(maps, 15)
    tiny = train.Config(width=2, steps=2, patch=32, kernel=3, heads=1, copies=2, adversarial=0.001, tissue=0.05)
    weights = train.train_as(maps, tmp_path / "out", tiny, "tiny", 0, "cpu", SilentProgress())
    assert weights.is_file() and (weights.parent / "card.json").is_file()
    assert "critic" in (weights.parent / "log.jsonl").read_text()


def test_the_same_step_draws_the_same_patches(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(train, "SPACING_MM", 4.0)
    write_map(tmp_path, 1)
    heads = train.rendered([tmp_path / "map_01.nii.gz"], tmp_path / "heads", 1, 15.0, SilentProgress())
    once, again, other = (train.draw_batch(heads, 16, 1, seed) for seed in ((1, 5), (1, 5), (1, 6)))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])


def test_a_folder_without_data_is_refused(tmp_path) -> None:
    with pytest.raises(BadInput, match="label maps"):
        train.train(tmp_path, tmp_path / "out", "smoke")
    with pytest.raises(BadInput, match="configuration"):
        train.train(tmp_path, tmp_path / "out", "enormous")


def write_pair(folder: Path, shift_mm: float = 0.0) -> None:
    """A head as MR and CT; the CT's frame shifted."""
    folder.mkdir(parents=True)
    labels = analytic_head(np.random.default_rng(3), 4.0)
    ct = render_ct(labels, np.random.default_rng(5))
    ct.SetOrigin([ct.GetOrigin()[0] + shift_mm, *ct.GetOrigin()[1:]])
    sitk.WriteImage(render_mr(labels, "T1", np.random.default_rng(4)), str(folder / "mr.nii.gz"))
    sitk.WriteImage(ct, str(folder / "ct.nii.gz"))


@pytest.fixture
def quick_preparation(monkeypatch) -> None:
    """Without the bias correction, which has tests of its own."""
    monkeypatch.setattr(head_preparation, "n4", lambda image, _mask: image)


def test_training_on_a_users_pairs(tmp_path, monkeypatch, quick_preparation) -> None:
    monkeypatch.setattr(train, "SPACING_MM", 4.0)
    write_pair(tmp_path / "pairs" / "anna")
    weights = train.train(tmp_path / "pairs", tmp_path / "out", "smoke")
    card = json.loads((weights.parent / "card.json").read_text())
    assert "1 registered" in card["training_data"] and not card["trained_on_rendered"]


def test_a_pair_that_does_not_fit_is_refused_until_registered(tmp_path, quick_preparation) -> None:
    write_pair(tmp_path / "bert", shift_mm=30.0)
    with pytest.raises(BadInput, match="bert"):
        read_pair(tmp_path / "bert", 4.0, register=False)
    moved = read_pair(tmp_path / "bert", 4.0, register=True)
    write_pair(tmp_path / "straight")
    straight = read_pair(tmp_path / "straight", 4.0, register=False)
    body = straight.hu > -500
    assert np.abs(moved.hu.astype(float) - straight.hu)[body].mean() < 100
    given = tmp_path / "bert" / "mr_to_ct.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (30.0, 0.0, 0.0)), str(given))
    assert np.array_equal(read_pair(tmp_path / "bert", 4.0, register=False).hu, straight.hu)


def test_an_mr_given_as_ct_is_refused(tmp_path) -> None:
    write_pair(tmp_path / "carl")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "carl" / "mr.nii.gz")), str(tmp_path / "carl" / "ct.nii.gz"))
    with pytest.raises(BadInput, match="Hounsfield"):
        read_pair(tmp_path / "carl", 4.0, register=False)
