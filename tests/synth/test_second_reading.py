"""What the second reading finds otherwise than the first refuses the table; and answers rest on both."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astra_sandbox.interface import Sandbox
from astra_synth.tables import PackError, ToolsetShape, dataset, generate, open_tables
from astra_synth.tables.dataset import Dataset
from astra_synth.tables.operation import Undefined
from astra_synth.tables.oracle import check
from astra_synth.tables.reading import RawTable
from astra_synth.tables.shard import ShardPlan
from astra_synth.tables.toolset import offered_operations

from .conftest import MAKERS, PACK, WritePack, products
from .test_operations import _calls, _run, _toolset


def _without_a_record(raw: RawTable) -> RawTable:
    columns = {name: values[:-1] for name, values in raw.columns.items()}
    return replace(raw, columns=columns, lines=(raw.lines or [])[:-1], count=raw.count - 1)


def _with_another_value(raw: RawTable) -> RawTable:
    columns = {name: list(values) for name, values in raw.columns.items()}
    columns["country"][2] = "Kenya"
    return replace(raw, columns=columns)


def _with_shifted_columns(raw: RawTable) -> RawTable:
    return replace(raw, columns=raw.columns | {"name": raw.columns["country"], "country": raw.columns["name"]})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_without_a_record, "reads in two ways: the second has the row 'Fenwick' besides"),
        (_with_another_value, "row 'Cindal', column country: 'Kenya' in the first, Norway in the second"),
        (_with_shifted_columns, "share the key 'Norway'"),
    ],
)
def test_a_reader_that_errs_is_found_out(
    fault: Callable[[RawTable], RawTable], message: str, write_pack: WritePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in the first reading: here it loses or changes what it read of one file."""
    original = dataset.read_table

    def erring(file: Path, *rest: Any) -> RawTable:
        raw = original(file, *rest)
        return fault(raw) if file.name == "makers.csv" else raw

    monkeypatch.setattr(dataset, "read_table", erring)
    pack = PACK.partition("  product:")[0]
    with pytest.raises(PackError, match=message):
        open_tables(path=write_pack(pack))


def test_answers_are_checked_against_the_second_reading(shop: Dataset) -> None:
    """A row that only the tools know otherwise is found out by every query that reads it."""
    product = next(iter(shop.tables["product"].rows))
    shop.tables["product"].rows[product]["stock"] += 1  # type: ignore[index]
    plan = ShardPlan(shop, seed=3, row_limit=60)
    lookup = next(o for _, o in offered_operations(shop) if o.name == "product_stock")
    called = [node for number in range(plan.disjoint) for node in _calls(lookup, plan.shard(number))]
    nodes = {node.inputs[0].value: node for node in called}
    with pytest.raises(Undefined, match="but the table says"):
        check(shop, nodes[product])
    others = [node for key, node in nodes.items() if key != product]
    assert others
    for node in others:
        check(shop, node)


def test_tables_may_have_any_name(write_pack: WritePack) -> None:
    for name in ("raw", "held", "source", "table", "select"):
        pack = PACK.replace("\n  maker:", f"\n  {name}:").replace("references: maker", f"references: {name}")
        assert len(open_tables(path=write_pack(pack.replace("by: maker", f"by: {name}"))).tables[name].rows) == 6


TYPED = PACK.replace(
    "      stock: {type: integer, noun: stock, column: in_stock}\n",
    "      stock: {type: integer, noun: stock, column: in_stock}\n"
    "      price: {type: money, noun: price, unit: dollars, high: dearest, sum: true}\n"
    "      share: {type: percent, noun: share, high: largest}\n"
    "      launched: {type: date, format: '%d.%m.%Y', noun: launch date, high: newest, low: oldest}\n"
    "      opens: {type: time, noun: opening time}\n"
    "      sold: {type: boolean, noun: sale}\n",
)


def typed_products() -> str:
    lines = products().splitlines()
    rows = [
        f'{line},"$1,{number * 37 % 101:03d}.50",{number * 29 % 97}%,'
        f"{1 + number % 28}.{1 + number * 7 % 12}.{1990 + number},"
        f"{number % 24}:{number * 7 % 60:02d},{'yes' if number % 3 else 'no'}"
        for number, line in enumerate(lines[1:])
    ]
    return "\n".join([f"{lines[0]},price,share,launched,opens,sold", *rows])


