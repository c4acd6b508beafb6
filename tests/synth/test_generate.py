"""Environments: a function of (seed, index), of the shape asked for, answerable one way only."""

import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astra_api.environment import Environment
from astra_api.graph import hops, scenario, step_graph, terminal_steps
from astra_api.matching import fold
from astra_synth.packs import pack_names
from astra_synth.tables import Generator, PackError, Recipe, ToolsetShape, generate, open_tables
from astra_synth.tables.shard import ShardPlan

from .conftest import WritePack

CHEMISTRY = open_tables("chemistry")


_MADE = [(maker, number) for number in range(5) for maker in ("Arbo", "Belkor", "Cindal", "Dravik", "Elmet", "Fenwick")]


def _made(generator: Generator, index: int) -> Environment:
    environment = generator.make(index).environment
    assert environment is not None
    return environment


def _environments(pack: str, count: int, **options: int) -> list[Environment]:
    return list(generate(pack, count, seed=5, **options))


@pytest.fixture(scope="module", params=pack_names())
def pack(request: pytest.FixtureRequest) -> tuple[str, list[Environment]]:
    """60 environments of each shipped pack."""
    return request.param, _environments(request.param, 60)


@example([340], 470412)  # a difference is of two values, not of the members of a list
@settings(max_examples=15, deadline=None)
@given(indexes=st.lists(st.integers(min_value=0, max_value=400), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_environment_i_is_a_function_of_seed_and_i(indexes: list[int], seed: int) -> None:
    together = Generator(CHEMISTRY, Recipe(seed))
    found = {index: together.make(index) for index in reversed(indexes)}
    for index in indexes:
        assert Generator(CHEMISTRY, Recipe(seed)).make(index) == found[index]


def test_other_processes_make_the_same() -> None:
    code = (
        "from astra_synth.tables import generate\n"
        "print([environment.digest for environment in generate('chemistry', 8, seed=3)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{[environment.digest for environment in generate('chemistry', 8, seed=3)]}\n"


def test_another_seed_asks_other_things() -> None:
    first, second = ({e.spec.question for e in generate("chemistry", 20, seed=seed)} for seed in (1, 2))
    assert len(first & second) < 5


def test_a_replacement_differs() -> None:
    generator = Generator(CHEMISTRY, Recipe(4))
    first, second = (generator.make(3, skip).environment for skip in (0, 1))
    assert first is not None
    assert second is not None
    assert first.name == second.name
    assert first.spec.question != second.spec.question


def test_every_pack_gives_sound_environments(pack: tuple[str, list[Environment]]) -> None:
    name, environments = pack
    for environment in environments:
        spec = environment.spec
        assert environment.metadata.labels["astra.farm/pack"] == name
        assert environment.metadata.labels["astra.farm/domain"] == spec.domain
        assert environment.metadata.labels["astra.farm/hops"] == str(hops(spec.steps))
        assert environment.metadata.labels["astra.farm/scenario"] == spec.scenario == scenario(spec.steps)
        assert 1 <= hops(spec.steps) <= 6
        assert [step.answer for step in terminal_steps(spec.steps)] == [spec.answer]
        reasoning = {step.id for step in spec.steps if step.call is None}
        assert not reasoning & {parent for step in spec.steps for parent in step.depends_on}
        assert step_graph(spec.steps).number_of_nodes() == len(spec.steps)


def test_every_pack_asks_in_all_four_ways(pack: tuple[str, list[Environment]]) -> None:
    _, environments = pack
    assert set(Counter(environment.spec.scenario for environment in environments)) == {
        "single-hop",
        "parallel-single-hop",
        "multi-hop",
        "parallel-multi-hop",
    }
    assert {hops(environment.spec.steps) for environment in environments} == {1, 2, 3, 4, 5, 6}


def test_questions_are_english_and_name_no_tool(pack: tuple[str, list[Environment]]) -> None:
    _, environments = pack
    for environment in environments:
        spec = environment.spec
        for text in [spec.question, *(step.question for step in spec.steps)]:
            assert text[0].isupper() or not text[0].isalpha(), text
            assert text.endswith(("?", ".")), text
            assert "  " not in text, text
            assert "None" not in text
            assert not any("_" in tool.name and tool.name in text for tool in spec.tools), text
        for previous, following in zip(spec.question.split(), spec.question.split()[1:], strict=False):
            assert previous != following or previous.istitle(), spec.question


def _words(text: str) -> str:
    bare = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return " ".join(["", *re.findall(r"[^\W_]+", bare.casefold()), ""])


def test_no_question_says_what_a_call_is_to_find(pack: tuple[str, list[Environment]]) -> None:
    _, environments = pack
    for environment in environments:
        for step in environment.spec.tool_steps:
            if isinstance(step.answer, str) and len(step.answer) > 3:
                assert _words(step.answer) not in _words(environment.spec.question), environment.spec.question
                assert _words(step.answer) not in _words(step.question), step.question


def test_a_tool_whose_arguments_say_its_answers_is_not_offered(write_pack: WritePack) -> None:
    rows = "".join(f"{maker} {number},{maker},{maker[0]}{number:03d},lamp,1.5,{number}\n" for maker, number in _MADE)
    dataset = open_tables(path=write_pack(product_rows=f"title,maker,sku,kind,weight,in_stock\n{rows}"))
    generator = Generator(dataset, Recipe(3, 1, 2))
    tools = {tool.name for index in range(0, 60, 6) for tool in _made(generator, index).spec.tools}
    assert "product_stock" in tools
    assert "product_maker" not in tools


def test_arguments_come_from_the_question_or_from_what_a_step_depends_on(pack: tuple[str, list[Environment]]) -> None:
    _, environments = pack
    for environment in environments:
        answers = {step.id: step.answer for step in environment.spec.steps}
        for step in environment.spec.tool_steps:
            assert step.call is not None
            known = [answers[parent] for parent in step.depends_on]
            flat = [item for value in known for item in (value if isinstance(value, list) else [value])]
            first = next(iter(step.call.arguments.values()))
            for value in first if isinstance(first, list) else [first]:
                assert value in flat or fold(str(value)) in fold(environment.spec.question), step
            if step.depends_on:
                assert any(value in flat for value in (first if isinstance(first, list) else [first])), step


def test_steps_of_an_environment_differ(pack: tuple[str, list[Environment]]) -> None:
    _, environments = pack
    for environment in environments:
        steps = environment.spec.tool_steps
        calls = [json.dumps([step.call.tool, step.call.arguments]) for step in steps if step.call]
        answers = [json.dumps([step.call.tool, step.answer]) for step in steps if step.call]
        assert len(set(calls)) == len(calls)
        assert len(set(answers)) == len(answers)


def test_environments_of_a_toolset_ask_different_things(pack: tuple[str, list[Environment]]) -> None:
    _, environments = pack
    by_toolset: dict[str, list[str]] = {}
    for environment in environments:
        calls = sorted(json.dumps([s.call.tool, s.call.arguments]) for s in environment.spec.tool_steps if s.call)
        end = [step.question.split()[0] for step in environment.spec.steps if step.call is None]
        by_toolset.setdefault(environment.toolset.digest, []).append(json.dumps([calls, end]))
    assert all(len(set(asked)) == len(asked) for asked in by_toolset.values())
    assert max(map(len, by_toolset.values())) > 1


@pytest.mark.parametrize("name", pack_names())
def test_toolsets_share_no_root_entity_before_all_were_used(name: str) -> None:
    dataset = open_tables(name)
    root = dataset.pack.shards.by
    plan = ShardPlan(dataset, seed=1, row_limit=60)
    seen: set[str] = set()
    children = {g.table for g in dataset.members if g.parent == root}
    for number in range(plan.disjoint):
        rows = plan.shard(number).rows
        entities = {(table, key) for table in children for key in rows.get(table, {})}
        assert not entities & seen
        seen |= entities
        assert sum(len(keys) for table, keys in rows.items() if table in children or table == root) <= 60
    assert plan.disjoint >= 3


def test_groups_of_a_shard_are_whole() -> None:
    dataset = open_tables("geography")
    shard = ShardPlan(dataset, seed=2, row_limit=60).shard(4)
    for grouping, groups in shard.groups.items():
        for value, keys in groups.items():
            whole = [k for k, row in dataset.tables[grouping.table].rows.items() if row[grouping.column] == value]
            assert keys == whole


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 3), (4, 6)])
def test_hops_stay_in_bounds(low: int, high: int) -> None:
    found = {hops(e.spec.steps) for e in _environments("geography", 24, min_hops=low, max_hops=high)}
    assert found <= set(range(low, high + 1))


