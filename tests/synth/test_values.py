"""What tables write, and what it means: by both readings alike, or refused with what to do."""

import csv
import re
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_synth.tables import PackError, open_tables
from astra_synth.tables.values import FormatError, Misread, Notation, folded, tidy


def read(folder: Path, written: list[str], column: str) -> list[Any]:
    """The values of a column of a pack over a CSV with one row for each."""
    with (folder / "things.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["name", "value"], *([f"thing {n}", text] for n, text in enumerate(written))])
    (folder / "pack.yaml").write_text(
        "{name: p, domain: p, title: P, licence: x, source: x, shards: {by: thing}, tables: {thing: {"
        "from: {file: things.csv}, key: name, noun: thing, plural: things, "
        f"columns: {{value: {{noun: value, {column}}}}}}}}}}}"
    )
    return [row["value"] for row in open_tables(path=folder / "pack.yaml").tables["thing"].rows.values()]


MEANINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "integers": ("type: integer", {"12": 12, "12.0": 12, "1e5": 100000, "-3": -3, "+7": 7, " 5 ": 5, "1_000": 1000}),
    "numbers": ("type: number", {"2.675": 2.68, "0.125": 0.13, "-0.125": -0.13, ".5": 0.5, "3.": 3, "1e-7": 0}),
    "missing values": ("type: number", {"1": 1, "": None, " ": None}),
    "three decimals, told": ("type: number, decimals: 3", {"12.000": 12, "1.234": 1.234}),
    "a dot that parts decimals elsewhere": ("type: number", {"12.000": 12, "1.5": 1.5}),
    "thousands": ("type: integer, format: '1.234'", {"12.000": 12000, "7": 7, "1.234.567": 1234567, "-1.000": -1000}),
    "English thousands": ("type: number, format: '1,234.5'", {"1,234.50": 1234.5, "12": 12, "-1,000": -1000}),
    "Swiss thousands": ("type: number, format: \"1'234.5\"", {"1'234.50": 1234.5}),
    "French thousands": ("type: number, format: '1 234,5'", {"1\u202f234,50": 1234.5, "12 000": 12000, "\u22123": -3}),
    "decimals": ("type: number, format: '1234.567'", {"12.000": 12, "1.234": 1.23}),
    "money": ("type: money", {"$12.90": 12.9, "$1,234.50": 1234.5, "-$5": -5, "$-6": -6, "$ 7": 7}),
    "money with a code": ("type: money", {"CHF 12.90": 12.9, "12.90 CHF": 12.9}),
    "money as bare numbers": ("type: money", {"12.90": 12.9, "3": 3}),
    "German money": ("type: money, format: '1.234,50 €'", {"1.234,50 €": 1234.5, "12,90€": 12.9, "-3,00 €": -3}),
    "percentages": ("type: percent", {"45%": 45, "12.5 %": 12.5, "-3%": -3}),
    "German percentages": ("type: percent, format: '1234,5 %'", {"12,5 %": 12.5}),
    "booleans": ("type: boolean", {"TRUE": "yes", "no": "no", "1": "yes", "F": "no", "y": "yes"}),
    "German booleans": ("type: boolean, format: ja/nein", {"Ja": "yes", "nein": "no"}),
    "dates": ("type: date", {"2024-02-29": "2024-02-29", "1066-10-14 00:00:00": "1066-10-14"}),
    "German dates": ("type: date, format: '%d.%m.%Y'", {"5.1.2024": "2024-01-05", "31.12.1999": "1999-12-31"}),
    "American dates": ("type: date, format: '%B %d, %Y'", {"January 5, 2024": "2024-01-05"}),
    "times": ("type: time", {"9:05": "09:05:00", "14:05:30": "14:05:30"}),
    "American times": ("type: time, format: '%I:%M %p'", {"2:05 PM": "14:05:00", "12:00 AM": "00:00:00"}),
    "time stamps": ("type: datetime", {"2024-01-05T10:00:00Z": "2024-01-05 10:00:00"}),
    "days as time stamps": ("type: datetime", {"2024-01-05": "2024-01-05 00:00:00"}),
    "texts": ("type: text", {" a\u00a0 b ": "a b", "Cafe\u0301": "Caf\u00e9", "007": "007", "two\nlines": "two lines"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANINGS)
def test_both_readings_find_what_a_person_means(name: str, tmp_path: Path) -> None:
    column, meanings = MEANINGS[name]
    assert read(tmp_path, list(meanings), column) == list(meanings.values())


REFUSED = {
    "too large an exponent": ("type: integer", ["1e999999999"], "'1e999999999' is not a number"),
    "too small an exponent": ("type: number", ["1e-999999999"], "'1e-999999999' is not a number"),
    "too large": ("type: number", ["1e400"], "'1e400' is beyond 2^53"),
    "beyond 2^53": ("type: integer", ["9007199254740993"], "beyond 2^53"),
    "no number": ("type: number", ["nan"], "'nan' is not a number; make the column text or clear the value"),
    "infinity": ("type: number", ["-inf"], "'-inf' is not a number"),
    "other digits": ("type: integer", ["\u0661\u0662"], "is not a number"),
    "thousands or decimals, whole": ("type: integer", ["12.000"], "could be thousands or three decimals; say format"),
    "thousands or decimals": ("type: number", ["12.000", "1.234", "5"], "'12.000' could be thousands or three"),
    "thousands or decimals of money": ("type: money", ["1.234 €"], "could be thousands or three decimals; say format"),
    "commas": ("type: integer", ["1,234"], "say format: '1,234.5' where commas part thousands"),
    "decimal comma": ("type: number", ["12,5"], "say format: '1.234,5' where a comma comes before the decimals"),
    "two dots": ("type: number", ["1.234.567"], "say format: '1.234,5'"),
    "another style": ("type: number, format: '1.234,5'", ["12.5"], "'12.5' is not written like '1.234,5'"),
    "leading zeros": ("type: integer", ["007"], "'007' begins with a zero, which a number loses; make it text"),
    "minus of typographers": ("type: integer", ["\u22125"], "write the minus as -"),
    "money as a number": ("type: number", ["$12.90"], "make the column money"),
    "percentage as a number": ("type: number", ["45%"], "make the column percent"),
    "number as a percentage": ("type: percent", ["0.45"], "write 45%, or make the column type number with unit"),
    "German money": ("type: money", ["12,90 €"], "say format: '1.234,50 €' with the table's own way"),
    "accountants' money": ("type: money", ["(5.00)"], "'(5.00)' is not an amount of money like $1,234.50"),
    "two currencies": ("type: money", ["$5", "€5"], "different currency signs ('$', '€'); a column has one"),
    "an ambiguous date": ("type: date", ["01/05/2024"], "no date like 2024-01-05; say format: with %d, %m, %Y"),
    "no such day": ("type: date", ["2024-02-30"], "'2024-02-30' is no date"),
    "a time in a date": ("type: date", ["2024-01-05 10:00:00"], "is no date like 2024-01-05"),
    "the end of the day": ("type: time", ["24:00"], "'24:00' is no time like 14:05"),
    "another zone": ("type: datetime", ["2024-01-05T10:00:00+02:00"], "is no datetime like"),
    "a missing value, spelt out": ("type: text", ["#N/A", "a"], "how programs write that there is no value; clear it"),
    "other words": ("type: boolean", ["ja"], "'ja' is neither true nor false; say format: with the table's words"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_mean_something_else_is_refused(name: str, tmp_path: Path) -> None:
    column, written, message = REFUSED[name]
    with pytest.raises(PackError, match=re.escape(message)):
        read(tmp_path, written, column)


@pytest.mark.parametrize(("column", "message"), [
    ("type: date, format: '%d.%m.'", "must say year, month and day"),
    ("type: date, format: '%d.%m.%Y %H:%M'", "make the column datetime"),
    ("type: time, format: '%I:%M'", "must say hours and minutes"),
    ("type: date, format: '%x'", "'%x' is not known"),
    ("type: boolean, format: ja", "must be the word for yes, a slash and the word for no"),
    ("type: integer, format: '1.234.5'", "must be the number 1234.5 as the table would write it"),
    ("type: number, format: '1-234'", "must be the number 1234.5"),
])  # fmt: skip
def test_a_format_that_says_nothing_is_refused(column: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=re.escape(message)):
        read(tmp_path, ["1"], column)


_STYLES = [
    ("", ",", ".", ""),
    ("", ".", ",", " €"),
    ("$", ",", ".", ""),
    ("CHF ", "'", ".", ""),
    ("", " ", ",", " kg"),
    ("", "", ",", ""),
]


@given(number=st.decimals(-(10**9), 10**9, places=2), style=st.sampled_from(_STYLES), spaced=st.booleans())
def test_a_number_is_read_back_in_every_style(number: Decimal, style: tuple[str, str, str, str], spaced: bool) -> None:
    prefix, thousands, point, suffix = style

    def write(value: Decimal) -> str:
        digits = f"{abs(value):,.2f}".replace(",", "T").replace(".", point).replace("T", thousands)
        sign = "-" if value < 0 else ""
        return f"{sign}{prefix}{digits}{suffix.strip() if spaced else suffix}"

    notation = Notation("number", 2, write(Decimal("1234.56")))
    assert notation.value(write(number)) == pytest.approx(float(number), abs=1e-9)


@given(st.dates())
def test_dates_are_read_back(day: date) -> None:
    text = day.isoformat()
    assert Notation("date").value(text) == Notation("date").value(day) == text
    assert Notation("datetime").value(datetime(day.year, day.month, day.day)) == f"{text} 00:00:00"
    assert Notation("date", 0, "%d/%m/%Y").value(f"{day.day}/{day.month}/{day.year:04d}") == text


@given(st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False), st.integers(0, 6))
def test_decimals_are_rounded_as_people_round(number: Decimal, digits: int) -> None:
    text = format(number, "f")
    expected = float(number.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))
    try:
        assert Notation("number", digits).value(text) == expected
    except Misread as error:
        assert "begins with a zero" in str(error)  # noqa: PT017


@given(st.text(max_size=20))
def test_names_fold_alike_however_they_are_composed(name: str) -> None:
    import unicodedata

    decomposed = unicodedata.normalize("NFD", name)
    assert tidy(decomposed) == tidy(name) == tidy(tidy(name))
    assert folded(decomposed) == folded(name) == folded(folded(name))


def test_stored_values_need_no_format() -> None:
    assert Notation("money", 2).value(12.9) == 12.9
    assert Notation("money", 2).value(Decimal("12.90")) == 12.9
    assert Notation("boolean").value(True) == "yes"
    with pytest.raises(Misread, match="is stored as float, not written as text; leave format out"):
        Notation("number", 2, "1.234,5").value(12.9)
    with pytest.raises(Misread, match="make the column boolean"):
        Notation("integer").value(True)
    with pytest.raises(Misread, match="holds bytes, which is no plain value"):
        Notation().value(b"a")
    with pytest.raises(FormatError):
        Notation("boolean", 0, "ja")
