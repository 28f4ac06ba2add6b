"""B-mode frames to train and measure on: public ones of the shared data and of the pydicom package, and simulated ones.

The rule of the split: a group is what may share a person, and a group is either learnt from or tested on as a whole.
A group is a subject (TimTrack), a recording (carotid, pydicom), a machine's screen layout (DL_Track, which names no
subjects), or, where nothing tells the persons apart, the whole source (fetal, breast). `TEST_GROUPS` are never learnt
from; three of its machines (fetal heads, SonoSite, the trapezoid layout of DL_Track) are in no training frame at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from medgen.imaging.phantoms.bmode import image_scene, random_machine, random_scene
from medgen.imaging.ultrasound import bounding_box, fan_mask, grey_frame
from medgen.shared_data import shared_folder

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """folder: in the shared data; machine: as far as its authors tell."""

    folder: str
    title: str
    licence: str
    machine: str


SOURCES = {
    "timtrack": Source("us_muscle_timtrack", "TimTrack muscle, van der Zee and Kuo", "CC0-1.0", "GE LOGIQ E9 (cine)"),
    "dltrack": Source("us_muscle_dltrack", "DL_Track muscle, Ritsche, Cronin et al.", "Apache-2.0", "Telemed, others"),
    "carotid": Source(
        "us_carotid_ccaus", "Common Carotid Artery Ultrasound Images, Momot", "CC BY 4.0", "Mindray UMT-500Plus"
    ),
    "fetal": Source("us_fetal_hc18", "HC18 fetal heads, van den Heuvel et al.", "CC BY 4.0", "GE Voluson E8 or 730"),
    "breast": Source("us_breast_bus_uc", "BUS-UC breast lesions, Iqbal et al.", "CC BY 4.0", "several"),
    "pydicom": Source("", "Test files of the pydicom package", "MIT", "SonoSite Turbo, Philips CX50"),
}
TEST_GROUPS = frozenset(
    {"timtrack S5", "timtrack S10", "dltrack 512x384", "dltrack 512x285", "carotid 202201121819140033VAS", "fetal"}
    | {"pydicom SonoSite cine", "pydicom Philips still"}
)
# rows and columns of the picture in screens whose furniture is grey or keeps texture
SCREENS = {
    "timtrack range-of-motion": (slice(60, 520), slice(111, 688)),
    "dltrack 512x431": (slice(33, 428), slice(96, 436)),
    "dltrack 512x285": (slice(18, 282), slice(99, 413)),
}
PYDICOM_FILES = {"pydicom SonoSite cine": "examples_ybr_color.dcm", "pydicom Philips still": "examples_palette.dcm"}


@dataclass(frozen=True)
class UltrasoundFrame:
    """grey: float32 [h, w], 0 to 1, cropped to the fan; inside: bool [h, w], the fan; source: key of SOURCES, or
    'simulated'; group: what it may share a person with."""

    grey: Array
    inside: Array
    source: str
    group: str
    name: str


def attribution(sources: Sequence[str] = tuple(SOURCES)) -> str:
    """Credit and licence of each source, for the card of weights trained on them."""
    return "; ".join(f"{SOURCES[s].title} ({SOURCES[s].licence})" for s in sources)


def cropped_frame(grey: Array, source: str, group: str, name: str) -> UltrasoundFrame | None:
    """The fan of a whole screen; None if none is found or it is smaller than 48 pixels."""
    inside = fan_mask(grey)
    if not inside.any():
        return None
    box = bounding_box(inside)
    if min(inside[box].shape) < 48:
        return None
    return UltrasoundFrame(np.ascontiguousarray(grey[box]), inside[box].copy(), source, group, name)


@lru_cache(maxsize=2)
def real_frames(split: Literal["train", "test"]) -> tuple[UltrasoundFrame, ...]:
    """All frames of the split, in a fixed order; takes some seconds, once. Without the shared data only those of the
    pydicom package."""
    found = []
    for source, group, name, grey in [*_shared_images(split), *_pydicom_images(split)]:
        frame = cropped_frame(grey, source, group, name)
        found += [frame] if frame is not None else []
    return tuple(found)


def _wanted(group: str, split: str) -> bool:
    return (group in TEST_GROUPS) == (split == "test")


def _shared_images(split: str) -> list[tuple[str, str, str, Array]]:
    from PIL import Image

    folder = shared_folder()
    found: list[tuple[str, str, str, Array]] = []
    if folder is None:
        return []
    for source, facts in SOURCES.items():
        if not facts.folder:
            continue
        for path in sorted((folder / facts.folder).rglob("*.png")):
            if path.parent.name.endswith("masks"):
                continue
            with Image.open(path) as picture:
                group = _group(source, path, picture.size)
                if _wanted(group, split):
                    grey = np.asarray(picture.convert("L"), np.float32) / 255
                    name = path.relative_to(folder / facts.folder).as_posix()
                    found.append((source, group, name, grey[SCREENS.get(group, ())]))
    return found


def _group(source: str, path: Path, size: tuple[int, int]) -> str:
    if source == "timtrack":
        return "timtrack " + path.parent.name.split("_")[1]
    if source == "carotid":
        return "carotid " + path.name.split("_")[0]
    if source == "dltrack":
        return "dltrack {}x{}".format(*size)
    return source


def _pydicom_images(split: str) -> list[tuple[str, str, str, Array]]:
    return [
        ("pydicom", group, f"{file} frame {number}", grey_frame(image))
        for group, file in PYDICOM_FILES.items()
        if _wanted(group, split)
        for number, image in enumerate(pydicom_example(file))
    ]


def pydicom_example(file: str) -> list[sitk.Image]:
    """The frames of an ultrasound file that the pydicom package carries, as red, green, blue."""
    import pydicom
    from pydicom.pixels import apply_color_lut

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these files are examples of odd headers
        data = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / file)
        values = data.pixel_array
        if "PALETTE" in data.PhotometricInterpretation:
            values = apply_color_lut(values, data)
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8)
    frames = values if values.ndim == 4 else values[None]
    return [sitk.GetImageFromArray(frame, isVector=True) for frame in frames]


def masked_muscle() -> list[tuple[UltrasoundFrame, Array]]:
    """DL_Track's frames with the masks of their aponeuroses (bool, as large as the frame), of all layouts and splits;
    empty without the shared data."""
    from PIL import Image

    folder = shared_folder()
    if folder is None:
        return []
    found = []
    for path in sorted((folder / SOURCES["dltrack"].folder / "apo_images").glob("*.png")):
        with Image.open(path) as picture, Image.open(path.parents[1] / "apo_masks" / path.name) as drawn:
            group = _group("dltrack", path, picture.size)
            grey: Array = np.asarray(picture.convert("L"), np.float32) / 255
            mask: Array = np.asarray(drawn.convert("L")) > 127
        grey, mask = (part[SCREENS.get(group, ())] for part in (grey, mask))
        frame = cropped_frame(grey, "dltrack", group, path.name)
        if frame is not None:
            found.append((frame, mask[bounding_box(fan_mask(grey))]))
    return found


def simulated_frame(rng: np.random.Generator, needle: bool | None = None, size: int = 256) -> UltrasoundFrame:
    """A fresh scene through a fresh machine; needle as in `random_scene`."""
    machine = random_machine(rng)
    frame = image_scene(random_scene(rng, machine.depth_mm, needle), machine, rng, (size, size))
    return UltrasoundFrame(frame.image, frame.inside, "simulated", "simulated", "")


def random_patch(
    frames: Sequence[UltrasoundFrame], rng: np.random.Generator, size: int, zoom: tuple[float, float] = (1.0, 2.0)
) -> Array:
    """float32 [size, size] out of a random frame, at least 95 % of it inside the fan where 20 tries find such a place.
    Every group is as likely as any other, however many frames it has. zoom: pixels of the frame to one of the patch;
    a frame that is too small is taken at its own size or enlarged. Half of the patches are mirrored left to right."""
    groups = sorted({frame.group for frame in frames})
    chosen = groups[rng.integers(len(groups))]
    members = [frame for frame in frames if frame.group == chosen]
    frame = members[rng.integers(len(members))]
    side = min(round(size * rng.uniform(*zoom)), *frame.grey.shape)
    best, place = -1.0, (0, 0)
    for _ in range(20):
        row, column = (int(rng.integers(n - side + 1)) for n in frame.grey.shape)
        covered = float(frame.inside[row : row + side : 4, column : column + side : 4].mean())
        if covered > best:
            best, place = covered, (row, column)
        if covered >= 0.95:
            break
    patch = frame.grey[place[0] : place[0] + side, place[1] : place[1] + side]
    patch = resized(patch, (size, size))
    return np.ascontiguousarray(patch[:, ::-1]) if rng.random() < 0.5 else patch


def resized(values: Array, size: tuple[int, int]) -> Array:
    """float32 [h, w] to `size` with linear interpolation, smoothed first where it shrinks."""
    import torch
    import torch.nn.functional as F

    if values.shape == size:
        return values.astype(np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    return F.interpolate(tensor, size, mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()
