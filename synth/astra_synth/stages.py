"""The stages of synthesis with a teacher, in order. Each takes an item and adds its part, or raises Rejected.

plan         a question and its decomposition, from a seed
refine       code checks, tool-necessity labels, a judge's review of the topology; repair
quality      four dimensions against a threshold
build        a verified tool for every step that needs one (or one module, where they share a state)
merge        equivalent steps share a tool, where every gold call proves it
assemble     one module, one manifest, all checks again
deduplicate  against what the run has already kept, in order (astra_synth.duplicates)
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from astra_api.synthesis_run import EnvironmentSynthesis
from astra_sandbox.interface import Sandbox
from astra_sandbox.verification import Verdict
from astra_synth.construction import merging
from astra_synth.construction.assembly import Module, Workbench
from astra_synth.construction.building import build_tool
from astra_synth.construction.module import join
from astra_synth.construction.stateful import build_module, in_order
from astra_synth.instances import quality, refinement
from astra_synth.instances.refinement import Instance
from astra_synth.item import Item
from astra_synth.rejection import Rejected
from astra_synth.teacher import Enquiry

DEDUPLICATE = "deduplicate"


@dataclass(frozen=True)
class Workshop:
    """What the stages of one item work with."""

    synthesis: EnvironmentSynthesis
    enquiry: Enquiry
    sandbox: Sandbox

    def bench(self, item: Item) -> Workbench:
        return Workbench(item.name, _of(item), self.sandbox)


async def plan(item: Item, shop: Workshop) -> None:
    item.plan = await refinement.draft(shop.enquiry, item.draw, item.wanted)


async def refine(item: Item, shop: Workshop) -> None:
    assert item.plan is not None
    domain, repairs = item.draw.seed.domain, shop.synthesis.repairs
    item.instance = await refinement.refine(shop.enquiry, item.plan, domain, item.wanted, repairs)


async def judge(item: Item, shop: Workshop) -> None:
    item.quality = await quality.judge(shop.enquiry, _of(item), shop.synthesis.quality_threshold)


async def build(item: Item, shop: Workshop) -> None:
    bench, repairs = shop.bench(item), shop.synthesis.repairs
    if _of(item).plan.stateful:
        item.module = await build_module(shop.enquiry, bench, repairs, item.notes)
        return
    for step in in_order(bench):  # one after another: what an item costs must not depend on who was faster
        item.tools.append(await build_tool(shop.enquiry, bench, step, repairs, item.notes))


async def merge(item: Item, shop: Workshop) -> None:
    if not _of(item).plan.stateful:
        repairs = shop.synthesis.repairs
        item.merged = await merging.merge(shop.enquiry, shop.bench(item), item.tools, repairs, item.notes)


async def assemble(item: Item, shop: Workshop) -> None:
    verdict = await _assembled(item, shop, item.module or join(item.merged))
    if not verdict.verified and item.merged != item.tools:
        item.notes.append(f"assembled without merging: {verdict.reason}")
        verdict = await _assembled(item, shop, join(item.tools))
    if not verdict.verified:
        item.environment = None
        raise Rejected(verdict.reason or "Rejected", verdict.message)


STAGES: tuple[tuple[str, Callable[[Item, Workshop], Awaitable[None]]], ...] = (
    ("plan", plan),
    ("refine", refine),
    ("quality", judge),
    ("build", build),
    ("merge", merge),
    ("assemble", assemble),
)
STAGE_NAMES = (*(name for name, _ in STAGES), DEDUPLICATE)


async def _assembled(item: Item, shop: Workshop, module: Module) -> Verdict:
    bench, instance = shop.bench(item), _of(item)
    made = bench.environment(module)
    labels = {
        "astra.farm/domain": label(instance.domain),
        "astra.farm/hops": str(len(made.spec.tool_steps)),
        "astra.farm/language": instance.language,
        "astra.farm/scenario": made.spec.scenario,
        **shop.synthesis.labels,
    }
    verdict = await bench.verify(made)
    metadata = made.metadata.model_copy(update={"labels": {key: value for key, value in labels.items() if value}})
    item.environment = made.model_copy(update={"metadata": metadata, "status": verdict.status})
    return verdict


def label(text: str) -> str:
    """A text as the value of a Kubernetes label."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:63].strip("-")


def _of(item: Item) -> Instance:
    assert item.instance is not None
    return item.instance
