"""The first reading of a table: exactly the named file, by the library that knows its kind best.

CSV by the standard library, SQLite by its own library, Parquet by Arrow, DuckDB files by DuckDB. What the tools of an
environment know rests on this reading; `second_reading` reads the same files in another way and must find the same.
"""

import codecs
import csv
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import duckdb

from astra_api.display import visible
from astra_synth.tables.pack import Origin, PackError
from astra_synth.tables.values import tidy

RawRow = Mapping[str, Any]

_SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".db": "sqlite",
    ".duckdb": "duckdb", ".ddb": "duckdb",
}  # fmt: skip
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_JSON = (".json", ".jsonl", ".ndjson")
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z")
_MAGIC = {  # how a file begins that is no plain text: what it is, and what to do
    b"\x1f\x8b": "compressed with gzip; unpack it (gunzip)",
    b"BZh": "compressed with bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it (unzstd)",
    b"PK\x03\x04": "a zip archive, as spreadsheets are; save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet; save the sheet as CSV UTF-8",
    b"PAR1": "Parquet; name it .parquet",
    b"SQLite format 3\0": "SQLite; name it .sqlite",
    b"%PDF": "PDF; export the table as CSV",
    b"version https://git-lfs": "a pointer of Git LFS, not the data; fetch it (git lfs pull)",
    b"<!DOCTYPE": "a web page, not the table; download the file itself",
    b"<!doctype": "a web page, not the table; download the file itself",
    b"<html": "a web page, not the table; download the file itself",
    b"\xff\xfe\0\0": "UTF-32; save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32; save it as UTF-8",
}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SHOWN = 3  # lines of one mistake
_LINE = 1 << 16  # bytes looked at for what a file is


@dataclass(frozen=True)
class RawTable:
    """Columns of a file's table, as the file types their values."""

    file: str
    header: tuple[str, ...]  # names of all columns that there are
    columns: Mapping[str, Sequence[Any]]  # those asked for and found, by the names asked for
    lines: Sequence[int] | None = None  # where each record begins, for a text file
    count: int = 0

    def place(self, *indexes: int) -> str:
        """Where records (from 0) stand, for people."""
        unit = ("line" if self.lines else "row") + ("s" if len(indexes) > 1 else "")
        numbers = [str(self.lines[index] if self.lines else index + 1) for index in indexes]
        listed = f"{', '.join(numbers[:-1])} and {numbers[-1]}" if len(numbers) > 1 else numbers[0]
        return f"{self.file}, {unit} {listed}" if self.file else f"{unit} {listed}"


def kind_of(file: Path) -> str:
    """csv, parquet, sqlite or duckdb; what a database is its first bytes say. Empty for another kind."""
    kind = _SUFFIXES.get(file.suffix.lower(), "")
    if kind in ("sqlite", "duckdb"):
        head = _head(file)
        kind = "duckdb" if head[8:12] == b"DUCK" else "sqlite" if head.startswith(b"SQLite format 3\0") else kind
    return kind


def read_table(file: Path, origin: Origin, wanted: Sequence[str], where: str) -> RawTable:
    """The wanted columns of a file's table, all records in file order. Raises PackError; `where` is the pack's field.

    A wanted column that is not there is left out of the result: its caller says so, with the others.
    """
    name = shown(file)
    if file.is_dir():
        raise PackError(f"{where}.file: {name} is a folder; name one file in it")
    if not file.is_file():
        raise PackError(f"{where}.file: no file {name}; the path is relative to the pack")
    try:
        kind = kind_of(file)
        if not kind:
            raise PackError(f"{where}.file: {shown(file.name)} {_fix_of_kind(file)}")
        if kind in ("csv", "parquet") and origin.table is not None:
            raise PackError(f"{where}.table: {shown(file.name)} holds one table only; leave the field out")
        return _READERS[kind](file, origin, wanted, where)
    except ImportError as error:
        raise PackError(f"{where}.file: {name}: {error}; install astra-farm[synth]") from None
    except (duckdb.Error, sqlite3.Error, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, PackError):
            raise
        raise PackError(f"{where}.file: {name} cannot be read: {_reason(error)}") from None


