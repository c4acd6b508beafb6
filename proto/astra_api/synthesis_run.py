"""SynthesisRun: creates Environments (or, once it is built, a trajectory data set)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from astra_api.pod_template import PodTemplate
from astra_api.resource import API_VERSION, Condition, Fraction, Integer, Labels, ObjectMeta, Positive, Resource, Text

HOP_LIMIT = 20  # the longest published chain of sub-questions


class SecretKey(Resource):
    """A key of a Secret. Outside a cluster the environment variable ASTRA_TEACHER_API_KEY stands for it."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """In it."""


class TeacherBudget(Resource):
    """What may be spent on an endpoint, at most; the run stops before it would be exceeded. Absent: no limit."""

    calls: Annotated[Integer, Field(ge=1)] | None = None
    """Answered calls, over all starts of the run."""
    tokens: Annotated[Integer, Field(ge=1)] | None = None
    """Of prompts and completions, over all starts of the run."""
    seconds: Positive | None = None
    """Of one start, on the clock."""


class TokenPrice(Resource):
    """What a million tokens cost, in any currency; for the accounts only."""

    input: Annotated[float, Field(ge=0.0)] = 0.0
    """Of prompts."""
    output: Annotated[float, Field(ge=0.0)] = 0.0
    """Of completions."""


class Teacher(Resource):
    """An OpenAI-compatible endpoint. Sources of type `tables` need none."""

    type: Literal["openai"] = "openai"
    """The protocol: OpenAI chat completions."""
    base_url: Annotated[str, Field(pattern=r"^https?://", max_length=4096)]
    """Such as http://vllm:8000/v1."""
    model: Text
    """As the endpoint calls it."""
    api_key_secret: SecretKey | None = None
    """The endpoint's key; none unless given."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    """Of sampling."""
    max_tokens: Annotated[Integer, Field(ge=1)] = 4096
    """Of one answer."""
    concurrency: Annotated[Integer, Field(ge=1, le=1024)] = 8
    """Calls under way at once."""
    timeout_seconds: Positive = 300.0
    """Of one call."""
    retries: Annotated[Integer, Field(ge=0, le=20)] = 4
    """Of a call that met 429, 5xx, a timeout or a lost connection."""
    budget: TeacherBudget = Field(default_factory=TeacherBudget)
    """What may be spent."""
    price: TokenPrice = Field(default_factory=TokenPrice)
    """Of a million tokens."""


ToolKind = Literal[
    "lookup", "reverse", "members", "count", "aggregate", "summary",
    "extreme", "rank", "top", "next", "filter", "arithmetic", "convert",
]  # fmt: skip


class ToolCount(Resource):
    """How many tools a toolset has."""

    min: Annotated[Integer, Field(ge=1, le=32)] = 3
    """At least."""
    max: Annotated[Integer, Field(ge=1, le=32)] = 7
    """At most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class TableToolsets(Resource):
    """The toolsets that serve tables: each knows its own rows, and serves several environments."""

    tools: ToolCount = Field(default_factory=ToolCount)
    """Tools of one toolset."""
    kinds: Annotated[list[ToolKind], Field(min_length=1, max_length=64)] | None = None
    """What the tools may do; all, unless given."""
    rows: Annotated[Integer, Field(ge=4, le=2000)] = 60
    """Of one toolset, at most."""
    environments: Annotated[Integer, Field(ge=1, le=100)] = 6
    """That share a toolset."""


class TablesSource(Resource):
    """Tables and what they mean: a shipped pack by name, or a YAML by path (relative to the run's file)."""

    type: Literal["tables"]
    """Tables."""
    pack: Text | None = None
    """A shipped pack, by name."""
    path: Text | None = None
    """The YAML of a pack of one's own, relative to the run's file."""
    toolset: TableToolsets = Field(default_factory=TableToolsets)
    """The toolsets that serve the tables."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.pack is None) == (self.path is None):
            raise ValueError("give exactly one of pack and path")
        return self


Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]  # ISO 639-1


class KnowledgeSource(Resource):
    """Knowledge texts, or names of domains, that a teacher turns into questions."""

    type: Literal["knowledge"]
    """Texts or domains."""
    path: Text | None = None
    """A file of texts, or a folder of them, relative to the run's file."""
    domains: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    """Names of domains, in place of texts."""
    languages: Annotated[list[Language], Field(min_length=1, max_length=64)] = Field(default_factory=lambda: ["en"])
    """Of the questions, in turn; ISO 639-1 codes."""
    stateful_share: Fraction = 0.0
    """The share of questions whose tools change state."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.domains is None):
            raise ValueError("give exactly one of path and domains")
        return self


class QuestionsSource(Resource):
    """Given questions that a teacher decomposes."""

    type: Literal["questions"]
    """Questions."""
    path: Text
    """A file of questions, relative to the run's file."""


