"""Memory of one GPU in each phase of a run, in bytes. docs/planning.md derives the formulas."""

import math

from astra_api.records import Record
from astra_api.training_run import TrainingRunSpec, Verl
from astra_trainer.planning.assumptions import Assumptions
from astra_trainer.planning.gpus import Device
from astra_trainer.planning.layout import ROW_MEMORY, ROWS, Layout, context
from astra_trainer.planning.shapes import ModelShape

_WEIGHTS, _GRADIENTS, _MOMENTS = 4, 4, 8  # bytes a parameter, in float32: master weights, gradients, Adam's two
_LOGITS = 3  # copies of a token's logits at once: they, their softmax, their gradient
_BUCKETS = 4 * 2**30  # weights on their way to vLLM: verl's bucket of 2 GiB, twice
_PROCESS = 10**9  # Python and torch on a CPU


class Part(Record):
    """What takes memory, and how much."""

    name: str
    bytes: int


class Phase(Record):
    """All that is in a GPU's memory at once."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def phases(
    spec: TrainingRunSpec, shape: ModelShape, layout: Layout, device: Device, assumptions: Assumptions
) -> tuple[Phase, ...]:
    """What a GPU holds in training, in rollouts, and while weights go from one to the other."""
    reserve = Part(name="reserve", bytes=math.floor(assumptions.reserve * (device.memory or 0)))
    process = [Part(name="Python and torch", bytes=_PROCESS)] if not device.is_gpu else []
    rest = [part for part in (reserve, *process) if part.bytes]
    if layout.engine == "embedded":
        found = _embedded(spec, shape, layout, device)
    else:
        found = _verl(spec.verl or Verl(), shape, layout, device, assumptions, context(spec, shape))
    return tuple(Phase(name=name, parts=(*_parts(parts), *rest)) for name, parts in found.items())


def _parts(sizes: dict[str, float]) -> list[Part]:
    return [Part(name=name, bytes=math.ceil(size)) for name, size in sizes.items() if size > 0]


def _embedded(spec: TrainingRunSpec, shape: ModelShape, layout: Layout, device: Device) -> dict[str, dict[str, float]]:
    """One device holds all; a CPU samples from the very weights that it trains, a GPU from a copy in bfloat16."""
    state: dict[str, float] = {
        "weights": _WEIGHTS * shape.parameters,
        "gradients": _GRADIENTS * shape.parameters,
        "Adam moments": _MOMENTS * shape.parameters,
        "weights to sample from": 2 * shape.parameters if device.is_gpu else 0,
    }
    size, tokens = device.value_bytes, layout.micro_batch
    row = context(spec, shape) * shape.kv_bytes(size)
    return {
        "training": state
        | {"activations": size * tokens * shape.layers * layer_values(shape)}
        | {"logits": size * tokens * shape.vocabulary * _LOGITS},
        "rollouts": state | {"KV cache": max(row, min(ROW_MEMORY, ROWS * row)), "kept prefixes": ROW_MEMORY},
    }


def _verl(
    verl: Verl, shape: ModelShape, layout: Layout, device: Device, assumptions: Assumptions, longest: int
) -> dict[str, dict[str, float]]:
    """FSDP2 shards weights, gradients and moments over the training GPUs; vLLM has its share of a rollout GPU."""
    sharded = shape.parameters / layout.training
    size, tokens = device.value_bytes, layout.micro_batch
    weights, moments = _WEIGHTS * sharded, _MOMENTS * sharded
    gathered = size * (2 * shape.layer + shape.embeddings) + _GRADIENTS * max(shape.layer, shape.embedding)
    if layout.training == 1:
        gathered = size * shape.parameters  # nothing is sharded; all is cast
    training: dict[str, float] = {
        "weights": weights,
        "gradients": _GRADIENTS * sharded,
        "Adam moments": moments,
        "gathered layers": gathered,
        "checkpointed activations": size * tokens * shape.layers * shape.hidden,
        "one layer's activations": 1.5 * size * tokens * layer_values(shape),  # with their gradients
        "logits": size * tokens * shape.vocabulary * _LOGITS,
    }
    share: dict[str, float] = {"vLLM's share (gpuMemory)": math.floor(verl.gpu_memory * (device.memory or 0))}
    if not device.is_gpu:
        share = {"vLLM's weights": size * shape.parameters, "KV cache": longest * shape.kv_bytes(size)}
    if not layout.colocated:
        return {"training": training, "rollouts": share}
    stays: dict[str, float] = {} if verl.offload else {"weights": weights, "Adam moments": moments}
    copy = {"vLLM's weights": size * shape.parameters / layout.tensor_parallel, "weights on their way": _BUCKETS}
    if not device.is_gpu:
        copy["weights on their way"] = min(_BUCKETS, size * shape.parameters)
    sync = {"weights": weights, "Adam moments": stays.get("Adam moments", 0)} | copy
    return {"training": training, "rollouts": stays | share, "weight sync": sync}


def layer_values(shape: ModelShape) -> int:
    """Values of a token that a layer's backward pass wants: inputs, norms, projections, attention, MLP."""
    return 8 * shape.hidden + 4 * shape.query_size + 4 * shape.kv_size + 4 * shape.intermediate


def host_bytes(spec: TrainingRunSpec, shape: ModelShape, layout: Layout) -> int:
    """Host memory that a node's trainer needs for the model: what is offloaded, and the weights while they load."""
    if layout.engine == "embedded":
        return _WEIGHTS * shape.parameters
    offloaded = 0.0
    if (spec.verl or Verl()).offload:
        offloaded = (_WEIGHTS + _MOMENTS) * shape.parameters / layout.training * min(layout.training, _per_node(layout))
    return math.ceil(max(offloaded, _WEIGHTS * shape.parameters))


def _per_node(layout: Layout) -> int:
    return layout.ranks // layout.nodes


def kv_tokens(
    spec: TrainingRunSpec, shape: ModelShape, layout: Layout, device: Device, assumptions: Assumptions
) -> int:
    """Tokens whose keys and values one copy of the model can hold while it generates."""
    if layout.engine == "embedded":
        return max(ROW_MEMORY // shape.kv_bytes(device.value_bytes), context(spec, shape))
    if device.memory is None or not device.is_gpu:
        return ROWS * context(spec, shape)
    share = (spec.verl or Verl()).gpu_memory * device.memory - assumptions.vllm_workspace
    free = share - 2 * shape.parameters / layout.tensor_parallel
    held = max(1.0, layout.tensor_parallel / shape.kv_heads) / layout.tensor_parallel  # heads are copied when too few
    return max(0, math.floor(free / (shape.kv_bytes() * held)))


def snapshot_bytes(shape: ModelShape, layout: Layout, device: Device) -> int:
    """Of a weight-only snapshot: bfloat16, or float32 from the embedded engine on a CPU."""
    return (4 if layout.engine == "embedded" and not device.is_gpu else 2) * shape.parameters


def state_bytes(shape: ModelShape) -> int:
    """Of the state that a resume needs: master weights and Adam's moments."""
    return (_WEIGHTS + _MOMENTS) * shape.parameters
