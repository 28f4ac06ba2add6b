"""Control messages: JSON objects, one a line, each with the protocol's version `v` and a `type`.

client to worker: run {job, shipment, method, inputs, parameters, seed, device, weights}, cancel {job}, taken {shipment}
(its outputs were copied), seen {job} (so was what it showed)
worker to client: ready {info}, refused {sentence}, started {job}, progress {job, stage, fraction, message,
remaining_seconds}, log {job, line}, notice {job, sentence}, partial {job, name, value},
finished {job, outputs, provenance}, failed {job, kind, sentence}, cancelled {job}

Closing the worker's stdin ends it. Voxels never travel here (see `transfer`). Python 3.9, standard library only.
"""

from __future__ import annotations

import json
from typing import Any

from medgen.errors import BadInput

VERSION = 1


def _plain(value: Any) -> Any:
    """numpy arrays and scalars as the JSON they mean."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise BadInput(f"A value of type {type(value).__name__} cannot be sent to the worker.")


def encode(message_type: str, **fields: Any) -> bytes:
    """One line. Numbers are exact: JSON writes floats by repr, and NaN and infinity as Python does."""
    message = {"v": VERSION, "type": message_type, **fields}
    return json.dumps(message, default=_plain, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Bytes cut anywhere, also inside a UTF-8 character, to messages.

    A line that is no message comes out as {'type': 'noise', 'line': text}; one of another protocol version as
    {'type': 'mismatch', 'sentence': text}.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts = []
        if rest:
            self._parts.append(rest)
        return [_decode(line) for line in lines if line.strip()]


def _decode(line: bytes) -> dict[str, Any]:
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    if not isinstance(message, dict) or "v" not in message or "type" not in message:
        return {"type": "noise", "line": text}
    if message["v"] != VERSION:
        return {
            "type": "mismatch",
            "sentence": "The worker and this program are of different versions "
            f"(protocol {message['v']} and {VERSION}): run 'medgen setup' to bring the worker up to date.",
        }
    return message
