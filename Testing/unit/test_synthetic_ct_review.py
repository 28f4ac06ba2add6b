"""The check of a synthetic CT: figures, difference map, histogram and water paths."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.catalogue import find_method
from medgen.errors import BadInput
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.imaging.resampling import grid_like, resample
from medgen.imaging.water_path import spr_from_hu
from medgen.method import Context, SilentProgress
from medgen.methods.synthetic_ct_review.infer import run, unit_of
from medgen.spec import ImageFacts

SPEC = find_method("synthetic_ct_review")
DEFAULTS = SPEC.check_parameters({})


def head(size: int = 40, shell: float = 900.0) -> sitk.Image:
    """A ball of 60 mm radius in a bony shell, 2 mm voxels, on an oblique grid."""
    c, s = np.cos(0.3), np.sin(0.3)
    z, y, x = (np.mgrid[:size, :size, :size] - (size - 1) / 2) * 4.0
    r = np.sqrt(x * x + y * y + z * z)
    hu = np.select([r < 10, r < 50, r < 58, r < 64], [-1000, 40, shell, 20], -1000).astype(np.int16)
    return from_array(hu, Grid((size,) * 3, (4.0,) * 3, (5.0, -80.0, 30.0), (c, -s, 0, s, c, 0, 0, 0, 1)))


def line_through(image: sitk.Image) -> list[list[float]]:
    """From edge to edge along i, off the air pocket."""
    grid = Grid.of(image)
    return grid.to_world([[-0.5, 25, 25], [grid.size[0] - 0.5, 25, 25]]).tolist()


def test_against_a_reference_everything_is_told() -> None:
    true = head()
    array = to_array(true)
    array[array == 900] = 800
    made = run(
        {"synthetic": from_array(array, true), "reference": true, "lines": line_through(true)}, DEFAULTS, Context()
    )
    assert set(made) == {port.name for port in SPEC.outputs}
    metrics = {row: i for i, row in enumerate(made["metrics"]["region"])}
    assert made["metrics"]["ME (HU)"][metrics["bone"]] == -100 and made["metrics"]["MAE (HU)"][metrics["bone"]] == 100
    assert made["metrics"]["MAE (HU)"][metrics["soft"]] == 0
    assert {"whole", "body", "bone edge", "air"} <= set(metrics)
    difference = to_array(made["difference"])
    assert Grid.of(made["difference"]) == Grid.of(true)
    assert (difference[array == 800] == -100).all() and (difference[array != 800] == 0).all()
    paths = made["water_paths"]
    expected = 4 * float(np.diff(spr_from_hu([800.0, 900.0]))[0]) * int((array[25, 25] == 800).sum())
    assert paths["difference (mm)"] == pytest.approx([-expected], abs=0.01)
    assert paths["length (mm)"] == [160.0] and paths["outside the image (mm)"] == [0.0]
    depth = made["water_depth"]
    assert depth["WEPL reference (mm)"][-1] == pytest.approx(paths["WET reference (mm)"][0], abs=0.01)
    assert made["spr_profile"]["SPR reference"][0] == pytest.approx(0.001 + (24 / 924) * 0.929, abs=1e-3)
    for port in SPEC.outputs:
        if hasattr(port, "x"):
            assert {port.x, *port.y} <= set(made[port.name]), port.name
    json.dumps({name: value for name, value in made.items() if name != "difference"}, allow_nan=False)


def test_without_a_reference_there_is_a_histogram_and_no_error() -> None:
    made = run({"synthetic": head()}, DEFAULTS, Context())
    assert set(made) == {"histogram"} and set(made["histogram"]) == {"HU or SPR", "synthetic"}
    assert sum(made["histogram"]["synthetic"]) == pytest.approx(100, abs=0.1)


def test_a_reference_on_another_grid_is_compared_in_the_world() -> None:
    """A ramp in the world: interpolation reproduces it, any shift would show."""
    k, j, i = np.mgrid[:40, :40, :40]
    image = from_array((20.0 * i - 13 * j + 7 * k - 100).astype(np.float32), head())
    body = from_array(((abs(k - 20) < 14) & (abs(j - 20) < 14) & (abs(i - 20) < 14)).astype(np.uint8), image)
    fine = resample(image, grid_like(image, 2.5))
    made = run({"synthetic": image, "reference": fine, "body": body}, DEFAULTS, Context())
    assert Grid.of(made["difference"]) == Grid.of(image)
    assert made["metrics"]["MAE (HU)"][made["metrics"]["region"].index("body")] < 0.2


def test_what_the_reference_does_not_cover_does_not_count() -> None:
    true = head()
    half = sitk.RegionOfInterest(true, [40, 40, 20], [0, 0, 0])
    wrong = to_array(true)
    wrong[21:] += 500  # beyond the reference
    made = run({"synthetic": from_array(wrong, true), "reference": half}, DEFAULTS, Context())
    assert set(made["metrics"]["MAE (HU)"]) == {0.0}
    assert not to_array(made["difference"]).any()


def test_a_ct_beside_a_stopping_power_map_is_turned_into_one() -> None:
    true = head()
    heard = []

    class Ear(SilentProgress):
        def notice(self, sentence: str) -> None:
            heard.append(sentence)

    spr = from_array(spr_from_hu(to_array(true)), true)
    assert unit_of(spr) == "SPR" and unit_of(true) == "HU"
    inputs = {"synthetic": spr, "reference": true, "lines": line_through(true)}
    made = run(inputs, DEFAULTS, Context(progress=Ear()))
    assert set(made["metrics"]["MAE (SPR)"]) == {0.0} and "PSNR (dB, Q=4.095)" in made["metrics"]
    assert made["water_paths"]["difference (mm)"] == [0.0]
    assert heard == ["The reference is in HU: it was turned into SPR by the HU to SPR table."]


def test_the_users_own_table_and_body_are_taken() -> None:
    true = head()
    body = from_array((to_array(true) == 40).astype(np.uint8), true)
    table = {"HU": [-1000.0, 1000.0], "SPR": [1.0, 1.0000001]}
    inputs = {"synthetic": true, "body": body, "calibration": table, "lines": line_through(true)}
    made = run(inputs, DEFAULTS, Context())
    assert made["water_paths"]["WET synthetic (mm)"] == [160.0]
    assert max(made["histogram"]["synthetic"]) == 100


def test_what_cannot_be_checked_is_refused() -> None:
    true = head()
    with pytest.raises(BadInput, match="two points"):
        run({"synthetic": true, "lines": line_through(true)[:1]}, DEFAULTS, Context())
    empty = from_array(np.zeros((40, 40, 40), np.uint8), true)
    with pytest.raises(BadInput, match="body is empty"):
        run({"synthetic": true, "body": empty}, DEFAULTS, Context())
    far = sitk.Image(true)
    far.SetOrigin((5000.0, 0.0, 0.0))
    with pytest.raises(BadInput, match="does not cover"):
        run({"synthetic": true, "reference": far, "body": true > 0}, DEFAULTS, Context())
    mr = ImageFacts((40,) * 3, (1.0,) * 3, 0.0, 900.0, (0.0, 100.0, 800.0), "MR")
    (warning,) = SPEC.fitness({"synthetic": mr})
    assert "MR" in warning.sentence
