"""Quantities as the API server writes them: it stores `1024Mi` as `1Gi`, and what differs would be applied for ever."""

import re
from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import Any

_WRITTEN = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?[0-9]{1,3}))?")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_NANO = -9  # nothing smaller is kept: it is rounded up


def is_quantity(text: str) -> bool:
    """Whether the API server takes it as a quantity."""
    return _WRITTEN.fullmatch(text) is not None


def canonical_quantity(text: str) -> str:
    """The form in which the API server stores a quantity: `1024Mi` -> `1Gi`, `0.5` -> `500m`. Raises ValueError."""
    match = _WRITTEN.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a quantity such as 256Mi, 2Gi or 500m")
    sign, digits, binary, decimal, exponent = match.groups()
    number = Fraction(f"0{digits}" if digits.startswith(".") else digits.rstrip(".")) * (-1 if sign == "-" else 1)
    if binary:
        amount = number * 1024 ** _BINARY.index(binary)
        if amount.denominator == 1 and abs(amount) >= 1024:
            return _binary(amount.numerator)
        return _decimal(amount, _DECIMAL)
    if exponent is not None:
        scientific = {power: f"e{power}" if power else "" for power in range(-9, 1003, 3)}
        return _decimal(number * Fraction(10) ** int(exponent), scientific)
    power = next(power for power, suffix in _DECIMAL.items() if suffix == (decimal or ""))
    return _decimal(number * Fraction(10) ** power, _DECIMAL)


def canonical_resources(resources: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`requests` and `limits`, every quantity as the API server stores it."""
    return {
        part: {name: canonical_quantity(str(amount)) for name, amount in amounts.items()}
        for part, amounts in resources.items()
    }


def _binary(number: int) -> str:
    power = 0
    while number % 1024 == 0 and power < len(_BINARY) - 1:
        number, power = number // 1024, power + 1
    return f"{number}{_BINARY[power]}"


def _decimal(amount: Fraction, suffixes: Mapping[int, str]) -> str:
    """The whole number with the largest suffix that loses nothing."""
    number, power = ceil(abs(amount) * 10**-_NANO), _NANO
    if number == 0:
        return "0"
    while number % 1000 == 0 and power + 3 in suffixes:
        number, power = number // 1000, power + 3
    return f"{'-' if amount < 0 else ''}{number}{suffixes[power]}"
