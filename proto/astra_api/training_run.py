"""TrainingRun: SFT, then RL, then evaluation. One file for a laptop and for a cluster."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from astra_api.pod_costs import Containment, containment_of
from astra_api.pod_template import PodTemplate, ResourceName
from astra_api.resource import (
    API_VERSION,
    Conditions,
    Fraction,
    Integer,
    ObjectMeta,
    Positive,
    PositiveQuantity,
    Resource,
    ResourceRequirements,
    Selector,
    Text,
)
from astra_api.rewards import RewardKind

Benchmark = Literal["holdout", "bfcl-multi-turn"]
_HOLDOUT: Benchmark = "holdout"
Count = Annotated[Integer, Field(ge=1)]
FREE = ("suspend", "sandboxes", "trainer", "checkpoint", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""What may change of a run that has begun: how it is run, not what it learns. Fields of spec."""


class GgufModel(Resource):
    """Weights in a GGUF file: in an installed Python package, or at a path."""

    package: Text | None = None
    """An installed Python package that holds one."""
    path: Text | None = None
    """A file."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.package is None) == (self.path is None):
            raise ValueError("give exactly one of package and path")
        return self


class Model(Resource):
    """Where the policy starts: a hub name, a local folder, a GGUF, or a preset trained from scratch."""

    name: Text | None = None
    """On a model hub, such as Qwen/Qwen3-14B."""
    path: Text | None = None
    """A Hugging Face model folder."""
    gguf: GgufModel | None = None
    """A GGUF file."""
    preset: Literal["tiny"] | None = None
    """A small model with random weights."""
    context: Count | None = None
    """Tokens of a sequence, with name or path. Beyond the model's own positions they are stretched (YaRN)."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(field is not None for field in (self.name, self.path, self.gguf, self.preset)) != 1:
            raise ValueError("give exactly one of name, path, gguf and preset")
        if self.context is not None and self.name is None and self.path is None:
            raise ValueError("context: belongs to name or path")
        return self


class Holdout(Resource):
    """What is never trained on: a fraction of the toolsets (whole: their entities and tables too), or a selector."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of the toolsets."""
    by: Literal["toolset"] = "toolset"
    """What is kept whole."""
    selector: Selector | None = None
    """The Environments to hold out."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.fraction is None) == (self.selector is None):
            raise ValueError("give exactly one of fraction and selector")
        return self


class RunEnvironments(Resource):
    """What the run trains in and is measured on."""

    selector: Selector = Field(default_factory=Selector)
    """Which verified Environments of the run's namespace; all unless given."""
    holdout: Holdout = Field(default_factory=lambda: Holdout(fraction=0.1))
    """What is never trained on."""

    @property
    def selectors(self) -> list[Selector]:
        """Of all that a run needs: an environment counts if any of these selects it."""
        held_out = self.holdout.selector
        return [self.selector, *([held_out] if held_out is not None else [])]


class Bands(Resource):
    """Cut-offs on the min-max normalised similarity: low below `medium`, high above `high`."""

    medium: Fraction = 0.4
    """Where the middle band begins."""
    high: Fraction = 0.85
    """Where it ends."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.medium >= self.high:
            raise ValueError(f"medium {self.medium} must be less than high {self.high}")
        return self


class IrrelevantTools(Resource):
    """Tools of other domains mixed into each prompt, up to `perBand` from each band of similarity."""

    per_band: Annotated[Integer, Field(ge=0, le=32)] = 3
    """Tools from each band of similarity, at most."""
    bands: Bands = Field(default_factory=Bands)
    """Cut-offs between low, middle and high similarity."""


class GoldDataset(Resource):
    """Demonstrations made by executing gold steps in the sandbox."""

    type: Literal["gold"]
    limit: Count | None = None
    """Environments that are demonstrated at most, a spread sample of those trained on; all by default."""
    samples: Count = 1
    """Demonstrations of each; they differ in irrelevant tools, their order, recoveries and detours."""
    recoveries: Fraction = 0.2
    """Share of demonstrations with an injected error that the expert recovers from."""
    detours: Fraction = 0.0
    """Share of gold calls that the expert makes once more, needlessly; that is learned as any other call."""


class FilesDataset(Resource):
    """Demonstrations from JSON-lines files of {messages, tools}."""

    type: Literal["files"]
    path: Text
    """A JSON-lines file, or a folder of them."""


class Sft(Resource):
    """Supervised fine-tuning, loss on assistant tokens only. Defaults are the paper's for 14B."""

    dataset: Annotated[GoldDataset | FilesDataset, Field(discriminator="type")]
    """Where demonstrations come from."""
    epochs: Count = 2
    """Passes over the demonstrations."""
    learning_rate: Positive = 5e-6
    """Of AdamW."""
    batch_size: Count = 32
    """Demonstrations a step."""
    max_length: Count = 20000
    """Tokens of a demonstration, at most."""


