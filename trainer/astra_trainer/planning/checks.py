"""What of a run does not fit, field by field, each with a fix that was tried; and what fits, but not well."""

from collections.abc import Iterator

from pydantic import ValidationError

from astra_api.pod_costs import pod_memory
from astra_api.records import Record
from astra_api.resource import quantity
from astra_api.training_run import TrainingRunSpec, Verl
from astra_trainer.planning.assumptions import Assumptions
from astra_trainer.planning.gpus import Device
from astra_trainer.planning.layout import Layout, context, layout_of, longest_sequence
from astra_trainer.planning.memory import Phase, host_bytes, kv_tokens, phases
from astra_trainer.planning.shapes import ModelShape

GB = 1e9
_NODES = (2, 4, 8, 16, 32, 64, 128)
_LARGER_GPUS = "take GPUs with more memory, or a shorter context"


class Finding(Record):
    """A field, what is wrong with it, and the fix."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Setting(Record):
    """All that memory follows from; `changed` tries another."""

    spec: TrainingRunSpec
    shape: ModelShape
    device: Device
    assumptions: Assumptions

    @property
    def verl(self) -> Verl:
        return self.spec.verl or Verl()

    @property
    def layout(self) -> Layout:
        return layout_of(self.spec, self.shape, self.device)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return phases(self.spec, self.shape, self.layout, self.device, self.assumptions)

    @property
    def kv_tokens(self) -> int:
        return kv_tokens(self.spec, self.shape, self.layout, self.device, self.assumptions)

    def changed(self, nodes: int | None = None, **verl: object) -> "Setting":
        """With other fields of spec.verl, or more nodes."""
        trainer = self.spec.trainer.model_copy(update={} if nodes is None else {"nodes": nodes})
        update = {"verl": self.verl.model_copy(update=verl), "trainer": trainer}
        return self.model_copy(update={"spec": self.spec.model_copy(update=update)})

    @property
    def is_possible(self) -> bool:
        """Whether a manifest may ask for it."""
        try:
            TrainingRunSpec.model_validate(self.spec.model_dump(by_alias=True))
        except ValidationError:
            return False
        return True

    def fits(self, *names: str) -> bool:
        """Whether a manifest may ask for it, and the phases of these names (all, unless given) fit into the device."""
        memory = self.device.memory
        asked = [phase.bytes for phase in self.phases if not names or phase.name in names]
        return self.is_possible and (memory is None or max(asked, default=0) <= memory)

    @property
    def holds_a_rollout(self) -> bool:
        """Whether vLLM's share fits, and leaves room for a rollout of the greatest length."""
        return self.fits("rollouts") and self.kv_tokens >= context(self.spec, self.shape)


def problems(setting: Setting) -> Iterator[Finding]:
    """What does not fit."""
    if setting.spec.engine == "verl":
        yield from _divisions(setting)
        yield from _batches(setting)
        yield from _lengths(setting)
        yield from _gpu_memory(setting)
    else:
        yield from _embedded_memory(setting)
    yield from _host_memory(setting)
    sandboxes, rl = setting.spec.sandboxes, setting.spec.rl
    if rl is not None and sandboxes.sessions_per_pod < rl.group_size:
        yield Finding(
            field="spec.sandboxes.sessionsPerPod",
            message=f"a pod holds {sandboxes.sessions_per_pod} sessions, and a group opens {rl.group_size} at once on "
            f"one pod; raise it to at least {2 * rl.group_size}",
        )
    limit = sandboxes.resources.get("limits", {}).get("memory")
    held = pod_memory(sandboxes.expected_containment, sandboxes.sessions_per_pod)
    if limit is not None and quantity(limit) < held:
        yield Finding(
            field="spec.sandboxes.resources.limits.memory",
            message=f"{sandboxes.sessions_per_pod} sessions hold {held >> 20} MiB in {sandboxes.expected_containment}, "
            f"and the limit is {limit}; raise it, or lower sessionsPerPod",
        )


