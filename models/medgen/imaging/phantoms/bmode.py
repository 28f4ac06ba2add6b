"""A fast B-mode simulator: a scene in millimetres, a machine that looks at it, an image with its truth.

    scene = random_scene(rng)
    frame = image_scene(scene, random_machine(rng), rng)   # the same scene through another machine: another `Machine`

The model is the usual linear one (Wagner et al., IEEE Trans Sonics Ultrason 1983;30:156): dense random scatterers,
weighted by tissue, are convolved with an anisotropic point-spread function at base band; coherent reflectors (walls,
fascia, needle) add a fixed phase; the envelope of homogeneous tissue is then Rayleigh (mean over standard deviation
1.91). Attenuation is summed along the beam, so bone casts shadows and fluid brightens what lies below; the needle and
gas add reverberations. The envelope is log-compressed and, for a curved array, scan-converted.

x: mm to the right of the probe's middle, z: mm below its surface. Arrays are [row, column], row 0 at the probe. Every
draw comes from the numpy.random.Generator that the caller passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]

OUTSIDE, SKIN, FAT, MUSCLE, FASCIA, ORGAN, VESSEL, CYST, LESION, BONE, NEEDLE = range(11)
LABEL_NAMES = (
    "Outside the fan", "Skin", "Fat", "Muscle", "Fascia", "Organ", "Vessel", "Cyst", "Lesion", "Bone", "Needle",
)  # fmt: skip
REVERBERATION, SHADOW, COMET_TAIL = 1, 2, 3  # values of `Frame.artefacts`; 0: none
FLUID_DB = -38.0
#          outside skin  fat   muscle fascia organ vessel    cyst      lesion bone  needle
ECHO_DB = (-99.0, -4.0, -13.0, -10.0, 2.0, -8.0, FLUID_DB, FLUID_DB, -18.0, 0.0, -6.0)
DB_PER_MM = (0.0, 0.7, 0.5, 0.6, 0.9, 0.5, 0.15, 0.0, 0.8, 14.0, 0.6)  # there and back, at a few MHz
TGC_DB_PER_MM = 0.55
SIGMA_OF_FWHM = 1 / 2.3548


@dataclass(frozen=True)
class Machine:
    """What one probe with its settings makes of a scene. Widths of the point spread are full widths at half maximum;
    for a curved array the lateral one is meant at `radius_mm` plus half the depth. radius_mm: of the array, 0 for a
    linear one; width_mm: of the probe's surface (linear) or of the fan at half depth (curved). gain_db: brightness of
    0 dB below white; grey: exponent after log compression; noise_db: of the receiver, before the depth gain."""

    kind: Literal["linear", "convex"] = "linear"
    depth_mm: float = 40.0
    width_mm: float = 40.0
    radius_mm: float = 0.0
    axial_mm: float = 0.35
    lateral_mm: float = 0.8
    dynamic_range_db: float = 55.0
    gain_db: float = 0.0
    grey: float = 1.0
    noise_db: float = -60.0
    tgc_error_db: float = 0.0

    @property
    def angle(self) -> float:
        """Half the opening of a curved array, radian."""
        return self.width_mm / 2 / (self.radius_mm + self.depth_mm / 2)


@dataclass(frozen=True)
class Ellipse:
    label: int
    x: float
    z: float
    radius_x: float
    radius_z: float
    tilt: float = 0.0


@dataclass(frozen=True)
class Needle:
    """A straight needle from the side. tip, entry: (x, z) in mm; spacing_mm: between reverberations; repeats: of them;
    decay: amplitude of one against the one above."""

    entry: tuple[float, float]
    tip: tuple[float, float]
    amplitude: float = 30.0
    spacing_mm: float = 1.2
    repeats: int = 6
    decay: float = 0.7


@dataclass(frozen=True)
class Layer:
    """Everything above z = bottom_mm + slope x + swing sin(x / wave_mm + phase), below the layer before, is `label`."""

    label: int
    bottom_mm: float
    slope: float = 0.0
    swing: float = 0.0
    wave_mm: float = 10.0
    phase: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Layers from the skin down (the last reaches to any depth), then what lies in them, the later on top. fibre: angle
    of muscle fibres, radian; texture: contrast of fibres and septa, dB; tails: (x, z, length) of comet tails, mm."""

    layers: tuple[Layer, ...]
    ellipses: tuple[Ellipse, ...] = ()
    needle: Needle | None = None
    tails: tuple[tuple[float, float, float], ...] = ()
    fibre: float = 0.2
    texture: float = 8.0
    walls_db: float = 6.0
    seed: int = 0


