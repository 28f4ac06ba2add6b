"""DeScarGAN: the paper's networks, its losses, and from training to result with networks of a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from diffusion_data import label_maps, small_head

from medgen.catalogue import find_method
from medgen.errors import BadInput
from medgen.imaging.geometry import Grid, to_array
from medgen.imaging.phantoms import insert_lesions, render_mr, strip_skull
from medgen.imaging.xray_set import load_xrays
from medgen.method import Context
from medgen.methods.descargan import infer
from medgen.methods.descargan.net import Discriminator, Generator
from medgen.methods.descargan.train import DescarganStep, settle, train
from medgen.shared_data import shared_folder
from medgen.weights import find_weights

SPEC = find_method("descargan")


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_papers_networks_have_the_papers_parameters() -> None:
    with torch.device("meta"):
        assert parameters(Generator()) == 8_528_262
        assert parameters(Discriminator()) == 18_170_180


def test_branches_differ_and_share_all_but_their_last_blocks() -> None:
    torch.manual_seed(0)
    generator, x = Generator(4), torch.rand(2, 1, 64, 64) * 2 - 1
    healthy, diseased = generator(x, 0), generator(x, 1)
    assert healthy.shape == x.shape
    assert healthy.abs().max() <= 1
    assert not torch.allclose(healthy, diseased)
    generator(x, 0).sum().backward()
    heads = [next(head.parameters()).grad for head in generator.heads]
    assert heads[0] is not None and heads[1] is None
    scores, logits = Discriminator(2, 64)(x)
    assert scores.shape == logits.shape == (2, 2)
    for options in ({"one_head": True}, {"top_skip": True}):
        assert Generator(4, **options)(x, 1).shape == x.shape


def test_critic_wants_real_above_fake_and_slopes_of_one() -> None:
    torch.manual_seed(0)
    step = DescarganStep(Generator(4), Discriminator(2, 64), 3e-3)
    image, label = torch.full((4, 1, 64, 64), -1.0), torch.tensor([0, 1, 0, 1])
    image[:, :, 16:48, 16:48] = 0.5
    seen: list[str] = []

    def update(name: str, loss: torch.Tensor) -> None:
        seen.append(name)
        optimizer = step.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found = [step.run({"image": image, "label": label, "number": n}, update) for n in range(20)]
    assert seen.count("discriminator") == 20
    assert seen.count("generator") == 4  # every fifth
    assert found[-1]["distance"] > 1 > found[0]["distance"]
    assert found[-1]["penalty"] < 0.5 < found[0]["penalty"]
    assert {"adversarial", "identity", "reconstruction", "class_g"} <= found[4].keys()


def test_images_wanted_as_either_class_go_through_together() -> None:
    torch.manual_seed(0)
    generator, x = Generator(4).eval(), torch.rand(4, 1, 64, 64) * 2 - 1
    mixed = generator(x, torch.tensor([1, 0, 0, 1]))
    for row, wanted in enumerate((1, 0, 0, 1)):
        assert torch.allclose(mixed[row], generator(x, wanted)[row], atol=1e-5)


def test_a_new_generator_draws_images_as_dark_and_as_varied_as_the_data() -> None:
    torch.manual_seed(0)
    data = torch.full((8, 1, 64, 64), -1.0)  # a slice: mostly black
    data[:, :, 20:40, 20:40] = torch.rand(8, 1, 20, 20) * 0.4 - 0.4
    generator = Generator(4)
    generator.start_at(data)
    drawn = generator(data, torch.arange(8) % 2)
    before, wanted = torch.atanh(drawn.clamp(-0.9999, 0.9999)), torch.atanh(data.clamp(-0.99, 0.99))
    assert torch.isclose(before.mean(), wanted.mean(), atol=0.1)
    assert torch.isclose(before.std(), wanted.std(), atol=0.3)


def test_settled_normalisation_draws_in_use_as_in_training() -> None:
    torch.manual_seed(0)
    generator, x = Generator(4), torch.rand(8, 1, 64, 64) - 1
    wanted = torch.arange(2).repeat_interleave(8)
    with torch.no_grad():
        trained = generator(torch.cat([x, x]), wanted)
        generator.eval()
        unsettled = generator(torch.cat([x, x]), wanted)
        settle(generator, [x])
        settled = generator(torch.cat([x, x]), wanted)
    assert not generator.training
    assert (settled - trained).abs().mean() < 0.02 < (unsettled - trained).abs().mean()


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    return small_head()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(label_maps(), tmp_path_factory.mktemp("trained"), "smoke")  # renders its slices itself


def run(image: sitk.Image, weights: Path, **chosen: Any) -> dict[str, Any]:
    return infer.run({"image": image}, SPEC.check_parameters(chosen), Context(weights=weights))


def test_a_brain_is_redrawn_on_its_own_grid(head: sitk.Image, weights: Path) -> None:
    rng = np.random.default_rng(1)
    brain = strip_skull(insert_lesions(head, "tumour", rng)[0])
    flair = sitk.Mask(render_mr(brain, "FLAIR", rng), sitk.Cast(brain > 0, sitk.sitkUInt8))
    flair = sitk.DICOMOrient(sitk.Shrink(flair, [1, 1, 5]), "SRA")
    results = {branch: run(flair, weights, branch=branch) for branch in ("healthy", "diseased")}
    for result in results.values():
        assert set(result) == {port.name for port in SPEC.outputs}
        for name in ("anomaly", "difference", "redrawn"):
            assert Grid.of(result[name]) == Grid.of(flair)
        assert all(0 <= p <= 1 for p in result["diseased"]["p_diseased"])
    healthy, diseased = (to_array(results[branch]["difference"]) for branch in ("healthy", "diseased"))
    assert not np.allclose(healthy, diseased)
    assert healthy.min() < -0.01  # signed: redrawn minus original
    with pytest.raises(BadInput, match="more than a brain"):
        run(render_mr(head, "FLAIR", rng), weights)


def test_the_starter_weights_darken_a_lesion_and_leave_the_rest(head: sitk.Image) -> None:
    rng = np.random.default_rng(1)
    labels, lesion = insert_lesions(head, "stroke", rng)
    brain = strip_skull(labels)
    flair = sitk.Mask(render_mr(brain, "FLAIR", rng), sitk.Cast(brain > 0, sitk.sitkUInt8))
    result = run(flair, find_weights(SPEC.weights_id, SPEC.weights[0]))
    difference, inside = to_array(result["difference"]), to_array(brain) > 0
    sick = (to_array(lesion) > 0) & inside
    assert sick.sum() > 100
    assert difference[sick].mean() < -0.15
    assert abs(difference[inside & ~sick].mean()) < 0.3 * abs(difference[sick].mean())


def test_x_rays_are_learnt_and_redrawn_at_their_own_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,patient_id,label"]
    for number in range(12):
        label = "no_finding" if number < 6 else "pneumonia"
        image = rng.integers(0, 200, (90, 100)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / f"{number}.png"))
        lines.append(f"{number}.png,p{number},{label}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), "utf-8-sig")  # as Excel does
    xrays = load_xrays(tmp_path, 64)
    assert xrays.images.shape == (12, 64, 64)
    assert xrays.diseased.sum() == 6
    assert xrays.held_out.sum() == 2
    weights = train(tmp_path, tmp_path / "out", "smoke")
    image = sitk.ReadImage(str(tmp_path / "3.png"))
    result = run(image, weights)
    assert result["difference"].GetSize() == image.GetSize()
    assert result["report"]["value"][0] == 1
    (tmp_path / "labels.csv").write_text("file,patient_id,label\nlost.png,p,no_finding\n", "utf-8")
    with pytest.raises(BadInput, match="cannot be read"):
        load_xrays(tmp_path, 64)


@pytest.mark.slow
def test_the_shared_x_rays_are_split_by_patient() -> None:
    folder = shared_folder()
    if folder is None:
        pytest.skip("the shared data are not on this machine")
    xrays = load_xrays(folder / "cxr_nih", 32)
    assert len(xrays.images) == 160
    for label in (0, 1):
        assert xrays.held_out[xrays.diseased == label].sum() == 16
