"""Where a text says a value: texts as whole words, numbers however they are written.

Case, accents, punctuation between words and the plural of the last word make no difference. "1,234,567", "1 234 567",
"1.234.567", "1.2 million" and "120万" are numbers; one that may be read in two ways is each of them.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from astra_api.matching import matches

_UNMARKED = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ł": "l", "Ł": "L", "ı": "i"})
_ACCENTS = re.compile("[\u0300-\u036f]")
_SHORT = 3  # letters of a word, below which it has no plural
_WORD = re.compile(r"[^\W_]+")
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0003ffff]")  # Thai, Chinese and their like

_GROUPS = "[,_' \u00a0\u202f\u2019]"
_NUMERAL = re.compile(
    rf"(?<![A-Za-z0-9_.])[-+]?\d+(?:(?:{_GROUPS}|\.)\d+)*(?:[eE][-+]?\d{{1,3}})?"
    r"(?P<scale> ?(?:thousand|million|billion|trillion)s?\b| ?(?:Millionen|Mio)\b|[kKM]\b|bn\b|[万萬億亿])?"
    r"(?![A-Za-z0-9_]|\.\d)"
)
_SCALES = {
    "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "Millionen": 6, "Mio": 6, "k": 3, "K": 3, "M": 6,
    "bn": 9, "万": 4, "萬": 4, "億": 8, "亿": 8,
}  # fmt: skip


class Mention(NamedTuple):
    """One place of a plain text: where it starts and ends, and the digits of the number that it says."""

    start: int
    end: int
    digits: str = ""


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """The text without accents, in compatibility form; case and punctuation stay. Mentions count its characters."""
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.translate(_UNMARKED)))
    return unicodedata.normalize("NFC", bare)


def spaceless(text: str) -> bool:
    """Whether it is written in a script that puts no spaces between words."""
    return _SPACELESS.search(text) is not None


def text_mentions(answer: str, text: str) -> Iterator[Mention]:
    """Where a text says another one, in `plain(text)`."""
    given = plain(text)
    if _beginning(answer) in given.casefold() and (pattern := _pattern(answer)) is not None:
        yield from (Mention(*found.span()) for found in pattern.finditer(given))


def number_mentions(number: Any, text: str, tolerance: float = 0.0) -> Iterator[Mention]:
    """Where a text says a number, or a numeral in a string, in `plain(text)`."""
    for mention, readings in _numerals(plain(text)):
        if any(matches(reading, number, "numeric", tolerance) for reading in readings):
            yield mention


def significant(numeral: str) -> str:
    """The digits that carry information: no sign, point, exponent or leading zeros."""
    return re.sub(r"[eE].*|\D", "", numeral).lstrip("0")


@lru_cache(maxsize=4096)
def _beginning(answer: str) -> str:
    """What a text holds that says the answer: cheaper to look for than the pattern."""
    return next(iter(_WORD.findall(plain(answer))), "")[:_SHORT].casefold()


@lru_cache(maxsize=4096)
def _pattern(answer: str) -> re.Pattern[str] | None:
    """Finds an answer in a plain text; None for one without a letter or digit."""
    words = _WORD.findall(plain(answer))
    if not words:
        return None
    if spaceless(answer):
        return re.compile(re.escape(plain(answer).strip()), re.IGNORECASE)
    body = r"[\W_]+".join([*words[:-1], _singular_or_plural(words[-1])])
    return re.compile(rf"(?<![^\W_]){body}(?![^\W_])", re.IGNORECASE)


def _singular_or_plural(word: str) -> str:
    """A pattern for a word and its English plural, or its singular where it seems to be one."""
    if len(word) < _SHORT or not word.isalpha():
        return word
    if re.search(r"..ies$|[^aeiou]y$", word, re.IGNORECASE):
        return f"{re.sub('(?i)ies$|y$', '', word)}(?:y|ies)"
    if len(word) > _SHORT and re.search(r"[^s]s$", word, re.IGNORECASE):
        return f"{word[:-2]}{word[-2]}?s?" if word[-2] in "eE" else f"{word[:-1]}s?"
    return f"{word}(?:e?s)?"


@lru_cache(maxsize=4096)
def _numerals(text: str) -> tuple[tuple[Mention, tuple[str, ...]], ...]:
    """Every number of a plain text, with the ways to read it."""
    found: list[tuple[Mention, tuple[str, ...]]] = []
    for numeral in _NUMERAL.finditer(text):
        scale = numeral["scale"] or ""
        written = numeral[0].removesuffix(scale)
        power = _SCALES.get(scale.strip()) or _SCALES.get(scale.strip().removesuffix("s"), 0)
        if readings := _readings(written):
            scaled = tuple(format(Decimal(reading).scaleb(power), "f") if power else reading for reading in readings)
            found.append((Mention(*numeral.span(), scaled[0]), scaled))
            continue
        for part in re.finditer(r"\d+(?:\.\d+)?", written):  # several side by side: "1, 2", "2020 300"
            start = numeral.start() + part.start()
            found.append((Mention(start, start + len(part[0]), part[0]), (part[0],)))
    return tuple(found)


def _readings(written: str) -> list[str]:
    """1,234.5 -> 1234.5; 12.000 -> 12.000 and 12000; 12,57 -> 12.57. None of them: empty."""
    readings = []
    if re.fullmatch(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?", written):
        readings.append(written)
    if re.fullmatch(rf"[-+]?[1-9]\d{{0,2}}(?:{_GROUPS}\d{{3}})+(?:\.\d+)?", written):
        readings.append(re.sub(_GROUPS, "", written))
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?", written):
        readings.append(written.replace(".", "").replace(",", "."))
    if re.fullmatch(r"[-+]?\d+,\d+", written):
        readings.append(written.replace(",", "."))
    return readings