def test_shape_bounds_tools_kinds_rows_and_sharing() -> None:
    shape = ToolsetShape(min_tools=2, max_tools=3, rows=30, environments=4, kinds=("lookup", "count"))
    found = list(generate("geography", 24, seed=2, max_hops=2, shape=shape))
    sharing = Counter(environment.toolset.digest for environment in found)
    assert max(sharing.values()) <= 4
    for environment in found:
        assert 2 <= len(environment.spec.tools) <= 3
        assert all(len(tool.parameters["properties"]) == 1 for tool in environment.spec.tools)


def test_one_tool_is_enough_for_one_hop() -> None:
    shape = ToolsetShape(min_tools=1, max_tools=1, kinds=("lookup",))
    found = list(generate("chemistry", 6, seed=2, max_hops=1, shape=shape))
    assert all(len(environment.spec.tools) == 1 for environment in found)


def test_tables_too_small_for_the_count_say_so(write_pack: WritePack) -> None:
    shape = ToolsetShape(min_tools=30, max_tools=32)
    with pytest.raises(PackError, match=r"pack shop: only 0 of 5 environments; allow more rows or tools"):
        list(generate(write_pack(), 5, shape=shape))


def test_parts_larger_than_a_shard_say_so() -> None:
    with pytest.raises(PackError, match=r"shards.by: country gives no shard of at most 4 rows"):
        Generator(open_tables("geography"), Recipe(shape=ToolsetShape(rows=4)))


