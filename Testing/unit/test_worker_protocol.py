"""Control messages survive being cut anywhere, and noise and other versions are told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.errors import BadInput
from medgen.worker import protocol
from medgen.worker.protocol import Decoder, encode


def decode(data: bytes, cuts: list[int]) -> list[dict]:
    decoder, messages = Decoder(), []
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in zip(edges, edges[1:]):
        messages += decoder.feed(data[start:end])
    return messages


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_messages_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    data = b"".join(encode("log", line=text) for text in texts)
    assert [message["line"] for message in decode(data, cuts)] == texts


def test_a_character_cut_in_two_is_whole_again() -> None:
    data = '{"v":1,"type":"log","line":"weiß 脳"}\n'.encode()
    for cut in range(len(data)):
        (message,) = decode(data, [cut])
        assert message["line"] == "weiß 脳"


@given(st.floats(allow_nan=False))
def test_floats_are_exact(number: float) -> None:
    (message,) = Decoder().feed(encode("x", value=number))
    assert message["value"] == number


def test_numpy_values_travel_as_plain_json() -> None:
    (message,) = Decoder().feed(encode("x", value={"a": np.float32(0.5), "b": np.eye(2), "c": np.bool_(True)}))
    assert message["value"] == {"a": 0.5, "b": [[1.0, 0.0], [0.0, 1.0]], "c": True}


def test_what_json_cannot_hold_is_refused_with_a_sentence() -> None:
    with pytest.raises(BadInput, match="object cannot be sent"):
        encode("x", value=object())


@pytest.mark.parametrize("line", [b"hello", b"{", b"[1]", b"3", b'{"a": 1}', b"\xff\xfe"])
def test_other_lines_are_noise(line: bytes) -> None:
    first, second = Decoder().feed(line + b"\n" + encode("log", line="x"))
    assert first["type"] == "noise"
    assert second["line"] == "x"


def test_another_version_is_reported_as_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode("ready", info={})
    monkeypatch.setattr(protocol, "VERSION", 2)
    (message,) = Decoder().feed(data)
    assert message["type"] == "mismatch"
    assert "medgen setup" in message["sentence"]
