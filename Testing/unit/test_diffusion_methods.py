"""diffusion_segmentation and diffusion_edit from training to result, with networks of a few steps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from diffusion_data import rendered_slices, small_head
from safetensors.torch import save_file

from medgen.catalogue import find_method
from medgen.diffusion.brain_ports import missing_weights
from medgen.diffusion.networks import joined_state, layouts_of, load_networks
from medgen.errors import BadInput
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.imaging.phantoms import insert_lesions, render_mr, strip_skull
from medgen.io import write_value
from medgen.method import Context, SilentProgress
from medgen.methods.diffusion_edit import infer as edit
from medgen.methods.diffusion_edit.train import lesion_share
from medgen.methods.diffusion_edit.train import train as train_edit
from medgen.methods.diffusion_segmentation import infer as segmentation
from medgen.methods.diffusion_segmentation.train import train as train_segmentation
from medgen.weights import file_sha256

SEGMENTATION, EDIT = find_method("diffusion_segmentation"), find_method("diffusion_edit")


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    return small_head()


@pytest.fixture(scope="module")
def segmentation_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After three steps all chances are the same; here the last layer is random, so that noise makes a difference."""
    path = train_segmentation(rendered_slices(), tmp_path_factory.mktemp("segmentation"), "smoke")
    networks = load_networks(path, "cpu")
    torch.manual_seed(0)
    torch.nn.init.normal_(networks["denoiser"].last.weight, std=0.3)
    state = {key: value.contiguous() for key, value in joined_state(networks).items()}
    save_file(state, path, layouts_of(networks))
    return path


@pytest.fixture(scope="module")
def edit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_edit(rendered_slices(), tmp_path_factory.mktemp("edit"), "smoke")


