"""Exactly the named file is read, as a person means it, or refused with the file, the line and what to do."""

import codecs
import csv
import gzip
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_synth.tables import PackError, open_tables
from astra_synth.tables.values import tidy

from .conftest import PACK, WritePack

ROWS = "name,pop\nAlba,1\nBern,2\n"
Make = Callable[[Path], object]


def read(folder: Path, content: str | bytes | Make, file: str = "t.csv", origin: str = "", key: str = "name") -> Any:
    """What a pack of one table reads of a file: the column `pop` by key."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    quoted = file.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    (folder / "pack.yaml").write_text(
        "{name: t, domain: t, title: T, licence: x, source: x, shards: {by: city}, tables: {city: {"
        f'from: {{file: "{quoted}"{origin}}}, key: {key}, noun: city, plural: cities, '
        "columns: {pop: {type: integer, noun: population}}}}}"
    )
    return {key: row["pop"] for key, row in open_tables(path=folder / "pack.yaml").tables["city"].rows.items()}


def sql(*statements: str) -> Make:
    """Writes a SQLite file."""

    def make(path: Path) -> None:
        connection = sqlite3.connect(path)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return make


def parquet(query: str) -> Make:
    return lambda path: duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")


def duck(*statements: str) -> Make:
    """Writes a DuckDB file."""

    def make(path: Path) -> None:
        with duckdb.connect(str(path)) as connection:
            for statement in statements:
                connection.execute(statement)

    return make


@pytest.mark.parametrize("name", [
    "a*.csv", "a?.csv", "[ab].csv", "**.csv", "{a,b}.csv", "it's.csv", "%41.csv", "#1.csv", "a b.csv", "a\nb.csv",
    "pop=7/t.csv", "pop=7/name=x/[t]*.csv",
])  # fmt: skip
def test_the_file_of_that_name_is_read(name: str, tmp_path: Path) -> None:
    for other in ("ab.csv", "a1.csv", "b.csv", "a.csv"):
        (tmp_path / other).write_text("name,pop\nWrong,9\n")
    assert read(tmp_path, ROWS, name) == {"Alba": 1, "Bern": 2}


@pytest.mark.parametrize("name", ["a*.parquet", "pop=7/[t].parquet"])
def test_the_parquet_file_of_that_name_is_read(name: str, tmp_path: Path) -> None:
    parquet("SELECT 'Wrong' AS name, 9 AS pop")(tmp_path / "ab.parquet")
    assert read(tmp_path, parquet("SELECT 'Alba' AS name, 1 AS pop"), name) == {"Alba": 1}


READ: dict[str, tuple[str | bytes | Make, dict[str, Any]]] = {
    "a mark of UTF-8": (codecs.BOM_UTF8 + ROWS.encode(), {}),
    "UTF-16, little end first": (ROWS.encode("utf-16"), {}),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + ROWS.encode("utf-16-be"), {}),
    "line ends of Windows": (ROWS.replace("\n", "\r\n"), {}),
    "line ends of an old Mac": (ROWS.replace("\n", "\r"), {}),
    "mixed line ends": ("name,pop\r\nAlba,1\nBern,2\n", {}),
    "line ends of all kinds": ("name,pop\r\nAlba,1\rBern,2\n", {}),
    "no last line end": (ROWS.rstrip(), {}),
    "blank lines": ("\nname,pop\nAlba,1\n\nBern,2\n\n\n", {}),
    "blank rows at the end": (ROWS + ",\n , \n", {}),
    "everything quoted": ('"name","pop"\n"Alba","1"\n"Bern","2"\n', {}),
    "spaces before quotes": ('"name", "pop"\n"Alba", "1"\n"Bern", "2"\n', {}),
    "spaces around names": (" name , pop \nAlba , 1\n Bern,2 \n", {}),
    "a quoted name over two lines": ('name,"number\nx",pop\nAlba,,1\nBern,,2\n', {}),
    "columns without a name": ("name,pop,,\nAlba,1,,\nBern,2,x,\n", {}),
    "two columns of one name, not used": ("name,x,pop,x\nAlba,,1,\nBern,,2,\n", {}),
    "tabs": (ROWS.replace(",", "\t"), {"file": "t.tsv"}),
    "semicolons, told": (ROWS.replace(",", ";"), {"origin": ', delimiter: ";"'}),
    "bars, told": (ROWS.replace(",", "|"), {"origin": ', delimiter: "|"'}),
    "single quotes, told": ("name,pop\n'Alba',1\n'Bern','2'\n", {"origin": ', quote: "\'"'}),
    "a link": (lambda path: ((path.parent / "x.txt").write_text(ROWS), path.symlink_to("x.txt")), {}),
    "SQLite with the engine's tables": (
        sql(
            "CREATE TABLE city (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, pop INT)",
            "CREATE INDEX i ON city (pop)",
            "INSERT INTO city (name, pop) VALUES ('Alba', 1), ('Bern', 2)",
            "ANALYZE",
        ),
        {"file": "t.db"},
    ),
    "SQLite with a text index": (
        sql(
            "CREATE VIRTUAL TABLE city USING fts5 (name, pop)",
            "INSERT INTO city VALUES ('Alba', '1'), ('Bern', '2')",
        ),
        {"file": "t.sqlite3"},
    ),
    "SQLite without row numbers": (
        sql(
            "CREATE TABLE city (name TEXT PRIMARY KEY, pop INT) WITHOUT ROWID",
            "INSERT INTO city VALUES ('Bern', 2), ('Alba', 1)",
        ),
        {"file": "t.sqlite"},
    ),
    "a view of SQLite": (
        sql(
            "CREATE TABLE t (n TEXT, p INT)",
            "INSERT INTO t VALUES ('Alba', 1), ('Bern', 2), ('Cork', 3)",
            "CREATE VIEW small AS SELECT n AS name, p AS pop FROM t WHERE p < 3",
        ),
        {"file": "t.db", "origin": ", table: small"},
    ),
    "DuckDB by another name": (
        duck(
            "CREATE TABLE c AS VALUES ('Alba', 1), ('Bern', 2)",
            "ALTER TABLE c RENAME col0 TO name",
            "ALTER TABLE c RENAME col1 TO pop",
        ),
        {"file": "t.db"},
    ),
    "a schema of DuckDB": (
        duck(
            "CREATE SCHEMA s",
            "CREATE TABLE s.city (name VARCHAR, pop INT)",
            "INSERT INTO s.city VALUES ('Alba', 1), ('Bern', 2)",
        ),
        {"file": "t.duckdb", "origin": ", table: s.city"},
    ),
    "time zones of DuckDB": (
        duck(
            "CREATE TABLE city AS SELECT * FROM (VALUES ('Alba', 1), ('Bern', 2)) AS t (name, pop), "
            "(SELECT TIMESTAMPTZ '2024-01-05 00:00:00+00' AS updated)",
        ),
        {"file": "t.duckdb"},
    ),
    "time zones of Parquet": (
        parquet(
            "SELECT *, TIMESTAMPTZ '2024-01-05 00:00:00+00' AS updated "
            "FROM (VALUES ('Alba', 1), ('Bern', 2)) AS t (name, pop)"
        ),
        {"file": "t.parquet"},
    ),
    "floats of Parquet": (
        parquet("SELECT name, pop::FLOAT AS pop FROM (VALUES ('Alba', 1), ('Bern', 2)) AS t (name, pop)"),
        {"file": "t.parquet"},
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_as_a_person_means_it(name: str, tmp_path: Path) -> None:
    content, options = READ[name]
    assert read(tmp_path, content, **options) == {"Alba": 1, "Bern": 2}


REFUSED: dict[str, tuple[str | bytes | Make, dict[str, Any], str]] = {
    "a width that changes": (
        ROWS + "name,pop,region\nCork,3,x\n",
        {},
        "line 4 has 3 fields, line 5 has 3 fields, line 1 has 2",
    ),
    "a short line": (
        ROWS + "Cork\n",
        {},
        "line 4 has 1 fields, line 1 has 2; every line has as many fields as the first",
    ),
    "delimiters at the ends of rows": ("name,pop\nAlba,1,\n", {}, "line 2 has 3 fields, line 1 has 2"),
    "a header once more": (ROWS + "name,pop\nCork,3\n", {}, "line 4 names the columns once more; take it out"),
    "two files with marks": (
        ROWS.encode("utf-8-sig") + ROWS.replace("A", "C").encode("utf-8-sig"),
        {},
        "line 4 names the columns once more",
    ),
    "a comment": ("# of 2024\n" + ROWS, {}, "line 1 has 1; take out line 1, which names no columns"),
    "a line for Excel": ("sep=;\n" + ROWS.replace(",", ";"), {}, "take out line 1, which names no columns"),
    "semicolons": (ROWS.replace(",", ";"), {}, "line 1 is one column, 'name;pop'; say delimiter: ';'"),
    "a name twice": ("name,pop,pop\nAlba,1,2\n", {}, "t.csv: line 1: columns 2 and 3 are both named 'pop'"),
    "windows-1252": (ROWS.encode() + "Córk,3\n".encode("cp1252"), {}, "byte 24, line 4: not UTF-8 text (f3); save it"),
    "windows-1252, far down": (
        ROWS.encode() + b"".join(b"n%d,1\n" % n for n in range(20_000)) + b"C\xf3rk,3\n",
        {},
        "line 20004: not UTF-8 text (f3)",
    ),
    "half a letter of UTF-16": (ROWS.encode("utf-16")[:-1], {}, "line 3: not UTF-16 text"),
    "UTF-16 without a mark": (
        ROWS.encode("utf-16-le"),
        {},
        "line 1 holds NUL bytes, as UTF-16 without a byte order mark",
    ),
    "UTF-32": (ROWS.encode("utf-32"), {}, "is UTF-32; save it as UTF-8"),
    "a NUL byte": ("name,pop\nAl\0ba,1\n", {}, "line 2, column 'name': holds a NUL byte"),
    "a quote left open": (
        ROWS + '"Cork,3\nDoha,4\n',
        {},
        'line 4: unexpected end of data; a " that opens a value is closed',
    ),
    "letters after a quote": (ROWS + '"Cork"x,3\n', {}, "line 4: ',' expected after '\"'"),
    "an empty file": ("", {}, "t.csv: is empty; its first line names the columns"),
    "blank lines alone": ("\n\n", {}, "t.csv: is empty"),
    "a header alone": ("name,pop\n", {}, "tables.city: the table is empty; give it rows"),
    "a packed file": (gzip.compress(ROWS.encode()), {}, "is compressed with gzip; unpack it (gunzip)"),
    "a packed file by name": (gzip.compress(ROWS.encode()), {"file": "t.csv.gz"}, "it is compressed, unpack it"),
    "a spreadsheet": (b"PK\x03\x04", {"file": "t.xlsx"}, "save the sheet as CSV UTF-8"),
    "a spreadsheet by another name": (
        b"PK\x03\x04",
        {},
        "is a zip archive, as spreadsheets are; save the sheet as CSV",
    ),
    "JSON": ("{}", {"file": "t.jsonl"}, "COPY (FROM 'x.json') TO 'x.parquet'"),
    "a web page": ("<!DOCTYPE html><title>Sign in</title>", {}, "is a web page, not the table"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid x\n", {}, "a pointer of Git LFS, not the data"),
    "a folder": (lambda path: path.mkdir(), {}, "t.csv is a folder; name one file in it"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), {}, "no file"),
    "a name over two lines": (lambda path: None, {"file": "a\nb.csv"}, "a\\nb.csv; the path is relative to the pack"),
    "no database": ("hello " * 99, {"file": "t.db"}, "t.db cannot be read: file is not a database"),
    "text that is none": (
        sql(
            "CREATE TABLE city (name TEXT, pop INT)",
            "INSERT INTO city VALUES ('Alba', 1), (CAST(x'43f372' AS TEXT), 2)",
        ),
        {"file": "t.db"},
        "row 2, column 'name': not UTF-8 text",
    ),
    "bytes": (
        sql(
            "CREATE TABLE city (name, pop INT)",
            "INSERT INTO city VALUES (x'41', 1)",
        ),
        {"file": "t.db"},
        "t.db, row 1, column 'name': holds bytes, which is no plain value",
    ),
    "lists of Parquet": (
        parquet("SELECT 'Alba' AS name, [1] AS pop"),
        {"file": "t.parquet"},
        "which is no plain value",
    ),
    "a large number of Parquet": (
        parquet("SELECT 'Alba' AS name, 9007199254740993 AS pop"),
        {"file": "t.parquet"},
        "t.parquet, row 1, column 'pop'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_is_none_is_refused_with_the_place(name: str, tmp_path: Path) -> None:
    content, options, message = REFUSED[name]
    with pytest.raises(PackError, match=re.escape(message)) as refused:
        read(tmp_path, content, **options)
    assert str(refused.value).startswith(f"{tmp_path / 'pack.yaml'}: tables.city")
    assert len(str(refused.value).splitlines()) == 1


def test_a_log_that_is_written_ahead_counts(tmp_path: Path) -> None:
    """Rows that SQLite has not moved into its file yet."""
    writer = sqlite3.connect(tmp_path / "t.db")
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("CREATE TABLE city (name TEXT, pop INT)")
    writer.execute("INSERT INTO city VALUES ('Alba', 1), ('Bern', 2)")
    writer.commit()
    assert os.path.getsize(tmp_path / "t.db-wal")
    assert read(tmp_path, lambda path: None, "t.db") == {"Alba": 1, "Bern": 2}
    writer.close()


def test_a_quote_that_comes_late_is_one(tmp_path: Path) -> None:
    rows = "name,pop\n" + "".join(f"n{number},{number}\n" for number in range(30_000)) + '"Smithtown, North",5\n'
    found = read(tmp_path, rows)
    assert (len(found), found["Smithtown, North"]) == (30_001, 5)


def test_quotes_may_be_letters(tmp_path: Path) -> None:
    rows = 'name\tpop\n"Old Inn\t1\n5" pipe\t2\n'
    assert read(tmp_path, rows, "t.tsv", ", quote: ''") == {'"Old Inn': 1, '5" pipe': 2}


def test_a_header_of_years_is_a_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "Country Name,Code,1960,1961\nArgentina,ARG,20481779,20817266\nAruba,ABW,54211,55438\n"
    )
    (tmp_path / "pack.yaml").write_text(
        "{name: t, domain: t, title: T, licence: x, source: x, shards: {by: country}, tables: {country: {"
        "from: {file: t.csv}, key: Country Name, noun: country, plural: countries, "
        'columns: {old: {column: "1960", type: integer, noun: x}}}}}'
    )
    rows = open_tables(path=tmp_path / "pack.yaml").tables["country"].rows
    assert {key: row["old"] for key, row in rows.items()} == {"Argentina": 20481779, "Aruba": 54211}


def test_names_of_columns_may_be_composed_otherwise(tmp_path: Path) -> None:
    assert read(tmp_path, "nom compose\u0301,pop\nAlba,1\n", key="nom compos\u00e9") == {"Alba": 1}


def test_several_columns_name_a_row_together(write_pack: WritePack) -> None:
    pack = PACK.replace("key: name", "key: [name, country]").replace(
        "references: maker,", "references: maker, column: [maker, land],"
    )
    lines = [line.split(",") for line in (write_pack().parent / "products.csv").read_text().splitlines()]
    lands = dict(line.split(",")[:2] for line in (write_pack().parent / "makers.csv").read_text().splitlines())
    rows = "\n".join(",".join([*line, "land" if not number else lands[line[1]]]) for number, line in enumerate(lines))
    dataset = open_tables(path=write_pack(pack, product_rows=rows))
    assert list(dataset.tables["maker"].rows)[:2] == ["Arbo, Norway", "Belkor, Kenya"]
    assert dataset.tables["product"].rows["Arboline 11"]["maker"] == "Arbo, Norway"
    with pytest.raises(PackError, match="line 2: has some of maker, land only; give all or none"):
        open_tables(path=write_pack(pack, product_rows=rows.replace(",Norway", ",", 1)))


_CELL = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cf", "Cn", "Co"), include_characters='\n"'),
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(
    cells=st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=6),
    dialect=st.sampled_from([(",", "\n"), (";", "\r\n"), ("\t", "\n"), ("|", "\r\n")]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_a_csv_writer_writes_is_read(
    cells: list[tuple[str, str]], dialect: tuple[str, str], encoding: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both readings find the texts that were written, whatever is in them."""
    folder = tmp_path_factory.mktemp("written")
    delimiter, end = dialect
    with (folder / "t.csv").open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=end)
        writer.writerows(
            [["a", "name", "b"], *([a, f"row {n}", b] for n, (a, b) in enumerate(cells)), ["x", "last", "y"]]
        )
    told = delimiter.replace("\t", "\\t")
    (folder / "pack.yaml").write_text(
        "{name: t, domain: t, title: T, licence: x, source: x, shards: {by: r}, tables: {r: {"
        f'from: {{file: t.csv, delimiter: "{told}"}}, key: name, noun: r, plural: rs, '
        "columns: {a: {noun: a}, b: {noun: b}}}}}"
    )
    rows = open_tables(path=folder / "pack.yaml").tables["r"].rows
    assert [(row["a"], row["b"]) for row in rows.values()][:-1] == [
        (tidy(a) or None, tidy(b) or None) for a, b in cells
    ]


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
