"""A results folder of nnU-Net v2 becomes a method: checked, converted to safetensors, declared in the catalogue.

Expected: `dataset.json`, `plans.json` and `fold_*/checkpoint_final.pth` (or `_best`), as training leaves them.
Checkpoints are read once, with `weights_only=True`; from then on no pickle is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgen.errors import BadInput
from medgen.exchange.nnunet_case import NORMALISATIONS
from medgen.exchange.nnunet_network import build_network, check_architecture
from medgen.imported import keep_model, method_id
from medgen.spec import Bool, Choice, Float, Image, Label, LabelMap, MethodSpec, Paper

PAPER = Paper(
    "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH", "Nature Methods", 2021, "10.1038/s41592-020-01008-z",
)  # fmt: skip
READERS = {"SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient"}
RESAMPLING = "resample_data_or_seg_to_shape"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
MAX_UNPACKED_RATIO = 4  # checkpoints are stored, not packed: more than that is a zip bomb
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInput(f"'{path.parent}' is no nnU-Net results folder: it has no {path.name}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' cannot be read as JSON.") from error
    if not isinstance(data, dict):
        raise BadInput(f"'{path}' does not hold what nnU-Net writes.")
    return data


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _allowed() -> list[Any]:
    """The few plain numpy types that nnU-Net's checkpoints hold beside tensors (metrics of the training)."""
    kinds = {type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "u1", "?")}
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]  # the second: as numpy 1 named it


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint's content; nothing in it is executed. Raises BadInput."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_UNPACKED_RATIO * path.stat().st_size + 2**20:
                raise BadInput(f"'{path.name}' would unpack to far more than its size: it is damaged or malicious.")
        with torch.serialization.safe_globals(_allowed()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except Exception as error:  # the unpickler raises many kinds for damaged files
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise BadInput(f"'{path.name}' holds more than weights and plain values, so it is not loaded.") from error
        raise BadInput(f"'{path.name}' cannot be read as a checkpoint: it is damaged.") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("network_weights"), dict):
        raise BadInput(f"'{path.name}' is no nnU-Net checkpoint: it has no network weights.")
    weights = checkpoint["network_weights"]
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()):
        raise BadInput(f"'{path.name}' is no nnU-Net checkpoint: its weights are not tensors.")
    return checkpoint


def _folds(folder: Path) -> dict[str, Path]:
    """{fold: checkpoint}."""
    found = {}
    for fold in sorted(folder.glob("fold_*")):
        files = [fold / name for name in CHECKPOINTS if (fold / name).is_file()]
        if files and re.fullmatch(r"fold_(\d+|all)", fold.name):
            found[fold.name[5:]] = files[0]
    if not found:
        raise BadInput(f"'{folder}' has no fold with a checkpoint (fold_0/{CHECKPOINTS[0]}).")
    return found


