"""How a run divides its devices: who trains, who rolls out, and what one of them holds at a time."""

from pydantic import Field

from astra_api.records import Record
from astra_api.training_run import Rl, TrainingRunSpec, Verl
from astra_trainer.planning.gpus import Device
from astra_trainer.planning.shapes import ModelShape

# As the embedded engine and its sampler are set.
_LOGITS_PER_MICRO_BATCH = 1 << 25
_TOKENS_PER_MICRO_BATCH = {False: 4096, True: 1 << 15}  # by: is a GPU
ROWS, ROW_MEMORY = 64, 1 << 29


class Layout(Record):
    """Ranks are GPUs; without any, one a pod."""

    engine: str
    nodes: int
    ranks: int = Field(ge=1)
    """Of all nodes, idle ones too."""
    training: int = Field(ge=1)
    """Ranks that share the weights in training."""
    rollout: int = Field(ge=1)
    """Ranks that generate."""
    colocated: bool
    """Whether the same ranks do both, in turns."""
    tensor_parallel: int = 1
    """Ranks that hold one copy of the model while they generate."""
    sequence_parallel: int = 1
    """Ranks that share a sequence in training."""
    micro_batch: int
    """Tokens that a rank trains on at once, at most."""
    sequence: int
    """Tokens of the longest sequence that the run allows."""

    @property
    def replicas(self) -> int:
        """Copies of the model that generate."""
        return max(1, self.rollout // self.tensor_parallel)


def longest_sequence(spec: TrainingRunSpec) -> int:
    """Tokens of the longest sequence that is trained on."""
    rollout = spec.rl.max_prompt_tokens + spec.rl.max_response_tokens if spec.rl is not None else 0
    return max(rollout, spec.sft.max_length if spec.sft is not None else 0)


def context(spec: TrainingRunSpec, shape: ModelShape) -> int:
    """Tokens of the longest rollout: the model's positions end it. Without `rl`, evaluations take its defaults."""
    rl = spec.rl or Rl()
    return min(rl.max_prompt_tokens + rl.max_response_tokens, shape.positions)


def layout_of(spec: TrainingRunSpec, shape: ModelShape, device: Device) -> Layout:
    """The division that the manifest asks for."""
    longest = longest_sequence(spec)
    if spec.engine == "embedded":
        budget = min(_TOKENS_PER_MICRO_BATCH[device.is_gpu], _LOGITS_PER_MICRO_BATCH // shape.vocabulary)
        ranks = max(spec.trainer.gpus_per_node, 1)
        return Layout(
            engine="embedded", nodes=1, ranks=ranks, training=1, rollout=1, colocated=True,
            micro_batch=max(longest, budget), sequence=longest,
        )  # fmt: skip
    verl = spec.verl or Verl()
    trainer = spec.trainer
    return Layout(
        engine="verl", nodes=trainer.nodes, ranks=trainer.nodes * max(trainer.gpus_per_node, 1),
        training=verl.training_gpus(trainer) or trainer.nodes, rollout=verl.generating_gpus(trainer) or trainer.nodes,
        colocated=verl.rollout == "colocated", tensor_parallel=verl.tensor_parallel,
        sequence_parallel=verl.sequence_parallel,
        micro_batch=verl.tokens_per_gpu, sequence=longest,
    )  # fmt: skip
