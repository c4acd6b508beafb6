"""What a run needs and costs: one record, made of a manifest, a model's shape, a device and assumptions."""

import math
from typing import Any

from astra_api.records import Record
from astra_api.resource import quantity
from astra_api.training_run import Rl, TrainingRun
from astra_trainer.planning.assumptions import Assumptions
from astra_trainer.planning.checks import Finding, Setting, problems, warnings
from astra_trainer.planning.gpus import Device
from astra_trainer.planning.layout import Layout
from astra_trainer.planning.memory import Phase, host_bytes, snapshot_bytes, state_bytes
from astra_trainer.planning.sandboxes import SandboxPlan, plan_sandboxes, with_calls
from astra_trainer.planning.shapes import ModelShape
from astra_trainer.planning.times import RlStep, SftStage, rl_step, sft_stage

_NOTABLE = 4 * 10**9  # bytes that not every machine has free


class CheckpointPlan(Record):
    """Bytes on disk."""

    snapshot_bytes: int
    """Of one: weights alone."""
    snapshots: int
    """Of the whole run; all are kept. Those of an SFT stage of unknown length are not counted."""
    state_bytes: int
    """Of one: what a resume needs."""
    states: int
    """Kept, and one that is being written."""

    @property
    def bytes(self) -> int:
        return self.snapshots * self.snapshot_bytes + self.states * self.state_bytes


class Totals(Record):
    """Of the whole run, without its evaluations; None where the length of a stage is not known."""

    sft_hours: float | None
    rl_hours: float
    hours: float | None
    gpus: int
    gpu_hours: float | None
    cost: float | None
    """In the currency of the price; None without a price."""


class Plan(Record):
    """All of it. It fits if there are no problems."""

    name: str
    engine: str
    model: ModelShape
    device: Device
    layout: Layout
    memory: tuple[Phase, ...]
    """Of one GPU (or of a CPU trainer), by phase."""
    host_bytes: int
    kv_tokens: int
    """That the KV cache of one copy of the model holds."""
    sandboxes: SandboxPlan
    sft: SftStage | None
    rl: RlStep | None
    checkpoints: CheckpointPlan
    totals: Totals
    assumptions: Assumptions
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The plan with what follows from it."""
        found = self.model_dump(mode="json")
        found["fits"] = self.fits
        found["model"] |= {"parameters": self.model.parameters, "kv_bytes_per_token": self.model.kv_bytes()}
        found["memory"] = [
            dumped | {"bytes": phase.bytes} for dumped, phase in zip(found["memory"], self.memory, strict=True)
        ]
        found["checkpoints"]["bytes"] = self.checkpoints.bytes
        if self.rl is not None:
            found["rl"]["tool_share"] = self.rl.tool_share
        found["assumptions"] = {
            name: {"value": value, "what": what, "option": option}
            for name, value, what, option in self.assumptions.rows()
        }
        return found


def make_plan(
    run: TrainingRun, shape: ModelShape, device: Device, assumptions: Assumptions, price: float | None = None
) -> Plan:
    """The plan of a run. `price` is of a GPU hour."""
    spec = run.spec
    setting = Setting(spec=spec, shape=shape, device=device, assumptions=assumptions)
    layout = setting.layout
    sandboxes = plan_sandboxes(spec.sandboxes, spec.rl or Rl(), assumptions)
    found = list(problems(setting))
    step = None
    if spec.rl is not None:
        step = rl_step(spec, spec.rl, shape, layout, device, assumptions, sandboxes.rollouts_at_once)
        sandboxes = with_calls(sandboxes, step.calls_per_second, step.peak_calls_per_second)
    stage = sft_stage(spec, spec.sft, shape, layout, device, assumptions) if spec.sft is not None else None
    checkpoints = _checkpoints(run, shape, layout, device, stage)
    return Plan(
        name=run.metadata.name,
        engine=spec.engine,
        model=shape,
        device=device,
        layout=layout,
        memory=setting.phases,
        host_bytes=host_bytes(spec, shape, layout),
        kv_tokens=setting.kv_tokens,
        sandboxes=sandboxes,
        sft=stage,
        rl=step,
        checkpoints=checkpoints,
        totals=_totals(run, layout, device, stage, step, price),
        assumptions=assumptions,
        problems=(*found, *_disk(run, checkpoints)),
        warnings=(*warnings(setting), *_unlimited(setting), *_slow(run, sandboxes, layout, stage, step)),
    )


def _checkpoints(
    run: TrainingRun, shape: ModelShape, layout: Layout, device: Device, stage: SftStage | None
) -> CheckpointPlan:
    every = run.spec.checkpoint.snapshot_every
    steps = [run.spec.rl.steps if run.spec.rl is not None else 0, stage.steps or 0 if stage is not None else 0]
    made_here = run.spec.model.preset is not None or run.spec.model.gguf is not None  # base-0
    return CheckpointPlan(
        snapshot_bytes=snapshot_bytes(shape, layout, device),
        snapshots=sum(math.ceil(count / every) for count in steps) + made_here,
        state_bytes=state_bytes(shape),
        states=run.spec.checkpoint.keep_states + 1,
    )


def _totals(
    run: TrainingRun, layout: Layout, device: Device, stage: SftStage | None, step: RlStep | None, price: float | None
) -> Totals:
    steps = 0 if stage is None else stage.steps
    sft = None if steps is None else steps * (stage.seconds if stage is not None else 0.0) / 3600
    rl = run.spec.rl.steps * step.seconds / 3600 if run.spec.rl is not None and step is not None else 0.0
    hours = None if sft is None else sft + rl
    gpus = layout.ranks if device.is_gpu else 0
    gpu_hours = None if hours is None else hours * gpus
    cost = None if gpu_hours is None or price is None else gpu_hours * price
    return Totals(sft_hours=sft, rl_hours=rl, hours=hours, gpus=gpus, gpu_hours=gpu_hours, cost=cost)


def _disk(run: TrainingRun, checkpoints: CheckpointPlan) -> tuple[Finding, ...]:
    size = run.spec.checkpoint.size
    if size is None or quantity(size) >= checkpoints.bytes:
        return ()
    message = (
        f"{size} are less than the {checkpoints.bytes / 1e9:.1f} GB of {checkpoints.snapshots} snapshots and "
        f"{checkpoints.states} states; raise it to at least {math.ceil(checkpoints.bytes / 2**30)}Gi, or snapshotEvery"
    )
    return (Finding(field="spec.checkpoint.size", message=message),)


def _unlimited(setting: Setting) -> tuple[Finding, ...]:
    """A CPU's memory is not known where the manifest does not limit it."""
    needed = max(phase.bytes for phase in setting.phases)
    if setting.device.is_gpu or setting.device.memory is not None or needed < _NOTABLE:
        return ()
    message = f"not given, so not checked: the trainer takes {needed / 1e9:.1f} GB"
    return (Finding(field="spec.trainer.resources.limits.memory", message=message),)