def _divisions(setting: Setting) -> Iterator[Finding]:
    """Heads are what both parallelisms divide."""
    verl, shape = setting.verl, setting.shape
    for field, ranks in (("tensorParallel", verl.tensor_parallel), ("sequenceParallel", verl.sequence_parallel)):
        if not setting.device.is_gpu and ranks > 1:
            yield Finding(field=f"spec.verl.{field}", message=f"{ranks} GPUs, and the trainer has none; set it to 1")
            continue
        uneven = shape.kv_heads % ranks and ranks % shape.kv_heads
        if shape.heads % ranks or uneven:
            fit = [
                n for n in range(1, ranks) if not shape.heads % n and not (shape.kv_heads % n and n % shape.kv_heads)
            ]
            yield Finding(
                field=f"spec.verl.{field}",
                message=f"{ranks} GPUs cannot share {shape.heads} heads and {shape.kv_heads} key-value heads evenly; "
                f"use {fit[-1]}",
            )
    if verl.sequence_parallel > 1 and not verl.packing:
        yield Finding(
            field="spec.verl.packing",
            message=f"sequenceParallel {verl.sequence_parallel} shares packed sequences only; set packing: true, or "
            "sequenceParallel: 1",
        )


def _batches(setting: Setting) -> Iterator[Finding]:
    """What verl wants of a batch, of snapshots, and of more than one node."""
    spec, layout, each = setting.spec, setting.layout, setting.verl.sequence_parallel
    wanted = (
        ("spec.rl.batchSize", spec.rl.batch_size if spec.rl is not None else 0, layout.training // each),
        ("spec.sft.batchSize", spec.sft.batch_size if spec.sft is not None else 0, layout.ranks // each),
    )
    for field, size, groups in wanted:
        if groups and size % groups:
            message = f"{size} sequences do not divide over {groups} training groups; give a multiple of {groups}"
            yield Finding(field=field, message=message)
    every = spec.checkpoint
    if every.snapshot_every % every.state_every:
        yield Finding(
            field="spec.checkpoint.snapshotEvery",
            message=f"{every.snapshot_every} is no multiple of stateEvery {every.state_every}, and engine verl makes "
            f"snapshots of states; give {-(-every.snapshot_every // every.state_every) * every.state_every}",
        )
    if spec.trainer.nodes > 1 and not setting.device.is_gpu:
        yield Finding(field="spec.trainer.nodes", message="more than one node needs GPUs; set nodes: 1, or gpusPerNode")


def _lengths(setting: Setting) -> Iterator[Finding]:
    verl, longest = setting.verl, longest_sequence(setting.spec)
    held = verl.tokens_per_gpu * verl.sequence_parallel
    if longest > held:
        ranks = (n for n in _shares(setting, setting.layout.training) if n * verl.tokens_per_gpu >= longest)
        more = next((n for n in ranks if setting.changed(sequence_parallel=n).fits("training")), None)
        fix = _longer(setting) if more is None else f"raise sequenceParallel to {more}"
        yield Finding(
            field="spec.verl.tokensPerGpu",
            message=f"{verl.tokens_per_gpu:,} x sequenceParallel {verl.sequence_parallel} hold {held:,} tokens, and a "
            f"sequence may have {longest:,}; {fix}",
        )


def _longer(setting: Setting) -> str:
    """Which tokensPerGpu, with how many GPUs a sequence, holds the longest: as many GPUs as now, if that fits."""
    longest = longest_sequence(setting.spec)
    now = _up(longest / setting.verl.sequence_parallel)
    raised = f"raise tokensPerGpu to {now}"
    if setting.changed(tokens_per_gpu=now).fits("training"):
        return raised
    for ranks in _shares(setting, setting.layout.training):
        tokens = _up(longest / ranks)
        if setting.changed(sequence_parallel=ranks, tokens_per_gpu=tokens).fits("training"):
            return f"set sequenceParallel: {ranks} and tokensPerGpu: {tokens}"
    return raised


def _gpu_memory(setting: Setting) -> Iterator[Finding]:
    memory = setting.device.memory
    if memory is None:
        return
    for phase in setting.phases:
        if phase.bytes <= memory:
            continue
        said = f"{phase.bytes / GB:.1f} GB in {phase.name}, and a {setting.device.name} has {memory / GB:.0f}"
        if phase.name == "training":
            yield Finding(field="spec.verl.tokensPerGpu", message=f"{said}; {_smaller_training(setting)}")
        elif phase.name == "rollouts":
            yield Finding(field="spec.verl.gpuMemory", message=f"{said}; {_smaller_rollouts(setting)}")
        else:
            yield Finding(field="spec.verl.tensorParallel", message=f"{said}; {_smaller_sync(setting)}")
    if setting.fits("rollouts") and setting.kv_tokens < context(setting.spec, setting.shape):
        yield Finding(
            field="spec.verl.tensorParallel",
            message=f"vLLM's share leaves a KV cache of {setting.kv_tokens:,} tokens, and a rollout may have "
            f"{context(setting.spec, setting.shape):,}; {_larger_cache(setting)}",
        )


def _smaller_training(setting: Setting) -> str:
    """A way to train in less memory: shorter micro-batches, else more nodes with or without them."""
    longest, verl, now = longest_sequence(setting.spec), setting.verl, setting.spec.trainer.nodes
    for nodes in (now, *(more for more in _NODES if more > now)):
        larger = setting.changed(nodes=nodes)
        raised = f"raise spec.trainer.nodes to {nodes}"
        if nodes > now and larger.fits("training"):
            return raised
        for ranks in _shares(larger, larger.layout.training):
            tokens = _up(longest / ranks)
            shorter = larger.changed(sequence_parallel=ranks, tokens_per_gpu=tokens)
            if ranks >= verl.sequence_parallel and tokens <= verl.tokens_per_gpu and shorter.fits("training"):
                text = f"set sequenceParallel: {ranks} and tokensPerGpu: {tokens}"
                return text if nodes == now else f"{raised}, and {text}"
    return _LARGER_GPUS


def _smaller_rollouts(setting: Setting) -> str:
    """A way to roll out in less memory: training's state offloaded, else a smaller share, else more nodes."""
    if setting.layout.colocated and not setting.verl.offload:
        tried = setting.changed(offload=True)
        if tried.holds_a_rollout:
            return "set offload: true"
    for hundredths in range(95, 5, -5):
        tried = setting.changed(gpu_memory=hundredths / 100)
        if tried.holds_a_rollout:
            return f"lower gpuMemory to {hundredths / 100:g}"
    return _more_nodes(setting, "rollouts")


def _smaller_sync(setting: Setting) -> str:
    for ranks in _shares(setting, setting.layout.rollout):
        if ranks > setting.verl.tensor_parallel and setting.changed(tensor_parallel=ranks).fits("weight sync"):
            return f"raise tensorParallel to {ranks}"
    if not setting.verl.offload and setting.changed(offload=True).fits("weight sync"):
        return "set offload: true"
    return _more_nodes(setting, "weight sync")


def _larger_cache(setting: Setting) -> str:
    for ranks in _shares(setting, setting.layout.rollout):
        tried = setting.changed(tensor_parallel=ranks)
        if tried.holds_a_rollout:
            return f"raise it to {ranks}"
    for offload in (setting.verl.offload, True):
        for ranks in _shares(setting, setting.layout.rollout):
            for hundredths in range(30, 95, 5):
                tried = setting.changed(offload=offload, tensor_parallel=ranks, gpu_memory=hundredths / 100)
                if tried.holds_a_rollout:
                    aside = " with offload: true" if offload and not setting.verl.offload else ""
                    return f"set tensorParallel: {ranks} and gpuMemory: {hundredths / 100:g}{aside}"
    return "lower spec.rl.maxResponseTokens, or take GPUs with more memory"


def _more_nodes(setting: Setting, phase: str) -> str:
    more = (n for n in _NODES if n > setting.spec.trainer.nodes)
    nodes = next((n for n in more if setting.changed(nodes=n).fits(phase)), None)
    if nodes is not None:
        return f"raise spec.trainer.nodes to {nodes}"
    return _LARGER_GPUS


def _embedded_memory(setting: Setting) -> Iterator[Finding]:
    memory = setting.device.memory
    worst = max(setting.phases, key=lambda phase: phase.bytes)
    if memory is None or worst.bytes <= memory:
        return
    said = f"{worst.bytes / GB:.1f} GB in {worst.name}, and {setting.device.name} has {memory / GB:.1f}"
    if not setting.device.is_gpu:
        yield Finding(field="spec.trainer.resources.limits.memory", message=f"{said}; raise it")
    else:
        yield Finding(
            field="spec.engine",
            message=f"{said}; engine: embedded trains on one GPU: take engine: verl, a shorter context or a smaller "
            "model",
        )


def _host_memory(setting: Setting) -> Iterator[Finding]:
    resources = setting.spec.trainer.resources
    limit = (resources.get("limits") or {}).get("memory")
    if limit is None or not setting.device.is_gpu:
        return
    needed = host_bytes(setting.spec, setting.shape, setting.layout)
    if needed > quantity(limit):
        yield Finding(
            field="spec.trainer.resources.limits.memory",
            message=f"{limit} are less than the {needed / GB:.0f} GB that the model takes on a node's host; "
            f"raise it to at least {-(-needed // 2**30)}Gi",
        )


def _shares(setting: Setting, ranks: int) -> list[int]:
    """Numbers of GPUs that may share a copy or a sequence: they divide the GPUs and the heads, and are on one node."""
    most = max(setting.spec.trainer.gpus_per_node, 1)
    heads, kv_heads = setting.shape.heads, setting.shape.kv_heads
    return [
        n
        for n in range(1, min(most, ranks) + 1)
        if not ranks % n and not heads % n and not (kv_heads % n and n % kv_heads)
    ]


def _up(tokens: float) -> int:
    """The next multiple of 256."""
    return -(-int(-(-tokens // 1)) // 256) * 256


def warnings(setting: Setting) -> Iterator[Finding]:
    """What works, but not as one may think."""
    spec, shape = setting.spec, setting.shape
    longest = longest_sequence(spec)
    if longest > shape.positions:
        yield Finding(
            field="spec.rl.maxResponseTokens" if spec.rl is not None else "spec.sft.maxLength",
            message=f"a rollout ends at the {shape.positions:,} positions of the model's config.json, before "
            f"{longest:,} tokens; give spec.model.context: {longest}, which stretches them",
        )
    per_node = max(spec.trainer.gpus_per_node, 1)
    if spec.engine == "embedded":
        if spec.trainer.gpus_per_node > 1:
            yield Finding(
                field="spec.trainer.gpusPerNode",
                message=f"engine: embedded uses one GPU; {spec.trainer.gpus_per_node - 1} would idle",
            )
        return
    if not setting.device.is_gpu:
        yield Finding(
            field="spec.trainer.gpusPerNode", message="0: engine verl on CPUs is for tests; its times are a rough guess"
        )
    for field, ranks in (
        ("tensorParallel", setting.verl.tensor_parallel),
        ("sequenceParallel", setting.verl.sequence_parallel),
    ):
        if ranks > per_node:
            yield Finding(
                field=f"spec.verl.{field}",
                message=f"{ranks} GPUs span nodes of {per_node}: the network between them then bounds every layer",
            )
    if not setting.verl.packing:
        yield Finding(
            field="spec.verl.packing",
            message="false: sequences are padded to the longest of their batch, which the times here do not know",
        )
