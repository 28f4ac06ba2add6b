"""Random MR slices of a random head, for training the starter weights: 2D, a few milliseconds each.

A slice is cut from a label map at a random orientation, half of the time through a random voxel of a random structure,
and bent a little. Every tissue gets a signal: that of a common protocol with its times and tissues varied, that of any
pulse sequence, or any value at all (Billot et al., SynthSeg, Medical Image Analysis 2023). Then come fat and muscle,
skull stripping, cropping, partial volume, thick slices, bias field, noise and gamma.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage

from medgen.imaging.head_labels import SOURCES

Array = np.ndarray

# name: (labels of the maps, T1 ms, T2 ms, proton density); textbook values around 1.5 to 3 T
TISSUES: dict[str, tuple[tuple[int, ...], float, float, float]] = {
    "air": ((0,), 1, 1, 0.0),
    "cerebral white matter": ((2, 41, 30, 62), 830, 75, 0.70),
    "white matter lesion": ((25, 57), 1100, 120, 0.80),
    "cerebral cortex": ((3, 42), 1350, 95, 0.82),
    "ventricles": ((4, 43, 5, 44, 72), 4200, 900, 1.0),
    "choroid plexus": ((136, 137, 163, 164), 1900, 250, 0.95),
    "cerebellar white matter": ((7, 46), 860, 78, 0.71),
    "cerebellar cortex": ((8, 47), 1320, 95, 0.82),
    "thalamus": ((10, 49), 1080, 82, 0.77),
    "caudate": ((11, 50), 1250, 85, 0.80),
    "putamen": ((12, 51), 1200, 80, 0.79),
    "pallidum": ((13, 52), 950, 62, 0.75),
    "hippocampus": ((17, 53), 1350, 98, 0.83),
    "amygdala": ((18, 54), 1350, 98, 0.83),
    "accumbens": ((26, 58), 1280, 88, 0.81),
    "ventral diencephalon": ((28, 60, 85), 950, 78, 0.74),
    "brain stem": ((16,), 980, 80, 0.74),
    "third ventricle": ((14,), 4200, 900, 1.0),
    "fourth ventricle": ((15,), 4200, 900, 1.0),
    "csf": ((24,), 4000, 700, 1.0),
    "cord": ((512,), 950, 78, 0.72),
    "cortical bone": ((515,), 500, 1.5, 0.25),
    "marrow": ((516,), 450, 75, 0.70),
    "eye": ((506,), 3800, 700, 1.0),
    "skin": ((511,), 600, 50, 0.80),
    "muscle": ((507,), 1250, 40, 0.75),
    "fat": ((), 350, 85, 0.95),
    "mucosa": ((509,), 1500, 110, 0.85),
    "vessel": ((502,), 1700, 150, 0.80),
    "dura": ((514,), 1100, 60, 0.60),
    "orbit": ((508, 530), 1000, 60, 0.75),
}
_NAMES = list(TISSUES)
_MUSCLE, _FAT, _SKIN = _NAMES.index("muscle"), _NAMES.index("fat"), _NAMES.index("skin")
_FLOWING = [_NAMES.index("vessel"), _NAMES.index("dura")]
_OUTER = [_NAMES.index(name) for name in ("marrow", "skin", "muscle", "fat", "mucosa", "vessel", "dura", "orbit")]
# share, TR, TE, TI (0: spin echo) in ms: T1 by inversion and by spin echo, T2, proton density, FLAIR
PROTOCOLS = (
    (0.28, 2300, 3, 1000),
    (0.10, 550, 11, 0),
    (0.26, 4800, 95, 0),
    (0.26, 3200, 15, 0),
    (0.10, 9000, 110, 2600),
)
_ORBITAL_FAT_MM = 16
_SHARE = {18: 5.0}  # the cord, thin and at the maps' rim, is not learnt when it is drawn like any other structure
_T1, _T2, _PD = (np.array([row[i] for row in TISSUES.values()]) for i in (1, 2, 3))
_BRAIN_LABELS = [label for value in range(1, 17) for label in SOURCES[value]]
_MAX_LABEL = 1024


def _lookup(groups: list[tuple[int, ...]]) -> Array:
    table = np.zeros(_MAX_LABEL, np.uint8)
    for value, labels in enumerate(groups):
        table[list(labels)] = value
    return table


_TISSUE_OF_LABEL = _lookup([row[0] for row in TISSUES.values()])
_CLASS_OF_LABEL = _lookup([(0,), *SOURCES.values()])
CLASS_OF_TISSUE = np.array([_CLASS_OF_LABEL[row[0][0]] if row[0] else 0 for row in TISSUES.values()], np.uint8)
CLASS_OF_TISSUE[_FAT] = CLASS_OF_TISSUE[_MUSCLE]


@dataclass(frozen=True)
class Head:
    """A label map ready to be cut: three uint8 volumes, axes z (up), y (back), x (left), 1 mm, cropped to the head.

    tissue: index in TISSUES; outside_brain_mm: distance to the brain; depth_mm: distance below the outer surface;
    brain_centre: z, y, x; examples: for each class that occurs, voxels (z, y, x) of it, int16 [n, 3]; shares: how often
    each is drawn.
    """

    tissue: Array
    outside_brain_mm: Array
    depth_mm: Array
    brain_centre: Array
    examples: list[Array]
    shares: Array


def read_label_map(path: Path) -> Array:
    """int16 [z, y, x] in LPS order (x grows to the left, y to the back, z upwards), stray voxels removed."""
    image = sitk.DICOMOrient(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkInt16), "LPS")
    labels = sitk.GetArrayFromImage(image)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(image != 0), sortByObjectSize=True)
    labels[sitk.GetArrayViewFromImage(parts) != 1] = 0
    return labels


def prepare_head(labels: Array) -> Head:
    """labels: int [z, y, x] as read_label_map gives it."""
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - 3), s.stop + 3) for s in box)
    labels = labels[box]
    brain = np.isin(labels, _BRAIN_LABELS)
    far = np.uint8(255)
    outside = np.minimum(ndimage.distance_transform_edt(~brain), far).astype(np.uint8)
    filled = ndimage.binary_fill_holes(labels > 0)
    depth = np.minimum(ndimage.distance_transform_edt(filled), far).astype(np.uint8)
    centre = np.array(ndimage.center_of_mass(brain))
    tissue = _TISSUE_OF_LABEL[labels]
    if (labels == 506).any():  # what the maps call soft tissue is fat in the orbits
        tissue[(labels == 507) & (ndimage.distance_transform_edt(labels != 506) < _ORBITAL_FAT_MM)] = _FAT
    return Head(tissue, outside, depth, centre, *_examples(CLASS_OF_TISSUE[tissue]))


def _examples(classes: Array, count: int = 3000) -> tuple[list[Array], Array]:
    rng, found, shares = np.random.default_rng(0), [], []
    for value in range(1, len(SOURCES) + 1):
        voxels = np.flatnonzero(classes == value)
        if len(voxels):
            picked = voxels[rng.integers(0, len(voxels), count)]
            found.append(np.stack(np.unravel_index(picked, classes.shape), 1).astype(np.int16))
            shares.append(_SHARE.get(value, 1.0))
    return found, np.array(shares) / sum(shares)


def _smooth(rng: np.random.Generator, cells: int, size: int, channels: int = 1) -> Array:
    """Smooth noise of unit variance at its knots: float32 [channels, size, size]."""
    knots = torch.from_numpy(rng.standard_normal((1, channels, cells, cells), np.float32))
    return F.interpolate(knots, (size, size), mode="bicubic", align_corners=True)[0].numpy()


def _rotation(vector: Array) -> Array:
    """3x3 matrix from a rotation vector (axis times angle in radians), Rodrigues' formula."""
    angle = float(np.linalg.norm(vector)) + 1e-12
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _cut(head: Head, rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Positions of a random bent plane, float32 [3 (z, y, x), size, size], and its unit normal."""
    axis = int(rng.integers(3))
    tilt = np.radians(25 if rng.random() < 0.2 else 8)
    basis = _rotation(rng.normal(0, tilt, 3)) @ np.diag(rng.uniform(0.85, 1.2) * rng.uniform(0.93, 1.07, 3))
    basis[2] *= rng.choice([-1, 1])  # mirror: left and right are one label
    rows, columns = (basis[:, i] for i in range(3) if i != axis)
    normal = basis[:, axis] / np.linalg.norm(basis[:, axis])
    if rng.random() < 0.5:  # small structures would else be seen too rarely
        voxels = head.examples[int(rng.choice(len(head.examples), p=head.shares))]
        voxel = voxels[int(rng.integers(len(voxels)))].astype(float)
        centre = voxel + rows * rng.uniform(-size / 4, size / 4) + columns * rng.uniform(-size / 4, size / 4)
    else:
        centre = head.brain_centre + rng.uniform(-28, 28, 3)
        centre[axis] = head.brain_centre[axis] + rng.uniform(-80, 80)
        if rng.random() < 0.2:  # face and neck, which lie below the brain
            centre[0] = max(30.0, centre[0] - rng.uniform(30, 110))
    steps = np.arange(size) - (size - 1) / 2
    plane = rows[:, None, None] * steps[:, None] + columns[:, None, None] * steps
    bend = rng.uniform(0, 4) * _smooth(rng, 4, size, 3) + rng.uniform(0, 2) * _smooth(rng, 9, size, 3)
    return (plane + centre[:, None, None] + bend).astype(np.float32), normal


def _look_up(head: Head, positions: Array) -> tuple[Array, Array, Array]:
    index = np.rint(positions).astype(np.int32)
    shape = head.tissue.shape
    inside = np.ones(index.shape[1:], bool)
    for axis in range(3):
        inside &= (index[axis] >= 0) & (index[axis] < shape[axis])
    flat = np.where(inside, (index[0] * shape[1] + index[1]) * shape[2] + index[2], 0)
    tissue = np.where(inside, head.tissue.ravel()[flat], 0)
    outside = np.where(inside, head.outside_brain_mm.ravel()[flat], 255)
    return tissue, outside, np.where(inside, head.depth_mm.ravel()[flat], 0)


def _varied_tissues(rng: np.random.Generator, spread: float) -> tuple[Array, Array, Array]:
    """T1, T2 and proton density of every tissue, each off by about `spread` of itself."""
    t1, t2, density = (
        table * np.exp(rng.normal(0, spread * part, len(table))) for table, part in ((_T1, 1.0), (_T2, 1.0), (_PD, 0.3))
    )
    return t1, t2, density


def _echo_signal(tissues: tuple[Array, Array, Array], repetition: float, echo: float, inversion: float) -> Array:
    """Spin echo, or inversion recovery where `inversion` is not 0; times in ms."""
    t1, t2, density = tissues
    if inversion:
        recovered = np.abs(1 - 2 * np.exp(-inversion / t1) + np.exp(-repetition / t1))
    else:
        recovered = 1 - np.exp(-repetition / t1)
    return density * recovered * np.exp(-echo / t2)


def _protocol_signal(rng: np.random.Generator) -> Array:
    """Signal of every tissue under a common protocol."""
    protocol = PROTOCOLS[rng.choice(len(PROTOCOLS), p=[row[0] for row in PROTOCOLS])]
    repetition, echo, inversion = (time * np.exp(rng.normal(0, 0.12)) for time in protocol[1:])
    signal = _echo_signal(_varied_tissues(rng, rng.uniform(0.01, 0.07)), repetition, echo, inversion)
    signal[_OUTER] *= np.exp(rng.normal(0, 0.2, len(_OUTER)))
    return signal


def _sequence_signal(rng: np.random.Generator) -> Array:
    """Signal of every tissue under a random spin echo, inversion recovery or spoiled gradient echo."""
    tissues = t1, t2, density = _varied_tissues(rng, rng.uniform(0.02, 0.12))
    kind = rng.choice(["spin echo", "inversion", "gradient echo"], p=[0.45, 0.3, 0.25])
    if kind == "gradient echo":
        repetition, angle = rng.uniform(5, 40), np.radians(rng.uniform(4, 45))
        e1 = np.exp(-repetition / t1)
        return density * np.sin(angle) * (1 - e1) / (1 - e1 * np.cos(angle)) * np.exp(-rng.uniform(2, 12) / t2)
    if kind == "inversion":  # MPRAGE-like to FLAIR-like
        repetition, inversion = np.exp(rng.uniform(np.log(1500), np.log(9000))), rng.uniform(300, 2700)
        echo = rng.uniform(2, 12) if rng.random() < 0.7 else rng.uniform(60, 130)
        return _echo_signal(tissues, repetition, echo, inversion)
    repetition, echo = np.exp(rng.uniform(np.log(300), np.log(7000))), np.exp(rng.uniform(np.log(8), np.log(130)))
    return _echo_signal(tissues, repetition, echo, 0)


def _tissue_signal(rng: np.random.Generator, kind: str) -> Array:
    """Mean signal of every tissue; the brightest common one near 1. kind: 'protocol', 'sequence' or 'any'."""
    if kind == "any":
        signal = rng.uniform(0, 1, len(TISSUES))
        if rng.random() < 0.7:
            signal[_NAMES.index("cortical bone")] *= rng.uniform(0, 0.3)
        if rng.random() < 0.5:
            fluids = [_NAMES.index(name) for name in ("ventricles", "third ventricle", "fourth ventricle", "csf")]
            signal[fluids] = signal[fluids[0]] * rng.uniform(0.9, 1.1, len(fluids))
    else:
        signal = _protocol_signal(rng) if kind == "protocol" else _sequence_signal(rng)
        blood = rng.random()
        signal[_FLOWING] *= rng.uniform(0, 1) if blood < 0.6 else rng.uniform(1, 4)  # flow void, or contrast agent
        signal[_SKIN] += rng.uniform(0, 1) * (signal[_FAT] - signal[_SKIN])
    signal[0] = 0
    return (signal / signal.max()).astype(np.float32)


def _scale(head: Head, signal: Array, strip_mm: float | None, rng: np.random.Generator) -> float:
    """What `head_segmentation.robust_scale` would divide the whole volume by, from a few thousand of its voxels."""
    pick = rng.integers(0, head.tissue.size, 4000)
    values = signal[head.tissue.ravel()[pick]]
    if strip_mm is not None:
        values = np.where(head.outside_brain_mm.ravel()[pick] <= strip_mm, values, 0)
    foreground = values[values > values.mean()]
    return float(np.percentile(foreground, 98)) if len(foreground) else 1.0


def _blur(image: Array, sigma: tuple[float, float]) -> Array:
    return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3)


def _low_resolution(image: Array, axis: int, factor: float) -> Array:
    """Thick samples along one in-plane axis, interpolated back."""
    size = image.shape[axis]
    coarse = [size, size]
    coarse[axis] = max(8, round(size / factor))
    tensor = torch.from_numpy(image)[None, None]
    small = F.interpolate(tensor, coarse, mode="area")
    return F.interpolate(small, (size, size), mode="bilinear")[0, 0].numpy()


def _acquire(image: Array, rng: np.random.Generator, good: bool) -> Array:
    """Partial volume, bias field, noise and gamma of a scanner on a clean float32 slice; good: a research scan."""
    size = image.shape[0]
    if not good and rng.random() < 0.35:
        image = _low_resolution(image, int(rng.integers(2)), rng.uniform(1.5, 5))
    image = _blur(image, tuple(rng.uniform(0.3, 0.7 if good else 1.1) * rng.uniform(0.85, 1.15, 2)))
    image = image * np.exp(rng.uniform(0, 0.25) * _smooth(rng, int(rng.integers(2, 5)), size)[0])
    level = rng.uniform(0, 0.03 if good else 0.07)
    noise = level * rng.standard_normal((2, size, size), np.float32)
    if rng.random() < 0.3:
        noise = np.stack([_blur(n, (0.6, 0.6)) for n in noise])
    image = np.hypot(image + noise[0], noise[1])  # Rician
    return image ** np.float32(np.exp(rng.normal(0, 0.08 if good else 0.2)))


def render_slice(head: Head, rng: np.random.Generator, size: int = 160) -> tuple[Array, Array]:
    """A random slice: float32 [size, size], about 0 to 1.2, and its classes, uint8 [size, size] (labels.LABELS)."""
    positions, normal = _cut(head, rng, size)
    kind, good = rng.choice(["protocol", "sequence", "any"], p=[0.6, 0.25, 0.15]), rng.random() < 0.65
    signal = _tissue_signal(rng, kind)
    spread = (rng.uniform(0, 0.09) * (0.15 * rng.random() + signal) * rng.uniform(0.7, 1.3, len(TISSUES))).astype(
        np.float32
    )
    strip_mm = rng.uniform(0, 5) if rng.random() < 0.25 else None
    fat_share = _smooth(rng, 14, size)[0] + 0.5 * _smooth(rng, 40, size)[0] - rng.uniform(-0.5, 1.2)
    fat_below_mm = rng.uniform(2, 9) + 2 * _smooth(rng, 10, size)[0]
    edge = _smooth(rng, 12, size)[0]
    grain = rng.uniform(0.6, 1.6)
    texture = _blur(rng.standard_normal((size, size), np.float32), (grain, grain)) * np.float32(3.5 * grain)

    thick = 0.0 if good else rng.uniform(1, 6)
    offsets = np.linspace(-thick / 2, thick / 2, 1 if thick == 0 else 5)
    image, classes = np.zeros((size, size), np.float32), np.zeros((size, size), np.uint8)
    for number, offset in enumerate(offsets):
        tissue, outside, depth = _look_up(head, positions + (offset * normal[:, None, None]).astype(np.float32))
        tissue = np.where((tissue == _MUSCLE) & ((fat_share > 0) | (depth < fat_below_mm)), _FAT, tissue)
        if strip_mm is not None:
            tissue = np.where(outside <= strip_mm + 0.7 * edge, tissue, 0)
        image += np.maximum(signal[tissue] + spread[tissue] * texture * (tissue > 0), 0) / len(offsets)
        if number == len(offsets) // 2:
            classes = CLASS_OF_TISSUE[tissue]
    if rng.random() < 0.15:  # a face removed, or the edge of the field of view
        turn, y, x = rng.uniform(0, 2 * np.pi), *(np.mgrid[:size, :size] - size / 2)
        gone = y * np.sin(turn) + x * np.cos(turn) > rng.uniform(25, 75)
        image[gone], classes[gone] = 0, 0
    scale = _scale(head, signal, strip_mm, rng) * np.exp(rng.normal(0, 0.1))
    return np.clip(_acquire(image / np.float32(scale), rng, good), 0, 2).astype(np.float32), classes


def render_batch(heads: list[Head], seed: tuple[int, int], count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [count, 1, size, size] and int64 [count, size, size]; seed: (run, step), the same gives the same."""
    rng = np.random.default_rng(seed)
    pairs = [render_slice(heads[int(rng.integers(len(heads)))], rng, size) for _ in range(count)]
    images, classes = (np.stack(part) for part in zip(*pairs, strict=True))
    return torch.from_numpy(images)[:, None], torch.from_numpy(classes.astype(np.int64))
