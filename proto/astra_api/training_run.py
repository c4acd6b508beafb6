"""A TrainingRun trains a model by SFT, then by RL, and evaluates it. The same file serves a laptop and a cluster."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from astra_api.pod_costs import Containment, containment_of
from astra_api.pod_template import PodTemplate, ResourceName
from astra_api.resource import (
    API_VERSION,
    BoundedResources,
    Conditions,
    Fraction,
    Integer,
    ObjectMeta,
    Positive,
    PositiveQuantity,
    Resource,
    ResourceRequirements,
    Seconds,
    Selector,
    Text,
    variants,
)
from astra_api.rewards import RewardKind

Benchmark = Literal["holdout", "bfcl-multi-turn"]
_HOLDOUT: Benchmark = "holdout"
Count = Annotated[Integer, Field(ge=1)]
FREE = ("suspend", "sandboxes", "trainer", "checkpoint", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""What may change of a run that has begun: how it is run, not what it learns. Fields of spec."""


class GgufModel(Resource):
    """A GGUF model is a file of weights, in an installed Python package or at a path."""

    package: Text | None = None
    """Name of an installed Python package that holds the file."""
    path: Text | None = None
    """Path at which the file lies."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.package is None) == (self.path is None):
            raise ValueError("give exactly one of package and path")
        return self


class Model(Resource):
    """A model is the policy that training starts from: exactly one of name, path, gguf and preset gives it."""

    name: Text | None = None
    """Name that the model has on a hub, such as Qwen/Qwen3-14B."""
    path: Text | None = None
    """Path of a folder that holds the model as Hugging Face lays it out."""
    gguf: GgufModel | None = None
    """GGUF file that holds the model."""
    preset: Literal["tiny"] | None = None
    """Preset that gives a small model with random weights, to be trained from scratch."""
    context: Count | None = None
    """Number of tokens that a sequence may have; it belongs to name or path. Beyond the model's own positions they are
    stretched (YaRN). The model's own number counts if it is not given."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(field is not None for field in (self.name, self.path, self.gguf, self.preset)) != 1:
            raise ValueError("give exactly one of name, path, gguf and preset")
        if self.context is not None and self.name is None and self.path is None:
            raise ValueError("context: belongs to name or path")
        return self


class Holdout(Resource):
    """A holdout keeps Environments from training: a fraction of the toolsets, or those that a selector picks."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Fraction of the toolsets that is held out, with all their entities and tables."""
    by: Literal["toolset"] = "toolset"
    """Unit that is held out whole, so that nothing of it is trained on."""
    selector: Selector | None = None
    """Selector that picks the Environments to hold out."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.fraction is None) == (self.selector is None):
            raise ValueError("give exactly one of fraction and selector")
        return self


class RunEnvironments(Resource):
    """Environments are trained in, or held out to measure the model on."""

    selector: Selector = Field(default_factory=Selector)
    """Selector that picks the verified Environments of the run's namespace to train in. An empty one picks all."""
    holdout: Holdout = Field(default_factory=lambda: Holdout(fraction=0.1))
    """Holdout that is never trained on, so that the model can be measured on it."""

    @property
    def selectors(self) -> list[Selector]:
        """Of all that a run needs: an environment counts if any of these selects it."""
        held_out = self.holdout.selector
        return [self.selector, *([held_out] if held_out is not None else [])]


