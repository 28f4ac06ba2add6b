"""What a job shows before it ends, on its way out of the worker: one value at a time lies in shared memory, and of each
name only the newest waits. Python 3.11."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from medgen.errors import MedGenError
from medgen.worker.transfer import Blocks, drain, pack


class Partials:
    """send: called with name and description of each value; packing: held while blocks are made.

    `show` comes from the thread that computes and never waits for the client; `taken` from the thread that reads, once
    the client has copied the value. What the client is too slow for is replaced by what is newer.
    """

    def __init__(
        self, send: Callable[[str, dict[str, Any]], None], blocks: Blocks, packing: AbstractContextManager[Any]
    ) -> None:
        self._send, self._blocks, self._packing = send, blocks, packing
        self._lock = threading.Lock()
        self._waiting: dict[str, Any] = {}
        self._under_way = self._ended = False

    def show(self, name: str, value: Any) -> None:
        with self._lock:
            self._waiting[name] = value
            self._next()

    def taken(self) -> None:
        with self._lock:
            self._blocks.forget()
            self._under_way = False
            self._next()

    def end(self) -> None:
        """The job's end follows on the pipe: nothing is sent after it. The client removes what lies about."""
        with self._lock:
            self._ended = True
            self._blocks.forget()

    def _next(self) -> None:
        while self._waiting and not self._under_way and not self._ended:
            name = next(iter(self._waiting))
            value = self._waiting.pop(name)
            try:
                with self._packing:
                    described = drain(pack({"value": value}, self._blocks))
            except MedGenError:  # no shared memory is left: a job does not fail for what is only looked at
                self._blocks.release()
                continue
            self._under_way = True
            self._send(name, described["value"])
