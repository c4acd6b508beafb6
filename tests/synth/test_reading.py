"""One table in every kind of file reads the same."""

import sqlite3
from pathlib import Path

import duckdb
import pytest

from astra_synth.tables import PackError, open_tables

from .conftest import PACK, WritePack


def _as_sqlite(folder: Path) -> str:
    connection = sqlite3.connect(folder / "shop.sqlite")
    connection.execute("CREATE TABLE makers (name TEXT, country TEXT, founded INTEGER)")
    rows = [line.split(",") for line in (folder / "makers.csv").read_text().splitlines()[1:]]
    connection.executemany("INSERT INTO makers VALUES (?, ?, ?)", rows)
    connection.execute("CREATE TABLE other (x TEXT)")
    connection.commit()
    connection.close()
    return "{file: shop.sqlite, table: makers}"


def _as_duckdb(folder: Path) -> str:
    with duckdb.connect(str(folder / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE makers AS SELECT * FROM read_csv(?)", [str(folder / "makers.csv")])
    return "{file: shop.duckdb}"  # its only table


def _as_parquet(folder: Path) -> str:
    with duckdb.connect() as connection:
        target = folder / "makers.parquet"
        connection.execute(f"COPY (SELECT * FROM read_csv('{folder / 'makers.csv'}')) TO '{target}' (FORMAT parquet)")
    return "{file: makers.parquet}"


@pytest.mark.parametrize("convert", [_as_sqlite, _as_duckdb, _as_parquet])
def test_other_kinds_of_file_read_like_csv(convert, write_pack: WritePack) -> None:  # type: ignore[no-untyped-def]
    path = write_pack()
    from_csv = open_tables(path=path).tables["maker"].rows
    path.write_text(PACK.replace("{file: makers.csv}", convert(path.parent)))
    assert open_tables(path=path).tables["maker"].rows == from_csv


@pytest.mark.parametrize(("origin", "message"), [
    ("{file: shop.sqlite}", "say which table; shop.sqlite holds makers, other"),
    ("{file: shop.sqlite, table: brands}", "no table 'brands'; shop.sqlite holds makers, other"),
])  # fmt: skip
def test_a_database_needs_its_table(origin: str, message: str, write_pack: WritePack) -> None:
    path = write_pack()
    _as_sqlite(path.parent)
    path.write_text(PACK.replace("{file: makers.csv}", origin))
    with pytest.raises(PackError, match=message):
        open_tables(path=path)