class Bands(Resource):
    """Bands divide tools by their min-max normalised similarity to those of the prompt."""

    medium: Fraction = 0.4
    """Similarity at which the low band ends and the middle one begins."""
    high: Fraction = 0.85
    """Similarity at which the middle band ends and the high one begins; it must exceed medium."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.medium >= self.high:
            raise ValueError(f"medium {self.medium} must be less than high {self.high}")
        return self


class IrrelevantTools(Resource):
    """Irrelevant tools come from other domains and are mixed into each prompt."""

    per_band: Annotated[Integer, Field(ge=0, le=32)] = 3
    """Number of tools that each band of similarity gives, at most."""
    bands: Bands = Field(default_factory=Bands)
    """Bands that tell low, middle and high similarity apart."""


class GoldDataset(Resource):
    """A gold dataset is made by executing the gold calls of Environments in the sandbox."""

    type: Literal["gold"]
    """Type of the dataset: gold executes the gold calls of Environments, files reads demonstrations from files."""
    limit: Count | None = None
    """Number of Environments that are demonstrated, at most: a spread sample of those trained on. All are if it is not
    given."""
    samples: Count = 1
    """Number of demonstrations that each Environment gets. They differ in irrelevant tools, their order, recoveries and
    detours."""
    recoveries: Fraction = 0.2
    """Share of demonstrations in which an error is injected that the expert recovers from."""
    detours: Fraction = 0.0
    """Share of gold calls that the expert needlessly makes once more, which is learned as any other call."""


class FilesDataset(Resource):
    """A dataset of files holds demonstrations as JSON lines of {messages, tools}."""

    type: Literal["files"]
    """Type of the dataset: files reads demonstrations from files."""
    path: Text
    """Path of a JSON-lines file, or of a folder that holds such files."""


class Sft(Resource):
    """Supervised fine-tuning learns from demonstrations, with a loss on the assistant's tokens alone. Defaults suit 14B
    parameters."""

    dataset: Annotated[GoldDataset | FilesDataset, Field(discriminator="type"), variants(GoldDataset, FilesDataset)]
    """Dataset that the demonstrations come from."""
    epochs: Count = 2
    """Number of passes that are made over the demonstrations."""
    learning_rate: Positive = 5e-6
    """Learning rate that AdamW is given."""
    batch_size: Count = 32
    """Number of demonstrations that a step learns from."""
    max_length: Count = 20000
    """Number of tokens that a demonstration may have."""


class BatchFilling(Resource):
    """Batch filling keeps the groups whose rewards differ, and makes more rollouts until a batch of them is full."""

    min_std: Annotated[float, Field(ge=0.0)] = 1e-6
    """Standard deviation that the rewards of a group must exceed for it to be kept."""
    max_rounds: Count = 8
    """Number of rounds of rollouts after which a step goes on with the groups that it has."""


class Rl(Resource):
    """Reinforcement learning is online multi-turn GRPO with a token-level loss, and neither KL term nor entropy
    bonus."""

    algorithm: Literal["grpo"] = "grpo"
    """Algorithm that updates the policy: grpo is group relative policy optimisation."""
    steps: Count = 140
    """Number of updates that the policy gets."""
    group_size: Annotated[Integer, Field(ge=2)] = 8
    """Number of rollouts of one Environment that are compared with each other."""
    batch_size: Count = 256
    """Number of rollouts that a step learns from; it must be a multiple of groupSize."""
    learning_rate: Positive = 2e-6
    """Learning rate that AdamW is given."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule that the learning rate follows after its warm-up: constant keeps it, cosine lets it fall to near
    zero."""
    warmup: Fraction = 0.0
    """Share of the steps over which the learning rate rises to its full value."""
    clip_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Distance from 1 that the probability ratio of a token may move before it is clipped."""
    temperature: Positive = 1.0
    """Temperature that rollouts are sampled with."""
    max_turns: Count = 32
    """Number of turns that the assistant may take in a rollout."""
    max_prompt_tokens: Count = 25600
    """Number of tokens that a prompt may have, its tools included."""
    max_response_tokens: Count = 49152
    """Number of tokens that may follow the prompt, both the model's and the tools'."""
    reward: RewardKind = "f1"
    """Reward that a rollout gets: recall is the share of steps solved, precision the share of calls that solved one,
    and f1 combines both."""
    irrelevant_tools: IrrelevantTools = Field(default_factory=IrrelevantTools)
    """Irrelevant tools that are mixed into the prompt."""
    batch_filling: BatchFilling = Field(default_factory=BatchFilling)
    """Batch filling that decides which groups the policy learns from."""

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.group_size:
            raise ValueError(f"batchSize {self.batch_size} must be a multiple of groupSize {self.group_size}")
        return self


class Sandboxes(Resource):
    """Sandboxes are the pool that rollouts execute tools in. On one machine each of them is a server process."""

    replicas: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Number of sandbox pods that serve the run."""
    runtime_class_name: Annotated[str, Field(max_length=253)] = "gvisor"
    """Name of the RuntimeClass that the sandbox pods run with. An empty one takes the cluster's default runtime."""
    sessions_per_pod: Annotated[Integer, Field(ge=1, le=4096)] = 64
    """Number of sessions that a sandbox pod may hold at once."""
    minimum_isolation: Containment = "process"
    """Weakest containment that the run accepts, as a sandbox reports it."""
    require_network_isolation: bool = True
    """Makes the run wait until egress from a sandbox pod was seen to be refused."""
    resources: BoundedResources = Field(default_factory=lambda: ResourceRequirements())
    """Resources that each sandbox pod gets. They follow from sessionsPerPod if they are not given."""
    pod_template: PodTemplate | None = None
    """Template that adds to the sandbox pods, over the farm's defaults. It may not set runtimeClassName."""

    @model_validator(mode="after")
    def _one_runtime_class(self) -> Self:
        if self.pod_template is not None and self.pod_template.spec.runtime_class_name is not None:
            raise ValueError(
                "podTemplate.spec.runtimeClassName is refused on sandboxes; set sandboxes.runtimeClassName instead"
            )
        return self

    @property
    def expected_containment(self) -> Containment:
        """By the RuntimeClass; a sandbox says what it has once it runs."""
        found = containment_of(self.runtime_class_name)
        return self.minimum_isolation if found == "process" else found


