"""What was computed for single slices, kept between the jobs of a worker: a changed guidance decodes only."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from medgen.method import Context

CAPACITY = 1000  # slices; an encoding of four sequences has 256 kB


class SliceMemory:
    """Values by the content of a slice and by what else they depend on; the ones used last are kept."""

    def __init__(self) -> None:
        self.values: OrderedDict[bytes, Any] = OrderedDict()

    @classmethod
    def of(cls, context: Context) -> SliceMemory:
        """The worker's own."""
        memory: SliceMemory = context.cached("slice memory", cls)
        return memory

    def keys(self, x: Tensor, setting: Any) -> list[bytes]:
        """x: [n, ...], on the CPU; one key for each."""
        rest = repr(setting).encode()
        rows = (np.ascontiguousarray(row).tobytes() for row in x.numpy())
        return [hashlib.blake2b(row + rest, digest_size=16).digest() for row in rows]

    def fill(self, keys: list[bytes], rows: list[int], make: Callable[[list[int]], Any]) -> list[Any]:
        """The values of these rows; those not known are made together by `make(rows)` and kept."""
        missing = [row for row in rows if keys[row] not in self.values]
        made = dict(zip(missing, make(missing) if missing else [], strict=True))
        found = []
        for row in rows:
            value = made[row] if row in made else self.values[keys[row]]
            self.values[keys[row]] = value
            self.values.move_to_end(keys[row])
            found.append(value)
        while len(self.values) > CAPACITY:
            self.values.popitem(last=False)
        return found
