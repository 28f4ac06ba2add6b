"""Each kind of input that a method cannot use is refused with one sentence, and each good one is let through."""

import numpy as np
import pytest
import SimpleITK as sitk

from medgen.errors import BadInput
from medgen.spec import (
    ROI,
    Blob,
    Image,
    LabelMap,
    Mask,
    MethodSpec,
    Paper,
    Planes,
    Points,
    Port,
    Probability,
    Table,
    Transform,
)
from medgen.worker.checks import check_inputs


def spec(*ports: Port) -> MethodSpec:
    return MethodSpec("m", "M", "", "test", Paper("", "", "", 2026), "", "a:b", ports, ())


def volume(
    shape: tuple[int, ...] = (4, 4, 4), dtype: type = np.float32, fill: float = 0, **options: bool
) -> sitk.Image:
    return sitk.GetImageFromArray(np.full(shape, fill, dtype), **options)


def at(x_mm: float) -> sitk.Image:
    image = volume()
    image.SetOrigin((x_mm, 0, 0))
    return image


def with_value(value: float) -> sitk.Image:
    image = volume()
    image[1, 2, 3] = value
    return image


GOOD = [
    (Image("x", "X"), volume()),
    (Image("x", "X"), volume((1, 4, 4))),
    (Image("x", "X"), volume(dtype=np.int16, fill=-1000)),
    (Image("x", "X", kind="slice"), volume((4, 4))),
    (Image("x", "X", kind="slice"), volume((1, 4, 4))),
    (Image("x", "X", kind="rgb"), volume((4, 5, 3), isVector=True)),
    (Image("x", "X", kind="sequence"), [volume((4, 4)), volume((4, 4))]),
    (Mask("x", "X"), volume(dtype=np.uint8, fill=1)),
    (LabelMap("x", "X"), volume(dtype=np.int16, fill=300)),
    (Probability("x", "X"), volume(fill=0.5)),
    (Points("x", "X"), []),
    (Points("x", "X"), [[1, 2.5, -3]]),
    (Planes("x", "X"), [{"origin": [0, 0, 0], "normal": [0, 0, 1]}]),
    (ROI("x", "X"), {"center": [0, 0, 0], "axes": np.eye(3).tolist(), "size_mm": [1, 1, 1]}),
    (Table("x", "X"), {"a": [1, 2], "b": ["c", "d"]}),
    (Transform("x", "X"), np.eye(4).tolist()),
    (Blob("x", "X"), b"1"),
]

BAD = [
    (Image("x", "X"), [[1, 2, 3]], "must be an image"),
    (Image("x", "X"), volume((4, 4)), "is 2D; 3D is needed"),
    (Image("x", "X"), sitk.Image([2, 2, 2, 2], sitk.sitkInt16), "is 4D; 3D is needed"),
    (Image("x", "X"), sitk.Image([0, 2, 2], sitk.sitkInt16), "is empty"),
    (Image("x", "X"), volume((1, 1, 1)), "has only one voxel"),
    (Image("x", "X"), with_value(np.nan), "contains NaN or infinite values"),
    (Image("x", "X"), with_value(np.inf), "contains NaN or infinite values"),
    (Image("x", "X"), with_value(-np.inf), "contains NaN or infinite values"),
    (Image("x", "X"), volume((4, 4, 4, 3)), "has 3 values a voxel; one is needed"),
    (Image("x", "X"), volume(dtype=np.complex64), "has complex values"),
    (Image("x", "X", kind="rgb"), volume((4, 4)), "must be a colour image"),
    (Image("x", "X", kind="slice"), volume(), "must be one slice, not a volume of 4 x 4 x 4"),
    (Image("x", "X", kind="sequence"), volume(), "must be a sequence of images"),
    (Image("x", "X", kind="sequence"), [], "must be a sequence of images"),
    (Image("x", "X", kind="sequence"), [volume((4, 4)), volume((4, 5))], "has frames of different sizes"),
    (Mask("x", "X"), volume(dtype=np.uint8, fill=255), "must be a mask with the values 0 and 1 only"),
    (Mask("x", "X"), volume(), "must be a label map with whole numbers"),
    (LabelMap("x", "X"), volume(), "must be a label map with whole numbers"),
    (Probability("x", "X"), volume(fill=1.5), "must lie between 0 and 1"),
    (Points("x", "X"), [[1, 2]], "must be a list of points"),
    (Points("x", "X"), [[1, 2, float("nan")]], "must be a list of points"),
    (Planes("x", "X"), [{"origin": [0, 0, 0], "normal": [0, 0, 0]}], "must be a list of planes"),
    (ROI("x", "X"), {"center": [0, 0, 0], "axes": np.eye(3).tolist(), "size_mm": [1, 0, 1]}, "must be a box"),
    (Table("x", "X"), {"a": [1, 2], "b": [1]}, "must be a table whose columns have one length"),
    (Transform("x", "X"), np.eye(3).tolist(), "must be a 4 x 4 matrix"),
    (Blob("x", "X"), "text", "must be what an earlier run made"),
]


@pytest.mark.parametrize(("port", "value"), GOOD)
def test_good_inputs_pass(port: Port, value: object) -> None:
    check_inputs(spec(port), {"x": value})


@pytest.mark.parametrize(("port", "value", "sentence"), BAD)
def test_bad_inputs_are_refused(port: Port, value: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=rf"^Input 'x' \(X\) {sentence}.*\.$"):
        check_inputs(spec(port), {"x": value})


def test_every_kind_of_port_is_checked() -> None:
    assert {type(port) for port, _ in GOOD} == {type(port) for port, *_ in BAD}


def test_images_must_share_some_space() -> None:
    ports = Image("a", "A"), Mask("b", "B", required=False), Image("c", "C", required=False, anywhere=True)
    far_mask = volume(dtype=np.uint8)
    far_mask.SetOrigin((4.0, 0, 0))
    near_mask = volume(dtype=np.uint8)
    near_mask.SetOrigin((3.9, 0, 0))  # voxels reach half a spacing further than their centres
    check_inputs(spec(*ports), {"a": at(0), "b": near_mask, "c": at(99)})
    with pytest.raises(BadInput, match=r"Input 'b' \(B\) does not overlap with 'a' \(A\) in space"):
        check_inputs(spec(*ports), {"a": at(0), "b": far_mask})
