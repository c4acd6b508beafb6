"""What verification finds: findings of single checks, and the verdict they add up to."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal, NamedTuple

from astra_api.environment import EnvironmentStatus
from astra_api.records import Record

CheckResult = Literal["passed", "failed", "skipped"]
Phase = Literal["Verified", "Rejected", "Pending"]

READING_CHECKS = ("names", "imports", "topology", "leafOnly", "schema", "leakage")
SANDBOX_CHECKS = ("gold", "deterministic", "nonConstant", "assembled")
CHECKS = (
    "gold", "deterministic", "nonConstant", "schema", "leakage",
    "imports", "topology", "leafOnly", "names", "assembled",
)  # fmt: skip
"""The keys of `status.checks`."""


class Reason(StrEnum):
    """Why an environment is not Verified. One word a cause; the message names the field and the fix."""

    # names
    DUPLICATE_NAME = "DuplicateName"  # two tools share a name, or two functions do
    UNKNOWN_TOOL = "UnknownTool"  # a step calls what spec.tools does not list
    TOOL_NOT_DEFINED = "ToolNotDefined"  # a tool is no public top-level function of the source
    PRINTS_OUTPUT = "PrintsOutput"  # the source writes to standard output or standard error
    # imports
    SOURCE_INVALID = "SourceInvalid"  # the source is not Python
    FORBIDDEN_IMPORT = "ForbiddenImport"  # imports more than the standard library of Python 3.11 and 3.12
    # topology, leafOnly
    DUPLICATE_STEP = "DuplicateStep"
    UNKNOWN_DEPENDENCY = "UnknownDependency"
    SELF_DEPENDENCY = "SelfDependency"
    CYCLIC_TOPOLOGY = "CyclicTopology"
    NO_TOOL_STEP = "NoToolStep"  # no step needs a tool, so nothing could be rewarded
    SCENARIO_MISMATCH = "ScenarioMismatch"  # the calls have another shape than spec.scenario says
    ANSWER_NOT_TERMINAL = "AnswerNotTerminal"  # the main answer is the answer of no terminal step
    NOT_LEAF = "NotLeaf"  # something depends on a step without a call
    # schema
    SCHEMA_INVALID = "SchemaInvalid"  # the parameters are no JSON Schema of an object
    ARGUMENTS_INVALID = "ArgumentsInvalid"  # gold arguments do not satisfy it
    SIGNATURE_MISMATCH = "SignatureMismatch"  # the function cannot take what the schema promises
    # leakage
    GOLD_LEAKED = "GoldLeaked"  # a tool's name, description or schema says the answer
    ANSWER_IN_QUESTION = "AnswerInQuestion"  # a question says the answer that it asks for
    # gold (and any other check that runs calls)
    SOURCE_FAILS_TO_LOAD = "SourceFailsToLoad"
    GOLD_MISMATCH = "GoldMismatch"
    TOOL_RAISED = "ToolRaised"
    TOOL_ENDED_PROCESS = "ToolEndedProcess"
    TOOL_TIMED_OUT = "ToolTimedOut"
    TOOL_OUT_OF_MEMORY = "ToolOutOfMemory"
    OUTPUT_TOO_LARGE = "OutputTooLarge"
    RESULT_NOT_JSON = "ResultNotJson"
    # deterministic
    NON_DETERMINISTIC = "NonDeterministic"  # seed, hash seed, clock or working directory change the answer
    KEEPS_STATE = "KeepsState"  # declared stateless, yet an earlier call changes the answer
    ORDER_DEPENDENT = "OrderDependent"  # stateful, and steps that do not depend on each other do
    # nonConstant
    CONSTANT_TOOL = "ConstantTool"  # answers gold whatever the arguments
    ECHOES_ARGUMENT = "EchoesArgument"  # answers with its own argument: the caller must know the answer already
    ANSWERS_UNKNOWN = "AnswersUnknown"  # answers gold for a name that cannot exist
    ACCEPTS_UNKNOWN_ARGUMENTS = "AcceptsUnknownArguments"
    # assembled
    NOT_REPRODUCIBLE = "NotReproducible"  # written to YAML and read back, it is another environment
    # no verdict: the phase stays Pending
    SOURCE_UNAVAILABLE = "SourceUnavailable"  # spec.sourceRef, and no cluster to resolve it
    SANDBOX_UNAVAILABLE = "SandboxUnavailable"
    CAPACITY_EXHAUSTED = "CapacityExhausted"
    SESSION_LOST = "SessionLost"
    SANDBOX_FAILED = "SandboxFailed"


class Finding(NamedTuple):
    """One thing that one check found wrong."""

    check: str
    reason: Reason
    message: str


class Verdict(Record):
    """What verification says of one environment.

    `phase` is Pending where the infrastructure failed before a verdict was reached: never a pass, never a rejection.
    """

    name: str
    phase: Phase
    digest: str
    toolset: str | None  # None while the source is not here
    checks: dict[str, CheckResult]
    reason: str | None = None
    message: str = ""

    @property
    def verified(self) -> bool:
        return self.phase == "Verified"

    @property
    def status(self) -> EnvironmentStatus:
        """What the environment's status keeps of it."""
        return EnvironmentStatus(phase=self.phase, digest=self.digest, toolset=self.toolset, checks=dict(self.checks))


_SHOWN = 3


def summary(findings: Iterable[Finding]) -> tuple[Reason | None, str]:
    """The reason of the first finding, and the messages of the first few."""
    found = list(findings)
    if not found:
        return None, ""
    messages = [finding.message for finding in found[:_SHOWN]]
    if len(found) > _SHOWN:
        messages.append(f"and {len(found) - _SHOWN} more")
    return found[0].reason, "; ".join(messages)