def test_a_table_without_relations_is_divided_by_a_category(tmp_path: Path) -> None:
    rows = [f"{kind} {number},{kind},{number * 7 % 41}" for kind in ("oak", "elm", "ash", "fir") for number in range(5)]
    (tmp_path / "trees.csv").write_text("\n".join(["label,species,height", *rows]))
    (tmp_path / "pack.yaml").write_text(
        "{name: park, domain: park, title: Trees of a park, licence: CC0-1.0, source: invented,"
        " shards: {by: tree.species}, tables: {tree: {from: {file: trees.csv}, key: label, noun: tree, plural: trees,"
        " columns: {species: {noun: species, group: true, within: 'of the species {}'},"
        " height: {type: integer, noun: height, unit: metres, high: tallest, low: shortest}}}}}"
    )
    found = list(generate(tmp_path / "pack.yaml", 20, seed=1, max_hops=3))
    assert len({environment.toolset.digest for environment in found}) >= 3
    assert any("of the species" in environment.spec.question for environment in found)


def test_nouns_may_be_words_of_python(write_pack: WritePack) -> None:
    from .conftest import PACK

    odd = PACK.replace("noun: maker", "noun: class").replace(
        "noun: product\n", "noun: list of the very longest kind of noun\n"
    )
    odd = odd.replace("noun: weight", "noun: rank").replace("noun: country", "noun: 3rd country")
    for environment in generate(write_pack(odd), 24, seed=3, max_hops=3):
        compile(environment.spec.source or "", "source", "exec")
        assert all(len(tool.name) <= 64 for tool in environment.spec.tools)
