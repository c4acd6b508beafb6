"""Environments from tables: environment i is a function of (seed, i), whichever others are made.

    for environment in generate("geography", count=100, seed=7, min_hops=1, max_hops=3):
        ...

yields unverified `astra_api.environment.Environment` objects (every answer is already checked against the tables by
query). Environment i belongs to toolset i // shape.environments; toolsets of a pack share no root entity until all
were used.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from zlib import crc32

from astra_api.environment import MAX_SOURCE_BYTES, Environment, EnvironmentSpec, GoldCall, Scenario, Step, Tool
from astra_api.graph import scenario as scenario_of
from astra_api.matching import Match
from astra_api.records import Reject
from astra_api.resource import ObjectMeta
from astra_sandbox.verification.questions import check_questions
from astra_synth.tables.dataset import Dataset
from astra_synth.tables.operation import Undefined
from astra_synth.tables.oracle import check
from astra_synth.tables.plan import Node, Unfit, in_order, parents, realise
from astra_synth.tables.question import Narrator
from astra_synth.tables.shard import ShardPlan, seeded
from astra_synth.tables.toolset import TableToolset, ToolsetShape, toolset_for

_DRAWS = 400  # of one (scenario, hops); most miss the environment's slot or the length
_HOPELESS = 60  # draws without a sketch, after which the tools are taken to have none
_GOALS = 10  # (scenario, hops) tried before an environment is given up


@dataclass(frozen=True)
class Recipe:
    """What environments to make of a dataset."""

    seed: int = 0
    min_hops: int = 1
    max_hops: int = 6
    shape: ToolsetShape = field(default_factory=ToolsetShape)
    prefix: str = ""  # of names; the pack's name unless given
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """Environment i: the environment, unless nothing could be made, and what was thrown away on the way."""

    index: int
    environment: Environment | None
    rejects: tuple[Reject, ...]


class Generator:
    """Makes environments of one dataset by index."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.plan = ShardPlan(dataset, recipe.seed, recipe.shape.rows)
        self._toolset = lru_cache(maxsize=4)(self._make_toolset)

    def name(self, index: int) -> str:
        return f"{self.recipe.prefix or self.dataset.pack.name}-{index:05d}"

    def make(self, index: int, skip: int = 0) -> Made:
        """Environment `index`; with `skip`, the next one after so many that a verifier rejected."""
        toolset = self._toolset(index // self.recipe.shape.environments)
        if isinstance(toolset, Undefined):
            return Made(index, None, (self._reject(index, "toolset", toolset),))
        rejects: list[Reject] = []
        for attempt in range(_GOALS):
            rng = seeded(self.recipe.seed, self.dataset.pack.name, "environment", index, skip, attempt)
            hops = rng.randint(self.recipe.min_hops, self.recipe.max_hops)
            scenario = rng.choice(_scenarios(hops))
            found = self._question(toolset, index, scenario, hops, f"{skip}/{attempt}", rejects)
            if found is not None:
                return Made(index, found, tuple(rejects))
        rejects.append(
            self._reject(index, "compose", Undefined("exhausted", "the tools of its toolset ask nothing more"))
        )
        return Made(index, None, tuple(rejects))

    def _make_toolset(self, number: int) -> TableToolset | Undefined:
        """The toolset, or why there is none: kept either way, for several environments ask."""
        shard, recipe = self.plan.shard(number), self.recipe
        try:
            toolset = toolset_for(shard, recipe.shape, recipe.max_hops, recipe.seed, number)
        except Undefined as trouble:
            return trouble
        if len(toolset.source.encode()) > MAX_SOURCE_BYTES:
            return Undefined("large-source", f"toolset {number} is over 128 KiB; lower toolset.rows")
        return toolset

    def _question(
        self, toolset: TableToolset, index: int, scenario: Scenario, hops: int, attempt: str, rejects: list[Reject]
    ) -> Environment | None:
        slots = self.recipe.shape.environments
        composer = toolset.composer
        rng = seeded(self.recipe.seed, self.dataset.pack.name, "draws", index, attempt)
        troubles = drawn = 0
        for draw in range(_DRAWS):
            if draw >= _HOPELESS and not drawn:
                return None
            try:
                sketch = composer.sketch(scenario, hops, rng)
                drawn += 1
                if crc32(sketch.signature().encode()) % slots != index % slots:
                    continue  # another environment of this toolset may ask that
                root = realise(sketch, toolset.shard, rng, hops)
                environment = self._assemble(toolset, root, index, rng)
                if environment.spec.scenario != scenario:
                    continue
                check(self.dataset, root)
            except Unfit:
                continue
            except Undefined as trouble:
                rejects.append(self._reject(index, "compose", trouble))
                troubles += 1
                if troubles >= 12:
                    return None
                continue
            return environment
        return None

    def _assemble(self, toolset: TableToolset, root: Node, index: int, rng: Any) -> Environment:
        narrator = Narrator(self.dataset, rng)
        nodes = in_order(root)
        names = {id(node): f"s{number}" for number, node in enumerate(nodes, start=1)}
        steps = [_step(node, names, narrator) for node in nodes]
        pack = self.dataset.pack
        scenario = scenario_of(steps)
        labels = {
            "astra.farm/domain": pack.domain,
            "astra.farm/pack": pack.name,
            "astra.farm/hops": str(sum(node.calls for node in nodes)),
            "astra.farm/scenario": scenario,
            **self.recipe.labels,
        }
        spec = EnvironmentSpec(
            question=narrator.question(root),
            answer=root.value,
            domain=pack.domain,
            scenario=scenario,
            steps=steps,
            tools=_tools(toolset),
            source=toolset.source,
        )
        for finding in check_questions(spec):
            raise Undefined("answer-in-question", finding.message)
        return Environment(metadata=ObjectMeta(name=self.name(index), labels=labels), spec=spec)

    def _reject(self, index: int, stage: str, trouble: Undefined) -> Reject:
        return Reject(name=self.name(index), stage=stage, reason=trouble.reason, message=str(trouble))


def _scenarios(hops: int) -> list[Scenario]:
    if hops == 1:
        return ["single-hop"]
    found: list[Scenario] = ["parallel-single-hop", "multi-hop"]
    return found if hops == 2 else [*found, "parallel-multi-hop"]


def _step(node: Node, names: dict[int, str], narrator: Narrator) -> Step:
    match, tolerance = _match(node)
    return Step(
        id=names[id(node)],
        question=narrator.step(node),
        answer=node.value,
        depends_on=sorted((names[id(parent)] for parent in parents(node)), key=lambda name: int(name[1:])),
        call=GoldCall(tool=node.tool, arguments=node.arguments()) if node.calls else None,
        match=match,
        tolerance=tolerance,
    )


def _match(node: Node) -> tuple[Match, float]:
    if isinstance(node.value, str):
        return "text", 0.0
    if isinstance(node.value, float):
        digits = node.operation.digits if node.operation else node.end.join.digits if node.end and node.end.join else 6
        return "numeric", 0.5 * 10.0**-digits
    return "exact", 0.0


def _tools(toolset: TableToolset) -> list[Tool]:
    return [
        Tool(
            name=tool.name,
            description=tool.description,
            parameters={
                "type": "object",
                "properties": {parameter.name: dict(parameter.schema) for parameter in tool.parameters},
                "required": [parameter.name for parameter in tool.parameters],
                "additionalProperties": False,
            },
        )
        for tool in toolset.tools
    ]
