"""The frame codec, and the strict reader of JSON: what goes in comes out, and nothing else gets through."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.canonical import NotCanonicalError, canonical_json, parse_json
from astra_sandbox.strict_json import StrictJsonError, read
from astra_sandbox.worker.frames import HEADER, FrameError, FrameReader, Kind, encode

FRAMES = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(Kind), st.binary(max_size=200)), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(FRAMES, st.lists(st.integers(1, 64), min_size=1, max_size=50))
def test_frames_survive_any_cut(frames: list[tuple[int, Kind, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode(*frame) for frame in frames)
    reader, found, position, turn = FrameReader(200), [], 0, 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        found += reader.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert found == frames


@given(st.binary(max_size=400))
def test_any_bytes_give_frames_or_an_error(data: bytes) -> None:
    reader = FrameReader(100)
    try:
        frames = reader.feed(data)
    except FrameError:
        return
    whole = b"".join(encode(*frame) for frame in frames)
    assert data.startswith(whole)
    assert len(data) - len(whole) < HEADER.size + 100


def test_a_long_frame_is_refused_at_its_header() -> None:
    with pytest.raises(FrameError, match="101"):
        FrameReader(100).feed(HEADER.pack(101, 0, Kind.RESULT))
    with pytest.raises(FrameError, match="kind"):
        FrameReader(100).feed(HEADER.pack(1, 0, 99))


@given(JSON)
def test_the_strict_reader_agrees_with_canonical_json(value: Any) -> None:
    text = json.dumps(value)
    try:
        canonical_json(value)
    except NotCanonicalError:
        with pytest.raises(StrictJsonError):
            read(text)
    else:
        assert read(text) == value
        assert read(text.encode()) == value


@given(st.text(alphabet='[]{}",:0123456789.eE-+ntrufalse \\ud8"', max_size=40))
def test_what_the_strict_reader_takes_other_readers_take(text: str) -> None:
    try:
        value = read(text)
    except StrictJsonError:
        return
    assert parse_json(text) == value
    canonical_json(value)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', "NaN", "1e999", "[" * 201 + "]" * 201, "[" * 100_000, '"\\ud800"', b"\xff"]
)
def test_what_has_two_readings_is_refused(text: str | bytes) -> None:
    with pytest.raises(StrictJsonError):
        read(text)
