"""Raw rows from files: CSV, Parquet, SQLite and DuckDB. One dictionary a row, values as the file types them."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from astra_synth.tables.pack import PackError

RawRow = Mapping[str, Any]

_SQLITE = {".sqlite", ".sqlite3", ".db"}
_DUCKDB = {".duckdb", ".ddb"}
_FLAT = {
    ".csv": "read_csv(?, all_varchar = true)",
    ".tsv": "read_csv(?, all_varchar = true)",
    ".parquet": "read_parquet(?)",
}


def read_rows(file: Path, table: str | None, where: str) -> list[RawRow]:
    """All rows of a file's table, in file order. Raises PackError; `where` names the pack's field."""
    if not file.is_file():
        raise PackError(f"{where}.file: no file {file}; the path is relative to the pack")
    suffix = file.suffix.lower()
    try:
        if suffix in _SQLITE:
            return _read_sqlite(file, table, where)
        if suffix in _DUCKDB:
            return _read_duckdb(file, table, where)
        if suffix not in _FLAT:
            known = " ".join(sorted({*_FLAT, *_SQLITE, *_DUCKDB}))
            raise PackError(f"{where}.file: {file.name} is of no known kind; use one of {known}")
        if table is not None:
            raise PackError(f"{where}.table: {file.name} holds one table only; leave the field out")
        with duckdb.connect() as connection:
            return _rows(connection.execute(f"SELECT * FROM {_FLAT[suffix]}", [str(file)]))
    except (duckdb.Error, sqlite3.Error) as error:
        raise PackError(f"{where}.file: {file} cannot be read: {str(error).splitlines()[0]}") from None


def _read_sqlite(file: Path, table: str | None, where: str) -> list[RawRow]:
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        listed = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
        name = _chosen(table, [row[0] for row in listed], file, where)
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {quoted(name)}")]
    finally:
        connection.close()


def _read_duckdb(file: Path, table: str | None, where: str) -> list[RawRow]:
    with duckdb.connect(str(file), read_only=True) as connection:
        listed = connection.execute("SELECT table_name FROM information_schema.tables ORDER BY table_name")
        name = _chosen(table, [row[0] for row in listed.fetchall()], file, where)
        return _rows(connection.execute(f"SELECT * FROM {quoted(name)}"))


def _chosen(table: str | None, names: Sequence[str], file: Path, where: str) -> str:
    if table is None and len(names) == 1:
        return names[0]
    if table not in names:
        asked = "say which table" if table is None else f"no table {table!r}"
        raise PackError(f"{where}.table: {asked}; {file.name} holds {', '.join(names) or 'none'}")
    return str(table)


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _rows(result: duckdb.DuckDBPyConnection) -> list[RawRow]:
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, values, strict=True)) for values in result.fetchall()]