def shown(file: Path | str) -> str:
    """A path on one line, for people."""
    return visible(str(file)).replace("\n", "\\n")


def delimiter_of(file: Path, origin: Origin) -> str:
    """The delimiter of a CSV or TSV file."""
    return origin.delimiter or ("\t" if file.suffix.lower() == ".tsv" else ",")


def encoding_of(file: Path) -> str:
    """The encoding that a text file's byte order mark names; UTF-8 without one."""
    head = _head(file)
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "utf-8")


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def positions(header: Sequence[str], wanted: Sequence[str], where: str) -> dict[str, int]:
    """Where the wanted columns stand in a header; white space and composition aside. Raises PackError."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(header):
        places.setdefault(tidy(name), []).append(index)
    found = {name: places[tidy(name)] for name in wanted if tidy(name) in places}
    for name, indexes in found.items():
        if len(indexes) > 1:
            there = " and ".join(str(index + 1) for index in indexes)
            raise PackError(f"{where}: columns {there} are both named {name!r}; give each another name")
    return {name: indexes[0] for name, indexes in found.items()}


def _read_csv(file: Path, origin: Origin, wanted: Sequence[str], where: str) -> RawTable:
    field = f"{where}.file: {shown(file)}"
    _refuse_other_kinds(file, field)
    encoding = encoding_of(file)
    try:
        with file.open(encoding=encoding, errors="strict", newline="") as stream:
            return _parsed(_records(stream, delimiter_of(file, origin), origin.quote, field), file.name, wanted, field)
    except UnicodeError:
        raise PackError(f"{field}: {_undecodable(file, encoding)}") from None


def _records(stream: TextIO, delimiter: str, quote: str | None, field: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are no blank lines, each with the line that it begins in."""
    quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if quote == "" else {"quotechar": quote or '"'}
    reader = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=True, **quoting)
    begins = 1
    try:
        for record in reader:
            if record:
                yield begins, record
            begins = reader.line_num + 1
    except csv.Error as error:
        mark = quote or '"'
        fix = f"a {mark} that opens a value is closed before the delimiter, and one inside it doubled"
        raise PackError(f"{field}: line {begins}: {error}; {fix}; say quote: '' where quotes are letters") from None


def _parsed(records: Iterator[tuple[int, list[str]]], file: str, wanted: Sequence[str], field: str) -> RawTable:
    first, header = next(records, (1, []))
    if not header:
        raise PackError(f"{field}: is empty; its first line names the columns")
    places = positions(header, wanted, f"{field}: line {first}")
    columns: dict[str, list[str]] = {name: [] for name in places}
    lines: list[int] = []
    wrong: list[tuple[int, int]] = []
    blank = 0  # records of nothing but delimiters, at the end so far
    for line, record in records:
        if len(record) != len(header):
            wrong.append((line, len(record)))
            continue
        if record[-1] == header[-1] and len(header) > 1 and [record[0].lstrip("\ufeff"), *record[1:]] == header:
            raise PackError(f"{field}: line {line} names the columns once more; take it out, or split the file there")
        lines.append(line)
        blank = 0 if any(map(str.strip, record)) else blank + 1
        for name, place in places.items():
            value = record[place]
            if "\0" in value:
                raise PackError(
                    f"{field}: line {line}, column {name!r}: holds a NUL byte; save the file as plain UTF-8"
                )
            columns[name].append(value)
    if wrong:
        raise PackError(f"{field}: {_width_mistake(header, first, wrong)}")
    if not places and len(header) == 1 and (fix := _fix_of_header(header[0], first)):
        raise PackError(f"{field}: line {first} is one column, {visible(header[0])!r}; {fix}")
    kept = len(lines) - blank
    cut = {name: values[:kept] for name, values in columns.items()}
    return RawTable(visible(file), tuple(header), cut, lines[:kept], kept)