@dataclass(frozen=True)
class Frame:
    """image: float32, 0 to 1, 0 outside the fan; labels: uint8, see LABEL_NAMES; artefacts: uint8, see REVERBERATION;
    inside: bool, the fan; spacing_mm: of both axes; left_mm, top_mm: x and z of the first pixel's centre."""

    image: Array
    labels: Array
    artefacts: Array
    inside: Array
    spacing_mm: float
    left_mm: float
    top_mm: float

    def pixel(self, x: float, z: float) -> tuple[float, float]:
        """Row and column of a point in mm."""
        return (z - self.top_mm) / self.spacing_mm, (x - self.left_mm) / self.spacing_mm


# --------------------------------------------------------------------------------------------------------- random draws


def random_machine(rng: np.random.Generator, kind: Literal["linear", "convex"] | None = None) -> Machine:
    """Any machine: linear arrays look 25 to 50 mm deep, curved ones 60 to 150 mm."""
    kind = kind or ("linear" if rng.random() < 0.65 else "convex")
    depth = rng.uniform(25, 50) if kind == "linear" else rng.uniform(60, 150)
    scale = depth / 40
    return Machine(
        kind=kind,
        depth_mm=depth,
        width_mm=depth * rng.uniform(0.8, 1.2),
        radius_mm=0.0 if kind == "linear" else depth * rng.uniform(0.1, 0.6),
        axial_mm=scale * rng.uniform(0.25, 0.55),
        lateral_mm=scale * rng.uniform(0.5, 1.4),
        dynamic_range_db=rng.uniform(42, 70),
        gain_db=rng.uniform(-26, -6),
        grey=rng.uniform(0.8, 1.3),
        noise_db=rng.uniform(-75, -48),
        tgc_error_db=rng.uniform(-12, 6),
    )


def random_scene(
    rng: np.random.Generator, depth_mm: float = 40.0, needle: bool | None = None, artefacts: bool = True
) -> Scene:
    """Tissue down to `depth_mm` and about as wide; needle: True, False, or None for one in four; artefacts: with comet
    tails and bone."""
    unit, bottom = depth_mm / 40, 0.0
    layers: list[Layer] = []
    kinds = (SKIN, FAT, FASCIA, MUSCLE, FASCIA, MUSCLE if rng.random() < 0.5 else ORGAN)
    thick = {SKIN: (0.8, 2), FAT: (1, 12), FASCIA: (0.4, 1), MUSCLE: (5, 20), ORGAN: (50, 50)}
    slope, swing = rng.normal(0, 0.08), rng.uniform(0, 1) * unit
    for label in kinds:
        bottom += rng.uniform(*thick[label]) * unit
        wave, phase = unit * rng.uniform(6, 15), rng.uniform(0, 6.3)
        if label == FASCIA:  # of one thickness: it swings with the layer above
            wave, phase = layers[-1].wave_mm, layers[-1].phase
        steady = label == SKIN
        layers.append(Layer(label, bottom, 0.0 if steady else slope, 0.0 if steady else swing, wave, phase))
    ellipses = [_random_ellipse(rng, depth_mm) for _ in range(rng.integers(0, 4))]
    if artefacts and rng.random() < 0.25:
        x, z = rng.uniform(-0.4, 0.4) * depth_mm, rng.uniform(0.5, 0.8) * depth_mm
        ellipses.append(Ellipse(BONE, x, z, rng.uniform(2, 8) * unit, rng.uniform(1, 4) * unit, rng.normal(0, 0.3)))
    tails = []
    if artefacts and rng.random() < 0.2:
        tails = [(rng.uniform(-0.4, 0.4) * depth_mm, rng.uniform(0.1, 0.5) * depth_mm, rng.uniform(5, 15) * unit)]
    wants = rng.random() < 0.25 if needle is None else needle
    return Scene(
        layers=tuple(layers),
        ellipses=tuple(ellipses),
        needle=random_needle(rng, depth_mm) if wants else None,
        tails=tuple(tails),
        fibre=rng.normal(0, 0.2),
        texture=rng.uniform(3, 14),
        walls_db=rng.uniform(-4, 8),
        seed=int(rng.integers(2**31)),
    )


