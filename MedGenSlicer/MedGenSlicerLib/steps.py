"""Long work in the event loop, a piece at a time: no thread may do it (threads starve inside Slicer)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Optional

import qt

ENDED: Any = object()


def run(
    work: Iterator[Any], done: Callable[[], None], failed: Optional[Callable[[Exception], None]] = None
) -> Callable[[], None]:
    """Takes one step of the generator per turn of the event loop, then calls `done`. An exception goes to `failed`,
    or to the log. Returns a function that stops it."""
    stopped = []

    def step() -> None:
        if stopped:
            return
        try:
            if next(work, ENDED) is ENDED:
                done()
                return
        except Exception as error:
            if failed is None:
                logging.exception("MedGen: a background step failed")
            else:
                failed(error)
        else:
            qt.QTimer.singleShot(0, step)

    qt.QTimer.singleShot(0, step)
    return lambda: stopped.append(True)


def finish(work: Iterator[Any]) -> Any:
    """All steps at once, where a pause does not matter; returns what the generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
