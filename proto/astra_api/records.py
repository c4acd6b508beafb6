"""The records of the data flow, in its order: toolset -> call -> outcome -> message -> rollout -> trajectory.

Records are frozen and refuse unknown fields. They are what the parts hand each other in files and over gRPC.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_serializer, field_validator

from astra_api.canonical import digest


class Record(BaseModel):
    """Base of every record: frozen, closed, camelCase-free (records are ours; manifests are Kubernetes')."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolSpec(Record):
    """What a model is told about one tool: the OpenAI function schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,63}$")]
    description: str
    parameters: dict[str, JsonValue]  # JSON Schema of the arguments object

    def as_openai(self) -> dict[str, Any]:
        """The tool as an entry of an OpenAI `tools` list (what chat templates take)."""
        return {"type": "function", "function": self.model_dump()}

    def as_json(self) -> str:
        """The JSON text of that entry."""
        return json.dumps(self.as_openai(), ensure_ascii=False)


class Toolset(Record):
    """What a sandbox runs, and nothing more: no question, no answer. Addressed by its digest."""

    tools: tuple[ToolSpec, ...]
    source: str
    state: Literal["stateless", "stateful"] = "stateless"

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the canonical JSON of {tools, source, state}."""
        return digest(self.model_dump(mode="json"))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with a digest of its own (pydantic would copy the cached one)."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("digest", None)
        return copied


class SessionLimits(Record):
    """Limits of one session; None leaves a limit to the server."""

    call_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    output_bytes: int | None = None


class ToolCall(Record):
    """One call that a policy asks for. `arguments_json` is kept as written: it may not even be JSON."""

    tool: str
    arguments_json: str


class ToolErrorKind(StrEnum):
    """What a tool can do wrong. All of these are observations for the model."""

    UNKNOWN_TOOL = "UNKNOWN_TOOL"
    INVALID_ARGUMENTS = "INVALID_ARGUMENTS"
    RAISED = "RAISED"
    TIMED_OUT = "TIMED_OUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"


class ToolError(Record):
    """A call that failed for a reason of the tool or of its caller."""

    type: Literal["error"] = "error"
    kind: ToolErrorKind
    message: str
    ended_process: bool = False  # the call ended the session's process; a replay leaves the call out

    def observation(self) -> str:
        """What the model sees as the tool's response."""
        return f"error: {self.kind}: {self.message}"


class ToolResult(Record):
    """A call that returned; `json` is the result's JSON text, byte for byte as the session produced it."""

    type: Literal["result"] = "result"
    json_text: str

    def observation(self) -> str:
        """What the model sees as the tool's response."""
        return self.json_text


ToolOutcome = Annotated[ToolResult | ToolError, Field(discriminator="type")]
_NO_OUTCOME = {"type": "", "json_text": "", "kind": "", "message": "", "ended_process": False}


class CallRecord(Record):
    """One executed call: an entry of a session's log, and all that a replay needs.

    An outcome is written with the fields of both kinds, those of the other kind empty: in a file that Arrow reads, a
    column has one type, whatever happened first.
    """

    call_id: str
    tool: str
    arguments_json: str
    outcome: ToolOutcome

    @field_serializer("outcome")
    def _in_one_shape(self, outcome: ToolOutcome) -> dict[str, Any]:
        return _NO_OUTCOME | outcome.model_dump()

    @field_validator("outcome", mode="before")
    @classmethod
    def _of_one_shape(cls, value: Any) -> Any:
        """Takes the one shape in which outcomes are written: the empty fields of the other kind are left out."""
        if not isinstance(value, dict):
            return value
        own = ToolError.model_fields if value.get("type") == "error" else ToolResult.model_fields
        return {key: item for key, item in value.items() if key in own or item != _NO_OUTCOME.get(key)}


class Message(Record):
    """One chat message. A `tool` message answers the assistant's calls in listed order."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    weight: Literal[0, 1] | None = None  # of an assistant's turn, as in OpenAI's data: 0 is context, not trained on


class Reward(Record):
    """The reward of one rollout and what it was made of (METHOD section 3)."""

    value: float
    recall: float
    precision: float
    f1: float
    solved: tuple[str, ...]  # ids of the solved steps
    needed: int  # n: steps that need a tool
    calls: int  # c: tool calls made, failed and irrelevant ones included
    answer: bool = False  # the final answer is right (astra_api.answers)
    success: bool = False  # every needed step was solved, and the answer is right


class Trajectory(Record):
    """One finished rollout or expert demonstration, token-exact.

    `tokens[i]` was generated by the policy, and is trained on, where `mask[i]` is 1. It was given (prompt, tool
    responses, template), or belongs to a turn that is not trained on (cut short, or broken on purpose), where 0.
    `logprobs[i]` is the sampler's log-probability of a generated token, 0.0 elsewhere; empty for demonstrations.
    All three have the same length.
    """

    environment: str
    digest: str  # of the environment
    domain: str
    split: Literal["train", "holdout"]
    stage: Literal["base", "sft", "rl"]
    step: int
    group: int
    index: int  # within the group
    messages: tuple[Message, ...]
    tools: tuple[str, ...]  # names offered, in order
    tool_schemas: tuple[str, ...] = ()  # of each, the JSON text of its OpenAI function schema
    tokens: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    turns: int
    calls: tuple[CallRecord, ...]
    ended: Literal["answered", "max_turns", "max_tokens"]
    reward: Reward


class Reject(Record):
    """Something dropped on the way, and why."""

    name: str
    stage: str
    reason: str
    message: str
