"""Values arrive exactly as they were sent, and no block of shared memory stays behind."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.errors import BadInput, MedGenError
from medgen.worker import transfer
from medgen.worker.protocol import Decoder, encode
from medgen.worker.transfer import PIXEL_TYPES, Blocks, block_name, drain, pack, sweep, unlink, unpack


@pytest.fixture
def session() -> Iterator[str]:
    name = secrets.token_hex(4)
    yield name
    assert not left_over(name)


def left_over(session: str) -> bool:
    names = [block_name(session, shipment, side, n) for shipment in range(3) for side in "io" for n in range(20)]
    return any([unlink(name) for name in names])  # a list: all must be removed


def there_and_back(values: dict, session: str) -> dict:
    sent, received = Blocks(session, 0, "i"), Blocks(session, 0, "i")
    (message,) = Decoder().feed(encode("run", inputs=drain(pack(values, sent))))
    arrived = drain(unpack(message["inputs"], received))
    received.close()
    sent.release()
    return arrived


def assert_same_image(a: sitk.Image, b: sitk.Image) -> None:
    assert (a.GetPixelID(), a.GetSize(), a.GetNumberOfComponentsPerPixel()) == (
        b.GetPixelID(),
        b.GetSize(),
        b.GetNumberOfComponentsPerPixel(),
    )
    assert (a.GetSpacing(), a.GetOrigin(), a.GetDirection()) == (b.GetSpacing(), b.GetOrigin(), b.GetDirection())
    if a.GetNumberOfPixels():
        assert sitk.GetArrayFromImage(a).tobytes() == sitk.GetArrayFromImage(b).tobytes()


@pytest.mark.parametrize("pixel_type", PIXEL_TYPES)
@pytest.mark.parametrize("size", [(5, 4, 3), (1, 1, 1), (7, 2), (3, 2, 2, 2), (0, 4, 3)])
def test_every_pixel_type_and_size(pixel_type: str, size: tuple[int, ...], session: str) -> None:
    components = 3 if "Vector" in pixel_type else 1
    image = sitk.Image(size, getattr(sitk, pixel_type), components)
    if image.GetNumberOfPixels():
        data = np.frombuffer(np.random.default_rng(1).bytes(sitk.GetArrayViewFromImage(image).nbytes), np.uint8)
        image = sitk.GetImageFromArray(
            data.view(sitk.GetArrayViewFromImage(image).dtype).reshape(sitk.GetArrayViewFromImage(image).shape),
            isVector="Vector" in pixel_type,
        )
    image.SetSpacing([0.1 + axis / 3 for axis in range(len(size))])
    assert_same_image(there_and_back({"image": image}, session)["image"], image)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=3))
def test_geometry_is_exact(angles: list[float], spacing: list[float]) -> None:
    image = sitk.Image(3, 2, 2, sitk.sitkInt16)
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix())
    image.SetSpacing(spacing)
    image.SetOrigin([-value / 7 for value in spacing])
    session = secrets.token_hex(4)
    assert_same_image(there_and_back({"image": image}, session)["image"], image)
    assert not left_over(session)


def test_an_image_larger_than_one_step(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "STEP_BYTES", 1000)
    image = sitk.GetImageFromArray(np.arange(9 * 8 * 77, dtype=np.int32).reshape(9, 8, 77))
    assert_same_image(there_and_back({"image": image}, session)["image"], image)


def test_other_kinds(session: str) -> None:
    frames = [sitk.GetImageFromArray(np.full((2, 3), n, np.uint8)) for n in range(4)]
    values = {
        "sequence": frames,
        "blob": bytes(range(256)) * 33,
        "no_bytes": b"",
        "points": [[0.1, 1 / 3, -1e-300]],
        "nothing": [],
        "table": {"name": ["weiß"], "ml": [1.5]},
        "matrix": np.eye(4),
        "flag": True,
    }
    arrived = there_and_back(values, session)
    for a, b in zip(arrived.pop("sequence"), values.pop("sequence"), strict=True):
        assert_same_image(a, b)
    assert arrived.pop("matrix") == values.pop("matrix").tolist()
    assert arrived == values


def test_a_series_keeps_its_numbers(session: str) -> None:
    series = {0.0: sitk.Image(4, 3, 2, sitk.sitkInt16), 2.5: sitk.Image(4, 3, 2, sitk.sitkFloat32) + 1}
    arrived = there_and_back({"series": series}, session)["series"]
    assert list(arrived) == [0.0, 2.5]
    for number, image in series.items():
        assert_same_image(arrived[number], image)


def test_label_object_images_are_refused(session: str) -> None:
    with pytest.raises(BadInput, match="cannot be sent"):
        drain(pack({"x": sitk.Image(2, 2, 2, sitk.sitkLabelUInt8)}, Blocks(session, 0, "i")))


def test_sweeping_finds_all_blocks_of_a_shipment(session: str) -> None:
    for side in "io":
        drain(pack({"a": b"1", "b": b"2", "c": b"3"}, Blocks(session, 1, side)))
    sweep(session, 1)
    assert not left_over(session)


def test_a_block_of_somebody_else_is_not_opened(session: str) -> None:
    description = {"x": {"kind": "blob", "size": 4, "block": "psm_other"}}
    with pytest.raises(MedGenError, match="not its own"):
        drain(unpack(description, Blocks(session, 0, "o")))


@pytest.mark.skipif(sys.platform != "linux", reason="full shared memory can only be acted out on Linux")
def test_full_shared_memory_is_a_sentence(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    blocks = Blocks(session, 0, "i")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MedGenError, match="not enough shared memory"):
        drain(pack({"a": b"1234"}, blocks))
    blocks.release()


def test_no_resource_tracker_is_started(session: str) -> None:
    """In a process of its own: other tests of this one may have started a tracker for pools of theirs."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_worker_transfer as t; "
        f"from multiprocessing import resource_tracker as r; t.there_and_back({{'a': b'1234'}}, {session!r}); "
        "print(getattr(r._resource_tracker, '_pid', None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
