"""An imported MONAI bundle as a method: its own transforms, network and inferer, on images in memory.

The bundle's configuration is run as it is, but images come from memory instead of files, nothing is saved, and weights
are loaded as plain tensors. `context.weights` is the zip that the user agreed to; its hash was checked just before.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from medgen.errors import BadInput, MedGenError
from medgen.exchange.grid import refuse_other_grids
from medgen.method import Context

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(image: sitk.Image) -> np.ndarray:
    """4x4: voxel indices i, j, k to RAS mm, as MONAI's readers give it."""
    made = np.eye(4)
    made[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    made[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ made


def _memory_reader(images: dict[str, sitk.Image]) -> Any:
    """A reader for MONAI's LoadImage that takes images by name."""
    from monai.data import ImageReader
    from monai.utils import MetaKeys, SpaceKeys

    class MemoryReader(ImageReader):
        def verify_suffix(self, filename: Any) -> bool:
            return True

        def read(self, data: Any, **_: Any) -> list[sitk.Image]:
            names = data if isinstance(data, (list, tuple)) else [data]
            return [images[str(name)] for name in names]

        def get_data(self, img: list[sitk.Image]) -> tuple[np.ndarray, dict[Any, Any]]:
            # MONAI orders axes i, j, k and puts several files along a first axis of channels
            arrays = [sitk.GetArrayFromImage(image).T for image in img]
            meta: dict[Any, Any] = {
                MetaKeys.AFFINE: affine_of(img[0]),
                MetaKeys.ORIGINAL_AFFINE: affine_of(img[0]),
                MetaKeys.SPATIAL_SHAPE: np.array(img[0].GetSize()),
                MetaKeys.SPACE: SpaceKeys.RAS,
                MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if len(arrays) > 1 else float("nan"),
            }
            return np.stack(arrays) if len(arrays) > 1 else arrays[0], meta

    return MemoryReader()


class Bundle:
    """A bundle's configuration parsed and its network loaded for one device. The unpacked files are gone by then: a
    worker ends by being killed, and would leave a copy of the model on the disk every time."""

    def __init__(self, archive: Path, device: str) -> None:
        with tempfile.TemporaryDirectory(prefix="medgen-bundle-") as folder, zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
            self._parse(Path(folder), device)

    def _parse(self, root: Path, device: str) -> None:
        from monai.bundle import ConfigParser

        metadata = json.loads((root / "configs" / "metadata.json").read_text("utf-8"))
        self.key = next(iter(metadata["network_data_format"]["inputs"]))
        self.has_background = "background" in {
            str(name).lower()
            for port in metadata["network_data_format"]["outputs"].values()
            for name in (port.get("channel_def") or {}).values()
        }
        self.parser = ConfigParser()
        self.parser.read_config(str(root / "configs" / "inference.json"))
        self.parser.read_meta(str(root / "configs" / "metadata.json"))
        self.parser["bundle_root"] = str(root)
        self.parser["device"] = torch.device(device)
        self.network = self._load_network(root, device)
        self.inferer = self.parser.get_parsed_content("inferer")
        self.before = self.parser.get_parsed_content("preprocessing")
        self.after = self.parser.get_parsed_content("postprocessing")

    def _load_network(self, root: Path, device: str) -> torch.nn.Module:
        weights = root / "models" / "model.pt"
        if not weights.exists():
            return torch.jit.load(str(root / "models" / "model.ts"), map_location=device).eval()
        name = "network_def" if self.parser.get("network_def") is not None else "network"
        network = self.parser.get_parsed_content(name)
        state = torch.load(weights, map_location=device, weights_only=True)
        for wrapped in ("model", "state_dict"):
            state = state.get(wrapped, state) if isinstance(state, dict) else state
        network.load_state_dict(state)
        return network.to(device).eval()

    def predict(self, images: dict[str, sitk.Image], context: Context) -> Any:
        """The prediction after the bundle's own post-processing: a MetaTensor [channels, i, j, k]."""
        from monai.inferers import SlidingWindowInferer
        from monai.transforms import LoadImaged, SaveImaged

        for step in self.before.flatten().transforms:  # what a bundle nests counts too
            if isinstance(step, LoadImaged):
                step._loader.readers, step._loader.auto_select = [_memory_reader(images)], False
        after = self.after.flatten()
        after.transforms = tuple(step for step in after.transforms if not isinstance(step, SaveImaged))
        names = list(images)
        data = self.before({self.key: names if len(names) > 1 else names[0]})
        context.progress.report("Segmenting", 0.2)
        context.progress.raise_if_cancelled()
        with torch.no_grad():
            device = context.device
            network = (
                _cancellable(self.network, context) if isinstance(self.inferer, SlidingWindowInferer) else self.network
            )
            data["pred"] = self.inferer(data[self.key][None].to(device), network)[0]
        context.progress.report("Placing the result on the input's grid", 0.9)
        return after(data)["pred"]


def _cancellable(network: torch.nn.Module, context: Context) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        context.progress.raise_if_cancelled()
        return network(*arguments, **options)

    return call


def _labels(prediction: np.ndarray, has_background: bool) -> np.ndarray:
    """[channels, i, j, k] to one label map. One channel holds labels; several with a background exclude each other;
    else each writes its number where it is over a half, in order (nested regions)."""
    if len(prediction) == 1:
        return np.rint(prediction[0])
    if has_background:
        return prediction.argmax(0)
    made = np.zeros(prediction.shape[1:])
    for number, channel in enumerate(prediction):
        made[channel > 0.5] = number + 1
    return made


def run(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    """The method that `MethodSpec.run` of an imported bundle names. Output: 'segmentation'."""
    archive = context.weights
    assert archive is not None
    refuse_other_grids(list(inputs.values()))
    context.progress.report("Preparing", 0.0)
    try:
        bundle = context.cached(("monai", str(archive), context.device), lambda: Bundle(archive, context.device))
        prediction = bundle.predict(dict(inputs), context)
    except (KeyError, ValueError, TypeError, AttributeError, ImportError, OSError) as error:
        raise MedGenError(f"The bundle's configuration does not run here: {str(error)[:300]}") from error
    first: sitk.Image = next(iter(inputs.values()))
    made = sitk.GetImageFromArray(_labels(np.asarray(prediction), bundle.has_background).T.astype(np.uint8))
    affine = LPS_TO_RAS @ np.asarray(getattr(prediction, "affine", affine_of(first)), float)
    same_place = np.allclose(LPS_TO_RAS @ affine, affine_of(first), atol=1e-3)
    if made.GetSize() == first.GetSize() and same_place:
        made.CopyInformation(first)
        return {"segmentation": made}
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not spacing.all():
        raise BadInput("The bundle's result has no place in the patient.")
    made.SetSpacing(spacing.tolist())
    made.SetOrigin(affine[:3, 3].tolist())
    made.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return {"segmentation": sitk.Resample(made, first, sitk.Transform(), sitk.sitkNearestNeighbor, 0)}
