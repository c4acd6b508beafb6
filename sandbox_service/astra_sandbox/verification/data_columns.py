"""The columns of the data that a source holds, read without running it.

A perturbed argument tells most when the tool knows it: another city, not nonsense. The value `Paris` stands in some
column of the source's data (the keys of a dict, a list, a field of the rows of a table, embedded JSON or CSV); its
neighbours there are such values. Where a column holds each value once, a value is the key of something.
"""

import json
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from astra_sandbox.verification.python_source import PythonSource, read_source

Scalar = str | int | float
Standing = Literal["key", "single", "repeated"] | None
_MAX_CELLS = 200_000
_MAX_TEXT = 200  # longer texts are prose, not values
_SEPARATORS = ("\t", ";", "|", ",")


class DataColumns:
    """Finds the neighbours of a value."""

    def __init__(self, source: PythonSource) -> None:
        self._columns: list[list[Scalar]] = []
        self._homes: dict[Scalar, list[int]] = {}
        self._repeating: set[int] = set()  # columns that hold a value more than once
        self._keys: set[int] = set()  # columns of the keys of a dict
        self._told: set[int] = set()  # columns of what is told of keys: a number there may be any argument by chance
        cells = 0
        for literal in source.literals:
            for column, role in _columns(literal):
                cells += len(column)
                if cells > _MAX_CELLS:
                    return
                number = len(self._columns)
                for value in column:
                    homes = self._homes.setdefault(_folded(value), [])
                    if homes and homes[-1] == number:
                        self._repeating.add(number)
                    else:
                        homes.append(number)
                if role is not None:
                    (self._keys if role == "keys" else self._told).add(number)
                self._columns.append(column)

    def standing(self, value: Any) -> Standing:
        """How the data knows a value: as a key of a dict, as the single one of its kind, or as one that repeats.

        Where values repeat in a column, a tool may look for the rows that hold one, and find none.
        """
        homes = self._homes_as_name(value)
        if not homes:
            return None
        if self._repeating.intersection(homes):
            return "repeated"
        return "key" if self._keys.intersection(homes) else "single"

    def absent(self, value: Any, seed: str) -> Sequence[Scalar]:
        """Values of the form of one that the data knows, which no column holds; none for one that it does not."""
        homes = self._homes_as_name(value)
        if not homes:
            return []
        draw = random.Random(f"{seed}:{value!r}")
        if isinstance(value, int):
            held = [other for home in homes for other in self._columns[home] if isinstance(other, int)]
            return [max(held) + 1000 + draw.randrange(1000), min(held) - 1]
        drawn = ("".join(_redrawn(char, draw) for char in value) for _ in range(20))
        return list(dict.fromkeys(text for text in drawn if _folded(text) not in self._homes))[:2]

    def _homes_as_name(self, value: Any) -> list[int]:
        """The columns that hold a value as something that can be asked about."""
        if not isinstance(value, str | int) or isinstance(value, bool):
            return []
        homes = self._homes.get(_folded(value), [])
        return [home for home in homes if isinstance(value, str) or home not in self._told]

    def neighbours(self, value: Scalar, count: int, seed: str) -> list[Scalar]:
        """Up to `count` other values of the columns that hold `value`, of its type; drawn with `seed`.

        A text that stands in no column gets any texts of the data: they may still mean something to the tool.
        """
        homes = self._homes.get(_folded(value), () if not isinstance(value, str) else range(len(self._columns)))
        pool: dict[Scalar, Scalar] = {}
        for home in homes:
            pool.update({_folded(other): other for other in self._columns[home] if type(other) is type(value)})
        pool.pop(_folded(value), None)
        found = list(pool.values())
        return random.Random(seed).sample(found, min(count, len(found)))


@lru_cache(maxsize=64)
def columns_of(text: str) -> DataColumns:
    """The columns of a module's text. Raises SourceInvalid. Cached: many environments share one source."""
    return DataColumns(read_source(text))


def _redrawn(char: str, draw: random.Random) -> str:
    """Another letter or digit of the kind."""
    if char.isascii() and char.isdigit():
        return draw.choice("0123456789")
    letters = "abcdefghijklmnopqrstuvwxyz"
    return draw.choice(letters.upper() if char.isupper() else letters) if char.isascii() and char.isalpha() else char


def _folded(value: Scalar) -> Scalar:
    return value.strip().casefold() if isinstance(value, str) else value


def _columns(data: Any) -> Iterator[tuple[list[Scalar], Literal["keys", "told"] | None]]:
    """The columns of one literal, embedded text included, and whether they hold keys, or what is told of keys.

    A row is a list, tuple or dict among several alike.
    """
    pending: list[Any] = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            table = _embedded(value)
            if table is not None:
                pending.append(table)
        elif isinstance(value, dict):
            yield _scalars(list(value)), "keys"
            yield from ((_distinct(field), "keys") for field in _fields(list(value)))  # of keys that are tuples
            yield _scalars(list(value.values())), "told"
            yield from ((field, "told") for field in _fields(list(value.values())))
            yield _names(list(value.values())), "keys"
            pending.extend(_inside(list(value.values())))
        elif isinstance(value, list | tuple | set | frozenset):
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value)
            yield _scalars(items), None
            yield from ((field, None) for field in _fields(items))
            yield _names(items), "keys"
            pending.extend(_inside(items))


def _inside(items: list[Any]) -> list[Any]:
    """What is still to be read in the items of a container: of rows, only what their fields hold."""
    rows = [item for item in items if isinstance(item, dict | list | tuple)]
    if len(rows) > 1 and len({(type(row), len(row)) for row in rows}) == 1:
        cells = [cell for row in rows for cell in (row.values() if isinstance(row, dict) else row)]
        return [cell for cell in cells if not _scalar(cell)]
    return [item for item in items if not _scalar(item)]


def _fields(rows: Sequence[Any]) -> Iterator[list[Scalar]]:
    """The scalar fields of rows, one column a position or a key."""
    columns: dict[Any, list[Any]] = {}
    for row in rows:
        cells = row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list | tuple) else ()
        for key, cell in cells:
            columns.setdefault(key, []).append(cell)
    for column in columns.values():
        yield _scalars(column)


def _names(rows: Sequence[Any]) -> list[Scalar]:
    """What the fields of rows are called: a tool may take that too."""
    return _distinct(_scalars([name for row in rows if isinstance(row, dict) for name in row]))


def _distinct(column: list[Scalar]) -> list[Scalar]:
    return list(dict.fromkeys(column))


def _scalar(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT and "\n" not in value
    return isinstance(value, int | float) or value is None


def _scalars(values: Sequence[Any]) -> list[Scalar]:
    return [value for value in values if _scalar(value) and value is not None and not isinstance(value, bool)]


def _embedded(text: str) -> Any:
    """What a long text holds: JSON, or the rows of a separated table; None for prose."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
    lines = text.strip().splitlines()
    separator = next((mark for mark in _SEPARATORS if mark in lines[0]), None) if lines else None
    if separator is None or len(lines) < 2:
        return None
    return [[cell.strip().strip('"') for cell in line.split(separator)] for line in lines]