@pytest.fixture(scope="module")
def flair(head: sitk.Image) -> sitk.Image:
    """Stripped, five slices, axes turned and flipped."""
    rng = np.random.default_rng(1)
    brain = strip_skull(insert_lesions(head, "tumour", rng)[0])
    image = sitk.Mask(render_mr(brain, "FLAIR", rng), sitk.Cast(brain > 0, sitk.sitkUInt8))
    grid = Grid((64, 64, 5), (3.5, 3.5, 20.0), (-110.0, -110.0, -50.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    thick = sitk.Resample(image, grid.size, sitk.Transform(), sitk.sitkLinear, grid.origin, grid.spacing_mm)
    return sitk.DICOMOrient(thick, "RAI")


def draw(flair: sitk.Image, weights: Path, context: Context | None = None, **parameters: Any) -> dict[str, Any]:
    context = context or Context()
    context.weights = weights
    return segmentation.run({"FLAIR": flair}, SEGMENTATION.check_parameters({"steps": 3, **parameters}), context)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm2"])
def test_draws_become_a_mask_a_mean_and_a_variance_on_the_scans_grid(
    sampler: str, flair: sitk.Image, segmentation_weights: Path
) -> None:
    result = draw(flair, segmentation_weights, draws=3, sampler=sampler)
    for name in ("segmentation", "mean", "votes", "staple", "variance"):
        assert Grid.of(result[name]) == Grid.of(flair)
    assert set(result) == {port.name for port in SEGMENTATION.outputs} - {"draws"}
    assert set(np.unique(to_array(result["segmentation"]))) <= {0, 1, 2}
    for name in ("mean", "votes"):
        assert 0 <= to_array(result[name]).min() <= to_array(result[name]).max() <= 1
    assert to_array(result["variance"]).max() > 0
    table = dict(zip(result["volumes"]["quantity"], result["volumes"]["value"], strict=True))
    assert table["mean, ml"] == pytest.approx(np.mean([table[f"draw {n}, ml"] for n in (1, 2, 3)]), abs=0.002)
    assert table["5 %, ml"] <= table["mean, ml"] <= table["95 %, ml"]
    assert 0 <= table["slices empty in every draw"] <= table["slices"]


def test_seeds_and_not_batches_make_the_draws(flair: sitk.Image, segmentation_weights: Path) -> None:
    one = draw(flair, segmentation_weights, Context(seed=4), draws=2)["mean"]
    same = draw(flair, segmentation_weights, Context(seed=4, batch_scale=0.1), draws=2)["mean"]
    other = draw(flair, segmentation_weights, Context(seed=5), draws=2)["mean"]
    assert np.allclose(to_array(one), to_array(same), atol=1e-4)
    assert not np.allclose(to_array(one), to_array(other), atol=1e-2)


def test_consensus_follows_the_draws() -> None:
    truth = np.zeros((4, 20, 20), bool)
    truth[:, 5:15, 5:15] = True
    draws = np.repeat(truth[None].astype(np.float32), 5, axis=0)
    draws[0] = 0  # one draw found nothing
    draws[1, :, :3] = 1  # one found too much

    def agreed(drawn: np.ndarray, how: str, threshold: float) -> np.ndarray:
        maps = drawn.mean(0), (drawn > 0.5).mean(0), segmentation.staple(drawn)
        return segmentation.consensus(*maps, how, threshold)

    for how in ("mean", "majority", "staple"):
        assert np.array_equal(agreed(draws, how, 0.5), truth), how
    assert not agreed(draws * 0, "staple", 0.5).any()
    # what is short of half in every draw counts for the mean only where the threshold is lower
    faint = np.full_like(draws, 0.4)
    assert agreed(faint, "mean", 0.3).all()
    assert not agreed(faint, "majority", 0.3).any()


def test_staple_of_masks_that_are_noise_ends() -> None:
    draws = (np.random.default_rng(0).random((3, 10, 128, 128)) < 0.005).astype(np.float32)
    begun = time.process_time()
    agreed = segmentation.staple(draws)
    assert 0 <= agreed.min() <= agreed.max() <= 1
    assert time.process_time() - begun < 10


def test_every_draw_is_kept_on_demand_and_a_range_leaves_the_rest_empty(
    flair: sitk.Image, segmentation_weights: Path
) -> None:
    result = draw(flair, segmentation_weights, draws=2, keep=True, from_mm=0.0, to_mm=21.0)
    first, second = result["draws"]
    assert Grid.of(first) == Grid.of(flair) and not np.array_equal(to_array(first), to_array(second))
    seen = to_array(result["mean"]).max(axis=(1, 2)) > 0
    assert 1 <= seen.sum() <= 2
    with pytest.raises(BadInput, match="range and region"):
        draw(flair, segmentation_weights, draws=1, from_mm=900.0)
    box = {"center": [0.0, 0.0, 900.0], "axes": np.eye(3).tolist(), "size_mm": [10.0, 10.0, 10.0]}
    with pytest.raises(BadInput, match="range and region"):
        segmentation.run(
            {"FLAIR": flair, "roi": box}, SEGMENTATION.check_parameters({}), Context(weights=segmentation_weights)
        )


# ------------------------------------------------------------------------------------------------------- guided edits


def region_on(flair: sitk.Image) -> sitk.Image:
    """A ball of 15 mm in the middle of the brain."""
    inside = np.argwhere(to_array(flair) > 0.1)
    centre = flair.TransformContinuousIndexToPhysicalPoint(inside.mean(0)[::-1].tolist())
    grid = Grid.of(flair)
    z, y, x = np.meshgrid(*(np.arange(n) for n in reversed(grid.size)), indexing="ij")
    points = grid.to_world(np.stack([x.ravel(), y.ravel(), z.ravel()], 1))
    near = np.linalg.norm(points - centre, axis=1) < 15
    return from_array(near.reshape(z.shape).astype(np.uint8), flair)


def change(inputs: dict[str, Any], weights: Path, context: Context | None = None, **parameters: Any) -> dict[str, Any]:
    chosen = EDIT.check_parameters({"steps": 3, "noise_level": 200, **parameters})
    return edit.run(inputs, chosen, context or Context(weights=weights))


def test_painting_changes_the_slices_of_the_region_only(
    flair: sitk.Image, edit_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "MASK_SCALE", 1e5)  # a segmenter of three steps hardly pulls
    region = region_on(flair)
    result = change({"FLAIR": flair, "region": region}, edit_weights, edit="region")
    assert set(result) == {"edited_FLAIR", "difference", "lesion", "report"}
    assert set(result) <= {port.name for port in EDIT.outputs}
    for name in ("edited_FLAIR", "difference", "lesion"):
        assert Grid.of(result[name]) == Grid.of(flair)
    slices_painted = to_array(region).any(axis=(1, 2))
    slices_changed = to_array(result["difference"]).max(axis=(1, 2)) > 0.01
    assert slices_changed[slices_painted].all()
    assert not slices_changed[~slices_painted].any()
    rows = len(result["report"]["slice"])
    assert all(len(column) == rows for column in result["report"].values())
    assert {"Dice with the region", "change outside", "round-trip error"} <= set(result["report"])


def test_painting_needs_a_region_in_the_brain(flair: sitk.Image, edit_weights: Path) -> None:
    with pytest.raises(BadInput, match="region that the lesion shall fill"):
        change({"FLAIR": flair}, edit_weights, edit="region")
    with pytest.raises(BadInput, match="does not meet the brain"):
        change({"FLAIR": flair, "region": flair * 0}, edit_weights, edit="region")


@pytest.mark.parametrize("what", ["size", "grow", "shrink"])
def test_sizes_are_edited_where_there_is_a_lesion(
    what: str, flair: sitk.Image, edit_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"given": np.array([0, 0.1, 0.1, 0, 0], np.float32)}

    def predicted(slices: np.ndarray, *_: Any) -> np.ndarray:
        return np.resize(sizes["given"], len(slices))

    monkeypatch.setattr(edit, "predicted_sizes", predicted)
    result = change({"FLAIR": flair}, edit_weights, edit=what, size=20.0)
    assert result["report"]["slice"] == [1, 2]
    assert ("size wanted" in result["report"]) == (what == "size")
    assert "Dice with the region" not in result["report"]
    sizes["given"] = np.zeros(5, np.float32)
    with pytest.raises(BadInput, match="No slice shows a lesion"):
        change({"FLAIR": flair}, edit_weights, edit=what)


class Bright(torch.nn.Module):
    """A segmenter that takes bright pixels of FLAIR for lesion, as no network of three steps would."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 20 * (x[:, 3:] - 0.6)


SERIES = {"edit": "size", "size": 0.0, "last_size": 20.0, "sizes": 3}


def test_a_series_is_encoded_once_and_decoded_for_every_size(
    flair: sitk.Image, edit_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []  # slices in every evaluation of the noise network
    networks = load_networks(edit_weights, "cpu") | {"segmenter": Bright(), "judge": Bright()}
    networks["denoiser"].register_forward_pre_hook(lambda _network, arguments: seen.append(len(arguments[0])))
    monkeypatch.setattr(edit, "networks_of", lambda _context: networks)
    cache: dict[Any, Any] = {}

    def evaluations(**parameters: Any) -> tuple[int, dict[str, Any]]:
        seen.clear()
        result = change({"FLAIR": flair}, edit_weights, Context(weights=edit_weights, cache=cache), **parameters)
        return sum(seen), result

    cold, one = evaluations(edit="size", size=10.0)
    warm, _ = evaluations(edit="size", size=10.0, strength=2.0)  # decodes only
    three, series = evaluations(**SERIES)
    assert warm < cold and three == 3 * warm
    assert set(series) == {"edited_FLAIR", "difference", "chance", "sizes", "report"}
    assert set(series) <= {port.name for port in EDIT.outputs}
    assert list(series["edited_FLAIR"]) == list(series["chance"]) == [0.0, 10.0, 20.0]
    assert all(Grid.of(image) == Grid.of(flair) for image in series["edited_FLAIR"].values())
    assert np.allclose(to_array(series["edited_FLAIR"][10.0]), to_array(one["edited_FLAIR"]), atol=1e-4)
    cache.clear()
    assert evaluations(**SERIES)[0] == cold + 2 * warm


def test_the_table_of_a_series_tells_what_the_judge_sees_of_every_size(
    flair: sitk.Image, edit_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = load_networks(edit_weights, "cpu") | {"segmenter": Bright(), "judge": Bright()}
    monkeypatch.setattr(edit, "networks_of", lambda _context: networks)
    series = change({"FLAIR": flair}, edit_weights, **SERIES)
    table = series["sizes"]
    assert list(table) == ["wanted, %", "reached, %", "before, %", "change outside"]
    assert table["wanted, %"] == [0.0, 10.0, 20.0]
    assert len(set(table["before, %"])) == 1 and table["before, %"][0] > 0
    assert table["reached, %"] == sorted(table["reached, %"]) and table["reached, %"][2] > table["reached, %"][0]
    assert all(value >= 0 for value in table["change outside"])
    rows = len(series["report"]["slice"]) // 3
    assert series["report"]["size wanted"] == [0.0] * rows + [0.1] * rows + [0.2] * rows


def test_a_series_needs_two_sizes_and_other_edits_say_that_they_make_none(
    flair: sitk.Image, edit_weights: Path
) -> None:
    with pytest.raises(BadInput, match="further apart"):
        change({"FLAIR": flair}, edit_weights, edit="size", size=5.0, last_size=5.0, sizes=2)

    class Heard(SilentProgress):
        sentences: ClassVar[list[str]] = []

        def notice(self, sentence: str) -> None:
            self.sentences.append(sentence)

    context = Context(Heard(), weights=edit_weights)
    result = change({"FLAIR": flair, "region": region_on(flair)}, edit_weights, context, edit="region", sizes=3)
    assert isinstance(result["edited_FLAIR"], sitk.Image) and "makes a series" in Heard.sentences[0]


def test_a_series_is_written_as_a_file_for_every_size_in_order(flair: sitk.Image, tmp_path: Path) -> None:
    port = next(port for port in EDIT.outputs if port.name == "edited_FLAIR")
    files = write_value(port, {20.0: flair * 2, 2.5: flair, 0.0: flair * 0}, tmp_path)
    assert [path.name for path in files] == [f"edited_FLAIR_{text}.nii.gz" for text in ("00", "02.5", "20")]
    assert files == sorted(tmp_path.iterdir())
    assert np.array_equal(to_array(sitk.ReadImage(str(files[2]))), 2 * to_array(flair))


def test_what_an_edit_file_lacks_comes_from_the_weights_of_other_methods(
    edit_weights: Path, segmentation_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = load_networks(edit_weights, "cpu")
    assert set(networks) == {"denoiser", "segmenter", "judge"}
    for method, file, source in (
        ("diffusion_anomaly", "brain_mr.safetensors", edit_weights),
        ("diffusion_segmentation", "plain_unet.safetensors", segmentation_weights.parent / "plain_unet.safetensors"),
    ):
        folder = tmp_path / "starters" / method
        folder.mkdir(parents=True)
        (folder / file).write_bytes(source.read_bytes())
        (folder / "card.json").write_text(json.dumps({"files": {file: {"sha256": file_sha256(folder / file)}}}))
    for module in ("medgen.diffusion.training", "medgen.weights"):
        monkeypatch.setattr(f"{module}.STARTER_WEIGHTS", tmp_path / "starters")
    path = train_edit(rendered_slices(), tmp_path / "again", "smoke", seed=1)
    assert set(load_networks(path, "cpu")) == {"segmenter", "judge"}
    guide = {"segmenter": networks["segmenter"]}
    state = {key: value.contiguous() for key, value in joined_state(guide).items()}
    save_file(state, path, layouts_of(guide))
    cache: dict[Any, Any] = {}
    for context in (Context(weights=path, cache=cache), Context(weights=path, cache=cache)):
        found = edit.networks_of(context)
        assert context.borrowed.keys() == {"diffusion_anomaly/brain_mr.safetensors",
                                           "diffusion_segmentation/plain_unet.safetensors"}  # fmt: skip
    plain = load_networks(segmentation_weights.parent / "plain_unet.safetensors", "cpu")["plain"]
    for name, expected in (("denoiser", networks["denoiser"]), ("judge", plain)):
        for key, value in found[name].state_dict().items():
            assert torch.equal(value, expected.state_dict()[key])
    (tmp_path / "starters" / "diffusion_anomaly" / "brain_mr.safetensors").unlink()
    with pytest.raises(BadInput, match="missing"):
        edit.networks_of(Context(weights=path))


def test_sizes_are_the_regressors_where_there_is_one_and_else_what_the_segmenter_sees() -> None:
    slices, brain = np.zeros((2, 4, 8, 8), np.float32), np.zeros((2, 8, 8), bool)
    brain[0, :4], brain[1, :2] = True, True
    slices[:, 0, 0] = 1  # eight bright pixels, of 32 and of 16 of the brain

    class Segmenter(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return 200 * x[:, :1] - 100

    class Regressor(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 1), 0.7)

    networks: dict[str, torch.nn.Module] = {"segmenter": Segmenter()}
    assert edit.predicted_sizes(slices, brain, networks, Context()).tolist() == [0.25, 0.5]
    networks["regressor"] = Regressor()
    assert edit.predicted_sizes(slices, brain, networks, Context()) == pytest.approx(0.7)


def test_lesion_share_counts_brain_pixels() -> None:
    image, lesion = torch.zeros(1, 4, 10, 10), torch.zeros(1, 1, 10, 10)
    image[0, 2, :5] = 0.4
    lesion[0, 0, :1] = 1
    assert lesion_share(image, lesion).tolist() == [pytest.approx(0.2)]


def test_a_method_says_that_its_weights_are_missing_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path))
    assert missing_weights("a_method")[0].endswith("`medgen train a_method`.")
    folder = tmp_path / "Weights" / "a_method"
    folder.mkdir(parents=True)
    (folder / "x.safetensors").write_bytes(b"")
    (folder / "card.json").write_text('{"files": {"x.safetensors": {}}}')
    assert missing_weights("a_method") == ()
