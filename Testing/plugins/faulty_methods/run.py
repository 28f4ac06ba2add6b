"""What the methods of this package do wrong."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.method import Context


def run_mirror(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    return inputs


def run_weights(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    assert context.weights is not None
    return {"table": {"name": [context.weights.name], "size": [context.weights.stat().st_size]}}


def run_faulty(inputs: dict[str, Any], parameters: dict[str, Any], context: Context) -> dict[str, Any]:
    context.progress.report("Misbehaving", 0.1)
    table = _FAULTS[parameters["fault"]](parameters["seconds"], context)
    return {"table": table or {"pid": [os.getpid()]}} if table != {} else {}


def _segfault(seconds: float, context: Context) -> None:
    ctypes.string_at(0)


def _sleep_in_c(seconds: float, context: Context) -> None:
    ctypes.CDLL(None).sleep(int(seconds))


def _hold_gil(seconds: float, context: Context) -> None:
    ctypes.PyDLL(None).sleep(int(seconds))


def _ignore_cancel(seconds: float, context: Context) -> None:
    time.sleep(seconds)


def _allocate(seconds: float, context: Context) -> dict[str, Any]:
    values = [np.ones(10_000) for _ in range(4_000)]  # 320 MB in pieces that the C library keeps when they are freed
    return {"megabytes": [sum(v.nbytes for v in values) // 2**20]}


def _print(seconds: float, context: Context) -> None:
    print('{"v":1,"type":"finished","job":"job-1","outputs":{},"provenance":{}}')
    sys.stdout.flush()
    os.write(1, "straight to the file descriptor: Gewebe ist weiß\n".encode())
    subprocess.run(["echo", "from a child"], check=True)
    context.progress.log("said properly")


def _exit(seconds: float, context: Context) -> None:
    sys.exit(5)


def _raise(seconds: float, context: Context) -> None:
    raise ValueError("shapes (3, 4) and (5,) do not match\nsecond line")


def _missing_package(seconds: float, context: Context) -> None:
    import a_package_that_nobody_has  # noqa: F401


def _memory(seconds: float, context: Context) -> None:
    np.zeros(2**55)


def _no_output(seconds: float, context: Context) -> dict[str, Any]:
    return {}


def _child(seconds: float, context: Context) -> None:
    child = subprocess.Popen(["sleep", str(seconds)])
    context.progress.log(f"child {child.pid}")
    time.sleep(seconds)


def _many_reports(seconds: float, context: Context) -> None:
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        count += 1
        context.progress.report("Counting", 0.9 if count % 2 else 0.2, f"{count}")


def _notice(seconds: float, context: Context) -> None:
    context.progress.notice("The image was turned.")


def _cache(seconds: float, context: Context) -> dict[str, Any]:
    return {"first": [context.cached("first", os.urandom(4).hex)]}


def _torch(seconds: float, context: Context) -> None:
    import torch  # noqa: F401


def _partials(seconds: float, context: Context) -> dict[str, Any]:
    """As fast as it can: volumes called 'volume', and three small ones that have a name each."""
    slowest, until = 0.0, time.monotonic() + seconds
    for name in ("1,1", "1,2", "2,1"):
        context.progress.partial(name, sitk.Image(4, 4, 1, sitk.sitkFloat32))
    number = 0
    while time.monotonic() < until:
        context.progress.raise_if_cancelled()
        number += 1
        image = sitk.Image(64, 64, 64, sitk.sitkFloat32) + number
        before = time.monotonic()
        context.progress.partial("volume", image)
        slowest = max(slowest, time.monotonic() - before)
    return {"made": [number], "slowest": [slowest]}


_FAULTS: dict[str, Callable[[float, Context], dict[str, Any] | None]] = {
    "none": lambda seconds, context: None,
    "segfault": _segfault,
    "sleep_in_c": _sleep_in_c,
    "hold_gil": _hold_gil,
    "ignore_cancel": _ignore_cancel,
    "allocate": _allocate,
    "print": _print,
    "exit": _exit,
    "raise": _raise,
    "missing_package": _missing_package,
    "memory": _memory,
    "no_output": _no_output,
    "child": _child,
    "many_reports": _many_reports,
    "notice": _notice,
    "cache": _cache,
    "torch": _torch,
    "partials": _partials,
}