def _random_ellipse(rng: np.random.Generator, depth_mm: float) -> Ellipse:
    radius = depth_mm * rng.uniform(0.03, 0.14)
    x, z = depth_mm * rng.uniform(-0.45, 0.45), depth_mm * rng.uniform(0.2, 0.85)
    label = int(rng.choice([VESSEL, VESSEL, CYST, LESION]))
    return Ellipse(label, x, z, radius, radius * rng.uniform(0.6, 1.1), rng.uniform(-0.5, 0.5))


def random_needle(rng: np.random.Generator, depth_mm: float = 40.0) -> Needle:
    """From the left or the right edge, 15 to 50 degrees steep, the tip in the middle half of the image."""
    side = float(rng.choice([-1, 1]))
    tip = (depth_mm * rng.uniform(-0.2, 0.25) * -side, depth_mm * rng.uniform(0.35, 0.75))
    steep = np.tan(np.deg2rad(rng.uniform(15, 50)))
    reach = min(0.6 * depth_mm + abs(tip[0]), (tip[1] - 0.04 * depth_mm) / steep)
    return Needle(
        entry=(tip[0] + side * reach, tip[1] - reach * steep),
        tip=tip,
        amplitude=rng.uniform(12, 40),
        spacing_mm=depth_mm / 40 * rng.uniform(0.8, 1.8),
        repeats=int(rng.integers(3, 9)),
        decay=rng.uniform(0.5, 0.85),
    )


# -------------------------------------------------------------------------------------------------------------- imaging


def image_scene(scene: Scene, machine: Machine, rng: np.random.Generator, size: tuple[int, int] = (256, 256)) -> Frame:
    """size: rows and columns; the fan's depth or width fills the image, whichever is larger."""
    x, z, step_z, step_x = _beam_grid(machine, size)
    labels = _labels(scene, x, z)
    amplitude, attenuation_db = _amplitude(scene, machine, labels, x, z, step_z)
    coherent, artefacts = _reflectors(scene, labels, x, z, step_z)
    artefacts[(attenuation_db < -12) & (artefacts == 0) & (labels != BONE)] = SHADOW
    scatter = rng.standard_normal((2, *x.shape), np.float32) * np.float32(np.sqrt(0.5))
    field = amplitude * scatter
    field[0] += coherent * 10 ** (np.minimum(attenuation_db, 0) / 20)
    envelope = _envelope(field, machine, step_z, step_x)
    noise = np.float32(10 ** (machine.noise_db / 20)) * 10 ** (TGC_DB_PER_MM * 40 / machine.depth_mm * z / 20)
    envelope = np.hypot(envelope, noise * rng.rayleigh(np.sqrt(0.5), x.shape).astype(np.float32))
    decibel = 20 * np.log10(np.maximum(envelope, 1e-6)) + machine.gain_db + machine.tgc_error_db * z / machine.depth_mm
    image = np.clip(1 + decibel / machine.dynamic_range_db, 0, 1) ** np.float32(machine.grey)
    return _scan_converted(machine, size, image.astype(np.float32), labels, artefacts)


def _pixels(machine: Machine, size: tuple[int, int]) -> tuple[Array, Array, float]:
    """x (1, columns), z (rows, 1) of an output raster and its spacing, mm."""
    height, width = machine.depth_mm, machine.width_mm
    top = 0.0
    if machine.kind == "convex":
        reach = machine.radius_mm + machine.depth_mm
        top = machine.radius_mm * (np.cos(machine.angle) - 1)  # the array's ends lie above its middle
        height, width = machine.depth_mm - top, 2 * reach * np.sin(min(machine.angle, np.pi / 2))
    spacing = max(height / size[0], width / size[1])
    x = (np.arange(size[1], dtype=np.float32) - (size[1] - 1) / 2) * np.float32(spacing)
    z = (np.arange(size[0], dtype=np.float32) + 0.5) * np.float32(spacing) + np.float32(top)
    return x[None, :], z[:, None], float(spacing)


def _beam_grid(machine: Machine, size: tuple[int, int]) -> tuple[Array, Array, float, float]:
    """x, z of every sample [depth, line], and the steps along the beam and across it (in the middle), mm. For a linear
    array these are the output's own pixels, so that nothing is interpolated."""
    if machine.kind == "linear":
        x, z, spacing = _pixels(machine, size)
        x, z = np.broadcast_arrays(x, z)
        return np.ascontiguousarray(x), np.ascontiguousarray(z), spacing, spacing
    depth = np.linspace(0, machine.depth_mm, size[0], dtype=np.float32)[:, None]
    angle = np.linspace(-machine.angle, machine.angle, size[1], dtype=np.float32)[None, :]
    reach = np.float32(machine.radius_mm)
    x, z = (reach + depth) * np.sin(angle), (reach + depth) * np.cos(angle) - reach
    middle = (machine.radius_mm + machine.depth_mm / 2) * 2 * machine.angle / (size[1] - 1)
    return x, z, machine.depth_mm / (size[0] - 1), middle


