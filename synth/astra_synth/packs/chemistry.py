"""Tables from the package periodictable (public domain; data of IUPAC and NIST)."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from astra_synth.tables.reading import RawRow

_NOBLE = (2, 10, 18, 36, 54, 86, 118)  # atomic numbers that end the periods


@cache
def table(name: str) -> Sequence[RawRow]:
    """elements, isotopes (those found in nature), periods. Raises KeyError for another name."""
    return list({"elements": _elements, "isotopes": _isotopes, "periods": _periods}[name]())


def _known() -> list[Any]:
    import periodictable

    return [element for element in periodictable.elements if element.number > 0]


def period(number: int) -> int:
    """The row of the periodic table that an element stands in."""
    return next(row for row, last in enumerate(_NOBLE, start=1) if number <= last)


def group(number: int) -> int | None:
    """The column of the periodic table, 1 to 18; None for lanthanides and actinides."""
    row = period(number)
    first = (0, *_NOBLE)[row - 1] + 1
    place = number - first + 1
    length = _NOBLE[row - 1] - first + 1
    if place <= 2 and not (row == 1 and place == 2):
        return place
    if length <= 8:
        return 18 - (length - place)
    if length == 18:
        return place
    return None if place <= 16 else place - 14


def _elements() -> Iterator[RawRow]:
    for element in _known():
        column = group(element.number)
        yield {
            "name": element.name,
            "symbol": element.symbol,
            "number": element.number,
            "mass": element.mass,
            "density": element.density,
            "radius": round(element.covalent_radius * 100) if element.covalent_radius else None,  # angstrom to pm
            "period": period(element.number),
            "family": _family(element.number, column),
        }


def _family(number: int, column: int | None) -> str:
    if column is None:
        return "lanthanide" if number < 72 else "actinide"
    if number == 1:
        return "hydrogen"
    named = {1: "alkali metal", 2: "alkaline earth metal", 17: "halogen", 18: "noble gas"}
    return named.get(column) or ("transition metal" if column <= 12 else f"{_HEADS[column]} group element")


_HEADS = {13: "boron", 14: "carbon", 15: "nitrogen", 16: "oxygen"}


def _isotopes() -> Iterator[RawRow]:
    for element in _known():
        for number in element.isotopes:
            isotope = element[number]
            if isotope.abundance:
                yield {
                    "name": f"{element.name}-{number}",
                    "element": element.name,
                    "mass": isotope.mass,
                    "abundance": isotope.abundance,
                    "neutrons": number - element.number,
                }


def _periods() -> Iterator[RawRow]:
    for row in range(1, len(_NOBLE) + 1):
        yield {"number": row, "noble_gas": next(e.name for e in _known() if e.number == _NOBLE[row - 1])}
