"""The tables of a pack, typed and checked: as rows for making questions, and as a database for checking them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from astra_api.canonical import MAX_INTEGER, digest
from astra_synth.tables.pack import Column, Pack, PackError, TableSpec
from astra_synth.tables.reading import RawRow, quoted, read_rows
from astra_synth.tables.wording import whole

Value = str | int | float | None
Row = Mapping[str, Value]
Loader = Callable[[str], Sequence[RawRow]]  # table name -> rows; KeyError for an unknown table

_MAX_TEXT = 120


@dataclass(frozen=True)
class Table:
    """Rows by key, in file order; a row holds the pack's columns only."""

    name: str
    spec: TableSpec
    rows: Mapping[Any, Row]


@dataclass(frozen=True)
class Grouping:
    """A way to name some rows of a table by one value: a column that references a parent, or a category."""

    table: str
    column: str
    parent: str | None  # table that the values are keys of; None for a category


class Dataset:
    """What a pack describes, loaded. Build it with `load`."""

    def __init__(self, pack: Pack, tables: Mapping[str, Table]) -> None:
        self.pack = pack
        self.tables = tables
        self.members: dict[Grouping, dict[Any, list[Any]]] = {
            grouping: self._members(grouping) for grouping in groupings(pack)
        }

    def spec(self, table: str, column: str) -> Column:
        return self.pack.tables[table].columns[column]

    def _members(self, grouping: Grouping) -> dict[Any, list[Any]]:
        found: dict[Any, list[Any]] = {}
        for key, row in self.tables[grouping.table].rows.items():
            if (value := row[grouping.column]) is not None:
                found.setdefault(value, []).append(key)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:...` of the pack and every row: other tables make other environments."""
        content = [self.pack.model_dump(mode="json"), [[str(key), dict(row)] for key, row in self._rows()]]
        return digest(content)

    def _rows(self) -> Iterator[tuple[Any, Row]]:
        for table in self.tables.values():
            yield from table.rows.items()

    @cached_property
    def database(self) -> duckdb.DuckDBPyConnection:
        """The whole tables in an in-memory database: table t has the column `key` and the pack's columns."""
        connection = duckdb.connect(config={"threads": 1})
        for name, table in self.tables.items():
            names = ["key", *table.spec.columns]
            types = [_SQL_TYPES[table.spec.key_type], *(_SQL_TYPES[self._type(c)] for c in table.spec.columns.values())]
            columns = ", ".join(f"{quoted(n)} {t}" for n, t in zip(names, types, strict=True))
            connection.execute(f"CREATE TABLE {quoted(name)} ({columns})")
            values = [list(table.rows), *([row[c] for row in table.rows.values()] for c in table.spec.columns)]
            picked = ", ".join(f"unnest(?::{t}[])" for t in types)
            connection.execute(f"INSERT INTO {quoted(name)} SELECT {picked}", values)
        return connection

    def _type(self, column: Column) -> str:
        return self.pack.tables[column.references].key_type if column.references else column.type


_SQL_TYPES = {"text": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE"}


def groupings(pack: Pack) -> Iterator[Grouping]:
    """Every way to pick rows that the pack offers, in its order."""
    for name, table in pack.tables.items():
        for column, spec in table.columns.items():
            if spec.references or spec.group:
                yield Grouping(name, column, spec.references)


def load(pack: Pack, where: str, folder: Path, loaders: Mapping[str, Loader]) -> Dataset:
    """Reads and checks every table of a pack.

    Files are found relative to `folder`. Raises PackError for a missing file, table or column, a key that is missing
    or not unique, a reference to no row, a value of another type, and an empty table.
    """
    tables = {}
    for name, spec in pack.tables.items():
        field = f"{where}: tables.{name}"
        tables[name] = _typed(name, spec, pack, _raw(spec, f"{field}.from", folder, loaders), field)
    for name, table in tables.items():
        _check_references(table, tables, f"{where}: tables.{name}")
    return Dataset(pack, tables)


def _raw(spec: TableSpec, where: str, folder: Path, loaders: Mapping[str, Loader]) -> Sequence[RawRow]:
    origin = spec.origin
    if origin.file is not None:
        return read_rows(folder / origin.file, origin.table, where)
    package = origin.package or ""
    if package not in loaders:
        raise PackError(f"{where}.package: no loader {package!r}; loaders are {', '.join(sorted(loaders))}")
    try:
        return loaders[package](str(origin.table))
    except KeyError:
        raise PackError(f"{where}.table: {origin.package} has no table {origin.table!r}") from None
    except ImportError as error:
        raise PackError(f"{where}.package: {error}; install astra-farm[synth]") from None


def _typed(name: str, spec: TableSpec, pack: Pack, raw: Sequence[RawRow], where: str) -> Table:
    if not raw:
        raise PackError(f"{where}: the table is empty; give it rows")
    names = {column: column_spec.column or column for column, column_spec in spec.columns.items()}
    for field, wanted in {"key": spec.key, **{f"columns.{column}": names[column] for column in names}}.items():
        if wanted not in raw[0]:
            raise PackError(
                f"{where}.{field}: the table has no column {wanted!r}; it has {', '.join(map(str, raw[0]))}"
            )
    rows: dict[Any, Row] = {}
    folded: dict[str, int] = {}
    for number, source in enumerate(raw, start=1):
        key = _value(source[spec.key], spec.key_type, 0, f"{where}.key: row {number}")
        if key is None:
            raise PackError(f"{where}.key: row {number} has no {spec.key}; every row needs one")
        if first := folded.get(str(key).casefold()):
            raise PackError(
                f"{where}.key: rows {first} and {number} share the key {key!r}; a key must be unique, capitals aside"
            )
        folded[str(key).casefold()] = number
        row = {}
        for column, column_spec in spec.columns.items():
            kind = pack.tables[column_spec.references].key_type if column_spec.references else column_spec.type
            place = f"{where}.columns.{column}: row {number}"
            row[column] = _value(source[names[column]], kind, column_spec.digits, place)
        rows[key] = row
    for column, column_spec in spec.columns.items():
        values = [row[column] for row in rows.values()]
        if all(value is None for value in values):
            raise PackError(f"{where}.columns.{column}: the column is empty; leave it out of the pack")
        if column_spec.unique and len({str(v).casefold() for v in values if v is not None}) < sum(
            v is not None for v in values
        ):
            raise PackError(f"{where}.columns.{column}.unique: values repeat; leave unique out")
    return Table(name, spec, rows)


def _check_references(table: Table, tables: Mapping[str, Table], where: str) -> None:
    for column, spec in table.spec.columns.items():
        if spec.references is None:
            continue
        parent = tables[spec.references].rows
        lost = sorted(
            {str(row[column]) for row in table.rows.values() if row[column] is not None and row[column] not in parent}
        )
        if lost:
            raise PackError(
                f"{where}.columns.{column}.references: table {spec.references} has no row "
                f"{', '.join(map(repr, lost[:3]))}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}; "
                "add the rows or clear the values"
            )


def _value(raw: Any, kind: str, digits: int, where: str) -> Value:
    if raw is None or raw != raw or (isinstance(raw, str) and not raw.strip()):
        return None
    if kind == "text":
        text = " ".join(str(raw).split())
        if len(text) > _MAX_TEXT:
            raise PackError(f"{where}: text of {len(text)} letters; at most {_MAX_TEXT} can be asked about")
        return text
    try:
        number = Decimal(str(raw).strip().replace("_", ""))
        if not number.is_finite() or isinstance(raw, bool):
            raise ValueError
    except (ArithmeticError, ValueError):
        raise PackError(f"{where}: {raw!r} is not a number; make the column text or clear the value") from None
    if abs(number) > MAX_INTEGER:
        raise PackError(f"{where}: {raw!r} is beyond 2^53, which JSON cannot hold exactly")
    if kind == "integer":
        if number != int(number):
            raise PackError(f"{where}: {raw!r} is not whole; make the column type number")
        return int(number)
    return whole(round(float(number), digits))