class HopRange(Resource):
    """How many tool calls a question takes, at least and at most."""

    min: Annotated[Integer, Field(ge=1, le=HOP_LIMIT)] = 1
    """At least."""
    max: Annotated[Integer, Field(ge=1, le=HOP_LIMIT)] = 6
    """At most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class EnvironmentSynthesis(Resource):
    """What environments to make."""

    source: Annotated[TablesSource | KnowledgeSource | QuestionsSource, Field(discriminator="type")]
    """What they are made from."""
    hops: HopRange = Field(default_factory=HopRange)
    """How many tool calls a question takes."""
    quality_threshold: Fraction = 0.9
    """The mean of the four judged dimensions that an instance must reach; tables are checked by query instead."""
    repairs: Annotated[Integer, Field(ge=0, le=10)] = 2
    """Times that a plan, a tool or an answer that cannot be used goes back to the teacher."""
    duplicate_similarity: Fraction = 0.9
    """The cosine of two questions from which on they may be near-duplicates."""
    labels: Labels = Field(default_factory=dict)
    """Put on every Environment."""


class RunVolume(Resource):
    """What a run reads and keeps in a cluster. Elsewhere these are folders, and the volume counts for nothing."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    """A PersistentVolumeClaim in the run's namespace. Paths are relative to it; its folder of the run's name keeps the
    output and the teacher's answers."""


class SynthesisRunSpec(Resource):
    """Item i of a run is a function of (seed, i)."""

    kind: Literal["environments", "trajectories"] = "environments"
    """What to make. Trajectories are not built yet."""
    teacher: Teacher | None = None
    """Who writes questions, plans and tools."""
    judge: Teacher | None = None
    """Who reviews topologies and scores quality; the teacher, unless given."""
    count: Annotated[Integer, Field(ge=1, le=1_000_000)]
    """How many to make."""
    seed: Annotated[Integer, Field(ge=0)] = 0
    """Of all that is random."""
    environments: EnvironmentSynthesis | None = None
    """With kind: environments."""
    volume: RunVolume | None = None
    """In a cluster; a path needs it. Without it, the teacher's answers end with the pod, and a retry pays again."""
    pod_template: PodTemplate | None = None
    """What is added to the pods of the run's Job, over the farm's defaults."""
    active_deadline_seconds: Annotated[Integer, Field(ge=1)] | None = None
    """How many seconds the Job may take from its start; then the run fails."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0)] | None = None
    """How many seconds after its end the run is deleted; the Environments that it made stay. Never unless given."""
    trajectories: dict[str, Any] | None = None
    """With kind: trajectories."""

    @model_validator(mode="after")
    def _built(self) -> Self:
        if self.kind == "trajectories":
            raise ValueError("kind: trajectories is not built yet; use kind: environments")
        if self.environments is None or self.trajectories is not None:
            raise ValueError("kind: environments needs the field environments, and no field trajectories")
        if self.teacher is None and self.environments.source.type != "tables":
            raise ValueError(f"a source of type {self.environments.source.type} needs a teacher")
        return self


class SynthesisRunStatus(Resource):
    """How far the run is."""

    observed_generation: Integer | None = None
    """The generation of the spec that this status was found of."""
    begun: Annotated[str, Field(max_length=128)] | None = None
    """Digest of what the run began with, as its ConfigMap holds it."""
    phase: Literal["Pending", "Running", "Succeeded", "Failed"] = "Pending"
    """Of the run."""
    produced: Integer = 0
    """Verified environments so far."""
    rejected: Integer = 0
    """What was thrown away so far."""
    rejected_by: dict[str, Integer] = Field(default_factory=dict)
    """Rejects by reason."""
    conditions: list[Condition] = Field(default_factory=list)
    """Of the run, a map by type."""


class SynthesisRun(Resource):
    """The custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["SynthesisRun"] = "SynthesisRun"
    metadata: ObjectMeta
    spec: SynthesisRunSpec
    """What is wanted."""
    status: SynthesisRunStatus | None = None
    """What is."""
