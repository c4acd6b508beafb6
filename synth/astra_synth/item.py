"""One item on its way from a seed to an environment, and the record that stays of it."""

from dataclasses import dataclass, field

from pydantic import Field

from astra_api.environment import Environment
from astra_api.graph import hops, levels
from astra_api.records import Record
from astra_synth.construction.assembly import BuiltTool, Module
from astra_synth.instances.checks import Wanted
from astra_synth.instances.plan import Plan
from astra_synth.instances.quality import Quality
from astra_synth.instances.refinement import Instance
from astra_synth.instances.seeds import SeedDraw
from astra_synth.teacher import Usage


@dataclass
class Item:
    """What is known so far; each stage adds its part."""

    name: str
    draw: SeedDraw
    wanted: Wanted
    plan: Plan | None = None
    instance: Instance | None = None
    quality: Quality | None = None
    tools: list[BuiltTool] = field(default_factory=list)
    merged: list[BuiltTool] = field(default_factory=list)
    module: Module | None = None
    environment: Environment | None = None
    notes: list[str] = field(default_factory=list)


class ItemRecord(Record):
    """An item that is finished, one way or the other: what the accounts and the report are made of."""

    name: str
    domain: str
    language: str
    stateful: bool
    stage: str  # the last one it entered
    reason: str | None  # None: it became an environment
    message: str = ""
    transient: bool = False  # the endpoint's fault, as earlier versions recorded it; such an item is made again
    question: str = ""
    steps: int = 0
    hops: int = 0  # steps that need a tool
    width: int = 0  # most tool steps that may run at once
    scenario: str = ""
    tools: int = 0
    repairs: int = 0  # of the plan
    quality: Quality | None = None
    notes: tuple[str, ...] = ()
    spent: dict[str, Usage] = Field(default_factory=dict)  # by stage


def record_of(
    item: Item,
    stage: str,
    spent: dict[str, Usage],
    reason: str | None = None,
    message: str = "",
) -> ItemRecord:
    """The record of an item that ended in a stage."""
    plan, instance, environment = item.plan, item.instance, item.environment
    needed = instance.tool_steps if instance else frozenset()
    called = [
        step.model_copy(update={"depends_on": [parent for parent in step.depends_on if parent in needed]})
        for step in (instance.plan.as_steps() if instance else ())
        if step.id in needed
    ]
    shown = instance.plan if instance else plan
    return ItemRecord(
        name=item.name,
        domain=item.draw.seed.domain,
        language=item.wanted.language,
        stateful=shown.stateful if shown else item.wanted.stateful,
        stage=stage,
        reason=reason,
        message=message,
        question=shown.question if shown else item.wanted.question or "",
        steps=len(shown.steps) if shown else 0,
        hops=hops(environment.spec.steps) if environment else len(called),
        width=max(map(len, levels(called)), default=0),
        scenario=environment.spec.scenario if environment else "",
        tools=len(environment.spec.tools) if environment else 0,
        repairs=instance.repairs if instance else 0,
        quality=item.quality,
        notes=tuple(item.notes),
        spent=spent,
    )