def _width_mistake(header: Sequence[str], first: int, wrong: Sequence[tuple[int, int]]) -> str:
    lines = ", ".join(f"line {line} has {width} fields" for line, width in wrong[:_SHOWN])
    more = f" and {len(wrong) - _SHOWN} lines more" if len(wrong) > _SHOWN else ""
    fix = _fix_of_header(header[0], first) if len(header) == 1 else None
    fix = fix or "every line has as many fields as the first, which names the columns; mend them or split the file"
    return f"{lines}{more}, line {first} has {len(header)}; {fix}"


def _fix_of_header(header: str, first: int) -> str | None:
    """What to do about a first line that is one column where there should be several."""
    if header.lower().startswith("sep=") or header.startswith("#"):
        return f"take out line {first}, which names no columns"
    other = next((candidate for candidate in (";", "\t", "|", ",") if candidate in header), None)
    return f"say delimiter: {other!r}" if other else None


def _refuse_other_kinds(file: Path, field: str) -> None:
    head = _head(file)
    if not head:
        raise PackError(f"{field}: is empty; its first line names the columns")
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise PackError(f"{field}: is {what}")
    marked = any(head.startswith(mark) for mark in _MARKS)
    if not marked and head[:64].count(0) > len(head[:64]) // 4:
        raise PackError(f"{field}: line 1 holds NUL bytes, as UTF-16 without a byte order mark does; save it as UTF-8")


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_LINE)


def _undecodable(file: Path, encoding: str) -> str:
    """Where a file stops being text of its encoding, and what to do."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    read = lines = 0
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(_LINE)
            held = len(decoder.getstate()[0])
            try:
                lines += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(error.encoding, "ignore").count("\n")
                place = f"byte {read - held + error.start}, line {lines + before + 1}"
                found = error.object[error.start : error.end].hex(" ")
                name = "UTF-8" if encoding.startswith("utf-8") else "UTF-16"
                return f"{place}: not {name} text ({found}); save it as UTF-8 (iconv -f windows-1252 -t UTF-8, or such)"
            read += len(chunk)
            if not chunk:
                return "cannot be read as text; save it as UTF-8"


def _read_parquet(file: Path, origin: Origin, wanted: Sequence[str], where: str) -> RawTable:
    import pyarrow as arrow
    from pyarrow import parquet

    field = f"{where}.file: {shown(file)}"
    with file.open("rb") as stream, parquet.ParquetFile(stream) as opened:
        schema = opened.schema_arrow
        places = positions(schema.names, wanted, field)
        columns: dict[str, list[Any]] = {}
        for name, place in places.items():
            kind = schema.field(place).type
            if arrow.types.is_nested(kind):
                raise PackError(f"{field}: column {name!r} holds {kind}, which is no plain value; leave it out")
            columns[name] = []
        paths = [schema.names[place] for place in places.values()]
        for batch in opened.iter_batches(columns=paths, use_threads=False):
            for name, place in places.items():
                columns[name] += _plain_arrow(batch.column(schema.names[place]), arrow).to_pylist()
        return RawTable(shown(file.name), tuple(schema.names), columns, count=opened.metadata.num_rows)


def _plain_arrow(values: Any, arrow: Any) -> Any:
    """Time stamps to the microsecond and in UTC, which Python holds without a library of time zones."""
    kind = values.type
    if arrow.types.is_timestamp(kind):
        return values.cast(arrow.timestamp("us", kind.tz), safe=False).cast(arrow.timestamp("us"), safe=False)
    return values


def _read_sqlite(file: Path, origin: Origin, wanted: Sequence[str], where: str) -> RawTable:
    connection = sqlite_connection(file)
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    try:
        name, plain = sqlite_table(connection, origin.table, file, where)
        header = [column[0] for column in connection.execute(f"SELECT * FROM {quoted(name)} LIMIT 0").description]
        field = f"{where}.file: {shown(file)}"
        places = positions(header, wanted, field)
        picked = ", ".join(quoted(header[place]) for place in places.values()) or "1"
        order = " NOT INDEXED" if plain else ""  # the table's own order, whatever indexes there are
        rows = connection.execute(f"SELECT {picked} FROM {quoted(name)}{order}").fetchall()
    finally:
        connection.close()
    columns = {wanted_name: [row[index] for row in rows] for index, wanted_name in enumerate(places)}
    for wanted_name, values in columns.items():
        for number, value in enumerate(values, start=1):
            if (
                isinstance(value, str)
                and not value.isascii()
                and any("\udc80" <= letter <= "\udcff" for letter in value)
            ):
                raise PackError(f"{field}: row {number}, column {wanted_name!r}: not UTF-8 text; store it as UTF-8")
    return RawTable(shown(file.name), tuple(header), columns, count=len(rows))


def sqlite_connection(file: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)


def sqlite_table(connection: sqlite3.Connection, table: str | None, file: Path, where: str) -> tuple[str, bool]:
    """The name of the table that a pack means, and whether it is an ordinary table. SQLite's own are passed over."""
    listed = connection.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    kinds = {name: kind for name, kind in listed if kind != "shadow" and not name.startswith("sqlite_")}
    name = _chosen(table, list(kinds), file, where)
    return name, kinds[name] == "table"


