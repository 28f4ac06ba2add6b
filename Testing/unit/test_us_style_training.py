"""Training and proof of the style transfer, a few steps of each on drawn frames."""

import json

import numpy as np
import pytest
import torch

from medgen.errors import BadInput
from medgen.method import SilentProgress
from medgen.methods.us_style_transfer import proof, proof_segmentation, train
from medgen.methods.us_style_transfer.proof_segmentation import real_mask_dice
from medgen.methods.us_style_transfer.style import Styler
from medgen.nets import vgg
from medgen.training.ultrasound_frames import UltrasoundFrame, masked_muscle, simulated_frame


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch):
    """Frames of three made-up groups, and the random trunk, cut to its first three blocks for speed."""
    made = [simulated_frame(np.random.default_rng(n), size=96) for n in range(6)]
    frames = tuple(UltrasoundFrame(f.grey, f.inside, "timtrack", f"group {n % 3}", "") for n, f in enumerate(made))
    for module in (train, proof):
        monkeypatch.setattr(module, "real_frames", lambda _split: frames)
        monkeypatch.setattr(module, "load_vgg", lambda: vgg.VGGFeatures(vgg._random_kernels(), True, "random"))


@pytest.fixture
def trained(tmp_path):
    return train.train(tmp_path, tmp_path / "out", "smoke", device="cpu")


def test_a_smoke_training_gives_weights_with_map_and_card(trained):
    styler = Styler.load(trained)
    card = json.loads((trained.parent / "card.json").read_text())
    assert card["steps"] == 4 and card["trained_on_rendered"]
    assert len(card["style_map"]["x"]) == len(styler.map.codes) == 6
    assert set(card["style_map"]["name"]) == {"group 0", "group 1", "group 2"}
    x, y = styler.map.place(styler.map.codes[2])
    assert (x, y) == pytest.approx((card["style_map"]["x"][2], card["style_map"]["y"][2]), abs=0.05)
    log = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 4 and "style" in log[-1]


@pytest.mark.parametrize("kind", ["no_latents", "adain"])
def test_the_baselines_train_without_a_divergence(tmp_path, kind):
    from dataclasses import replace

    config = replace(train.CONFIGS["smoke"], kind=kind)
    frames = train.frames_to_learn_from(2)
    network, steps = train.train_network(config, frames, tmp_path, train.load_vgg())
    assert steps == 4 and network.architecture.kind == kind
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["kl"] == 0


def test_an_unknown_configuration_is_refused(tmp_path):
    with pytest.raises(BadInput, match="smoke"):
        train.train(tmp_path, tmp_path, "huge")


def test_batches_depend_on_the_step_alone():
    frames = train.frames_to_learn_from(2)
    first, second = (train.make_sample(frames, train.CONFIGS["smoke"], 0)(7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_proof_measures_every_claim(trained, monkeypatch):
    monkeypatch.setattr(proof, "checked_weights", lambda *_a: (trained, ""))
    monkeypatch.setattr(proof, "LONGEST", 48)
    for name in ("STEPS", "OTHERS", "TESTED", "LABELLED"):
        monkeypatch.setattr(proof_segmentation, name, 2)
    checks = proof.prove("quick")["checks"]
    checks += proof._augmentation({"restyled": Styler.load(trained)}, range(1), SilentProgress())
    names = " | ".join(check["name"] for check in checks)
    wanted = ["KL", "as printed", "Style distance", "Edge correlation", "drawn styles", "deterministic", "independent"]
    for words in [*wanted, "10 of B alone", "as they are"]:
        assert words in names
    assert all(np.isfinite(check["value"]) for check in checks)
    assert [check["passed"] for check in checks[:2]] == [True, True]


def test_real_masks_lie_on_their_frames():
    """Aponeuroses are bright lines: their mask covers brighter pixels than the same mask moved by a tenth."""
    found = masked_muscle()
    if not found:
        pytest.skip("the masks are in the shared data")
    assert len(found) > 30
    brighter = [
        frame.grey[mask].mean() > frame.grey[np.roll(mask, frame.grey.shape[0] // 10, 0)].mean()
        for frame, mask in found
        if mask.any()
    ]
    assert np.mean(brighter) > 0.8


@pytest.mark.slow
def test_real_masks_are_segmented_by_every_arm(trained):
    if not masked_muscle():
        pytest.skip("the masks are in the shared data")
    assert set(real_mask_dice({"restyled": Styler.load(trained)}, 0)) == {"target", "raw", "restyled"}
