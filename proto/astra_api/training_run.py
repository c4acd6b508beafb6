"""TrainingRun: SFT, then RL, then evaluation. One file for a laptop and for a cluster."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from astra_api.resource import (
    API_VERSION,
    Condition,
    Fraction,
    Integer,
    ObjectMeta,
    Positive,
    Quantity,
    Resource,
    Selector,
)
from astra_api.rewards import RewardKind

Benchmark = Literal["holdout", "bfcl-multi-turn"]
_HOLDOUT: Benchmark = "holdout"
Count = Annotated[Integer, Field(ge=1)]


class GgufModel(Resource):
    """Weights in a GGUF file: in an installed Python package, or at a path."""

    package: Annotated[str, Field(min_length=1)] | None = None
    path: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.package is None) == (self.path is None):
            raise ValueError("give exactly one of package and path")
        return self


class Model(Resource):
    """Where the policy starts: a hub name, a local folder, a GGUF, or a preset trained from scratch."""

    name: Annotated[str, Field(min_length=1)] | None = None
    path: Annotated[str, Field(min_length=1)] | None = None
    gguf: GgufModel | None = None
    preset: Literal["tiny"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(field is not None for field in (self.name, self.path, self.gguf, self.preset)) != 1:
            raise ValueError("give exactly one of name, path, gguf and preset")
        return self


class Holdout(Resource):
    """What is never trained on: a fraction of the toolsets (whole: their entities and tables too), or a selector."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    by: Literal["toolset"] = "toolset"
    selector: Selector | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.fraction is None) == (self.selector is None):
            raise ValueError("give exactly one of fraction and selector")
        return self


class RunEnvironments(Resource):
    selector: Selector = Field(default_factory=Selector)
    holdout: Holdout = Field(default_factory=lambda: Holdout(fraction=0.1))


class Bands(Resource):
    """Cut-offs on the min-max normalised similarity: low below `medium`, high above `high`."""

    medium: Fraction = 0.4
    high: Fraction = 0.85

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.medium >= self.high:
            raise ValueError(f"medium {self.medium} must be less than high {self.high}")
        return self


class IrrelevantTools(Resource):
    """Tools of other domains mixed into each prompt, up to `perBand` from each band of similarity."""

    per_band: Annotated[Integer, Field(ge=0, le=32)] = 3
    bands: Bands = Field(default_factory=Bands)


class GoldDataset(Resource):
    """Demonstrations made by executing gold steps in the sandbox."""

    type: Literal["gold"]
    limit: Count | None = None  # demonstrations at most, spread over the training environments; all by default
    recoveries: Fraction = 0.2  # share of demonstrations with an injected error that the expert recovers from


class FilesDataset(Resource):
    """Demonstrations from JSON-lines files of {messages, tools}."""

    type: Literal["files"]
    path: Annotated[str, Field(min_length=1)]


class Sft(Resource):
    """Supervised fine-tuning, loss on assistant tokens only. Defaults are the paper's for 14B."""

    dataset: Annotated[GoldDataset | FilesDataset, Field(discriminator="type")]
    epochs: Count = 2
    learning_rate: Positive = 5e-6
    batch_size: Count = 32
    max_length: Count = 20000  # tokens


class BatchFilling(Resource):
    """Keep a group only when the population std of its rewards exceeds `minStd`; give up after `maxRounds`."""

    min_std: Annotated[float, Field(ge=0.0)] = 1e-6
    max_rounds: Count = 8


class Rl(Resource):
    """Online multi-turn GRPO: no KL, no entropy bonus, token-level loss, on-policy."""

    algorithm: Literal["grpo"] = "grpo"
    steps: Count = 140
    group_size: Annotated[Integer, Field(ge=2)] = 8
    batch_size: Count = 256  # rollouts a step; a multiple of groupSize
    learning_rate: Positive = 2e-6
    clip_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    temperature: Positive = 1.0
    max_turns: Count = 32
    max_prompt_tokens: Count = 25600
    max_response_tokens: Count = 49152
    reward: RewardKind = "f1"
    irrelevant_tools: IrrelevantTools = Field(default_factory=IrrelevantTools)
    batch_filling: BatchFilling = Field(default_factory=BatchFilling)

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.group_size:
            raise ValueError(f"batchSize {self.batch_size} must be a multiple of groupSize {self.group_size}")
        return self


class Sandboxes(Resource):
    """The pool that rollouts use. Locally: how many servers are started, and the weakest containment accepted."""

    replicas: Count = 1
    runtime_class_name: str | None = "gvisor"
    sessions_per_pod: Count = 64
    minimum_isolation: Literal["process", "namespaces", "gvisor"] = "process"
    require_network_isolation: bool = True
    resources: dict[str, Any] = Field(default_factory=dict)


class Trainer(Resource):
    """The trainer's pods."""

    nodes: Count = 1
    gpus_per_node: Annotated[Integer, Field(ge=0)] = 0
    image: str | None = None
    resources: dict[str, Any] = Field(default_factory=dict)


class Checkpoint(Resource):
    """Weight-only snapshots, and the state that a resume needs: separate artifacts, separate retention."""

    claim_name: str | None = None
    size: Quantity | None = None
    snapshot_every: Count = 10  # steps; the last step of a stage always gives one
    keep_states: Count = 2


class Evaluation(Resource):
    benchmarks: list[Benchmark] = Field(default_factory=lambda: [_HOLDOUT])
    samples: Count = 1  # rollouts an environment
    temperature: Annotated[float, Field(ge=0.0)] = 0.6  # as the published function-calling protocols sample


class TrainingRunSpec(Resource):
    seed: Annotated[Integer, Field(ge=0)] = 0
    model: Model
    engine: Literal["embedded", "verl"] = "embedded"
    environments: RunEnvironments = Field(default_factory=RunEnvironments)
    sft: Sft | None = None
    rl: Rl | None = None
    sandboxes: Sandboxes = Field(default_factory=Sandboxes)
    trainer: Trainer = Field(default_factory=Trainer)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    suspend: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.engine == "embedded" and self.trainer.nodes != 1:
            raise ValueError(f"engine: embedded needs trainer.nodes: 1, not {self.trainer.nodes}; use engine: verl")
        if self.sft is None and self.rl is None:
            raise ValueError("nothing to train: give sft, rl or both")
        return self


class SandboxCounts(Resource):
    ready: Integer = 0
    wanted: Integer = 0
    lost: Integer = 0


class TrainingRunStatus(Resource):
    phase: Literal["Pending", "Provisioning", "Training", "Evaluating", "Suspended", "Succeeded", "Failed"] = "Pending"
    stage: Literal["base", "sft", "rl"] | None = None
    step: Integer | None = None
    total_steps: Integer | None = None
    reward: float | None = None
    eta: str | None = None
    last_checkpoint: str | None = None
    sandboxes: SandboxCounts | None = None
    conditions: list[Condition] = Field(default_factory=list)


class TrainingRun(Resource):
    """The custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["TrainingRun"] = "TrainingRun"
    metadata: ObjectMeta
    spec: TrainingRunSpec
    status: TrainingRunStatus | None = None
