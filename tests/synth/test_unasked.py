"""Columns and groups that no environment asks about are told, with the reason."""

from pathlib import Path

import pytest

from astra_api.synthesis_run import SynthesisRun
from astra_sandbox.interface import Sandbox
from astra_synth.output import read_unasked
from astra_synth.report import write_report
from astra_synth.run import open_run, synthesize
from astra_synth.tables import Generator, Recipe, ToolsetShape, open_tables
from astra_synth.tables.unasked import unasked

from .conftest import PACK, WritePack, products

SHAPE = ToolsetShape(rows=40)


def told(path: Path, shape: ToolsetShape = SHAPE, tools: tuple[str, ...] = ()) -> dict[str, str]:
    """Reasons by what they are about; what could have been asked is under its own names, joined."""
    dataset = open_tables(path=path)
    lines = unasked(dataset, Generator(dataset, Recipe(3, shape=shape)).plan, shape, tools)
    return dict(line.split(": ", 1) for line in lines)


def test_what_can_be_asked_is_no_reason(write_pack: WritePack) -> None:
    ((subjects, reason),) = told(write_pack()).items()
    assert "product.stock" in subjects
    assert "groups by product.kind" in subjects
    assert reason == "could be, but no environment came to it; raise spec.count"


def test_what_was_asked_is_not_told(write_pack: WritePack) -> None:
    (subjects,) = told(write_pack(), tools=("product_stock", "maker_product_count", "maker_heaviest_product"))
    for asked in ("product.stock", "product.weight", "groups by product.maker"):
        assert asked not in subjects.split(", ")
    assert "product.maker" in subjects.split(", ")


def test_kinds_of_tools_decide(write_pack: WritePack) -> None:
    reasons = told(write_pack(), ToolsetShape(rows=40, kinds=("lookup",)))
    assert reasons["groups by product.kind"].startswith("no tool of toolset.kinds asks for it; add one of aggregate, ")


def test_a_column_that_says_the_same_of_all(write_pack: WritePack) -> None:
    lines = products().splitlines()
    same = "\n".join(
        [lines[0], *(",".join([*line.split(",")[:3], "lamp", *line.split(",")[4:]]) for line in lines[1:])]
    )
    reasons = told(write_pack(product_rows=same))
    assert reasons["product.kind"] == "it is the same for everything in a toolset"


def test_a_group_of_one_row_each(write_pack: WritePack) -> None:
    lines = products().splitlines()
    alone = [",".join([*line.split(",")[:3], f"kind {n}", *line.split(",")[4:]]) for n, line in enumerate(lines[1:])]
    reasons = told(write_pack(product_rows="\n".join([lines[0], *alone])))
    assert reasons["groups by product.kind"].startswith(
        "no value of it names two rows or more that fit into one toolset"
    )


def test_a_table_that_nothing_ties_to_the_others(write_pack: WritePack) -> None:
    alone = (
        PACK.replace("references: maker, noun", "noun").replace('within: "by {}", ', "").replace("within: by {}, ", "")
    )
    alone = alone.replace('within: "by {}"', "group: true")
    reasons = told(write_pack(alone))
    assert reasons["product.stock"] == "no row of product is in a toolset: nothing ties it to shards.by, maker"


@pytest.mark.asyncio(loop_scope="session")
async def test_a_run_tells_it_once_with_the_reason(write_pack: WritePack, tmp_path: Path, sandbox: Sandbox) -> None:
    """In its output directory and its report, and the same after a second start."""
    pack = write_pack()
    source = {"type": "tables", "path": "pack.yaml", "toolset": {"rows": 40, "kinds": ["lookup"], "environments": 2}}
    spec = {"count": 4, "seed": 3, "environments": {"source": source, "hops": {"min": 1, "max": 2}}}
    run = SynthesisRun.model_validate(
        {"apiVersion": "astra.farm/v1alpha1", "kind": "SynthesisRun", "metadata": {"name": "shop"}, "spec": spec}
    )
    out = tmp_path / "out"
    for _ in range(2):
        await synthesize(run, open_run(run, pack.parent), sandbox, out, lambda *_: None)
        lines = read_unasked(out)
        assert (
            sum(line.startswith("groups by product.kind: no tool of toolset.kinds asks for it") for line in lines) == 1
        )
        assert len(lines) == len(set(lines))
    page = write_report(out).read_text(encoding="utf-8")
    assert "Never asked" in page
    assert page.count("groups by product.kind: no tool of toolset.kinds") == 1
