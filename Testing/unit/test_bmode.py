"""The B-mode simulator keeps the statistics of speckle, its geometry and its truth."""

from __future__ import annotations

import time

import numpy as np
import pytest

from medgen.imaging.phantoms import bmode
from medgen.imaging.phantoms.bmode import Layer, Machine, Needle, Scene, image_scene, random_machine, random_scene

PLAIN = Scene((Layer(bmode.ORGAN, 100.0),), texture=0.0, walls_db=-200.0)


def envelope_of(frame: bmode.Frame, machine: Machine) -> np.ndarray:
    """Undoes the log compression."""
    return 10 ** ((frame.image.astype(np.float64) - 1) * machine.dynamic_range_db / 20)


def test_envelope_of_plain_tissue_is_rayleigh() -> None:
    machine = Machine(dynamic_range_db=140, gain_db=-20, noise_db=-200)
    scene = Scene(PLAIN.layers, texture=0.0, walls_db=-200.0)
    values = []
    for seed in range(8):
        frame = image_scene(scene, machine, np.random.default_rng(seed))
        values.append(envelope_of(frame, machine)[60:200, 20:-20])
    # the mottle of the tissue is slow: speckle is compared with its own neighbourhood
    from scipy import ndimage

    local = np.stack([v / np.sqrt(ndimage.uniform_filter(v**2, 31)) for v in values])
    assert local.mean() / local.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.04)  # 1.91
    quantiles = np.quantile(local, (0.1, 0.5, 0.9))
    assert quantiles == pytest.approx(np.sqrt(-np.log(1 - np.array((0.1, 0.5, 0.9)))), rel=0.06)


def test_speckle_is_as_wide_as_the_point_spread() -> None:
    machine = Machine(axial_mm=0.6, lateral_mm=1.8, dynamic_range_db=140, gain_db=-20, noise_db=-200)
    power = envelope_of(image_scene(PLAIN, machine, np.random.default_rng(0)), machine) ** 2
    power -= power.mean()

    def correlation(lag: int, axis: int) -> float:
        a, b = np.moveaxis(power, axis, 0)[:-lag], np.moveaxis(power, axis, 0)[lag:]
        return float((a * b).mean() / (power**2).mean())

    # power of a Gaussian point spread of standard deviation s: correlation exp(-lag^2 / 2 s^2)
    step = 40 / 256
    for axis, width in ((0, 0.6), (1, 1.8)):
        sigma = width / 2.3548 / step
        lag = max(1, round(sigma))
        assert correlation(lag, axis) == pytest.approx(np.exp(-(lag**2) / (2 * sigma**2)), abs=0.12)


@pytest.mark.parametrize("kind", ["linear", "convex"])
def test_frame_holds_its_truth(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(6):
        machine = random_machine(rng, kind)  # type: ignore[arg-type]
        frame = image_scene(random_scene(rng, machine.depth_mm, needle=True), machine, rng)
        assert frame.image.dtype == np.float32 and frame.image.min() >= 0 and frame.image.max() <= 1
        assert not frame.image[~frame.inside].any()
        np.testing.assert_array_equal(frame.labels == bmode.OUTSIDE, ~frame.inside)
        assert frame.artefacts.max() <= bmode.COMET_TAIL
        assert frame.inside.mean() > 0.25


def test_same_seed_same_frame_other_machine_same_anatomy() -> None:
    scene = random_scene(np.random.default_rng(5), 40.0)
    machines = [Machine(), Machine(dynamic_range_db=40, axial_mm=0.6, lateral_mm=2.0)]
    first, again = (image_scene(scene, machines[0], np.random.default_rng(0)) for _ in range(2))
    other = image_scene(scene, machines[1], np.random.default_rng(0))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, other.labels)
    assert np.abs(first.image - other.image).mean() > 0.02


def test_needle_tip_is_where_it_says() -> None:
    needle = Needle(entry=(-19.0, 5.0), tip=(4.0, 20.0), amplitude=40, repeats=3)
    scene = Scene(PLAIN.layers, needle=needle, texture=0.0, walls_db=-200.0)
    machine = Machine(gain_db=-30)
    frame = image_scene(scene, machine, np.random.default_rng(0))
    row, column = frame.pixel(*needle.tip)
    on, beyond = frame.image[round(row) - 4, round(column) - 6], frame.image[round(row) + 4, round(column) + 8]
    assert on > beyond + 0.2
    assert frame.labels[round(row) - 4, round(column) - 6] == bmode.NEEDLE
    assert frame.artefacts[round(row) + 12, round(column) - 20] == bmode.REVERBERATION


def test_bone_casts_a_shadow_and_fluid_brightens() -> None:
    ellipses = (bmode.Ellipse(bmode.BONE, -10, 15, 4, 2), bmode.Ellipse(bmode.CYST, 10, 15, 5, 5))
    scene = Scene(PLAIN.layers, ellipses, texture=0.0, walls_db=-20.0)
    frame = image_scene(scene, Machine(gain_db=-15, dynamic_range_db=60), np.random.default_rng(0))

    def mean(x: float, z: float) -> float:
        row, column = (round(v) for v in frame.pixel(x, z))
        return float(frame.image[row - 8 : row + 9, column - 8 : column + 9].mean())

    assert mean(-10, 28) < mean(0, 28) - 0.2
    assert mean(10, 28) > mean(0, 28) + 0.03
    row, column = (round(v) for v in frame.pixel(-10, 28))
    assert frame.artefacts[row, column] == bmode.SHADOW


def test_simulator_is_fast() -> None:
    rng = np.random.default_rng(0)
    times = []
    for _ in range(8):
        machine = random_machine(rng)
        scene = random_scene(rng, machine.depth_mm)
        start = time.process_time()
        image_scene(scene, machine, rng)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
