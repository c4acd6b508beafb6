"""What the data of a source says of a value: a key, one among others, or nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_sandbox.verification.data_columns import columns_of

_CITIES = "_P = {'paris': 21, 'rome': 28}"


@pytest.mark.parametrize(
    ("source", "value", "standing"),
    [
        (_CITIES, "paris", "key"),
        (_CITIES, " Paris", "key"),
        (_CITIES, "oslo", None),
        (_CITIES, 21, None),  # told of a key: an argument of 21 may be any number
        (_CITIES, True, None),
        ("_P = {101: 'a', 102: 'b'}", 101, "key"),
        ("_P = dict(paris=21, rome=28)", "paris", "key"),
        ("_P = {}\n_P['paris'] = 21\n_P['rome'] = 28", "rome", "key"),
        ("_P = {('paris', 2020): 5, ('paris', 2021): 6, ('rome', 2020): 7}", "paris", "key"),
        ("_P = {('paris', 2020): 5, ('paris', 2021): 6, ('rome', 2020): 7}", 2020, "key"),
        ("_P = {'paris': {2020: 5, 2021: 6}, 'rome': {2020: 7, 2021: 8}}", 2020, "key"),
        ("_P = [{'city': 'paris', 'n': 1}, {'city': 'rome', 'n': 1}]", "rome", "single"),
        ("_P = [{'city': 'paris', 'n': 1}, {'city': 'rome', 'n': 1}]", "city", "key"),
        ("_P = [City('paris', 1), City('rome', 2)]", "rome", "single"),
        ("_P = dict(zip('paris rome'.split(), (1, 2)))", "rome", "single"),
        ("_P = dict(zip('paris, rome'.split(','), (1, 2)))", "rome", "single"),
        ("import json\n_P = json.loads('{\"paris\": 5}')", "paris", "key"),
        ("_T = 'city,n\\nparis,5\\nrome,6'", "rome", "single"),
        ("def f(x):\n    if x == 'north':\n        return 1\n    return 2 if x == 'south' else 0", "south", "single"),
        ("_O = [('ada', 1), ('bob', 2), ('ada', 3)]", "ada", "repeated"),
        ("_O = [('ada', 1), ('bob', 2), ('ada', 3)]", "bob", "repeated"),
        ("_O = [('ada', 1), ('ada', 3)]\n_P = {'ada': 5}", "ada", "repeated"),
    ],
)
def test_standing(source: str, value: Any, standing: str | None) -> None:
    assert columns_of(source).standing(value) == standing


_TEXTS = st.lists(st.from_regex(r"\A[A-Za-z]{2,6}-?[0-9]{0,3}\Z"), min_size=1, max_size=6, unique_by=str.casefold)


@given(_TEXTS)
def test_absent_texts_have_the_form_of_known_ones(names: list[str]) -> None:
    columns = columns_of(f"_P = {dict.fromkeys(names, 1)!r}")
    for name in names:
        for text in columns.absent(name, "seed"):
            assert isinstance(text, str)
            assert columns.standing(text) is None
            assert [(c.isupper(), c.isalpha(), c.isdigit()) for c in text] == [
                (c.isupper(), c.isalpha(), c.isdigit()) for c in name
            ]
        assert columns.absent(name, "seed") == columns.absent(name, "seed")
    assert columns.absent("not there", "seed") == []


@given(st.sets(st.integers(-1000, 1000), min_size=1, max_size=6))
def test_absent_numbers_lie_on_both_sides(keys: set[int]) -> None:
    columns = columns_of(f"_P = {dict.fromkeys(sorted(keys), 'x')!r}")
    for key in keys:
        above, below = columns.absent(key, "seed")
        assert below < min(keys) <= max(keys) < above  # type: ignore[operator]
