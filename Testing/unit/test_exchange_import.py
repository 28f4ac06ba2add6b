"""Other people's models become methods; damaged and malicious ones get one sentence and run nothing."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medgen.benchmarks.monai_parity import case, make_bundle
from medgen.benchmarks.nnunet_models import dataset, phantom, plans
from medgen.catalogue import find_method, load_catalogue, load_run
from medgen.errors import BadInput
from medgen.exchange.monai_import import import_monai, pack, read_bundle
from medgen.exchange.nnunet_case import prepare, to_labels
from medgen.exchange.nnunet_import import import_nnunet, read_results_folder
from medgen.exchange.nnunet_network import NnUnet, build_network
from medgen.imported import method_id
from medgen.method import Context
from medgen.spec import MethodSpec
from medgen.weights import checked_weights


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGEN_DATA", str(tmp_path / "data"))
    torch.set_num_threads(1)
    return tmp_path / "data"


def with_further_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """nnU-Net's own modules give the same tensors several names, all of which its checkpoints hold."""
    listed = {k.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1."): v for k, v in state.items()}
    again = {f"decoder.{k}": v for k, v in (state | listed).items() if k.startswith("encoder.")}
    return {**state, **listed, **again}


def results_folder(
    root: Path,
    configuration: str = "3d_lowres",
    *,
    channels: int = 1,
    regions: bool = False,
    folds: int = 1,
    norm: str = "InstanceNorm3d",
) -> Path:
    """As nnU-Net's training leaves it, with untrained weights; made without nnU-Net."""
    plan = plans(channels)
    chosen = {**plan["configurations"]["3d_fullres"], **plan["configurations"][configuration]}
    architecture = chosen["architecture"]
    if norm == "BatchNorm3d":
        architecture["arch_kwargs"]["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm3d"
    inputs = channels + (3 if chosen.get("previous_stage") else 0)
    folder = root / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    for fold in range(folds):
        torch.manual_seed(fold)
        kind = architecture["network_class_name"].rsplit(".", 1)[-1]
        network = NnUnet(kind, inputs, 3 if regions else 4, **architecture["arch_kwargs"])
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": with_further_names(network.state_dict()),
            "logging": {"ema": [np.float64(0.5), np.float32(0.25)]},
            "_best_ema": np.float64(0.5),
            "init_args": {"configuration": configuration, "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2)[: len(chosen["patch_size"])],
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(json.dumps(dataset(channels, regions)))
    return folder


def images(channels: int = 1) -> list[sitk.Image]:
    made = []
    for array in phantom((20, 44, 40), channels):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.3, 1.1, 3.0))
        image.SetOrigin((-10.0, 5.0, 7.0))
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
        made.append(image)
    return made


def segment(spec: MethodSpec, inputs: list[sitk.Image], **parameters: Any) -> sitk.Image:
    context = Context(weights=checked_weights(spec.id, spec.weights[0])[0])
    named = {port.name: image for port, image in zip(spec.inputs, inputs, strict=True)}
    return load_run(spec)(named, spec.check_parameters(parameters), context)["segmentation"]


# -------------------------------------------------------------------------------------------------------------- nnU-Net


@pytest.mark.parametrize(
    ("configuration", "options"),
    [("2d", {}), ("3d_lowres", {"regions": True}), ("3d_thick", {"channels": 2, "folds": 2})],
)
def test_a_results_folder_is_a_method(configuration: str, options: dict[str, Any], tmp_path: Path) -> None:
    spec = import_nnunet(results_folder(tmp_path, configuration, **options))
    assert find_method(spec.id) == spec
    assert [label.value for label in spec.outputs[0].labels] == [1, 2, 3]
    inputs = images(options.get("channels", 1))
    result = segment(spec, inputs)
    assert result.GetSize() == inputs[0].GetSize() and result.GetDirection() == inputs[0].GetDirection()
    assert len(np.unique(sitk.GetArrayViewFromImage(result))) > 1
    once = segment(spec, inputs, fold="0", mirroring=False)
    assert (sitk.GetArrayFromImage(once) != sitk.GetArrayFromImage(result)).any()


def test_channels_that_lie_elsewhere_are_not_stacked(tmp_path: Path) -> None:
    spec = import_nnunet(results_folder(tmp_path, channels=2))
    first, second = images(2)
    second.SetOrigin([value + 0.01 for value in first.GetOrigin()])  # as headers are rounded
    segment(spec, [first, second], mirroring=False)
    second.SetOrigin([value + 20 for value in first.GetOrigin()])
    with pytest.raises(BadInput, match="on one grid"):
        segment(spec, [first, second])


def test_a_model_with_batch_normalisation_is_imported(tmp_path: Path) -> None:
    """Its state counts batches in a tensor without axes."""
    spec = import_nnunet(results_folder(tmp_path, norm="BatchNorm3d"))
    assert segment(spec, images(), mirroring=False).GetSize() == images()[0].GetSize()


def test_another_model_of_the_same_name_replaces_nothing(tmp_path: Path) -> None:
    folder = results_folder(tmp_path / "first")
    first = import_nnunet(folder)
    assert import_nnunet(folder) == first
    other = import_nnunet(results_folder(tmp_path / "other", channels=2))
    assert other.title == first.title and other.id != first.id
    assert find_method(first.id) == first
    assert method_id("nnunet", "Long " * 30, "one") != method_id("nnunet", "Long " * 30, "two")


PLAIN_NAMES = {
    "encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.1.0.convs.1.norm.bias", "decoder.transpconvs.0.weight",
    "decoder.stages.0.convs.0.conv.weight", "decoder.stages.0.convs.0.norm.weight", "decoder.seg_layers.0.bias",
}  # fmt: skip
RESIDUAL_NAMES = {
    "encoder.stem.convs.0.conv.weight", "encoder.stages.0.blocks.0.conv1.conv.weight",
    "encoder.stages.1.blocks.0.skip.1.conv.weight", "encoder.stages.1.blocks.0.skip.1.norm.weight",
    "encoder.stages.1.blocks.1.conv2.norm.bias", "decoder.stages.0.convs.0.conv.bias",
}  # fmt: skip


def network_arguments(kind: str) -> dict[str, Any]:
    """As a plan has them: two stages, an uneven first kernel and stride."""
    return {
        "n_stages": 2,
        "features_per_stage": [4, 6],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": [1, 2],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


@pytest.mark.parametrize(("kind", "names"), [("PlainConvUNet", PLAIN_NAMES), ("ResidualEncoderUNet", RESIDUAL_NAMES)])
def test_tensors_are_called_as_in_checkpoints(kind: str, names: set[str]) -> None:
    assert names <= set(NnUnet(kind, 1, 3, **network_arguments(kind)).state_dict())


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_networks_are_nnunets_own_bit_for_bit(kind: str) -> None:
    theirs = pytest.importorskip("dynamic_network_architectures.architectures.unet")  # comes with the extra `parity`
    plan = network_arguments(kind)
    layers = {key: getattr(torch.nn, plan[key].rsplit(".", 1)[-1]) for key in ("conv_op", "norm_op", "nonlin")}
    torch.manual_seed(0)
    expected = getattr(theirs, kind)(input_channels=1, num_classes=3, **{**plan, **layers}).eval()
    stage = {"after_previous": False, "architecture": {"network_class_name": kind, "arch_kwargs": plan}}
    state = {name: tensor for name, tensor in expected.state_dict().items() if "all_modules" not in name}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.encoder.")}
    made = build_network({"channels": [{}], "heads": 3}, stage, state).eval()
    window = torch.randn(1, 1, 4, 16, 16)
    with torch.inference_mode():
        assert torch.equal(made(window), expected(window))


def test_a_network_with_an_option_we_do_not_know_is_refused() -> None:
    plan = {**network_arguments("PlainConvUNet"), "nonlin_first": True}
    stage = {"after_previous": False, "architecture": {"network_class_name": "PlainConvUNet", "arch_kwargs": plan}}
    with pytest.raises(BadInput, match="do not fit its plan"):
        build_network({"channels": [{}], "heads": 3}, stage, {})


def test_a_cascade_brings_its_first_stage(tmp_path: Path) -> None:
    folder = results_folder(tmp_path, "3d_cascade_fullres")
    with pytest.raises(BadInput, match="needs the results folder of '3d_lowres'"):
        import_nnunet(folder)
    results_folder(tmp_path, "3d_lowres")
    spec = import_nnunet(folder)
    assert sitk.GetArrayViewFromImage(segment(spec, images(), mirroring=False)).any()


def test_labels_come_back_to_where_they_were() -> None:
    """Perfect scores on the network's grid give the object back, cropped and transposed on the way."""
    z, y, x = np.indices((24, 50, 44))
    ball = 100 - 2 * np.hypot(np.hypot((z - 12) * 2, (y - 26) * 1.1), (x - 21) * 1.3)  # 60 lies 20 mm from the middle
    array = np.where((z > 2) & (y > 4), ball, 0).astype(np.float32)[np.newaxis]
    stage = {**plans(1)["configurations"]["3d_lowres"], "use_mask_for_norm": [False], "normalization":
    ["NoNormalization"],
             "intensity": [{}]}  # fmt: skip
    for what in ("data", "seg", "probabilities"):
        stage[f"resample_{what}"] = stage[f"resampling_fn_{what}_kwargs"]
    prepared = prepare(array, (2.0, 1.1, 1.3), stage, (2, 0, 1))
    scores = np.stack([60 - prepared.data[0], prepared.data[0] - 60]).astype(np.float16)
    labels = to_labels(scores, prepared, stage, (2, 0, 1), ())
    truth = array[0] > 60
    assert labels.shape == truth.shape
    assert 2 * (truth & (labels == 1)).sum() / (truth.sum() + (labels == 1).sum()) > 0.97


class Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (os.environ["MEDGEN_DATA"] + "-owned",)


def damage(folder: Path, how: str) -> None:
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    plan = json.loads((folder / "plans.json").read_text())
    chosen = plan["configurations"]["3d_lowres"]
    other = {"network_weights": {"a": torch.zeros(2)}, "init_args": {"configuration": "3d_lowres"}}
    ways: dict[str, Callable[[], Any]] = {
        "pickle": lambda: torch.save({"network_weights": {}, "x": Payload()}, checkpoint),
        "bare pickle": lambda: checkpoint.write_bytes(pickle.dumps(Payload(), 2)),
        "cut": lambda: checkpoint.write_bytes(checkpoint.read_bytes()[:2000]),
        "no weights": lambda: torch.save({"something": 1}, checkpoint),
        "no fold": checkpoint.unlink,
        "other weights": lambda: torch.save(other, checkpoint),
        "absurd patch": lambda: chosen.update(patch_size=[100000] * 3),
        "absurd features": lambda: chosen["architecture"]["arch_kwargs"].update(features_per_stage=[10**9] * 3),
        "own code": lambda: chosen["architecture"]["arch_kwargs"].update(nonlin="os.system"),
        "unknown network": lambda: chosen["architecture"].update(network_class_name="evil.Network"),
        "missing key": lambda: chosen.pop("spacing"),
        "no plan": plan.clear,
    }
    ways[how]()
    (folder / "plans.json").write_text(json.dumps(plan or []))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [("pickle", "more than weights"), ("bare pickle", "more than weights"), ("cut", "damaged"),
     ("no weights", "no network weights"), ("no fold", "no fold"), ("other weights", "do not fit"),
     ("absurd patch", "absurd size"), ("absurd features", "absurd size"), ("own code", "does not know"),
     ("unknown network", "not one MedGen knows"), ("missing key", "'spacing' is missing"),
     ("no plan", "does not hold what nnU-Net writes")],
)  # fmt: skip
def test_bad_results_folders_get_one_sentence(how: str, sentence: str, tmp_path: Path, data_folder: Path) -> None:
    folder = results_folder(tmp_path)
    damage(folder, how)
    with pytest.raises(BadInput, match=sentence):
        read_results_folder(folder)
    assert not Path(f"{data_folder}-owned").exists()


def test_a_damaged_declaration_does_not_hide_the_others(tmp_path: Path, data_folder: Path) -> None:
    spec = import_nnunet(results_folder(tmp_path))
    (data_folder / "imported" / "broken.json").write_text("{")
    changed = json.loads((data_folder / "imported" / f"{spec.id}.json").read_text())
    (data_folder / "imported" / "evil.json").write_text(json.dumps({**changed, "id": "evil", "run": "os:system"}))
    catalogue = load_catalogue()
    assert spec.id in catalogue and "evil" not in catalogue


# ---------------------------------------------------------------------------------------------------------------- MONAI


def hash_of(bundle: Path) -> str:
    with pytest.raises(BadInput) as refused:
        import_monai(bundle, None)
    return str(refused.value).rsplit(" ", 1)[-1]


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, f"toy/{file.relative_to(folder)}")
    return path


