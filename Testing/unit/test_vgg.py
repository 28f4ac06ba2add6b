"""The VGG16 trunk: the user's own file gives the user's own features, and nothing else is accepted."""

import hashlib
import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medgen.errors import BadInput
from medgen.nets import vgg


@pytest.fixture(scope="module")
def state():
    """A VGG16 as torchvision names it, with weights of our own."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    shapes = zip((3, *vgg.CHANNELS), vgg.CHANNELS, vgg.TORCHVISION, strict=False)
    for inputs, outputs, number in shapes:
        made[f"features.{number}.weight"] = torch.randn((outputs, inputs, 3, 3), generator=generator) / inputs**0.5 / 3
        made[f"features.{number}.bias"] = torch.randn(outputs, generator=generator) / 10
    return made


@pytest.fixture(autouse=True)
def no_trunk_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv(vgg.ENVIRONMENT, raising=False)
    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path / "data"))


def first_features(state, images):
    mean, std = torch.tensor(vgg.TORCH_MEAN).view(1, 3, 1, 1), torch.tensor(vgg.TORCH_STD).view(1, 3, 1, 1)
    whole = (images.expand(-1, 3, -1, -1) - mean) / std
    return F.relu(F.conv2d(whole, state["features.0.weight"], state["features.0.bias"], padding=1))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_users_file_gives_its_features_and_its_hash(state, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    network = vgg.load_vgg(path)
    images = torch.rand(2, 1, 32, 48)
    found = network(images)
    assert [tuple(f.shape[1:]) for f in found] == [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3)]
    torch.testing.assert_close(found[0], first_features(state, images), rtol=1e-4, atol=1e-4)
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in network.parameters())


def test_file_in_the_users_folder_is_found(state, tmp_path):
    (tmp_path / "data").mkdir()
    save_file(state, tmp_path / "data" / "vgg16.safetensors")
    assert vgg.load_vgg().source == "vgg16.safetensors"


def test_keras_file_is_turned_to_red_green_blue(state, tmp_path):
    h5py = pytest.importorskip("h5py")
    path, number = tmp_path / "keras.h5", iter(vgg.TORCHVISION)
    with h5py.File(path, "w") as file:
        for block, widths in enumerate(vgg.BLOCKS, start=1):
            for place in range(len(widths)):
                n, group = next(number), f"block{block}_conv{place + 1}/inner"
                file[f"{group}/kernel"] = state[f"features.{n}.weight"].permute(2, 3, 1, 0).numpy()
                file[f"{group}/bias"] = state[f"features.{n}.bias"].numpy()
    colour = torch.rand(1, 3, 16, 16)
    bgr = colour.flip(1) * 255 - torch.tensor(vgg.CAFFE_MEAN).flip(0).view(1, 3, 1, 1)
    expected = F.relu(F.conv2d(bgr, state["features.0.weight"], state["features.0.bias"], padding=1))
    torch.testing.assert_close(vgg.load_vgg(path)(colour)[0], expected, rtol=1e-4, atol=1e-2)


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_pickle_that_runs_code_is_refused(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state, "harm": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(BadInput, match="cannot be read"):
        vgg.load_vgg(tmp_path / "bad.pth")
    assert not (tmp_path / "harmed").exists()


def test_what_is_no_vgg16_is_refused(state, tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    save_file({**state, "features.0.weight": torch.ones(64, 1, 3, 3)}, tmp_path / "grey.safetensors")
    (tmp_path / "text.h5").write_text("words")
    for name in ("other.safetensors", "grey.safetensors", "text.h5", "missing.pth"):
        with pytest.raises(BadInput):
            vgg.load_vgg(tmp_path / name)


def test_without_a_file_the_features_are_random_but_always_the_same(monkeypatch):
    monkeypatch.setattr(vgg, "find_trunk", lambda: None)
    images = torch.rand(1, 1, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(vgg.load_vgg()(images), vgg.load_vgg()(images), strict=True))
    assert "random" in vgg.load_vgg().source


def test_gram_is_the_mean_product_of_two_features():
    features = torch.rand(2, 5, 7, 3)
    product = (features[1, 2] * features[1, 4]).sum() / (5 * 7 * 3)
    torch.testing.assert_close(vgg.gram(features)[1, 2, 4], product)