@pytest.mark.asyncio(loop_scope="session")
async def test_answer_query_and_source_agree_for_every_type(write_pack: WritePack, sandbox: Sandbox) -> None:
    tables = open_tables(path=write_pack(TYPED, product_rows=typed_products()))
    shard = ShardPlan(tables, seed=3, row_limit=40).shard(0)
    new = ("price", "share", "launched", "opens", "sold")
    operations = [o for _, o in offered_operations(tables) if getattr(o, "column", "") in new]
    assert {o.column for o in operations} == set(new)  # type: ignore[attr-defined]
    nodes = [node for operation in operations for node in _calls(operation, shard)[:3]]
    assert any(node.tool == "maker_newest_product" for node in nodes)
    assert any(node.tool == "maker_product_ranked_by_latest_launch_date" for node in nodes)
    for node in nodes:
        check(tables, node)
    outcomes = await _run(sandbox, _toolset(shard, operations), [(node.tool, node.arguments()) for node in nodes])
    for node, outcome in zip(nodes, outcomes, strict=True):
        assert json.loads(outcome.json_text) == node.value, (node.tool, outcome)


def test_questions_are_asked_of_every_type(write_pack: WritePack) -> None:
    shape = ToolsetShape(rows=40, kinds=("lookup",))
    found = list(generate(write_pack(TYPED, product_rows=typed_products()), 60, seed=2, max_hops=1, shape=shape))
    tools = {step.call.tool for environment in found for step in environment.spec.steps if step.call}
    for column in ("price", "share", "launch_date", "opening_time", "sale"):
        assert any(column in tool for tool in tools), (column, tools)
    described = {tool.name: tool.description for environment in found for tool in environment.spec.tools}
    assert described["product_launch_date"] == "The launch date of a product, as year-month-day."
    assert described["product_sale"] == "The sale of a product, yes or no."
    assert described["product_share"] == "The share of a product, in percent."


@pytest.mark.asyncio(loop_scope="session")
async def test_names_are_found_however_they_are_composed(write_pack: WritePack, sandbox: Sandbox) -> None:
    """The file has a decomposed name, a model may write either form."""
    makers = MAKERS.replace("Arbo,Norway", "Cafe\u0301 Arbo\u0308,Norge\u030a")
    rows = products().replace(",Arbo,", ",Caf\u00e9 Arb\u00f6,")
    tables = open_tables(path=write_pack(makers=makers, product_rows=rows))
    name = "Caf\u00e9 Arb\u00f6"
    assert name in tables.tables["maker"].rows
    plan = ShardPlan(tables, seed=3, row_limit=60)
    shard = next(s for s in map(plan.shard, range(plan.disjoint)) if name in s.rows["maker"])
    operations = [o for _, o in offered_operations(tables) if o.name in ("maker_founding_year", "maker_products")]
    for node in (node for operation in operations for node in _calls(operation, shard)):
        check(tables, node)
    forms = (name, "Cafe\u0301 Arbo\u0308", " cafe\u0301  ARBO\u0308 ")
    calls = [(operation.name, {"maker": form}) for operation in operations for form in forms]
    outcomes = await _run(sandbox, _toolset(shard, operations), calls)
    values = [json.loads(outcome.json_text) for outcome in outcomes]
    assert values[:3] == [1931] * 3 or values[3:] == [1931] * 3
    assert len({json.dumps(value) for value in values}) == 2


def test_keys_that_are_numbers_are_listed_in_numerical_order(write_pack: WritePack) -> None:
    lines = products().splitlines()
    numbered = [lines[0], *(f"{3 * number},{line.partition(',')[2]}" for number, line in enumerate(lines[1:], start=1))]
    pack = PACK.replace("key: title", "key: title\n    key_type: integer")
    tables = open_tables(path=write_pack(pack, product_rows="\n".join(numbered)))
    shard = ShardPlan(tables, seed=3, row_limit=60).shard(0)
    members = next(o for _, o in offered_operations(tables) if o.name == "maker_products")
    assert members.description == "The products by a maker, in numerical order."
    for node in _calls(members, shard):
        assert node.value == sorted(node.value)
        check(tables, node)
