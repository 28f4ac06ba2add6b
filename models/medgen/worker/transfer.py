"""Values between client and worker: voxels and other bytes in shared memory, the rest as JSON. Python 3.9.

Blocks are what `multiprocessing.shared_memory` makes, without its resource tracker: that would start another process
from sys.executable (in Slicer: a second Slicer) and unlink blocks that the other side still owns. A block's name says
whose it is (session, shipment, direction, number), so that whoever survives can remove all blocks of a shipment: they
are made in the order of their numbers and removed in the opposite order, so 'number 0 upwards until one is missing'
finds them all.

Packing and unpacking are generators that pause every few megabytes, so that a GUI can spread them over several timer
ticks.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any, Optional

from medgen.errors import BadInput, MedGenError

if sys.platform != "win32":
    import _posixshmem

STEP_BYTES = 4 * 2**20
DIRECTIONS = "iop"  # to the worker; its results; what a running job shows
_SCALARS = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
PIXEL_TYPES = (
    *(f"sitk{name}" for name in _SCALARS),
    *(f"sitkVector{name}" for name in _SCALARS),
    "sitkComplexFloat32",
    "sitkComplexFloat64",
)

# ------------------------------------------------------------------------------------------------------ shared blocks


def block_name(session: str, shipment: int, direction: str, number: int) -> str:
    """direction: one of DIRECTIONS. Under 31 characters, the limit of macOS."""
    return f"mg{session}-{shipment:x}{direction}{number:x}"


def unlink(name: str) -> bool:
    """Removes the name; False if there was none. Windows frees a block with its last handle."""
    if sys.platform == "win32":
        return False
    try:
        _posixshmem.shm_unlink("/" + name)
    except FileNotFoundError:
        return False
    return True


def sweep(session: str, shipment: int) -> None:
    """Removes every block of a shipment whose owner is gone."""
    for direction in DIRECTIONS:
        number = 0
        while unlink(block_name(session, shipment, direction, number)):
            number += 1


class Block:
    """A named piece of shared memory. Owned by the client, whichever side made it."""

    def __init__(self, name: str, size: int, create: bool) -> None:
        self.name = name
        self._fd = -1
        self._map: Optional[mmap.mmap] = None
        if sys.platform == "win32":
            self._map = mmap.mmap(-1, size, tagname=name)
            return
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        self._fd = _posixshmem.shm_open("/" + name, flags, mode=0o600)
        if create:
            os.ftruncate(self._fd, size)
        if not create or sys.platform != "linux":
            self._map = mmap.mmap(self._fd, size)

    def write(self, offset: int, data: memoryview) -> None:
        """Raises OSError when shared memory is full. (On Linux by pwrite: a full tmpfs would kill a writing process
        that had mapped it, and mapping costs a page fault for each 4 kB.)"""
        if self._map is not None:
            self._map[offset : offset + len(data)] = data
            return
        while len(data):
            done = os.pwrite(self._fd, data, offset)
            offset, data = offset + done, data[done:]

    def read_into(self, address: int, offset: int, size: int) -> None:
        assert self._map is not None
        source = ctypes.c_char.from_buffer(self._map, offset)
        ctypes.memmove(address, ctypes.addressof(source), size)

    def bytes(self, size: int) -> bytes:
        assert self._map is not None
        return self._map[:size]

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Blocks:
    """The blocks of one direction of one shipment, in the order in which they were made."""

    def __init__(self, session: str, shipment: int, direction: str) -> None:
        self._key = (session, shipment, direction)
        self._blocks: list[Block] = []

    def make(self, size: int) -> Block:
        block = Block(block_name(*self._key, len(self._blocks)), size, create=True)
        self._blocks.append(block)
        return block

    def open(self, name: str, size: int) -> Block:
        if not name.startswith(block_name(*self._key, 0)[:-1]):
            raise MedGenError("The worker named a block of shared memory that is not its own.")
        block = Block(name, size, create=False)
        self._blocks.append(block)
        return block

    def close(self) -> None:
        for block in self._blocks:
            block.close()

    def forget(self) -> None:
        """Closes them; the other side has removed them, or will."""
        self.close()
        self._blocks.clear()

    def release(self) -> None:
        """Closes and removes them."""
        self.close()
        while self._blocks:
            unlink(self._blocks.pop().name)


# ------------------------------------------------------------------------------------------------------------- values


def is_image(value: Any) -> bool:
    return hasattr(value, "GetPixelIDTypeAsString") and hasattr(value, "GetDirection")


def pack(values: dict[str, Any], blocks: Blocks) -> Generator[None, None, dict[str, Any]]:
    """Returns (as StopIteration.value) what `unpack` takes on the other side. Raises MedGenError when memory is
    full."""
    described = {}
    try:
        for name, value in values.items():
            described[name] = yield from _pack_value(value, blocks)
    except OSError as error:
        raise MedGenError(f"There is not enough shared memory for the images ({error.strerror}).") from error
    return described


def unpack(described: dict[str, Any], blocks: Blocks) -> Generator[None, None, dict[str, Any]]:
    """The values again; images on exactly the grid they had."""
    values = {}
    try:
        for name, description in described.items():
            values[name] = yield from _unpack_value(description, blocks)
    except OSError as error:
        raise MedGenError(f"A shared image could not be read ({error.strerror}).") from error
    return values


def drain(steps: Generator[None, None, dict[str, Any]]) -> dict[str, Any]:
    """Runs a packing or unpacking to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def _pack_value(value: Any, blocks: Blocks) -> Generator[None, None, dict[str, Any]]:
    if is_image(value):
        return (yield from _pack_image(value, blocks))
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = memoryview(value).cast("B")
        return {"kind": "blob", "size": len(data), "block": (yield from _pack_bytes(data, blocks))}
    if isinstance(value, (list, tuple)) and value and is_image(value[0]):
        items = []
        for image in value:
            items.append((yield from _pack_image(image, blocks)))
        return {"kind": "images", "items": items}
    if isinstance(value, dict) and value and is_image(next(iter(value.values()))):
        images = yield from _pack_value(list(value.values()), blocks)
        return {"kind": "series", "numbers": list(value), "images": images}
    return {"kind": "json", "value": value}