def _labels(scene: Scene, x: Array, z: Array) -> Array:
    labels = np.full(x.shape, scene.layers[-1].label, np.uint8)
    for layer in reversed(scene.layers[:-1]):
        bottom = layer.bottom_mm + layer.slope * x + layer.swing * np.sin(x / layer.wave_mm + layer.phase)
        labels[z < bottom] = layer.label
    for ellipse in scene.ellipses:
        u, v = x - np.float32(ellipse.x), z - np.float32(ellipse.z)
        cos, sin = np.float32(np.cos(ellipse.tilt)), np.float32(np.sin(ellipse.tilt))
        inside = ((u * cos + v * sin) / ellipse.radius_x) ** 2 + ((v * cos - u * sin) / ellipse.radius_z) ** 2 < 1
        labels[inside] = ellipse.label
    if scene.needle is not None:
        along, off = _needle_coordinates(scene.needle, x, z)
        labels[(along >= 0) & (along <= 1) & (np.abs(off) < 0.01 * scene.needle.tip[1] + 0.15)] = NEEDLE
    return labels


def _needle_coordinates(needle: Needle, x: Array, z: Array) -> tuple[Array, Array]:
    """Place along the needle, 0 at the entry and 1 at the tip, by x, and mm below it."""
    (x0, z0), (x1, z1) = needle.entry, needle.tip
    along = (x - np.float32(x0)) / np.float32(x1 - x0)
    return along, z - np.float32(z0) - along * np.float32(z1 - z0)


def _amplitude(scene: Scene, machine: Machine, labels: Array, x: Array, z: Array, step_z: float) -> tuple[Array, Array]:
    """Amplitude of the scatterers, and what attenuation leaves of the depth gain, dB. Attenuation is scaled to the
    depth (deep probes send lower frequencies)."""
    scale = 40 / machine.depth_mm
    loss = np.asarray(DB_PER_MM, np.float32)[labels] * np.float32(step_z * scale)
    attenuation = np.float32(TGC_DB_PER_MM * scale) * z - np.cumsum(loss, axis=0)
    decibel = np.asarray(ECHO_DB, np.float32)[labels] + _texture(scene, labels, x, z, machine.depth_mm / 40)
    return 10 ** ((decibel + attenuation) / 20), attenuation


def _texture(scene: Scene, labels: Array, x: Array, z: Array, unit: float) -> Array:
    """Fibres of muscle, septa of fat, mottle of the rest, dB. The same scene has the same texture on any machine."""
    rng = np.random.default_rng(scene.seed)
    table = ndimage.gaussian_filter(rng.standard_normal((2, 128, 128), np.float32), (0, 1, 1), mode="wrap")
    table /= table.std()
    cos, sin = np.cos(scene.fibre), np.sin(scene.fibre)
    across, along = z * cos - x * sin, z * sin + x * cos
    fibres = _look_up(table[0], across / (0.45 * unit), along / (5 * unit))
    septa = _look_up(table[1], z / (0.7 * unit), x / (6 * unit))
    mottle = _look_up(table[1], z / (2 * unit), x / (2 * unit))
    result = 1.5 * mottle
    muscle, fat = labels == MUSCLE, labels == FAT
    result[muscle] = scene.texture * np.maximum(fibres, -1.2)[muscle]
    result[fat] = 0.8 * scene.texture * np.maximum(septa, -0.5)[fat]
    result[np.isin(labels, (VESSEL, CYST))] = 0
    return result


def _look_up(table: Array, row: Array, column: Array) -> Array:
    """Linear interpolation in a table that repeats."""
    r, c = np.floor(row), np.floor(column)
    dr, dc = row - r, column - c
    i, j = r.astype(np.int32) & 127, c.astype(np.int32) & 127
    k, m = (i + 1) & 127, (j + 1) & 127
    return (table[i, j] * (1 - dc) + table[i, m] * dc) * (1 - dr) + (table[k, j] * (1 - dc) + table[k, m] * dc) * dr