class BatchFilling(Resource):
    """Keep a group only when the population std of its rewards exceeds `minStd`; give up after `maxRounds`."""

    min_std: Annotated[float, Field(ge=0.0)] = 1e-6
    """The standard deviation that a group's rewards must exceed."""
    max_rounds: Count = 8
    """Rounds of rollouts before a step goes on with what it has."""


class Rl(Resource):
    """Online multi-turn GRPO: no KL, no entropy bonus, token-level loss, on-policy."""

    algorithm: Literal["grpo"] = "grpo"
    """Group relative policy optimisation."""
    steps: Count = 140
    """Updates of the policy."""
    group_size: Annotated[Integer, Field(ge=2)] = 8
    """Rollouts of one environment that are compared with each other."""
    batch_size: Count = 256
    """Rollouts a step; a multiple of groupSize."""
    learning_rate: Positive = 2e-6
    """Of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on after its warm-up; `cosine` ends near zero."""
    warmup: Fraction = 0.0
    """Share of the steps over which the learning rate rises."""
    clip_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """How far a token's probability ratio may move."""
    temperature: Positive = 1.0
    """Of sampling."""
    max_turns: Count = 32
    """Assistant turns of a rollout, at most."""
    max_prompt_tokens: Count = 25600
    """Tokens of a prompt with its tools, at most."""
    max_response_tokens: Count = 49152
    """Tokens after the prompt, at most: the model's and the tools'."""
    reward: RewardKind = "f1"
    """Of a rollout: F1 of recall (steps solved) and precision (calls that solved one), or one of them."""
    irrelevant_tools: IrrelevantTools = Field(default_factory=IrrelevantTools)
    """Tools of other domains in the prompt."""
    batch_filling: BatchFilling = Field(default_factory=BatchFilling)
    """Which groups are worth an update."""

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.group_size:
            raise ValueError(f"batchSize {self.batch_size} must be a multiple of groupSize {self.group_size}")
        return self


class Sandboxes(Resource):
    """The pool that rollouts use. Locally: how many servers are started, and the weakest containment accepted."""

    replicas: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """How many sandbox pods serve the run."""
    runtime_class_name: Annotated[str, Field(max_length=253)] = "gvisor"
    """RuntimeClass of the pods; empty takes the cluster's default runtime."""
    sessions_per_pod: Annotated[Integer, Field(ge=1, le=4096)] = 64
    """How many sessions a pod holds at once."""
    minimum_isolation: Containment = "process"
    """The weakest containment that the run accepts, as a sandbox reports it."""
    require_network_isolation: bool = True
    """Whether the run waits until egress from a sandbox pod was seen to be refused."""
    resources: ResourceRequirements = Field(default_factory=lambda: ResourceRequirements())
    """Of a sandbox pod; what its sessions want unless given."""
    pod_template: PodTemplate | None = None
    """What is added to the sandbox pods, over the farm's defaults."""

    @property
    def expected_containment(self) -> Containment:
        """By the RuntimeClass; a sandbox says what it has once it runs."""
        found = containment_of(self.runtime_class_name)
        return self.minimum_isolation if found == "process" else found


class Trainer(Resource):
    """The trainer's pods."""

    nodes: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """How many nodes train: one is a Job, more are a RayJob."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 0
    """How many GPUs each node gives, of the kind that `accelerator` names."""
    accelerator: ResourceName = "nvidia.com/gpu"
    """The resource name of the GPUs, such as nvidia.com/gpu, amd.com/gpu or nvidia.com/mig-3g.40gb."""
    infiniband: bool = False
    """Whether the pods may lock memory (IPC_LOCK), as InfiniBand and RoCE need; `resources` asks for the devices."""
    model_cache_claim: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """A PersistentVolumeClaim that keeps downloaded models for many runs; the run's own volume keeps them otherwise."""
    image: Text | None = None
    """The operator's default unless given."""
    resources: ResourceRequirements = Field(default_factory=lambda: ResourceRequirements())
    """Of each trainer pod."""
    retries: Annotated[Integer, Field(ge=0, le=100)] = 3
    """How often a failed trainer is started again, from its checkpoint. More let a failed run go on."""
    pod_template: PodTemplate | None = None
    """What is added to the trainer's pods, over the farm's defaults."""


