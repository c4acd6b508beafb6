"""The tables of a pack, typed and checked: as rows for making questions, and as a database for checking them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from astra_api.canonical import digest
from astra_api.display import visible
from astra_synth.tables.pack import Column, Draft, Pack, PackError, TableSpec
from astra_synth.tables.reading import RawRow, RawTable, read_table, shown
from astra_synth.tables.second_reading import SecondReading
from astra_synth.tables.values import Misread, Notation, Value, folded

Row = Mapping[str, Value]
Loader = Callable[[str], Sequence[RawRow]]  # table name -> rows; KeyError for an unknown table

_SHOWN = 3  # rows of one mistake
_SHOWN_COLUMNS = 20
_KNOWN = 10_000  # values of a column whose meaning is remembered


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

    def __init__(self, pack: Pack, tables: Mapping[str, Table], database: duckdb.DuckDBPyConnection) -> None:
        """Takes the rows of the first reading, and the tables of the second to check answers against."""
        self.pack = pack
        self.tables = tables
        self.database = database
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


def groupings(pack: Pack) -> Iterator[Grouping]:
    """Every way to pick rows that the pack offers, in its order."""
    for name, table in pack.tables.items():
        for column, spec in table.columns.items():
            if spec.references or spec.group:
                yield Grouping(name, column, spec.references)


def load(draft: Draft, folder: Path, loaders: Mapping[str, Loader]) -> Dataset:
    """Reads and checks every table of a pack, twice.

    Files are found relative to `folder`. Raises PackError with every mistake: those of the pack, a missing file, table
    or column, a key that is missing or not unique, a reference to no row, a value of another type, an empty table; and
    where there is none, with what the second reading finds otherwise than the first.
    """
    mistakes = list(draft.mistakes)
    raws, tables = dict[str, RawTable](), dict[str, Table]()
    for name, spec in draft.tables.items():
        where = f"{draft.where}: tables.{name}"
        try:
            raws[name] = _raw(spec, f"{where}.from", folder, loaders)
        except PackError as error:
            mistakes.append(str(error))
            continue
        maker = _TableMaker(name, spec, draft.tables, raws[name], where)
        tables[name] = maker.make()
        mistakes += maker.mistakes
    for table in tables.values():
        mistakes += _lost_references(table, tables, f"{draft.where}: tables.{table.name}")
    if mistakes or draft.pack is None:
        raise PackError("\n".join(dict.fromkeys(mistakes)))
    return Dataset(draft.pack, tables, _checked(draft.pack, draft.where, folder, loaders, raws, tables))


def _checked(
    pack: Pack,
    where: str,
    folder: Path,
    loaders: Mapping[str, Loader],
    raws: Mapping[str, RawTable],
    tables: Mapping[str, Table],
) -> duckdb.DuckDBPyConnection:
    """The tables of the second reading, once they are found to be those of the first."""
    second, mistakes = SecondReading(pack), list[str]()
    for name, spec in pack.tables.items():
        field, origin = f"{where}: tables.{name}.from", spec.origin
        if origin.file is not None:
            second.read_file(name, folder / origin.file, len(raws[name].header), field)
        else:
            second.read_rows(name, loaders[origin.package or ""](origin.table or ""))
        if (difference := second.difference(name, tables[name].rows)) is not None:
            source = shown(folder / origin.file) if origin.file is not None else origin.package
            fix = "write the values plainly, or the table as Parquet"
            mistakes.append(f"{field}: {source} reads in two ways: {difference}; {fix}")
    if mistakes:
        raise PackError("\n".join(mistakes))
    return second.connection


def _raw(spec: TableSpec, where: str, folder: Path, loaders: Mapping[str, Loader]) -> RawTable:
    origin = spec.origin
    wanted = list(dict.fromkeys([*spec.key, *(part for c, s in spec.columns.items() for part in s.names(c))]))
    if origin.file is not None:
        return read_table(folder / origin.file, origin, wanted, where)
    package = origin.package or ""
    if package not in loaders:
        raise PackError(f"{where}.package: no loader {package!r}; loaders are {', '.join(sorted(loaders))}")
    try:
        rows = loaders[package](str(origin.table))
    except KeyError:
        raise PackError(f"{where}.table: {origin.package} has no table {origin.table!r}") from None
    except ImportError as error:
        raise PackError(f"{where}.package: {error}; install astra-farm[synth]") from None
    header = tuple(map(str, rows[0])) if rows else ()
    columns = {name: [row[name] for row in rows] for name in wanted if name in header}
    return RawTable("", header, columns, count=len(rows))


class _TableMaker:
    """Makes a table of raw columns, and collects every mistake on the way."""

    def __init__(self, name: str, spec: TableSpec, specs: Mapping[str, TableSpec], raw: RawTable, where: str) -> None:
        self._name, self._spec, self._specs, self._raw, self._where = name, spec, specs, raw, where
        self.mistakes: list[str] = []

    def make(self) -> Table:
        """The table; whole only where there are no mistakes."""
        if not self._raw.count:
            self._say("", "the table is empty; give it rows")
            return Table(self._name, self._spec, {})
        keys = self._values("key", self._spec.key, Notation(self._spec.key_type))
        columns = {}
        for column, spec in self._spec.columns.items():
            values = self._values(f"columns.{column}", spec.names(column), self._notation(spec))
            if values is not None:
                self._check_column(column, spec, values)
                columns[column] = values
        if keys is None:
            return Table(self._name, self._spec, {})
        self._check_keys(keys)
        names = list(columns)
        rows = {key: dict(zip(names, found, strict=True)) for key, *found in zip(keys, *columns.values(), strict=True)}
        return Table(self._name, self._spec, rows)

    def _say(self, field: str, mistake: str) -> None:
        self.mistakes.append(f"{self._where}{'.' if field else ''}{field}: {mistake}")

    def _notation(self, column: Column) -> Notation:
        parent = self._specs.get(column.references or "")
        return column.notation if parent is None else Notation(parent.key_type)

    def _values(self, field: str, names: Sequence[str], notation: Notation) -> list[Value] | None:
        """The values of a key or column; None where it cannot be had."""
        if absent := [name for name in names if name not in self._raw.columns]:
            shown = ", ".join(map(visible, self._raw.header[:_SHOWN_COLUMNS]))
            more = len(self._raw.header) - _SHOWN_COLUMNS
            there = f"{shown} and {more} more" if more > 0 else shown
            self._say(field, f"the table has no column {', '.join(map(repr, absent))}; it has {there}")
            return None
        parts = [self._one(field, name, notation) for name in names]
        if len(parts) == 1:
            return parts[0]
        joined: list[Value] = []
        for index, found in enumerate(zip(*parts, strict=True)):
            if None in found and any(part is not None for part in found):
                self._say(field, f"{self._raw.place(index)}: has some of {', '.join(names)} only; give all or none")
            joined.append(None if None in found else ", ".join(map(str, found)))
        return joined

    def _one(self, field: str, name: str, notation: Notation) -> list[Value]:
        raws = self._raw.columns[name]
        values, wrong = list[Value](), list[str]()
        known: dict[str, Value] = {}  # what was read before: most columns repeat themselves
        for index, raw in enumerate(raws):
            try:
                if isinstance(raw, str) and raw in known:
                    values.append(known[raw])
                    continue
                values.append(notation.value(raw))
                if isinstance(raw, str) and len(known) < _KNOWN:
                    known[raw] = values[-1]
            except Misread as error:
                values.append(None)
                wrong.append(f"{self._raw.place(index)}, column {name!r}: {error}")
        for mistake in wrong[:_SHOWN]:
            self._say(field, mistake)
        if len(wrong) > _SHOWN:
            self._say(field, f"and {len(wrong) - _SHOWN} values more of {len(raws)}")
        if not wrong and (doubt := notation.doubts(raws)) is not None:
            self._say(field, f"column {name!r}: {doubt}")
        return values

    def _check_keys(self, keys: Sequence[Value]) -> None:
        first: dict[str, int] = {}
        missing, twice = list[int](), list[tuple[int, int]]()
        for index, key in enumerate(keys):
            if key is None:
                missing.append(index)
            elif (other := first.setdefault(folded(str(key)), index)) != index:
                twice.append((other, index))
        name = " and ".join(self._spec.key)
        unread = any(mistake.startswith(f"{self._where}.key:") for mistake in self.mistakes)  # and so told already
        if missing and not unread:
            places = self._raw.place(*missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} rows more" if len(missing) > _SHOWN else ""
            self._say("key", f"{places}{more}: no {name}; every row needs one")
        for other, index in twice[:_SHOWN]:
            problem = f"{self._raw.place(other, index)} share the key {keys[index]!r}"
            fix = "a key must be unique, capitals aside; several columns can make one: key: [name, place]"
            self._say("key", f"{problem}; {fix}")
        if len(twice) > _SHOWN:
            self._say("key", f"and {len(twice) - _SHOWN} rows more that share a key")
        texts = [key for key in keys if isinstance(key, str)]
        whole = all(key.isascii() and key.isdigit() and (key == "0" or key[0] != "0") for key in texts)
        if whole and len({len(key) for key in texts}) > 1:  # as text, 10 comes before 9
            self._say("key_type", f"the keys are whole numbers ({texts[0]}, {texts[-1]}); say key_type: integer")

    def _check_column(self, column: str, spec: Column, values: Sequence[Value]) -> None:
        field = f"columns.{column}"
        known = [value for value in values if value is not None]
        if not known and not any(mistake.startswith(f"{self._where}.{field}:") for mistake in self.mistakes):
            self._say(field, "the column is empty; leave it out of the pack")
        if spec.unique and len({folded(str(value)) for value in known}) < len(known):
            self._say(f"{field}.unique", "values repeat; leave unique out")
        if spec.group:
            spelt: dict[str, Value] = {}
            for value in dict.fromkeys(known):
                if (other := spelt.setdefault(folded(str(value)), value)) != value:
                    self._say(field, f"{other!r} and {value!r} differ only in capitals; write them one way")
                    break


def _lost_references(table: Table, tables: Mapping[str, Table], where: str) -> Iterator[str]:
    for column, spec in table.spec.columns.items():
        if spec.references is None or spec.references not in tables:
            continue
        parent = tables[spec.references].rows
        found = {row[column] for row in table.rows.values() if row.get(column) is not None}
        if not parent or not (lost := sorted(map(str, found.difference(parent)))):
            continue
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        yield (
            f"{where}.columns.{column}.references: table {spec.references} has no row "
            f"{', '.join(map(repr, lost[:_SHOWN]))}{more}; add the rows or clear the values"
        )
