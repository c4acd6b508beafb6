"""Small tables of a made-up shop, and a sandbox that really runs what is generated."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from astra_sandbox.interface import Isolation, Sandbox
from astra_sandbox.launching import launch_local
from astra_synth.tables import open_tables
from astra_synth.tables.dataset import Dataset

PACK = """\
name: shop
domain: shop
title: Products of a shop and who makes them
licence: CC0-1.0
source: invented
shards: {by: maker}
tables:
  maker:
    from: {file: makers.csv}
    key: name
    noun: maker
    plural: makers
    columns:
      country: {noun: country, group: true, within: "from {}"}
      founded: {type: integer, noun: founding year, high: youngest, low: oldest}
  product:
    from: {file: products.csv}
    key: title
    noun: product
    plural: products
    columns:
      maker: {references: maker, noun: maker, within: "by {}", asks: ["Who makes {}?"]}
      sku: {noun: SKU, unique: true}
      kind: {noun: kind, group: true, within: "of the kind {}"}
      weight: {type: number, decimals: 1, noun: weight, unit: kilograms, high: heaviest, low: lightest, sum: true}
      stock: {type: integer, noun: stock, column: in_stock}
"""
MAKERS = """\
name,country,founded
Arbo,Norway,1931
Belkor,Kenya,1974
Cindal,Norway,1988
Dravik,Peru,1952
Elmet,Kenya,2003
Fenwick,Peru,1969
"""
_KINDS = ("lamp", "chair", "table")


def products() -> str:
    """30 products, five of each maker, without ties in weight or stock."""
    lines = ["title,maker,sku,kind,weight,in_stock"]
    makers = [line.split(",")[0] for line in MAKERS.splitlines()[1:]]
    for number in range(30):
        maker = makers[number % 6]
        kind = _KINDS[(number * 7 // 6) % 3]
        weight = 1.5 + (number * 37 % 101) / 10
        lines.append(f"{maker}line {number + 11},{maker},{maker[0]}{number:03d},{kind},{weight:.1f},{number * 53 % 97}")
    return "\n".join(lines) + "\n"


WritePack = Callable[..., Path]


@pytest.fixture
def write_pack(tmp_path: Path) -> WritePack:
    """Writes the shop, each of its files replaced on demand; the path of its pack."""

    def write(pack: str = PACK, makers: str = MAKERS, product_rows: str | None = None) -> Path:
        (tmp_path / "makers.csv").write_text(makers)
        (tmp_path / "products.csv").write_text(products() if product_rows is None else product_rows)
        (tmp_path / "pack.yaml").write_text(pack)
        return tmp_path / "pack.yaml"

    return write


@pytest.fixture
def shop(write_pack: WritePack) -> Dataset:
    return open_tables(path=write_pack())


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A server with the plainest containment: the sources it runs are our own."""
    async with launch_local(level=Isolation.PROCESS) as made:
        yield made