def _reflectors(scene: Scene, labels: Array, x: Array, z: Array, step_z: float) -> tuple[Array, Array]:
    """Coherent amplitude (walls where the label changes along the beam, needle, comet tails) and the artefact map."""
    coherent = np.zeros(x.shape, np.float32)
    changes = labels[1:] != labels[:-1]
    strength = np.asarray([0, 1, 0.5, 0.5, 2.5, 0.7, 2, 2, 0.4, 15, 0], np.float32)
    wall = np.maximum(strength[labels[1:]], strength[labels[:-1]])
    coherent[1:][changes] = 10 ** (scene.walls_db / 20) * wall[changes]
    artefacts = np.zeros(x.shape, np.uint8)
    if scene.needle is not None:
        _add_needle(scene.needle, coherent, artefacts, x, z, step_z)
    for tail in scene.tails:
        _add_tail(tail, coherent, artefacts, x, z)
    return coherent, artefacts


def _add_needle(needle: Needle, coherent: Array, artefacts: Array, x: Array, z: Array, step_z: float) -> None:
    along, below = _needle_coordinates(needle, x, z)
    on = (along >= 0) & (along <= 1)
    number = np.rint(below / needle.spacing_mm)
    line = on & (number >= 0) & (number <= needle.repeats)
    line &= np.abs(below - number * needle.spacing_mm) <= step_z / 2
    coherent[line] += needle.amplitude * needle.decay ** number[line]
    tail = on & (below > 0.4 * needle.spacing_mm) & (below < (needle.repeats + 0.5) * needle.spacing_mm)
    artefacts[tail] = REVERBERATION


def _add_tail(tail: tuple[float, float, float], coherent: Array, artefacts: Array, x: Array, z: Array) -> None:
    x0, z0, length = tail
    below = (z - np.float32(z0)) / np.float32(length)
    width = np.float32(length) * (0.03 + 0.05 * np.maximum(below, 0))
    inside = (below >= 0) & (below < 1) & (np.abs(x - np.float32(x0)) < width)
    bands = 0.6 + 0.4 * np.cos(2 * np.pi * 12 * below)
    coherent[inside] += (3 * bands * np.exp(-1.5 * below))[inside]
    artefacts[inside] = COMET_TAIL


def _envelope(field: Array, machine: Machine, step_z: float, step_x: float) -> Array:
    """|field * PSF|, field: real and imaginary part [2, depth, line]. The PSF has unit energy, so scatterers of
    amplitude 1 give an envelope of root mean square 1."""
    for axis, width, step in ((1, machine.axial_mm, step_z), (2, machine.lateral_mm, step_x)):
        sigma = max(width / step * SIGMA_OF_FWHM, 0.3)
        reach = int(np.ceil(3 * sigma))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel /= np.sqrt((kernel**2).sum())
        field = ndimage.correlate1d(field, kernel.astype(np.float32), axis, mode="reflect")
    return np.hypot(field[0], field[1])


def _scan_converted(machine: Machine, size: tuple[int, int], image: Array, labels: Array, artefacts: Array) -> Frame:
    x, z, spacing = _pixels(machine, size)
    if machine.kind == "linear":
        inside = np.broadcast_to((np.abs(x) <= machine.width_mm / 2) & (z <= machine.depth_mm), size)
    else:
        reach = np.hypot(x, z + np.float32(machine.radius_mm))
        angle = np.arctan2(x, z + np.float32(machine.radius_mm))
        depth = reach - np.float32(machine.radius_mm)
        inside = (depth >= 0) & (depth <= machine.depth_mm) & (np.abs(angle) <= machine.angle)
        row = depth / machine.depth_mm * (image.shape[0] - 1)
        column = (angle / machine.angle + 1) / 2 * (image.shape[1] - 1)
        image = ndimage.map_coordinates(image, (row, column), order=1, mode="nearest")
        nearest = (
            np.clip(np.rint(row), 0, image.shape[0] - 1).astype(np.int32),
            np.clip(np.rint(column), 0, image.shape[1] - 1).astype(np.int32),
        )
        labels, artefacts = labels[nearest], artefacts[nearest]
    return Frame(
        image=np.where(inside, image, np.float32(0)),
        labels=np.where(inside, labels, np.uint8(OUTSIDE)),
        artefacts=np.where(inside, artefacts, np.uint8(0)),
        inside=np.ascontiguousarray(inside),
        spacing_mm=spacing,
        left_mm=float(x[0, 0]),
        top_mm=float(z[0, 0]),
    )