def _read_duckdb(file: Path, origin: Origin, wanted: Sequence[str], where: str) -> RawTable:
    field = f"{where}.file: {shown(file)}"
    with duckdb.connect(str(file.resolve()), read_only=True) as connection:
        source = duckdb_table(connection, None, origin.table, file, where)
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        header, types = [row[0] for row in described], [row[1] for row in described]
        places = positions(header, wanted, field)
        picked = ", ".join(plain_sql(quoted(header[place]), types[place]) for place in places.values()) or "1"
        rows = connection.execute(f"SELECT {picked} FROM {source}").fetchall()
    columns = {name: [row[index] for row in rows] for index, name in enumerate(places)}
    return RawTable(shown(file.name), tuple(header), columns, count=len(rows))


def duckdb_table(
    connection: duckdb.DuckDBPyConnection, catalog: str | None, table: str | None, file: Path, where: str
) -> str:
    """The table that a pack means, as SQL names it."""
    listed = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_catalog = coalesce(?, current_database()) ORDER BY ALL",
        [catalog],
    ).fetchall()
    names = {name if schema == "main" else f"{schema}.{name}": (schema, name) for schema, name in listed}
    schema, name = names[_chosen(table, list(names), file, where)]
    return ".".join(quoted(part) for part in (catalog, schema, name) if part)


def plain_sql(column: str, kind: str) -> str:
    """SQL for a column whose time stamps are in UTC, which Python holds without a library of time zones."""
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({column}))"
    if kind in ("TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"):
        return f"{column}::TIMESTAMP"
    return f"{column}::DOUBLE" if kind == "FLOAT" else column


def _chosen(table: str | None, names: Sequence[str], file: Path, where: str) -> str:
    if table is None and len(names) == 1:
        return names[0]
    if table is None or table not in names:
        asked = "say which table" if table is None else f"no table {table!r}"
        raise PackError(f"{where}.table: {asked}; {shown(file.name)} holds {', '.join(names) or 'none'}")
    return table


def _fix_of_kind(file: Path) -> str:
    known = f"is of no known kind; use one of {' '.join(sorted(_SUFFIXES))}"
    suffix = file.suffix.lower()
    if suffix in _PACKED:
        return f"{known}: it is compressed, unpack it"
    if suffix in _SPREADSHEETS:
        return f"{known}: save the sheet as CSV UTF-8"
    if suffix in _JSON:
        return f"{known}: convert it (in DuckDB: COPY (FROM 'x.json') TO 'x.parquet')"
    return known


def _reason(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


_READERS: Mapping[str, Callable[[Path, Origin, Sequence[str], str], RawTable]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "sqlite": _read_sqlite,
    "duckdb": _read_duckdb,
}
