import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.matching import Match, fold, matches


@pytest.mark.parametrize(
    ("actual", "gold", "match", "tolerance", "expected"),
    [
        (1, 1.0, "exact", 0, True),
        (True, 1, "exact", 0, False),
        ("Paris", "paris", "exact", 0, False),
        ({"a": [1, 2]}, {"a": [1.0, 2]}, "exact", 0, True),
        ([1, 2], [2, 1], "exact", 0, False),
        (float("nan"), float("nan"), "exact", 0, False),
        (2**60, 2**60, "exact", 0, False),
        (10.0, 10.4, "numeric", 0.5, True),
        (10.0, 10.6, "numeric", 0.5, False),
        ("1,200", 1200, "numeric", 0, True),
        ("12 apples", 12, "numeric", 0, False),
        (True, 1, "numeric", 0, False),
        (float("inf"), float("inf"), "numeric", 0, False),
        ("  São-Paulo. ", "são paulo", "text", 0, True),
        ("Sao Paulo", "São Paulo", "text", 0, False),
        ("...", "!!!", "text", 0, False),
        ("a b", "ab", "text", 0, False),
        (None, "none", "text", 0, False),
    ],
)
def test_table(actual: object, gold: object, match: Match, tolerance: float, expected: bool) -> None:
    assert matches(actual, gold, match, tolerance) is expected


@given(st.text())
def test_folding_is_idempotent(text: str) -> None:
    assert fold(fold(text)) == fold(text)
