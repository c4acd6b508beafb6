"""Each operation is written three times: its answer here, its query, its source. All three agree."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_api.matching import matches
from astra_api.records import ToolResult, Toolset, ToolSpec
from astra_sandbox.interface import Sandbox
from astra_synth.tables.aggregates import Aggregate, Summary
from astra_synth.tables.arithmetic import JOINS, Convert
from astra_synth.tables.dataset import Dataset
from astra_synth.tables.filters import Matching, Over
from astra_synth.tables.groups import Count, GroupOperation, Members
from astra_synth.tables.lookups import Lookup, Reverse
from astra_synth.tables.module import render
from astra_synth.tables.operation import Operation, Undefined
from astra_synth.tables.oracle import check
from astra_synth.tables.plan import End, Kind, Literal, Node
from astra_synth.tables.rankings import Extreme, Next, Ranked, Top
from astra_synth.tables.shard import Shard, ShardPlan
from astra_synth.tables.toolset import offered_operations

from .conftest import WritePack


def _calls(operation: Operation, shard: Shard) -> list[Node]:
    """A worked-out call for every first argument that has one."""
    found = []
    for value in operation.domain(shard):
        try:
            extra = operation.sample(shard, value, Random(1))
            answer = operation.answer(shard, value, extra)
        except Undefined:
            continue
        found.append(Node(operation, (Literal(operation.takes, value),), operation.gives, answer, extra))
    return found


def _toolset(shard: Shard, operations: list[Operation]) -> Toolset:
    assert len({operation.name for operation in operations}) == len(operations)
    everything = (*operations, *JOINS.values())
    specs = (ToolSpec(name=o.name, description=o.description, parameters={"type": "object"}) for o in everything)
    return Toolset(tools=tuple(specs), source=render("Test", shard, operations, list(JOINS.values())))


async def _run(sandbox: Sandbox, toolset: Toolset, calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    session = (await sandbox.open_sessions(toolset, 1))[0]
    try:
        return [await session.call(tool, json.dumps(arguments)) for tool, arguments in calls]
    finally:
        await session.close()


@pytest.mark.asyncio(loop_scope="session")
async def test_answer_query_and_source_agree_for_every_operation(shop: Dataset, sandbox: Sandbox) -> None:
    shard = ShardPlan(shop, seed=3, row_limit=40).shard(0)
    operations = [operation for _, operation in offered_operations(shop)]
    kinds = {type(operation) for operation in operations}
    assert kinds == {
        Lookup, Reverse, Members, Count, Aggregate, Summary, Over, Matching, Extreme, Ranked, Top, Next
    }  # fmt: skip
    nodes = [node for operation in operations for node in _calls(operation, shard)[:3]]
    assert {type(node.operation) for node in nodes} == kinds
    for node in nodes:
        check(shop, node)
    toolset = _toolset(shard, operations)
    outcomes = await _run(sandbox, toolset, [(node.tool, node.arguments()) for node in nodes])
    for node, outcome in zip(nodes, outcomes, strict=True):
        assert isinstance(outcome, ToolResult), (node.tool, node.arguments(), outcome)
        assert matches(json.loads(outcome.json_text), node.value), (node.tool, node.arguments(), outcome, node.value)


@pytest.mark.asyncio(loop_scope="session")
async def test_joins_and_conversions_agree_too(shop: Dataset, sandbox: Sandbox) -> None:
    shard = ShardPlan(shop, seed=3, row_limit=40).shard(0)
    convert = Convert("product", "weight", "kilograms")
    quantity = Kind("quantity", "product", "weight")
    nodes = [Node(convert, (Literal(convert.takes, 7.3),), convert.gives, convert.answer(shard, 7.3, {}))]
    for join in JOINS.values():
        values = [12.5, 3.2] if join.pair else [12.5, 3.2, 7]
        inputs = tuple(Literal(quantity, value) for value in values)
        nodes.append(Node(None, inputs, quantity, join.answer(values), end=End(join.name, join, call=True)))
    for node in nodes:
        check(shop, node)
    outcomes = await _run(sandbox, _toolset(shard, [convert]), [(node.tool, node.arguments()) for node in nodes])
    assert [json.loads(outcome.json_text) for outcome in outcomes] == [node.value for node in nodes]


@pytest.mark.asyncio(loop_scope="session")
async def test_unknown_arguments_are_clear_errors(shop: Dataset, sandbox: Sandbox) -> None:
    shard = ShardPlan(shop, seed=3, row_limit=40).shard(0)
    operations = [operation for _, operation in offered_operations(shop)]
    calls = []
    for operation in operations:
        wrong: dict[str, Any] = {"minimum": 1, "rank": 1, "count": 1, "statistic": "highest"}
        wrong = {parameter.name: wrong.get(parameter.name, "Nowhere") for parameter in operation.parameters}
        calls.append((operation.name, wrong))
    for outcome in await _run(sandbox, _toolset(shard, operations), calls):
        assert not isinstance(outcome, ToolResult)
        assert "'Nowhere'" in outcome.message
        assert outcome.message.startswith("LookupError: no ")


@pytest.mark.asyncio(loop_scope="session")
async def test_names_are_found_whatever_their_case(shop: Dataset, sandbox: Sandbox) -> None:
    shard = ShardPlan(shop, seed=3, row_limit=40).shard(0)
    operation = next(o for _, o in offered_operations(shop) if o.name == "maker_founding_year")
    maker = operation.domain(shard)[0]
    calls = [(operation.name, {"maker": name}) for name in (maker, f" {maker.upper()} ")]
    first, second = await _run(sandbox, _toolset(shard, [operation]), calls)
    assert isinstance(first, ToolResult)
    assert first == second


@settings(max_examples=12, deadline=None)
@given(weights=st.lists(st.integers(min_value=0, max_value=6), min_size=30, max_size=30))
def test_no_answer_rests_on_a_tie(weights: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the table holds: what an operation answers, the whole table answers, and once."""
    from astra_synth.tables import open_tables

    from .conftest import MAKERS, PACK, products

    folder = tmp_path_factory.mktemp("ties")
    lines = products().splitlines()
    rows = [",".join([*line.split(",")[:4], str(w), str(w)]) for line, w in zip(lines[1:], weights, strict=True)]
    (folder / "makers.csv").write_text(MAKERS)
    (folder / "products.csv").write_text("\n".join([lines[0], *rows]))
    (folder / "pack.yaml").write_text(PACK)
    dataset = open_tables(path=folder / "pack.yaml")
    shard = ShardPlan(dataset, seed=0, row_limit=40).shard(0)
    for _, operation in offered_operations(dataset):
        for node in _calls(operation, shard):
            check(dataset, node)


