"""The second reading of a pack's tables, which shares nothing with the first but the files and the pack.

DuckDB reads each file by itself (CSV and Parquet by its own readers; a SQLite file, which one library alone can read,
as text that SQL has made of every value) and works out in SQL what the values mean. Its tables are what answers are
checked against; and they must be the first reading's tables, value by value.
"""

import math
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import duckdb

from astra_synth.tables.pack import Column, Origin, Pack, PackError
from astra_synth.tables.reading import (
    RawRow,
    delimiter_of,
    duckdb_table,
    encoding_of,
    kind_of,
    plain_sql,
    positions,
    quoted,
    shown,
    sqlite_connection,
    sqlite_table,
)
from astra_synth.tables.values import NO, YES, Value, as_text, boolean_words, number_style, tidy

_BATCH = 100_000
_CHUNK = 1 << 20
_SPACE = r"[\t\n\x0b\f\r\x1c-\x1f \x{85}\p{Z}]+"
_TYPES = {
    "text": "VARCHAR", "boolean": "VARCHAR", "date": "DATE", "time": "TIME", "datetime": "TIMESTAMP",
    "integer": "BIGINT", "number": "DOUBLE", "money": "DOUBLE", "percent": "DOUBLE",
}  # fmt: skip


class SecondReading:
    """An in-memory database: table t has the column `key` and the pack's columns."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self.connection = duckdb.connect(config={"threads": 1})

    def read_file(self, name: str, file: Path, width: int, where: str) -> None:
        """Takes a table from its file, whose header has `width` columns. Raises PackError."""
        origin, wanted = self._pack.tables[name].origin, self._wanted(name)
        with ExitStack() as kept:
            try:
                self._type(name, self._columns(file, origin, wanted, width, where, kept))
            except (duckdb.Error, sqlite3.Error, OSError) as error:
                reason = str(error).strip().splitlines()[0]
                problem = f"the second reading fails where the first did not: {reason}"
                fix = "write the table plainly (UTF-8, one record a line), or as Parquet"
                raise PackError(f"{where}.file: {shown(file)}: {problem}; {fix}") from None
            finally:
                self._forget()

    def read_rows(self, name: str, rows: Sequence[RawRow]) -> None:
        """Takes a table from the rows of a package."""
        wanted = self._wanted(name)
        self._type(name, self._held(([as_text(row[column]) for column in wanted] for row in rows), wanted))
        self._forget()

    def difference(self, name: str, rows: Mapping[Any, Mapping[str, Value]]) -> str | None:
        """How the table differs from the first reading's rows; None where it does not."""
        columns = list(self._pack.tables[name].columns)
        picked = ", ".join(quoted(column) for column in ["key", *columns])
        cursor = self.connection.execute(f"SELECT {picked} FROM {quoted(name)}")
        seen = set()
        while batch := cursor.fetchmany(_BATCH):
            for key, *values in batch:
                if key not in rows or key in seen:
                    return f"the second has the row {key!r} {'twice' if key in seen else 'besides'}"
                seen.add(key)
                for column, value in zip(columns, values, strict=True):
                    if not _same(rows[key][column], value):
                        return (
                            f"row {key!r}, column {column}: {rows[key][column]!r} in the first, {value!s} in the second"
                        )
        if len(seen) < len(rows):
            lost = next(key for key in rows if key not in seen)
            return f"{len(rows)} rows in the first, {len(seen)} in the second, which lacks {lost!r}"
        return None

    def _wanted(self, name: str) -> list[str]:
        spec = self._pack.tables[name]
        return list(dict.fromkeys([*spec.key, *(part for c, s in spec.columns.items() for part in s.names(c))]))

    def _forget(self) -> None:
        self.connection.execute("DROP VIEW IF EXISTS _raw")
        self.connection.execute("DROP TABLE IF EXISTS _held")
        self.connection.execute("DETACH DATABASE IF EXISTS _source")

    def _columns(
        self, file: Path, origin: Origin, wanted: Sequence[str], width: int, where: str, kept: ExitStack
    ) -> dict[str, str]:
        """Makes the view `_raw` of the file's table; SQL for the text of each wanted column in it."""
        match kind_of(file):
            case "csv":
                return self._csv(file, origin, wanted, width, kept)
            case "parquet":
                return self._stored(f"read_parquet({_literal(_exact(file))}, hive_partitioning = false)", wanted)
            case "duckdb":
                self.connection.execute(f"ATTACH {_literal(str(file.resolve()))} AS _source (READ_ONLY)")
                return self._stored(duckdb_table(self.connection, "_source", origin.table, file, where), wanted)
            case _:
                return self._sqlite(file, origin, wanted, where)

    def _csv(self, file: Path, origin: Origin, wanted: Sequence[str], width: int, kept: ExitStack) -> dict[str, str]:
        delimiter, quote = delimiter_of(file, origin), '"' if origin.quote is None else origin.quote
        source = file
        if (encoding := encoding_of(file)) == "utf-16" or _lone_returns(file):  # DuckDB reads neither
            source = Path(kept.enter_context(tempfile.TemporaryDirectory())) / "table.csv"
            with file.open(encoding=encoding) as theirs, source.open("w", encoding="utf-8") as plain:
                shutil.copyfileobj(theirs, plain)
        fields = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(width))
        options = (
            f"auto_detect = false, header = false, columns = {{{fields}}}, delim = {_literal(delimiter)}, "
            f"quote = {_literal(quote)}, escape = {_literal(quote)}, nullstr = '\x01', strict_mode = false, "
            "null_padding = false, compression = 'none', hive_partitioning = false, parallel = false"
        )
        records = f"FROM read_csv({_literal(_exact(source))}, {options})"
        header = self.connection.execute(f"SELECT * {records} LIMIT 1").fetchone() or ()
        self.connection.execute(f"CREATE VIEW _raw AS SELECT * {records} OFFSET 1")
        places = positions([name or "" for name in header], wanted, shown(file))
        return {name: f"c{place}" for name, place in places.items()}

    def _stored(self, source: str, wanted: Sequence[str]) -> dict[str, str]:
        """A source whose columns have names and types."""
        self.connection.execute(f"CREATE VIEW _raw AS SELECT * FROM {source}")
        described = self.connection.execute("DESCRIBE _raw").fetchall()
        places = positions([row[0] for row in described], wanted, source)
        return {
            name: f"({plain_sql(quoted(described[place][0]), described[place][1])})::VARCHAR"
            for name, place in places.items()
        }

    def _sqlite(self, file: Path, origin: Origin, wanted: Sequence[str], where: str) -> dict[str, str]:
        with closing(sqlite_connection(file)) as theirs:
            table, _ = sqlite_table(theirs, origin.table, file, where)
            header = [column[0] for column in theirs.execute(f"SELECT * FROM {quoted(table)} LIMIT 0").description]
            names = [quoted(header[place]) for place in positions(header, wanted, where).values()]
            texts = ", ".join(f"iif(typeof({n}) = 'real', {n}, CAST({n} AS TEXT))" for n in names)
            rows = theirs.execute(f"SELECT {texts} FROM {quoted(table)}")
            return self._held((list(map(as_text, row)) for row in rows), wanted)

    def _held(self, rows: Iterable[Sequence[str | None]], wanted: Sequence[str]) -> dict[str, str]:
        columns = [f"c{index}" for index in range(len(wanted))]
        self.connection.execute(f"CREATE TABLE _held ({', '.join(f'{column} VARCHAR' for column in columns)})")
        lists = ", ".join("unnest(?::VARCHAR[])" for _ in columns)
        for batch in _batches(rows):
            self.connection.execute(
                f"INSERT INTO _held SELECT {lists}", [list(column) for column in zip(*batch, strict=True)]
            )
        self.connection.execute("CREATE VIEW _raw AS SELECT * FROM _held")
        return dict(zip(wanted, columns, strict=True))

    def _type(self, name: str, columns: Mapping[str, str]) -> None:
        """Makes the table: what the texts of `_raw` mean."""
        spec = self._pack.tables[name]
        key_type = "BIGINT" if spec.key_type == "integer" else "VARCHAR"
        key = _integer(_tidy(columns[spec.key[0]])) if spec.key_type == "integer" else _joined(spec.key, columns)
        picked = [f"({key})::{key_type} AS key"]
        for column, found in spec.columns.items():
            meaning, kind = self._meaning(found, [columns[part] for part in found.names(column)])
            picked.append(f"({meaning})::{kind} AS {quoted(column)}")
        self.connection.execute(
            f"CREATE TABLE {quoted(name)} AS SELECT * FROM (SELECT {', '.join(picked)} FROM _raw) WHERE key IS NOT NULL"
        )

    def _meaning(self, column: Column, parts: Sequence[str]) -> tuple[str, str]:
        """SQL for what a column's text means, and its type."""
        text = _tidy(parts[0])
        if column.references:
            if self._pack.tables[column.references].key_type == "integer":
                return _integer(text), "BIGINT"
            return _joined(range(len(parts)), dict(enumerate(parts))), "VARCHAR"
        return _sql_value(column, text), _TYPES[column.type]