class Verl(Resource):
    """How engine verl divides its GPUs between training and rollouts."""

    rollout: Literal["colocated", "separate"] = "colocated"
    """Whether rollouts and training take turns on the same GPUs, or rollouts have `rolloutGpus` of their own."""
    rollout_gpus: Count | None = None
    """With separate: GPUs for rollouts, of all that the trainer has; a part of one node, or whole nodes."""
    max_staleness: Annotated[Integer, Field(ge=0, le=64)] = 0
    """Updates that a rollout may lag behind; 0 is synchronous, and separate needs at least 1."""
    tensor_parallel: Count = 1
    """GPUs that serve one copy of the model in rollouts."""
    sequence_parallel: Count = 1
    """GPUs that share a sequence in training (Ulysses)."""
    tokens_per_gpu: Count = 16384
    """Tokens that a GPU trains on at once; a sequence must fit tokensPerGpu x sequenceParallel."""
    packing: bool = True
    """Whether sequences are packed without padding."""
    gpu_memory: Fraction = 0.6
    """Share of a GPU's memory that vLLM takes while it generates."""
    offload: bool = False
    """Whether weights and optimizer wait in host memory while others use the GPU."""
    agent_workers: Count = 8
    """Processes that drive rollouts."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.rollout == "separate" and self.max_staleness == 0:
            raise ValueError("rollout: separate runs beside training; give maxStaleness of at least 1")
        if (self.rollout == "separate") != (self.rollout_gpus is not None):
            raise ValueError("rolloutGpus is required by rollout: separate, and belongs to it")
        return self

    def training_gpus(self, trainer: Trainer) -> int:
        """GPUs that train: all of the trainer's, less those that only generate."""
        return trainer.nodes * trainer.gpus_per_node - (self.rollout_gpus or 0)

    def generating_gpus(self, trainer: Trainer) -> int:
        """GPUs that generate rollouts, in turns with training or on their own."""
        return self.rollout_gpus or trainer.nodes * trainer.gpus_per_node


class ObjectStore(Resource):
    """Object storage to which each snapshot is copied beside training, file by file, checked by its digest."""

    url: Annotated[str, Field(pattern=r"^(s3|gs|file)://.+", max_length=4096)]
    """Where snapshots go, such as s3://bucket/folder, gs://bucket/folder or file:///mnt/folder."""
    secret: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The Secret with the credentials: its keys become environment variables, such as AWS_ACCESS_KEY_ID."""


class Checkpoint(Resource):
    """Weight-only snapshots, and the state that a resume needs: separate artifacts, separate retention."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """A PersistentVolumeClaim in the run's namespace. Without it and without size, checkpoints end with the pod."""
    size: PositiveQuantity | None = None
    """The size of a claim that is made for the run; it outlives the run unless `retain` is false."""
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    """The StorageClass of the claim that is made; the cluster's default unless given."""
    retain: bool = True
    """Whether the claim that is made stays when the run is deleted."""
    object_store: ObjectStore | None = None
    """Where snapshots are copied to, besides the volume."""
    snapshot_every: Count = 10
    """Steps between snapshots; the last step of a stage always gives one."""
    state_every: Count = 1
    """Steps between states. More lose more work when a run is killed; a state of a large model takes minutes."""
    keep_states: Count = 2
    """States that a resume can start from."""


