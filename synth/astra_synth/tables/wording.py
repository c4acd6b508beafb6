"""Small matters of English: articles, ordinals, enumerations."""

from collections.abc import Sequence
from typing import Any

_ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_YOO = ("uni", "eu", "use", "uro", "one")  # spelt with a vowel, said with a consonant


def a(noun: str) -> str:
    """The noun with its article: a city, an airport."""
    vowel = noun[:1].lower() in "aeiou" and not noun.lower().startswith(_YOO)
    return f"{'an' if vowel else 'a'} {noun}"


def ordinal(number: int) -> str:
    return _ORDINALS[number]


def number_word(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def enumerate_words(items: Sequence[str]) -> str:
    """A, B and C."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def possessive(name: str) -> str:
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def plain(value: Any) -> str:
    """A number or name as a question writes it: 3, 2.5, Paris."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def whole(number: float) -> float | int:
    """3 for 3.0: one number has one way to be written."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
