"""What `astra plan` prints."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from astra_trainer.planning import Plan
    from astra_trainer.planning.checks import Finding

Row = tuple[str, str, str]  # what, how much, a remark


def tables(plan: "Plan") -> RenderableType:
    """The verdict, then a table for each question."""
    parts: list[RenderableType] = [_verdict(plan)]
    parts += _findings("does not fit", plan.problems, "red")
    parts += _findings("warning", plan.warnings, "yellow")
    for title, rows in (
        ("Devices", _devices(plan)),
        (f"Memory of {'one ' + plan.device.name if plan.device.is_gpu else 'a trainer pod'}", _memory(plan)),
        ("Sandboxes", _sandboxes(plan)),
        ("An RL step, on average", _rl(plan)),
        ("The whole run, without its evaluations", _totals(plan)),
        ("Checkpoints", _checkpoints(plan)),
        ("Assumptions", _assumptions(plan)),
    ):
        if rows:
            parts += [Text(), _table(title, rows)]
    return Group(*parts)


def _verdict(plan: "Plan") -> Text:
    said = ("fits", "bold green") if plan.fits else ("does not fit", "bold red")
    model = f"{plan.model.name}, {_count(plan.model.parameters)} parameters"
    return Text.assemble((plan.name, "bold"), f" ({model}, engine {plan.engine}): ", said)


def _findings(word: str, findings: Iterable["Finding"], colour: str) -> list[RenderableType]:
    return [
        Text.assemble((f"{word}: ", colour), (finding.field, "bold"), f": {finding.message}") for finding in findings
    ]


def _table(title: str, rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, title=Text(title, style="bold"), title_justify="left")
    table.add_column(overflow="fold", min_width=28)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for what, value, remark in rows:
        table.add_row(Text(what), Text(value), Text(remark))
    return table


def _devices(plan: "Plan") -> list[Row]:
    layout, device = plan.layout, plan.device
    speeds = f"{device.flops / 1e12:g} TFLOP/s, {device.bandwidth / 1e9:,.0f} GB/s"
    if device.memory is None or not device.is_gpu:
        return [("trainer pods", str(layout.nodes), f"{device.name}, no GPU: {speeds}")]
    copies = f"{layout.replicas} {'copy' if layout.replicas == 1 else 'copies'} of the model"
    return [
        ("GPUs", str(layout.ranks), f"{device.name}: {device.memory / 1e9:g} GB, {speeds}"),
        ("nodes", str(layout.nodes), ""),
        ("train", str(layout.training), f"{_plural(layout.sequence_parallel, 'GPU')} to a sequence"),
        ("generate", str(layout.rollout), f"{copies}, {_plural(layout.tensor_parallel, 'GPU')} each"),
        ("host memory a node", _bytes(plan.host_bytes), "for the model: loaded, or offloaded"),
    ]


def _memory(plan: "Plan") -> list[Row]:
    rows: list[Row] = []
    for phase in plan.memory:
        memory = plan.device.memory
        remark = "" if memory is None else f"of {_bytes(memory)}" + ("" if phase.bytes <= memory else ": too much")
        rows.append((phase.name, _bytes(phase.bytes), remark))
        rows += [(f"  {part.name}", _bytes(part.bytes), "") for part in phase.parts]
    held = f"{plan.model.kv_bytes(plan.device.value_bytes):,} bytes a token"
    return [*rows, ("KV cache of a copy", f"{plan.kv_tokens:,}", f"tokens, {held}")]


def _sandboxes(plan: "Plan") -> list[Row]:
    found = plan.sandboxes
    dense = f"{found.sessions_per_gib} sessions a GiB in {found.containment}"
    rows = [
        ("pods", str(found.replicas), f"{found.capacity:,} sessions together"),
        ("memory of a pod", _bytes(found.pod_memory), dense),
        ("sessions of a step", f"{found.wanted:,}", f"in {_plural(found.replicas_for_sessions, 'pod')}"),
        ("rollouts at once", str(found.rollouts_at_once), ""),
    ]
    if plan.rl is None:
        return rows
    measured = f"a pod in {found.containment} answers {found.pod_calls_per_second:,.0f} (docs/sandbox.md)"
    return [
        *rows,
        ("calls a second", f"{found.calls_per_second:,.1f}", "during rollouts"),
        (
            "at the peak",
            f"{found.peak_calls_per_second:,.1f}",
            f"{measured}: {_plural(found.replicas_for_calls, 'pod')}",
        ),
    ]


def _rl(plan: "Plan") -> list[Row]:
    step = plan.rl
    if step is None:
        return []
    rounds = f"{_plural(step.rounds, 'round')} of batch filling"
    decoding = f"{step.tokens_per_second:,.0f} tokens/s, {step.rollouts_per_replica} at once on a copy of the model"
    rows = [
        ("rollouts", _seconds(step.rollout_seconds), f"{step.rollouts} in {rounds}; {decoding}"),
        ("update", _seconds(step.update_seconds), "" if plan.layout.colocated else "while rollouts go on"),
        ("weights to vLLM", _seconds(step.sync_seconds), "and its sleep and wake-up"),
        ("writing states", _seconds(step.state_seconds), "spread over the steps"),
        ("together", _seconds(step.seconds), f"{step.tool_share:.1%} of it waiting for tools alone"),
    ]
    return [row for row in rows if row[1] != _seconds(0.0)]


def _totals(plan: "Plan") -> list[Row]:
    totals, rows = plan.totals, list[Row]()
    if plan.sft is not None:
        remark = f"{plan.sft.tokens:,.0f} tokens a demonstration"
        rows.append(("an SFT step", _seconds(plan.sft.seconds), remark))
        steps = "" if plan.sft.steps is None else f"{_plural(plan.sft.steps, 'step')}"
        rows.append(("SFT", _hours(totals.sft_hours), steps or "give --demonstrations"))
    if plan.rl is not None:
        rows.append(("RL", _hours(totals.rl_hours), ""))
    rows.append(("together", _hours(totals.hours), ""))
    if totals.gpus:
        rows.append(("GPU hours", "unknown" if totals.gpu_hours is None else f"{totals.gpu_hours:,.1f}", ""))
        cost = "unknown" if totals.cost is None else f"{totals.cost:,.2f}"
        rows.append(("cost", cost, "at --gpu-price" if totals.cost is not None else "give --gpu-price, of a GPU hour"))
    return rows


def _checkpoints(plan: "Plan") -> list[Row]:
    found = plan.checkpoints
    return [
        ("snapshots", str(found.snapshots), f"{_bytes(found.snapshot_bytes)} each"),
        ("states", str(found.states), f"{_bytes(found.state_bytes)} each, one of them while it is written"),
        ("disk", _bytes(found.bytes), ""),
    ]


def _assumptions(plan: "Plan") -> list[Row]:
    rows = []
    for name, value, what, option in plan.assumptions.rows():
        shown = "unknown" if value is None else _number(value)
        rows.append((name.replace("_", " "), shown, what + (f" [{option}]" if option else "")))
    return rows


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:,.2f} h"


def _plural(count: float, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _number(value: float) -> str:
    return (
        f"{value:.3g}" if abs(value) >= 1e6 or abs(value) < 0.1 else f"{value:,.4g}" if value < 100 else f"{value:,.0f}"
    )


def _bytes(count: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _count(number: float) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:.2f}{unit}"
    return f"{number:,.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 600 else f"{seconds / 60:,.1f} min"
