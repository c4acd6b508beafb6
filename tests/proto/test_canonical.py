import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.canonical import NotCanonicalError, canonical_json, digest, parse_json

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not 2**53 < abs(x) < 1e21)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json_is_a_fixed_point(value: object) -> None:
    once = canonical_json(value)
    assert canonical_json(json.loads(once)) == once


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(0, 9), min_size=2))
def test_key_order_does_not_matter(value: dict[str, int]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


def test_one_number_type() -> None:
    assert digest({"a": 1}) == digest({"a": 1.0})
    assert digest({"a": True}) != digest({"a": 1})


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53 + 1, -(2**60), 1e17, {1: 2}, {1, 2}, b"x", "\ud800", object()]
)
def test_refuses_what_json_readers_disagree_on(value: object) -> None:
    with pytest.raises(NotCanonicalError):
        canonical_json(value)


def test_refuses_depth_without_exhausting_the_stack() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotCanonicalError):
        canonical_json(value)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "NaN", "[1,]", "", "[" * 100_000, "Infinity"])
def test_parse_is_as_strict(text: str) -> None:
    with pytest.raises(NotCanonicalError):
        parse_json(text)
