"""From painted planes to a volume: multiplanar U-Net."""

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.catalogue import find_method
from medgen.errors import BadInput, Cancelled
from medgen.imaging.geometry import Grid, from_array, to_array
from medgen.method import Context, SilentProgress
from medgen.methods.multiplanar_unet.few_planes import prepare, run
from medgen.metrics.overlap import dice

SPEC = find_method("multiplanar_unet_few_planes")
TURNED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def _ball(shape=(32, 30, 34), spacing=(2.0, 2.0, 2.0), direction=TURNED):
    grid = Grid(tuple(reversed(shape)), spacing, (30.0, -20.0, 7.0), direction)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    truth = ((z - 15) ** 2 + (y - 14) ** 2 + (x - 16) ** 2 < 81).astype(np.uint8)
    noise = np.random.default_rng(0).normal(size=shape)
    return from_array((100 * truth + 12 * noise).astype(np.int16), grid), from_array(truth, grid)


def _planes(image, cuts):
    """cuts: (index axis, index)."""
    grid, found = Grid.of(image), []
    for axis, index in cuts:
        point = (np.array(image.GetSize()) - 1) / 2
        point[axis] = index
        found.append({"origin": grid.to_world([point])[0].tolist(), "normal": grid.axes[:, axis].tolist()})
    return found


def _only_on(truth, cuts):
    painted = np.zeros_like(to_array(truth))
    for axis, index in cuts:
        where = [slice(None)] * 3
        where[2 - axis] = index
        painted[tuple(where)] = to_array(truth)[tuple(where)]
    return from_array(painted, truth)


CUTS = [(0, 16), (1, 14), (2, 15), (2, 20)]
PARAMETERS = SPEC.check_parameters({"updates": 100, "training_planes": 24, "learning_rate": 4e-3})


def test_learns_a_ball_from_four_planes_and_continues():
    image, truth = _ball()
    inputs = {"image": image, "painted": _only_on(truth, CUTS), "planes": _planes(image, CUTS)}
    result = run(inputs, PARAMETERS, Context())
    found = result["segmentation"]
    assert Grid.of(found) == Grid.of(image)
    assert dice(to_array(found), to_array(truth)) > 0.85
    assert set(result) | {"held_out"} == {port.name for port in SPEC.outputs}
    assert to_array(result["probability"]).min() >= 0 and to_array(result["probability"]).max() <= 1
    assert len(result["training"]["loss"]) == len(result["training"]["update"]) == 100
    assert len(result["next_plane"]) == 1

    more = run({**inputs, "model": result["model"]}, {**PARAMETERS, "updates": 20}, Context())
    assert more["training"]["loss"][0] < result["training"]["loss"][0]
    repeated = run({**inputs, "model": result["model"]}, {**PARAMETERS, "updates": 20}, Context())
    assert repeated["model"] == more["model"]  # same seed, same result


def test_two_segments_keep_the_users_values_and_slices_are_left_out():
    image, truth = _ball()
    halves = to_array(truth)
    halves[:15] *= 5
    halves[15:] *= 2
    cuts = [(0, 16), (1, 14)]
    inputs = {
        "image": image,
        "painted": _only_on(from_array(halves, truth), cuts),
        "planes": _planes(image, cuts),
    }
    result = run(inputs, {**PARAMETERS, "updates": 20, "leave_one_out": True}, Context())
    assert set(np.unique(to_array(result["segmentation"]))) <= {0, 2, 5}
    assert result["held_out"]["slice"] == [1, 2] and all(0 <= d <= 1 for d in result["held_out"]["dice"])


def test_region_limits_what_is_segmented():
    image, truth = _ball()
    centre = Grid.of(image).to_world([[16, 14, 20]])[0]
    roi = {"center": centre.tolist(), "axes": np.array(TURNED).reshape(3, 3).tolist(), "size_mm": [50.0, 50.0, 20.0]}
    inputs = {"image": image, "painted": _only_on(truth, CUTS), "planes": _planes(image, CUTS), "roi": roi}
    found = to_array(run(inputs, {**PARAMETERS, "updates": 20}, Context())["segmentation"])
    assert not found[:14].any() and not found[27:].any()


def test_thin_paint_on_an_oblique_plane_of_an_anisotropic_image_is_read_where_it_lies():
    image, truth = _ball((16, 60, 68), (1.0, 1.0, 4.0))
    normal = np.array([0.6, 0.0, 0.8])
    middle = Grid.of(image).to_world([[33, 29, 8]])[0]
    case = prepare(image, truth, [{"origin": middle.tolist(), "normal": normal.tolist()}], 0.0)
    assert case.grid.spacing_mm == pytest.approx((1, 1, 1))
    known = case.volume.known
    resampled = sitk.Resample(
        truth, from_array(case.volume.image, case.grid), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    assert dice(case.volume.labels[known], to_array(resampled)[known]) > 0.9


def test_bad_input_is_one_sentence():
    image, truth = _ball()
    far = [{"origin": [5000.0, 0, 0], "normal": [1.0, 0, 0]}]
    nothing = from_array(np.zeros_like(to_array(truth)), truth)
    good = {"image": image, "painted": truth, "planes": _planes(image, CUTS)}
    for change, words in (
        ({"planes": []}, "finished slices"),
        ({"planes": far}, "finished slices"),
        ({"painted": nothing}, "Nothing is painted"),
        ({"model": b"not a model"}, "cannot be read"),
        ({"roi": {"center": [5000, 0, 0], "axes": np.eye(3).tolist(), "size_mm": [5, 5, 5]}}, "does not overlap"),
    ):
        with pytest.raises(BadInput, match=words):
            run({**good, **change}, PARAMETERS, Context())


class _CancelAfter(SilentProgress):
    calls = 0

    def raise_if_cancelled(self):
        self.calls += 1
        if self.calls > 30:
            raise Cancelled("cancelled")


def test_cancel_stops_the_training():
    image, truth = _ball()
    progress = _CancelAfter()
    with pytest.raises(Cancelled):
        run({"image": image, "painted": truth, "planes": _planes(image, CUTS)}, PARAMETERS, Context(progress=progress))
    assert progress.calls == 31