def test_a_bundle_runs_only_after_consent_to_its_hash(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "toy", "UNet")
    inference = json.loads((bundle / "configs" / "inference.json").read_text())
    inner = inference["postprocessing"]  # it saves what it made: no patient's image may reach the disk
    inference["postprocessing"] = {"_target_": "Compose", "transforms": [inner]}
    (bundle / "configs" / "inference.json").write_text(json.dumps(inference))
    digest = hash_of(bundle)
    assert not data_folder.exists()
    assert hash_of(zipped(bundle, tmp_path / "toy.zip")) == digest  # the same bundle, folder or zip
    with pytest.raises(BadInput, match="runs code of its makers"):
        import_monai(bundle, "0" * 64)
    spec = import_monai(tmp_path / "toy.zip", digest)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    method, held = load_run(spec), Context(weights=checked_weights(spec.id, "bundle.zip")[0])  # as a worker holds it
    result = method({spec.inputs[0].name: case()}, {}, held)["segmentation"]
    assert held.cache and not list((tmp_path / "scratch").iterdir())  # a worker is killed: nothing tidies up after it
    assert result.GetSize() == case().GetSize() and result.GetDirection() == case().GetDirection()
    assert len(np.unique(sitk.GetArrayViewFromImage(result))) > 1
    kept = data_folder / "Weights" / spec.id / "bundle.zip"
    kept.write_bytes(kept.read_bytes() + b"x")
    with pytest.raises(BadInput, match="SHA-256"):
        checked_weights(spec.id, "bundle.zip")


@pytest.mark.parametrize("name", ["../outside.txt", "/absolute.txt", "toy/../../up.txt", "C:\\evil.txt"])
def test_a_zip_that_leads_out_is_not_opened(name: str, tmp_path: Path) -> None:
    path = zipped(make_bundle(tmp_path / "toy", "UNet"), tmp_path / "toy.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(BadInput, match="outside of itself"):
        read_bundle(path)


def test_a_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("configs/metadata.json", b"0" * 50_000_000)
    with pytest.raises(BadInput, match="unpack to far more"):
        read_bundle(tmp_path / "bomb.zip")


def test_packing_gives_the_same_bytes_for_the_same_content() -> None:
    assert pack({"a": b"1", "b": b"2"}) == pack({"b": b"2", "a": b"1"})