def _batches(rows: Iterable[Sequence[str | None]]) -> Iterable[list[Sequence[str | None]]]:
    batch: list[Sequence[str | None]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _lone_returns(file: Path) -> bool:
    """Whether some lines end with a carriage return alone, and others do not."""
    fed = alone = 0
    last = b""
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            text = last + chunk
            last = text[-1:] if text.endswith(b"\r") else b""
            text = text[: len(text) - len(last)]
            fed += text.count(b"\n")
            alone += text.count(b"\r") - text.count(b"\r\n")
    return bool(fed and alone + len(last))


def _exact(file: Path) -> str:
    """The path as DuckDB takes it for this file and no other: its wildcards mean themselves."""
    return re.sub(r"([*?\[])", r"[\1]", str(file.resolve()))


def _literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _tidy(text: str) -> str:
    return f"nullif(trim(regexp_replace(nfc_normalize({text}), '{_SPACE}', ' ', 'g')), '')"


def _joined(names: Iterable[Any], columns: Mapping[Any, str]) -> str:
    """SQL for several texts as one; nothing where one is missing."""
    return " || ', ' || ".join(_tidy(columns[name]) for name in names)


def _decimal(text: str, digits: int) -> str:
    return f"TRY_CAST({text} AS DECIMAL(38, {digits}))"


def _integer(text: str) -> str:
    return _decimal(f"replace({text}, '_', '')", 0)


def _sql_value(column: Column, text: str) -> str:
    """SQL for what a text means in a column."""
    digits, format = column.digits, column.format
    match column.type:
        case "text":
            return text
        case "boolean":
            yes, no = (YES, NO) if format is None else ((word,) for word in boolean_words(format))
            return f"CASE WHEN {_among(text, yes)} THEN 'yes' WHEN {_among(text, no)} THEN 'no' END"
        case "date" | "time" | "datetime":
            kind = {"date": "DATE", "time": "TIME", "datetime": "TIMESTAMP"}[column.type]
            return (
                f"TRY_CAST({text} AS {kind})" if format is None else f"try_strptime({text}, {_literal(tidy(format))})"
            )
        case _:
            return _decimal(_digits_of(column, text), digits)


def _digits_of(column: Column, text: str) -> str:
    """SQL for the plain digits of a quantity as it is written."""
    minus = f"replace({text}, '\u2212', '-')"
    if column.format is not None:
        style = number_style(column.format)
        bare = minus
        for affix in (style.prefix, style.suffix):
            bare = f"replace({bare}, {_literal(affix)}, '')" if affix else bare
        bare = f"replace({bare}, {_literal(style.thousands)}, '')" if style.thousands else bare
        return f"replace(replace({bare}, ' ', ''), {_literal(style.point or '.')}, '.')"
    if column.type == "money":
        number = rf"replace(regexp_extract({minus}, '[0-9][0-9,]*(\.[0-9]+)?([eE][+-]?[0-9]+)?'), ',', '')"
        return f"CASE WHEN contains(regexp_extract({minus}, '^[^0-9]*'), '-') THEN '-' ELSE '' END || {number}"
    return f"replace(rtrim({text}, ' %'), '_', '')"


def _among(text: str, words: Iterable[str]) -> str:
    return f"lower({text}) IN ({', '.join(map(_literal, words))})"


def _same(first: Value, second: Any) -> bool:
    if first is None or second is None or isinstance(first, str):
        return first == (None if second is None else str(second))
    return math.isclose(first, second, rel_tol=1e-12, abs_tol=0.0)