def test_a_wrong_answer_is_found_by_the_query(shop: Dataset) -> None:
    shard = ShardPlan(shop, seed=3, row_limit=40).shard(0)
    for _, operation in offered_operations(shop):
        for node in _calls(operation, shard)[:1]:
            wrong = {list: lambda v: v[1:], str: lambda v: v + "x", int: lambda v: v + 1, float: lambda v: v + 0.2}
            node.value = wrong[type(node.value)](node.value)
            with pytest.raises(Undefined, match=operation.name):
                check(shop, node)


def test_missing_values_are_never_asked_about(write_pack: WritePack) -> None:
    from astra_synth.tables import open_tables

    from .conftest import products

    lines = products().splitlines()
    holed = [line.rsplit(",", 1)[0] + "," if number % 5 == 0 else line for number, line in enumerate(lines[1:])]
    dataset = open_tables(path=write_pack(product_rows="\n".join([lines[0], *holed])))
    shard = ShardPlan(dataset, seed=0, row_limit=60).shard(0)
    checked = 0
    for _, operation in offered_operations(dataset):
        if getattr(operation, "column", "") == "stock":
            for node in _calls(operation, shard):
                checked += 1
                assert node.value is not None
                if isinstance(operation, GroupOperation) and not isinstance(operation, Next):
                    keys = shard.groups[operation.grouping][node.inputs[0].value]
                    assert all(dataset.tables["product"].rows[key]["stock"] is not None for key in keys)
    assert checked