def _distinct(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One name for each tensor: nnU-Net's networks list the encoder's twice or more."""
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    for key, tensor in state.items():
        seen.setdefault((tensor.data_ptr(), tuple(tensor.shape)), key)
    return {key: state[key].contiguous() for key in seen.values()}


# ---------------------------------------------------------------------------------------------------------------- plans


def _configuration(plans: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration with what it inherits."""
    if name in seen or name not in plans["configurations"]:
        raise BadInput(f"The plan's configuration '{name}' is missing or inherits from itself.")
    own = dict(plans["configurations"][name])
    parent = own.get("inherits_from")
    return {**_configuration(plans, parent, (*seen, name)), **own} if parent else own


def _old_architecture(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What plans before nnU-Net 2.3 spread over several keys."""
    kind = configuration["UNet_class_name"]
    stages = len(configuration["n_conv_per_stage_encoder"])
    flat = len(configuration["patch_size"]) == 2
    first, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return {
        "network_class_name": kind,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(first * 2**i, most) for i in range(stages)],
            "conv_op": "Conv2d" if flat else "Conv3d",
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            ("n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"): configuration[
                "n_conv_per_stage_encoder"
            ],
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "InstanceNorm2d" if flat else "InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    }


def _rule(configuration: Mapping[str, Any], what: str) -> dict[str, Any]:
    name = configuration[f"resampling_fn_{what}"]
    if name != RESAMPLING:
        raise BadInput(f"This model resamples with '{name}', which MedGen does not know.")
    given = configuration[f"resampling_fn_{what}_kwargs"]
    return {
        "order": int(given.get("order", 3)),
        "order_z": int(given.get("order_z", 0)),
        "force_separate_z": given.get("force_separate_z"),
    }


def _stage(plans: Mapping[str, Any], name: str, channels: int) -> dict[str, Any]:
    configuration = _configuration(plans, name)
    architecture = configuration.get("architecture") or _old_architecture(configuration)
    patch = [int(n) for n in configuration["patch_size"]]
    check_architecture(architecture, patch)
    known = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality"
    )
    schemes = list(configuration["normalization_schemes"])
    unknown = sorted(set(schemes) - NORMALISATIONS)
    if unknown or len(schemes) != channels or configuration.get("preprocessor_name") != "DefaultPreprocessor":
        raise BadInput(
            f"This model prepares images in a way MedGen does not know ({', '.join(unknown) or 'own code'})."
        )
    spacing = [float(v) for v in configuration["spacing"]]
    if len(spacing) != len(patch) or not all(0 < v < 1000 for v in spacing):
        raise BadInput(f"The plan's spacing {spacing} cannot be used.")
    return {
        "configuration": name,
        "after_previous": bool(configuration.get("previous_stage")),
        "patch_size": patch,
        "spacing": spacing,
        "normalization": schemes,
        "use_mask_for_norm": [bool(v) for v in configuration["use_mask_for_norm"]],
        "intensity": [{k: float(v) for k, v in (known or {}).get(str(c), {}).items()} for c in range(channels)],
        "architecture": {k: architecture[k] for k in ("network_class_name", "arch_kwargs")},
        "resample_data": _rule(configuration, "data"),
        "resample_seg": _rule(configuration, "seg"),
        "resample_probabilities": _rule(configuration, "probabilities"),
    }


def _labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """names: {value: name}; regions: the value that each channel writes, empty for plain labels."""
    given = {name: value for name, value in dataset["labels"].items() if name != "ignore" and value != 0}
    plain = sorted({int(v) for value in given.values() for v in (value if isinstance(value, list) else [value])} - {0})
    if any(isinstance(value, list) and len(value) > 1 for value in given.values()):
        order = [int(v) for v in dataset["regions_class_order"]]
        if len(order) != len(given):
            raise BadInput("The dataset's regions and their order do not match.")
        return {"names": dict(zip(order, given, strict=True)), "regions": order, "foreground": plain}
    names = {int(value[0] if isinstance(value, list) else value): name for name, value in given.items()}
    if plain != list(range(1, len(plain) + 1)):
        raise BadInput("The dataset's labels are not numbered 1, 2, 3, ...")
    return {"names": names, "regions": [], "foreground": plain}


def _channels(dataset: Mapping[str, Any]) -> list[dict[str, str]]:
    given = dataset.get("channel_names") or dataset["modality"]
    titles = [str(given[key]) for key in sorted(given, key=int)]
    return [{"name": method_id("image", f"{n}_{t}"), "title": t} for n, t in enumerate(titles)]


def read_results_folder(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the tensors ('stage/fold/name') of a results folder. Raises BadInput with one sentence."""
    dataset, plans = _json(folder / "dataset.json"), _json(folder / "plans.json")
    try:
        return _read(folder, dataset, plans)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"The nnU-Net files in '{folder}' do not fit together: {what}.") from error


def _read(
    folder: Path, dataset: dict[str, Any], plans: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if plans.get("image_reader_writer") not in READERS:
        raise BadInput(
            f"This model reads images with '{plans.get('image_reader_writer')}', which MedGen does not know."
        )
    transpose = [int(a) for a in plans["transpose_forward"]]
    if sorted(transpose) != [0, 1, 2]:
        raise BadInput(f"The plan's order of axes {transpose} cannot be used.")
    labels, channels = _labels(dataset), _channels(dataset)
    model: dict[str, Any] = {
        "title": f"{plans.get('dataset_name', folder.parent.name)}",
        "channels": channels,
        "labels": [[value, name] for value, name in labels["names"].items()],
        "regions": labels["regions"],
        "foreground": labels["foreground"],
        "heads": len(labels["regions"]) or len(labels["foreground"]) + 1,
        "transpose": transpose,
        "reader": plans["image_reader_writer"],
        "stages": [],
    }
    tensors: dict[str, torch.Tensor] = {}
    for place in _stage_folders(folder, plans):
        _add_stage(model, tensors, place, plans)
    return model, tensors


def _stage_folders(folder: Path, plans: Mapping[str, Any]) -> list[Path]:
    """The folder, after those of the stages that a cascade needs first (beside it, as nnU-Net puts them)."""
    name = folder.resolve().name.rsplit("__", 1)[-1]
    previous = _configuration(plans, name).get("previous_stage") if name in plans["configurations"] else None
    if not previous:
        return [folder]
    before = folder.resolve().with_name(folder.resolve().name.rsplit("__", 1)[0] + f"__{previous}")
    if not before.is_dir():
        raise BadInput(f"This cascade needs the results folder of '{previous}' beside it ('{before.name}').")
    return [before, folder]


def _add_stage(model: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path, plans: Mapping[str, Any]) -> None:
    number, folds = len(model["stages"]), _folds(folder)
    for fold, path in folds.items():
        checkpoint = load_checkpoint(path)
        if number == len(model["stages"]):
            name = str(checkpoint["init_args"]["configuration"])
            stage = _stage(plans, name, len(model["channels"]))
            axes = checkpoint.get("inference_allowed_mirroring_axes")
            stage["mirror_axes"] = sorted({int(a) for a in axes or ()} & set(range(len(stage["patch_size"]))))
            stage["folds"] = list(folds)
            model["stages"].append(stage)
        state = _distinct(checkpoint["network_weights"])
        build_network(model, model["stages"][number], state)  # refuses what does not fit
        tensors.update({f"{number}/{fold}/{key}": tensor for key, tensor in state.items()})


# --------------------------------------------------------------------------------------------------------------- import


def _spec(identity: str, model: Mapping[str, Any]) -> MethodSpec:
    last = model["stages"][-1]
    folds = {"all": "All, averaged", **{fold: f"Fold {fold}" for fold in last["folds"]}}
    names = "; ".join(name for _, name in model["labels"])
    return MethodSpec(
        id=identity,
        title=f"{model['title']} ({last['configuration']}, nnU-Net)",
        summary=f"Segments {names[:150]}.",
        family="segmentation",
        paper=PAPER,
        intended_use="A model that you imported: only for what its makers say it is for.",
        run="medgen.exchange.nnunet:run",
        inputs=tuple(
            Image(channel["name"], channel["title"], modality=_modality(channel["title"])) for channel in
            model["channels"]
        ),
        outputs=(
            LabelMap(
                "segmentation", "Segmentation",
                labels=tuple(Label(v, n, COLOURS[i % len(COLOURS)]) for i, (v, n) in enumerate(model["labels"])),
            ),
        ),
        parameters=(
            Choice("fold", "Fold", "all", "Which of the trained networks.", options=folds),
            Bool("mirroring", "Mirroring", True, "Averages over mirror images: better, and several times slower."),
            Float("overlap", "Overlap", 0.5, "Part of a window that the next one shares.", advanced=True, minimum=0.0,
                  maximum=0.9, step=0.1),
        ),
        warnings=("Imported from elsewhere: MedGen has not checked how well it works.",),
        modalities=tuple(sorted({_modality(channel["title"]) for channel in model["channels"]} - {"any"})),
        weights=("model.safetensors",),
        licence="as its makers say",
    )  # fmt: skip


def _modality(title: str) -> str:
    upper = title.upper()
    if "CT" in re.split(r"[^A-Z]+", upper):
        return "CT"
    return "MR" if any(word in upper for word in ("MR", "T1", "T2", "FLAIR", "DWI", "ADC")) else "any"


def _digest(model: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Tells models of the same name apart."""
    digest = hashlib.sha256(json.dumps(model).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:6]


def import_nnunet(folder: Path) -> MethodSpec:
    """Reads, checks, converts and declares; another model of the same name becomes another method.

    Raises BadInput for a folder that cannot be used, MedGenError where the data folder takes no files.
    """
    from safetensors.torch import save_file

    model, tensors = read_results_folder(folder)
    name = f"{model['title']}_{model['stages'][-1]['configuration']}"
    spec = _spec(method_id("nnunet", name, _digest(model, tensors)), model)
    keep_model(
        spec,
        lambda path: save_file(tensors, path, metadata={"medgen.nnunet": json.dumps(model)}),
        model["title"],
        f"imported from the nnU-Net results folder '{folder.resolve().name}'",
    )
    return spec