class Trainer(Resource):
    """A trainer setting describes the pods that train."""

    nodes: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """Number of nodes that train. One is a Job, more are a RayJob."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 0
    """Number of GPUs that each node gives, of the kind that accelerator names."""
    accelerator: ResourceName = "nvidia.com/gpu"
    """Resource name that the GPUs have, such as nvidia.com/gpu, amd.com/gpu or nvidia.com/mig-3g.40gb."""
    infiniband: bool = False
    """Lets the pods lock memory (IPC_LOCK), which InfiniBand and RoCE need. The devices themselves are asked for in
    resources."""
    model_cache_claim: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of a PersistentVolumeClaim that keeps downloaded models for many runs. The run's own volume keeps them if it
    is not given."""
    image: Text | None = None
    """Image that the pods run. The farm's default for the engine and its GPUs is run if it is not given."""
    resources: BoundedResources = Field(default_factory=lambda: ResourceRequirements())
    """Resources that each trainer pod gets, besides its GPUs. They follow from the GPUs if they are not given."""
    retries: Annotated[Integer, Field(ge=0, le=100)] = 3
    """Number of times that a failed trainer is started again from its checkpoint. Raising it lets a failed run go
    on."""
    pod_template: PodTemplate | None = None
    """Template that adds to the trainer's pods, over the farm's defaults."""


class Verl(Resource):
    """A verl setting tells how engine verl divides its GPUs between training and rollouts."""

    rollout: Literal["colocated", "separate"] = "colocated"
    """Placement that rollouts get: colocated takes turns with training on the same GPUs, separate gives rollouts GPUs
    of their own."""
    rollout_gpus: Count | None = None
    """Number of the trainer's GPUs that only make rollouts: a part of one node, or whole nodes. It is required by
    rollout: separate, and belongs to it."""
    max_staleness: Annotated[Integer, Field(ge=0, le=64)] = 0
    """Number of updates that a rollout may lag behind. Training is synchronous while it is 0; rollout: separate needs
    at least 1."""
    tensor_parallel: Count = 1
    """Number of GPUs that serve one copy of the model in rollouts; it must divide the GPUs that generate."""
    sequence_parallel: Count = 1
    """Number of GPUs that share a sequence in training (Ulysses); it must divide the GPUs that train."""
    tokens_per_gpu: Count = 16384
    """Number of tokens that a GPU trains on at once. A sequence must fit tokensPerGpu x sequenceParallel."""
    packing: bool = True
    """Packs sequences without padding, which saves computation."""
    gpu_memory: Fraction = 0.6
    """Share of a GPU's memory that vLLM takes while it generates."""
    offload: bool = False
    """Keeps weights and optimizer in host memory while others use the GPU."""
    agent_workers: Count = 8
    """Number of processes that drive rollouts."""

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


_STORE = r"^((s3|gs)://[a-z0-9][-a-z0-9._]{1,220}[a-z0-9](/[^?#\s]*)?|file:///[^?#\s]+)$"


class ObjectStore(Resource):
    """An object store receives a copy of each snapshot beside training, file by file, checked by its digest."""

    url: Annotated[str, Field(pattern=_STORE, max_length=4096)]
    """URL of the folder that snapshots are copied to, such as s3://bucket/folder, gs://bucket/folder or
    file:///mnt/folder. Credentials do not belong in it."""
    secret: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of the Secret that holds the credentials. Its keys become environment variables of the trainer, such as
    AWS_ACCESS_KEY_ID."""


class Checkpoint(Resource):
    """Checkpoints are snapshots, which hold weights alone, and states, which a resume starts from."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of a PersistentVolumeClaim in the run's namespace that keeps the checkpoints. They end with the pod if
    neither it nor size is given."""
    size: PositiveQuantity | None = None
    """Size of a PersistentVolumeClaim that is made for the run, such as 100Gi. None is made where claimName is
    given."""
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Name of the StorageClass that the claim of this size is made with; it belongs to size. The cluster's default is
    taken if it is not given."""
    retain: bool = True
    """Keeps the claim that is made for the run when the run is deleted. The claim is deleted too if false."""
    object_store: ObjectStore | None = None
    """Object store that snapshots are copied to, besides the volume. They are not copied if it is not given."""
    snapshot_every: Count = 10
    """Number of steps that lie between two snapshots. The last step of a stage always gives one."""
    state_every: Count = 1
    """Number of steps that lie between two states. More lose more work when a run is killed; a state of a large model
    takes minutes."""
    keep_states: Count = 2
    """Number of states that are kept for a resume to start from."""

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.storage_class_name is not None and self.size is None:
            raise ValueError("storageClassName belongs to size: give the size of the claim to make")
        return self