class Evaluation(Resource):
    """What is measured before training and after each stage."""

    benchmarks: Annotated[list[Benchmark], Field(max_length=16)] = Field(default_factory=lambda: [_HOLDOUT])
    """On what."""
    samples: Count = 1
    """Rollouts an environment."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.6
    """Of sampling, as the published function-calling protocols sample."""


class TrainingRunSpec(Resource):
    """What is trained, in what, and how. Once it exists: suspend, sandboxes, trainer and checkpoint may change."""

    seed: Annotated[Integer, Field(ge=0)] = 0
    """Of everything random."""
    model: Model
    """Where the policy starts."""
    engine: Literal["embedded", "verl"] = "embedded"
    """embedded trains in one process; verl takes Ray and vLLM, and many GPUs."""
    environments: RunEnvironments = Field(default_factory=RunEnvironments)
    """What it trains in."""
    sft: Sft | None = None
    """Supervised fine-tuning first, if given."""
    rl: Rl | None = None
    """Reinforcement learning then, if given."""
    sandboxes: Sandboxes = Field(default_factory=Sandboxes)
    """The pods that execute tools."""
    trainer: Trainer = Field(default_factory=Trainer)
    """The pods that train."""
    verl: Verl | None = None
    """Engine verl only: how it divides its GPUs."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """Where the model goes."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """What is measured."""
    suspend: bool = False
    """Whether the run pauses: its pods end, its checkpoint stays, and it goes on from there. A failed run resumes too."""
    active_deadline_seconds: Count | None = None
    """How many seconds the trainer may take from its start, suspended time aside; then the run fails."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0)] | None = None
    """How many seconds after its end the run is deleted, with all but a retained claim; never unless given."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.engine == "embedded" and self.trainer.nodes != 1:
            raise ValueError(f"engine: embedded needs trainer.nodes: 1, not {self.trainer.nodes}; use engine: verl")
        if self.sft is None and self.rl is None:
            raise ValueError("nothing to train: give sft, rl or both")
        if self.verl is not None:
            if self.engine != "verl":
                raise ValueError(f"verl: belongs to engine: verl, not {self.engine}; remove it, or change engine")
            _check_division(self.verl, self.trainer)
        return self


def _check_division(verl: Verl, trainer: Trainer) -> None:
    """Raises ValueError, naming the field, when the trainer's GPUs cannot be divided so."""
    training, generating = verl.training_gpus(trainer), verl.generating_gpus(trainer)
    if verl.rollout_gpus is not None:
        if training < 1:
            raise ValueError(f"verl.rolloutGpus: {verl.rollout_gpus} GPUs leave none to train")
        if trainer.nodes > 1 and verl.rollout_gpus % trainer.gpus_per_node:
            raise ValueError(f"verl.rolloutGpus: must be whole nodes of {trainer.gpus_per_node} GPUs")
    if generating % verl.tensor_parallel:
        raise ValueError(f"verl.tensorParallel: {verl.tensor_parallel} does not divide {generating} rollout GPUs")
    if training % verl.sequence_parallel:
        raise ValueError(f"verl.sequenceParallel: {verl.sequence_parallel} does not divide {training} training GPUs")


class SandboxCounts(Resource):
    """The sandbox pods of the run."""

    ready: Integer = 0
    """Serving."""
    wanted: Integer = 0
    """Asked for."""
    lost: Integer = 0
    """Lost so far, and replaced."""


class TrainingRunStatus(Resource):
    """How far it is."""

    observed_generation: Integer | None = None
    """The generation of the spec that this status was found of."""
    begun: Annotated[str, Field(max_length=128)] | None = None
    """Digest of what the run began with, as its ConfigMap holds it."""
    phase: Literal["Pending", "Provisioning", "Training", "Evaluating", "Suspended", "Succeeded", "Failed"] = "Pending"
    """Where it stands."""
    stage: Literal["base", "sft", "rl"] | None = None
    """Which stage runs."""
    step: Integer | None = None
    """The last finished step of the stage."""
    total_steps: Integer | None = None
    """Steps of the stage."""
    reward: float | None = None
    """Mean reward of the last step."""
    success: float | None = None
    """Share of held-out questions that the last evaluation saw answered rightly with every step solved."""
    eta: Annotated[str, Field(max_length=64)] | None = None
    """When the stage should end (RFC 3339)."""
    last_checkpoint: Annotated[str, Field(max_length=4096)] | None = None
    """Path of the newest snapshot on the claim."""
    sandboxes: SandboxCounts | None = None
    """Its sandbox pods."""
    conditions: Conditions = Field(default_factory=list)
    """Ready, Accepted, Provisioned, EnvironmentsReady, SandboxesReady, NetworkIsolated, Suspended, Complete, Failed."""


class TrainingRun(Resource):
    """The custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["TrainingRun"] = "TrainingRun"
    metadata: ObjectMeta
    spec: TrainingRunSpec
    status: TrainingRunStatus | None = None
