"""Values in texts, however they are written."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_sandbox.verification.mentions import number_mentions, plain, text_mentions

_NAME = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzäéñüßøł"), min_size=4, max_size=9)


def _texts(answer: str, text: str) -> list[str]:
    return [plain(text)[mention.start : mention.end] for mention in text_mentions(answer, text)]


def _says(number: Any, text: str, tolerance: float = 0.0) -> bool:
    return any(True for _ in number_mentions(number, text, tolerance))


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("São Tomé", "the airport of sao tome!", "sao tome"),
        ("sao tome", "the airport of São Tomé", "Sao Tome"),
        ("Saint-Denis", "in saint denis.", "saint denis"),
        ("Washington, D.C.", "in Washington D.C.", "Washington D.C"),
        ("Łódź", "Lodz Airport", "Lodz"),
        ("Straße", "STRASSE", "STRASSE"),
        ("lamp", "Which lamps?", "lamps"),
        ("lamps", "Which lamp?", "lamp"),
        ("city", "two cities", "cities"),
        ("cities", "a city", "city"),
        ("box", "three boxes", "boxes"),
        ("house", "houses", "houses"),
        ("houses", "house", "house"),
        ("Paris", "Paris's", "Paris"),
        ("magnesium", "magnesium-25", "magnesium"),
        ("東京", "首都は東京です", "東京"),
        ("กรุงเทพ", "เมืองกรุงเทพมหานคร", "กรุงเทพ"),
        ("서울", "서울은", "서울"),
        ("e\u0301tude", "Étude", "Etude"),
    ],
)
def test_a_text_is_found(answer: str, text: str, found: str) -> None:
    assert _texts(answer, text) == [found]


@pytest.mark.parametrize(
    ("answer", "text"),
    [("Paris", "comparison"), ("A12", "A123"), ("Rome", "Romeo"), ("lamp", "clamps"), ("!?", "!?"), ("", "a")],
)
def test_a_text_is_not_found(answer: str, text: str) -> None:
    assert _texts(answer, text) == []


@given(_NAME, st.sampled_from([str.upper, str.title, plain, lambda text: unicodedata.normalize("NFD", text)]))
def test_case_and_accents_make_no_difference(name: str, written: Any) -> None:
    assert _texts(name, f"Where is {written(name)}, then?")
    assert _texts(written(name), f"Where is {name}, then?")


@given(_NAME, _NAME)
def test_a_part_of_a_word_is_no_mention(name: str, more: str) -> None:
    assert _texts(name, f"{more}{name}{more}") == []


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1234, "1,234 people"),
        (1234, "1 234 people"),
        (1234, "1'234"),
        (2148000, "2.148.000 Einwohner"),
        (12000, "12.000"),
        (12, "12.000"),
        (12.57, "12,57"),
        (1_200_000, "1.2 million people"),
        (2_100_000_000, "2.1 billion"),
        (1_200_000, "1,2 Millionen"),
        (1_200_000, "120万人"),
        (300, "有300人"),
        (5_000_000, "$5M"),
        (300_000, "300k"),
        ("1,234", "1234"),
        (300, "in 2020 300 people"),
        (-5.5, "at -5.5 degrees"),
        (25, "magnesium-25"),
    ],
)
def test_a_number_is_found(number: Any, text: str) -> None:
    assert _says(number, text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1234, "12345"),
        (1234, "1,2345"),
        (234, "1,234"),
        (1_200_000, "1.2"),
        (1_234_567, "1.2 million"),
        (725, "0.725"),
        (5, "A5"),
        (1, "1e999999999 million"),
        (2020, "2020300"),
    ],
)
def test_a_number_is_not_found(number: Any, text: str) -> None:
    assert not _says(number, text)


@given(st.integers(0, 10**12))
def test_however_an_integer_is_written(number: int) -> None:
    for written in (str(number), f"{number:,}", f"{number:,}".replace(",", " "), f"{number:,}".replace(",", "\u202f")):
        assert _says(number, f"Is it {written}?")
        assert not _says(number + 1, f"Is it {written}?")


@given(st.integers(1, 9999), st.sampled_from([("thousand", 10**3), ("million", 10**6), ("billion", 10**9)]))
def test_scales(tenths: int, scale: tuple[str, int]) -> None:
    word, factor = scale
    assert _says(tenths * factor // 10, f"about {tenths / 10} {word} of them")


def test_a_tolerance_widens_a_number() -> None:
    assert _says(12.57, "12.5 or so", 0.1)
    assert not _says(12.57, "12.5 or so", 0.01)


@given(st.text(max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    list(number_mentions(7, text))
    list(text_mentions(text, text))