class Evaluation(Resource):
    """An evaluation measures the model before training and after each stage."""

    benchmarks: Annotated[list[Benchmark], Field(max_length=16)] = Field(default_factory=lambda: [_HOLDOUT])
    """Benchmarks that the model is measured on: holdout is the Environments that are never trained on."""
    samples: Count = 1
    """Number of rollouts that each Environment gets."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.6
    """Temperature that rollouts of the evaluation are sampled with; 0 is greedy."""


class TrainingRunSpec(Resource):
    """The spec of a TrainingRun tells what is trained, in what, and how."""

    seed: Annotated[Integer, Field(ge=0)] = 0
    """Seed that everything random follows from."""
    model: Model
    """Model that training starts from."""
    engine: Literal["embedded", "verl"] = "embedded"
    """Engine that trains: embedded is one process on one device, verl uses Ray, vLLM and many GPUs."""
    environments: RunEnvironments = Field(default_factory=RunEnvironments)
    """Environments that the run trains in and is measured on."""
    sft: Sft | None = None
    """Supervised fine-tuning that comes first. It is left out if it is not given."""
    rl: Rl | None = None
    """Reinforcement learning that follows. It is left out if it is not given."""
    sandboxes: Sandboxes = Field(default_factory=Sandboxes)
    """Sandboxes that execute the tools. They may change while the run goes on."""
    trainer: Trainer = Field(default_factory=Trainer)
    """Trainer that the run is carried out by. It may change while the run goes on."""
    verl: Verl | None = None
    """Settings that engine: verl needs to divide its GPUs; they belong to it."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """Checkpoints that the run keeps. They may change while the run goes on."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """Evaluation that tells how good the model is."""
    suspend: bool = False
    """Pauses the run while true: its pods end, its checkpoint stays, and it goes on from there once false. A failed run
    resumes in the same way."""
    active_deadline_seconds: Seconds | None = None
    """Seconds that the trainer may take from its start before the run fails. A run that resumes has them anew, as Jobs
    have. There is no limit if they are not given."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=2147483647)] | None = None
    """Seconds that a finished run is kept before it is deleted, with all but a retained claim. It is kept for ever if
    they are not given."""

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
    """Counts tell how many sandbox pods the run has."""

    ready: Integer = 0
    """Number of sandbox pods that serve."""
    wanted: Integer = 0
    """Number of sandbox pods that the run asks for."""
    lost: Integer = 0
    """Number of sandbox pods that were lost and replaced so far."""


class TrainingRunStatus(Resource):
    """The status of a TrainingRun tells how far it is."""

    observed_generation: Integer | None = None
    """Generation of the spec that this status was found for."""
    begun: Annotated[str, Field(max_length=128)] | None = None
    """Digest of the manifest that the run began with, which its ConfigMap holds."""
    phase: Literal["Pending", "Provisioning", "Training", "Evaluating", "Suspended", "Succeeded", "Failed"] = "Pending"
    """Phase that the run is in."""
    stage: Literal["base", "sft", "rl"] | None = None
    """Stage that is under way: base is the evaluation before training."""
    step: Integer | None = None
    """Number of steps that the stage has finished."""
    total_steps: Integer | None = None
    """Number of steps that the stage has in all."""
    reward: float | None = None
    """Mean reward that the rollouts of the last step got."""
    success: float | None = None
    """Share of held-out questions that the last evaluation saw answered rightly with every step solved."""
    eta: Annotated[str, Field(max_length=64)] | None = None
    """Time at which the stage is expected to end (RFC 3339)."""
    last_checkpoint: Annotated[str, Field(max_length=4096)] | None = None
    """Path that the newest snapshot has on the claim."""
    sandboxes: SandboxCounts | None = None
    """Counts that tell how many sandbox pods the run has."""
    conditions: Conditions = Field(default_factory=list)
    """Conditions that the run is in: Ready, Accepted, Provisioned, EnvironmentsReady, SandboxesReady, NetworkIsolated,
    Suspended, Complete and Failed among others."""


class TrainingRun(Resource):
    """A TrainingRun is a custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["TrainingRun"] = "TrainingRun"
    metadata: ObjectMeta
    spec: TrainingRunSpec
    """Specification of the run: the model, the Environments, and the stages of training. Once the run exists, only
    suspend, sandboxes, trainer, checkpoint, activeDeadlineSeconds and ttlSecondsAfterFinished may change."""
    status: TrainingRunStatus | None = None
    """Status that the run was found in; users do not write it."""