def _slow(
    run: TrainingRun, sandboxes: SandboxPlan, layout: Layout, stage: SftStage | None, step: RlStep | None
) -> list[Finding]:
    """What holds the run up, or cannot be told."""
    found = []
    if stage is not None and stage.steps is None:
        message = "how many demonstrations there are is not known here: give --demonstrations for hours and cost"
        found.append(Finding(field="spec.sft.dataset", message=message))
    if step is None or run.spec.rl is None:
        return found
    batch = run.spec.rl.batch_size
    if sandboxes.rollouts_at_once < batch:
        message = (
            f"{sandboxes.capacity:,} sessions let {sandboxes.rollouts_at_once} of {batch} rollouts go on at once; "
            f"raise replicas to {sandboxes.replicas_for_sessions}"
        )
        found.append(Finding(field="spec.sandboxes.replicas", message=message))
    if sandboxes.replicas_for_calls > sandboxes.replicas:
        message = (
            f"{sandboxes.peak_calls_per_second:,.0f} calls/s at the peak, and {sandboxes.replicas} pods answer "
            f"{sandboxes.replicas * sandboxes.pod_calls_per_second:,.0f}; "
            f"raise replicas to {sandboxes.replicas_for_calls}"
        )
        found.append(Finding(field="spec.sandboxes.replicas", message=message))
    share = math.ceil(min(batch, sandboxes.rollouts_at_once) / layout.replicas)
    if layout.engine == "verl" and step.kv_rollouts_per_replica < share:
        message = (
            f"a KV cache holds {step.kv_rollouts_per_replica} rollouts of mean length, and {share} are under way on "
            "each copy of the model: the others wait; raise tensorParallel or gpuMemory"
        )
        found.append(Finding(field="spec.verl.gpuMemory", message=message))
    if step.state_seconds > 0.1 * step.seconds:
        message = (
            f"writing states takes {step.state_seconds / step.seconds:.0%} of the time; raise it from "
            f"{run.spec.checkpoint.state_every}"
        )
        found.append(Finding(field="spec.checkpoint.stateEvery", message=message))
    return found