def _pack_image(image: Any, blocks: Blocks) -> Generator[None, None, dict[str, Any]]:
    import SimpleITK as sitk

    pixel_type = next((name for name in PIXEL_TYPES if getattr(sitk, name) == image.GetPixelID()), None)
    if pixel_type is None:
        raise BadInput(f"Images of {image.GetPixelIDTypeAsString()} cannot be sent to the worker.")
    if image.GetNumberOfPixels():
        view: Any = sitk.GetArrayViewFromImage(image)
        data = memoryview(view.reshape(-1).view("uint8"))
    else:
        data = memoryview(b"")
    return {
        "kind": "image",
        "pixel_type": pixel_type,
        "components": image.GetNumberOfComponentsPerPixel(),
        "size": image.GetSize(),
        "spacing": image.GetSpacing(),
        "origin": image.GetOrigin(),
        "direction": image.GetDirection(),
        "bytes": len(data),
        "block": (yield from _pack_bytes(data, blocks)),
    }


def _pack_bytes(data: memoryview, blocks: Blocks) -> Generator[None, None, Optional[str]]:
    if not len(data):
        return None
    block = blocks.make(len(data))
    for start, end in _steps(len(data)):
        block.write(start, data[start:end])
        yield
    return block.name


def _unpack_value(description: dict[str, Any], blocks: Blocks) -> Generator[None, None, Any]:
    kind = description["kind"]
    if kind == "image":
        return (yield from _unpack_image(description, blocks))
    if kind == "images":
        images = []
        for item in description["items"]:
            images.append((yield from _unpack_image(item, blocks)))
        return images
    if kind == "series":
        images = yield from _unpack_value(description["images"], blocks)
        return dict(zip(description["numbers"], images))
    if kind == "blob":
        size = description["size"]
        return blocks.open(description["block"], size).bytes(size) if size else b""
    return description["value"]


def _unpack_image(description: dict[str, Any], blocks: Blocks) -> Generator[None, None, Any]:
    import SimpleITK as sitk

    pixel_type, size, count = description["pixel_type"], description["size"], description["bytes"]
    components = description["components"] if "Vector" in pixel_type else 1
    image = sitk.Image(size, getattr(sitk, pixel_type), components)
    image.SetSpacing(description["spacing"])
    image.SetOrigin(description["origin"])
    image.SetDirection(description["direction"])
    if count:
        # The voxels are written straight into the new image, which nobody else holds yet: SimpleITK has no other way
        # to fill an image in portions.
        view = sitk.GetArrayViewFromImage(image)
        if view.nbytes != count:
            raise MedGenError("A shared image has another size than announced.")
        block = blocks.open(description["block"], count)
        yield
        for start, end in _steps(count):
            block.read_into(view.ctypes.data + start, start, end - start)
            yield
    return image


def _steps(total: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, STEP_BYTES):
        yield start, min(start + STEP_BYTES, total)
