"""A SynthesisRun creates Environments, from tables or with the help of a language model."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from astra_api.pod_template import PodTemplate
from astra_api.resource import (
    API_VERSION,
    Conditions,
    Fraction,
    Integer,
    Labels,
    ObjectMeta,
    Positive,
    Resource,
    Seconds,
    Text,
    variants,
)

HOP_LIMIT = 20  # the longest published chain of sub-questions
FREE = ("podTemplate", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""What may change of a run that has begun: how its Job is run, not what it makes. Fields of spec."""


class SecretKey(Resource):
    """A reference names a key of a Secret. The environment variable ASTRA_TEACHER_API_KEY stands for it outside a
    cluster."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret, which must be in the namespace of the run."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key of the Secret's data that holds the value."""


class TeacherBudget(Resource):
    """A budget limits what may be spent on an endpoint; the run stops before it would be exceeded."""

    calls: Annotated[Integer, Field(ge=1)] | None = None
    """Number of calls that may be answered, over all starts of the run. There is no limit if it is not given."""
    tokens: Annotated[Integer, Field(ge=1)] | None = None
    """Number of tokens that prompts and completions may have in all, over all starts of the run. There is no limit if
    it is not given."""
    seconds: Positive | None = None
    """Seconds that one start of the run may take on the clock. There is no limit if they are not given."""


class TokenPrice(Resource):
    """A price tells what a million tokens cost, in any currency; it counts for the accounts alone."""

    input: Annotated[float, Field(ge=0.0)] = 0.0
    """Price that a million tokens of prompts cost."""
    output: Annotated[float, Field(ge=0.0)] = 0.0
    """Price that a million tokens of completions cost."""


class Teacher(Resource):
    """A teacher is a language model behind an OpenAI-compatible endpoint."""

    type: Literal["openai"] = "openai"
    """Protocol that the endpoint speaks: openai is that of OpenAI's chat completions."""
    base_url: Annotated[str, Field(pattern=r"^https?://", max_length=4096)]
    """URL that the paths of the protocol are appended to, such as http://vllm:8000/v1."""
    model: Text
    """Name that the endpoint has for the model."""
    api_key_secret: SecretKey | None = None
    """Reference to the API key that the endpoint asks for. None is sent if it is not given."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    """Temperature that answers are sampled with."""
    max_tokens: Annotated[Integer, Field(ge=1)] = 4096
    """Number of tokens that one answer may have."""
    concurrency: Annotated[Integer, Field(ge=1, le=1024)] = 8
    """Number of calls that may be under way at once."""
    timeout_seconds: Positive = 300.0
    """Seconds that one call may take before it is given up."""
    retries: Annotated[Integer, Field(ge=0, le=20)] = 4
    """Number of times that a call is repeated which met 429, 5xx, a timeout or a lost connection."""
    budget: TeacherBudget = Field(default_factory=TeacherBudget)
    """Budget that limits what may be spent on the endpoint."""
    price: TokenPrice = Field(default_factory=TokenPrice)
    """Price that the run's accounts reckon with."""


ToolKind = Literal[
    "lookup", "reverse", "members", "count", "aggregate", "summary",
    "extreme", "rank", "top", "next", "filter", "arithmetic", "convert",
]  # fmt: skip


class ToolCount(Resource):
    """A count tells how many tools a toolset has, at least and at most."""

    min: Annotated[Integer, Field(ge=1, le=32)] = 3
    """Number of tools that a toolset has at least."""
    max: Annotated[Integer, Field(ge=1, le=32)] = 7
    """Number of tools that a toolset has at most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class TableToolsets(Resource):
    """Toolsets serve tables: each knows its own rows, and serves several Environments."""

    tools: ToolCount = Field(default_factory=ToolCount)
    """Number of tools that one toolset has."""
    kinds: Annotated[list[ToolKind], Field(min_length=1, max_length=64)] | None = None
    """Kinds of tools that may be made. All may if they are not given."""
    rows: Annotated[Integer, Field(ge=4, le=2000)] = 60
    """Number of rows that one toolset knows, at most."""
    environments: Annotated[Integer, Field(ge=1, le=100)] = 6
    """Number of Environments that share a toolset."""


class TablesSource(Resource):
    """A source of tables is a pack: tables and what they mean. It needs no teacher."""

    type: Literal["tables"]
    """Type of the source: tables are asked by query, knowledge is turned into questions by a teacher, and questions are
    given."""
    pack: Text | None = None
    """Name of a pack that is shipped, such as geography."""
    path: Text | None = None
    """Path of the YAML file that describes a pack of one's own, relative to the file of the run."""
    toolset: TableToolsets = Field(default_factory=TableToolsets)
    """Toolsets that are made to serve the tables."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.pack is None) == (self.path is None):
            raise ValueError("give exactly one of pack and path")
        return self


Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]  # ISO 639-1


class KnowledgeSource(Resource):
    """A source of knowledge is texts, or names of domains, that a teacher turns into questions."""

    type: Literal["knowledge"]
    """Type of the source: knowledge is turned into questions by a teacher."""
    path: Text | None = None
    """Path of a file that holds texts, or of a folder of such files, relative to the file of the run."""
    domains: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    """Names of domains that the teacher makes questions about, in place of texts."""
    languages: Annotated[list[Language], Field(min_length=1, max_length=64)] = Field(default_factory=lambda: ["en"])
    """Languages that the questions are written in, in turn, as ISO 639-1 codes."""
    stateful_share: Fraction = 0.0
    """Share of questions whose tools change state."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.domains is None):
            raise ValueError("give exactly one of path and domains")
        return self


