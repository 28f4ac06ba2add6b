"""diffusion_anomaly from training to result, with networks of a few steps: grids, cache, cancel, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from diffusion_data import rendered_slices, small_head

from medgen.catalogue import find_method
from medgen.diffusion.networks import ANY_LABEL, NoiseNetwork, load_networks
from medgen.diffusion.training import brain_set
from medgen.errors import BadInput, Cancelled
from medgen.imaging.brain_study import BRAIN_SEQUENCES, brain_study, scale_brain
from medgen.imaging.geometry import Grid, to_array
from medgen.imaging.phantoms import insert_lesions, render_mr, strip_skull
from medgen.imaging.phantoms.brain_set import load_brain_set, render_study
from medgen.method import Context, SilentProgress
from medgen.methods.diffusion_anomaly import infer, infer_xray
from medgen.methods.diffusion_anomaly.train import train
from medgen.spec import ImageFacts
from medgen.weights import load_card

SPEC, XRAY = find_method("diffusion_anomaly"), find_method("diffusion_anomaly_xray")
SLICE = find_method("diffusion_anomaly_slice")


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    return small_head()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps on the slices of one head."""
    return train(rendered_slices(), tmp_path_factory.mktemp("trained"), "smoke")


@pytest.fixture(scope="module")
def study(head: sitk.Image) -> dict[str, sitk.Image]:
    """FLAIR and T1 of a brain with a tumour, 14 mm slices, FLAIR's axes turned and flipped, T1 on another grid."""
    rng = np.random.default_rng(1)
    brain = strip_skull(insert_lesions(head, "tumour", rng)[0])
    thick = Grid((64, 64, 10), (3.5, 3.5, 14.0), (-110.0, -110.0, -70.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    found = {}
    for name in ("FLAIR", "T1"):
        image = render_mr(brain, name, rng)
        image = sitk.Mask(image, sitk.Cast(brain > 0, sitk.sitkUInt8))
        found[name] = sitk.Resample(image, thick.size, sitk.Transform(), sitk.sitkLinear, thick.origin,
                                    thick.spacing_mm, thick.direction)  # fmt: skip
    found["FLAIR"] = sitk.DICOMOrient(found["FLAIR"], "PIR")
    return found


def run(images: dict[str, sitk.Image], weights: Path, context: Context | None = None, **parameters: object) -> dict:
    context = context or Context()
    context.weights = weights
    return infer.run(images, SPEC.check_parameters({"steps": 3, "noise_level": 200, **parameters}), context)


def test_results_lie_on_the_first_sequences_own_grid(study: dict[str, sitk.Image], trained: Path) -> None:
    result = run(study, trained)
    for name in ("anomaly", "anomaly_map", "healthy_FLAIR", "healthy_T1", "flair_threshold"):
        assert Grid.of(result[name]) == Grid.of(study["FLAIR"]), name
    assert set(result) <= {port.name for port in SPEC.outputs}
    assert "healthy_T2" not in result
    assert len(result["diseased"]["p_diseased"]) >= 5
    assert all(0 <= p <= 1 for p in result["diseased"]["p_diseased"])
    values = dict(zip(result["report"]["quantity"], result["report"]["value"], strict=True))
    assert values["slices redrawn"] == values["slices"] > 0
    assert 0 <= values["round-trip error without guidance"] < 1
    # what the FLAIR threshold finds is bright
    flair, bright = to_array(study["FLAIR"]), to_array(result["flair_threshold"]) > 0
    assert flair[bright].mean() > 1.3 * flair[flair > 0.05].mean()


def test_another_guidance_decodes_only(
    study: dict[str, sitk.Image], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    original = NoiseNetwork.predict
    monkeypatch.setattr(NoiseNetwork, "predict", lambda self, x, t: (levels.append(len(x)), original(self, x, t))[1])
    context = Context()
    first = run(study, trained, context, guidance=0.0)
    whole = sum(levels)
    levels.clear()
    second = run(study, trained, context, guidance=300.0)
    assert sum(levels) < 0.7 * whole
    assert not np.array_equal(to_array(first["anomaly_map"]), to_array(second["anomaly_map"]))
    fresh = run(study, trained, guidance=300.0)
    assert np.array_equal(to_array(fresh["anomaly_map"]), to_array(second["anomaly_map"]))


def test_one_slice_is_redrawn_as_in_the_whole_and_its_encoding_is_remembered(
    study: dict[str, sitk.Image], trained: Path
) -> None:
    context = Context()
    whole = run(study, trained, context, rim=0)
    columns = whole["diseased"]
    row = int(np.argmax(columns["p_diseased"]))
    point = {name: columns[name][row] for name in ("r_mm", "a_mm", "s_mm")}
    chosen = {"steps": 3, "noise_level": 200, "rim": 0, **point}
    one = infer.run_slice(study, SLICE.check_parameters(chosen), context)
    assert set(one) <= {port.name for port in SLICE.outputs}
    report = dict(zip(one["report"]["quantity"], one["report"]["value"], strict=True))
    assert report["encodings from the cache"] == 1
    assert report["P(diseased)"] == pytest.approx(columns["p_diseased"][row], abs=1e-3)
    # the slice lies where it lies in the world
    drawn, original = one["healthy_FLAIR"], sitk.Resample(sitk.DICOMOrient(study["FLAIR"], "LPS"), one["healthy_FLAIR"])
    both = to_array(drawn), to_array(original)
    assert np.corrcoef(both[0][both[1] > 0], both[1][both[1] > 0])[0, 1] > 0.8
    assert np.corrcoef(np.roll(both[0], 6, 2)[both[1] > 0], both[1][both[1] > 0])[0, 1] < 0.6
    moved = infer.run_slice(study, SLICE.check_parameters({**chosen, "noise_level": 300}), context)
    assert dict(zip(*moved["report"].values(), strict=True))["encodings from the cache"] == 0


def test_a_box_limits_what_is_redrawn(study: dict[str, sitk.Image], trained: Path) -> None:
    whole = run(study, trained, rim=0)
    columns = whole["diseased"]
    centre = [-columns["r_mm"][3], -columns["a_mm"][3], columns["s_mm"][3]]
    box = {"center": centre, "axes": np.eye(3).tolist(), "size_mm": [400.0, 60.0, 20.0]}
    part = run({**study, "roi": box}, trained, rim=0)
    values = dict(zip(*part["report"].values(), strict=True))
    assert 1 <= values["slices redrawn"] <= 2 and values["slices"] == len(columns["p_diseased"])
    some, most = (to_array(r["anomaly_map"]) > 1e-6 for r in (part, whole))
    assert 0 < some.sum() < 0.2 * most.sum()


def test_without_a_label_both_are_asked_and_at_random_the_anatomy_changes(
    study: dict[str, sitk.Image], trained: Path
) -> None:
    network = load_networks(trained, "cpu")["denoiser"]
    x = torch.rand(1, 4, 128, 128)
    each = [NoiseNetwork(network, label=label)(x, 100) for label in (0, 1)]
    both = NoiseNetwork(network, label=ANY_LABEL)
    assert torch.allclose(both(x, 100), (each[0] + each[1]) / 2, atol=1e-5) and both.evaluations == 2
    values = [
        dict(zip(*run(study, trained, to_mm=1.0, **chosen)["report"].values(), strict=True))
        for chosen in ({"label": "any"}, {"solver": "ddpm"})
    ]
    errors = [v["round-trip error without guidance"] for v in values]
    assert errors[0] < 0.5 < errors[1]


def test_batches_do_not_change_the_result(study: dict[str, sitk.Image], trained: Path) -> None:
    one, many = run(study, trained, Context(batch_scale=0.1)), run(study, trained)
    assert np.allclose(to_array(one["anomaly_map"]), to_array(many["anomaly_map"]), atol=1e-4)


def test_cancel_is_heard_while_encoding(study: dict[str, sitk.Image], trained: Path) -> None:
    class Impatient(SilentProgress):
        stage = ""

        def report(self, stage: str, fraction: float, message: str = "") -> None:
            self.stage = stage

        def raise_if_cancelled(self) -> None:
            if self.stage == "Encoding":
                raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        run(study, trained, Context(progress=Impatient()))


@pytest.mark.parametrize("choice", ["otsu", "fixed", "percentile"])
def test_thresholds_cut_where_they_say(choice: str, study: dict[str, sitk.Image]) -> None:
    prepared = brain_study(study)
    change = np.random.default_rng(0).uniform(0, 0.2, prepared.brain.shape).astype(np.float32)
    change[:, 60:70, 60:70] = 1.0  # the anomaly
    change[:, 40, 40] = 1.0  # a speck
    inside = np.ones_like(prepared.brain)
    rows = np.arange(len(change))
    parameters = {"threshold": choice, "value": 0.5, "percentile": 99.0, "smallest": 15 * 1.5**2 * 14}
    found, cut = infer.segment(change, inside, rows, parameters, prepared)
    assert 0.1 < cut < 1
    assert found[:, 60:70, 60:70].all() and not found[:, 40, 40].all()
    assert infer.segment(change * 0, inside, rows, parameters, prepared) == (pytest.approx(found * 0), 0.0)


def test_a_head_with_its_skull_is_refused_and_a_brain_mask_helps(head: sitk.Image, trained: Path) -> None:
    flair = render_mr(head, "FLAIR", np.random.default_rng(0))
    with pytest.raises(BadInput, match="more than a brain"):
        run({"FLAIR": flair}, trained)
    with pytest.raises(BadInput, match="at least one"):
        run({}, trained)
    mask = sitk.Cast(strip_skull(head) > 0, sitk.sitkUInt8)
    with pytest.raises(BadInput, match="mask is empty"):
        run({"FLAIR": flair, "brain": mask * 0}, trained)
    prepared = brain_study({"FLAIR": flair}, mask)
    outside = to_array(prepared.to_scan(prepared.slices[:, 3]))[to_array(mask) == 0]
    assert np.mean(outside > 0.2) < 0.02


def test_a_map_goes_to_the_scan_and_back_to_its_place(study: dict[str, sitk.Image]) -> None:
    prepared = brain_study(study)
    assert prepared.present == (True, False, False, True)
    assert not prepared.slices[:, 1:3].any()
    back = to_array(prepared.to_scan(prepared.slices[:, BRAIN_SEQUENCES.index("FLAIR")]))
    flair = to_array(study["FLAIR"])
    assert np.corrcoef(back[flair > 0.1], flair[flair > 0.1])[0, 1] > 0.85
    assert np.corrcoef(back[flair > 0.1], np.roll(flair, 1, 2)[flair > 0.1])[0, 1] < 0.75


def test_scaling_ignores_a_lesion_and_survives_nothing() -> None:
    brain = np.ones((4, 8, 8), bool)
    values = np.full(brain.shape, 50.0, np.float32)
    values[0, :4] = 100.0
    assert scale_brain(values, brain)[1, 0, 0] == pytest.approx(0.4)
    assert scale_brain(values, brain)[0, 0, 0] == pytest.approx(0.8)
    assert not scale_brain(np.zeros_like(values), brain).any()
    assert not scale_brain(values, ~brain).any()


def test_a_rendered_study_shows_its_lesion(head: sitk.Image) -> None:
    images, lesion, brain = render_study(head, "tumour", np.random.default_rng(3))
    assert images.shape[1:] == (4, 128, 128)
    assert images.min() == 0 and images.max() <= 1
    assert not images[:, :][~np.repeat(brain[:, None], 4, axis=1)].any()
    assert lesion.any() and brain[lesion > 0].mean() > 0.99
    flair = images[:, 3]
    assert flair[lesion > 0].mean() > 1.15 * flair[brain & (lesion == 0)].mean()


def test_training_goes_on_and_says_what_it_made(trained: Path) -> None:
    card = load_card(trained.parent)
    assert card["trained_on_rendered"] is True
    assert card["steps"] == 3
    networks = load_networks(trained, "cpu")
    assert set(networks) == {"denoiser", "classifier"}
    rendered = load_brain_set(rendered_slices())
    again = train(rendered_slices(), trained.parent, "smoke")  # done already: only written anew
    for name, value in load_networks(again, "cpu")["denoiser"].state_dict().items():
        assert torch.equal(value, networks["denoiser"].state_dict()[name])
    assert rendered.images.dtype == np.uint8 and len(rendered.images) == len(rendered.index)


def test_a_set_whose_writing_was_killed_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, folder, save, calls = tmp_path / "maps", tmp_path / "out" / "slices", np.save, []
    maps.mkdir()
    (maps / "head_01.nii.gz").touch()
    folder.mkdir(parents=True)
    part = {"images": np.zeros((3, 4, 8, 8), np.uint8), "lesion": np.zeros((3, 8, 8)), "index": np.zeros((3, 4))}
    np.savez(folder / "head01.npz", **part)  # rendered before

    def killed(file: Any, values: Any) -> None:
        calls.append(file)
        save(file, values[: 1 if len(calls) == 2 else None])
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        brain_set(maps, tmp_path / "out", 0, True, None)
    found = brain_set(maps, tmp_path / "out", 0, True, None)
    assert len(found.images) == len(found.lesion) == len(found.index) == 3


def test_bad_training_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no label maps"):
        train(tmp_path, tmp_path / "out", "smoke")
    with pytest.raises(BadInput, match="no training configuration"):
        train(tmp_path, tmp_path / "out", "huge")
    strange = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, strange)
    with pytest.raises(BadInput, match="how its networks are built"):
        load_networks(strange, "cpu")


def test_fitness_warns_of_ct_and_of_no_flair() -> None:
    facts = {"T1": ImageFacts((64, 64, 30), (1.0, 1.0, 9.0), -1000.0, 2000.0, (-1000.0, 0.0, 900.0))}
    sentences = " ".join(w.sentence for w in SPEC.fitness(facts))
    assert "CT" in sentences and "9.0 mm" in sentences and "FLAIR" in sentences
    assert not SPEC.fitness({"FLAIR": ImageFacts((64, 64, 30), (1.0, 1.0, 3.0), 0.0, 900.0, (0.0, 90.0, 700.0), "MR")})


def test_an_x_ray_is_learnt_and_redrawn_at_its_own_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,patient_id,label"]
    for number in range(4):
        image = sitk.GetImageFromArray(rng.integers(0, 200, (90, 100)).astype(np.uint8))
        sitk.WriteImage(image, str(tmp_path / f"{number}.png"))
        lines.append(f"{number}.png,p{number},{'no_finding' if number < 2 else 'pneumonia'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), "utf-8")
    weights = train(tmp_path, tmp_path / "out", "smoke")
    assert weights.name == XRAY.weights[0]
    assert load_card(weights.parent)["trained_on_rendered"] is False
    chosen = XRAY.check_parameters({"steps": 3, "noise_level": 200})
    image = sitk.ReadImage(str(tmp_path / "1.png"))
    result = infer_xray.run({"image": image}, chosen, Context(weights=weights))
    assert set(result) == {port.name for port in XRAY.outputs}
    for name in ("anomaly", "anomaly_map", "healthy"):
        assert Grid.of(result[name]) == Grid.of(image)