class QuestionsSource(Resource):
    """A source of questions is a file of them, which a teacher decomposes."""

    type: Literal["questions"]
    """Type of the source: questions are given, and decomposed by a teacher."""
    path: Text
    """Path of a file that holds questions, relative to the file of the run."""


class HopRange(Resource):
    """A range tells how many tool calls a question takes, at least and at most."""

    min: Annotated[Integer, Field(ge=1, le=HOP_LIMIT)] = 1
    """Number of tool calls that a question takes at least."""
    max: Annotated[Integer, Field(ge=1, le=HOP_LIMIT)] = 6
    """Number of tool calls that a question takes at most."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class EnvironmentSynthesis(Resource):
    """A synthesis of Environments tells what they are made from and how good they must be."""

    source: Annotated[
        TablesSource | KnowledgeSource | QuestionsSource,
        Field(discriminator="type"),
        variants(TablesSource, KnowledgeSource, QuestionsSource),
    ]
    """Source that the Environments are made from."""
    hops: HopRange = Field(default_factory=HopRange)
    """Range of the number of tool calls that a question takes."""
    quality_threshold: Fraction = 0.9
    """Mean of the four judged dimensions that an Environment must reach. Those from tables are checked by query
    instead."""
    repairs: Annotated[Integer, Field(ge=0, le=10)] = 2
    """Number of times that a plan, a tool or an answer that cannot be used goes back to the teacher."""
    duplicate_similarity: Fraction = 0.9
    """Cosine similarity at which two questions are examined as near-duplicates."""
    labels: Labels = Field(default_factory=dict)
    """Labels that every Environment of the run is given."""


class RunVolume(Resource):
    """A volume holds what the run reads and keeps in a cluster. It is ignored elsewhere, where these are folders."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of a PersistentVolumeClaim in the run's namespace. Paths are relative to it, and its folder of the run's
    name keeps the output and the teacher's answers."""


class SynthesisRunSpec(Resource):
    """The spec of a SynthesisRun tells what to make; item i is a function of (seed, i)."""

    kind: Literal["environments", "trajectories"] = "environments"
    """Kind of objects to make; trajectories are not built yet."""
    teacher: Teacher | None = None
    """Teacher that writes questions, plans and tools. A source of type tables needs none."""
    judge: Teacher | None = None
    """Teacher that reviews topologies and scores quality. The one that writes does so if it is not given."""
    count: Annotated[Integer, Field(ge=1, le=1_000_000)]
    """Number of objects to make."""
    seed: Annotated[Integer, Field(ge=0)] = 0
    """Seed that everything random follows from."""
    environments: EnvironmentSynthesis | None = None
    """Synthesis of Environments, which kind: environments requires."""
    volume: RunVolume | None = None
    """Volume that keeps files and answers in a cluster; a path needs it. The teacher's answers end with the pod if it
    is not given, and a retry pays again."""
    pod_template: PodTemplate | None = None
    """Template that adds to the pods of the run's Job, over the farm's defaults."""
    active_deadline_seconds: Seconds | None = None
    """Seconds that the Job may take from its start before the run fails. There is no limit if they are not given."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=2147483647)] | None = None
    """Seconds that a finished run is kept before it is deleted; the Environments that it made stay. It is kept for ever
    if they are not given."""
    trajectories: dict[str, Any] | None = None
    """Synthesis of trajectories, which is not built yet and therefore refused."""

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
    """The status of a SynthesisRun tells how far it is."""

    observed_generation: Integer | None = None
    """Generation of the spec that this status was found for."""
    begun: Annotated[str, Field(max_length=128)] | None = None
    """Digest of the manifest that the run began with, which its ConfigMap holds."""
    phase: Literal["Pending", "Running", "Succeeded", "Failed"] = "Pending"
    """Phase that the run is in."""
    produced: Integer = 0
    """Number of verified Environments that the run has made so far."""
    rejected: Integer = 0
    """Number of items that were thrown away so far."""
    rejected_by: dict[str, Integer] = Field(default_factory=dict)
    """Number of items that were thrown away so far, by the reason."""
    conditions: Conditions = Field(default_factory=list)
    """Conditions that the run is in: Ready, Complete and Failed among others."""


class SynthesisRun(Resource):
    """A SynthesisRun is a custom resource."""

    api_version: Literal["astra.farm/v1alpha1"] = API_VERSION
    kind: Literal["SynthesisRun"] = "SynthesisRun"
    metadata: ObjectMeta
    spec: SynthesisRunSpec
    """Specification of the run: what to make, how much of it, and with which teacher. Once the run exists, only
    podTemplate, activeDeadlineSeconds and ttlSecondsAfterFinished may change."""
    status: SynthesisRunStatus | None = None
    """Status that the run was found in; users do not write it."""
