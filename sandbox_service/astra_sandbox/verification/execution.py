"""The checks that run gold calls: gold, deterministic, nonConstant, assembled. All of it in sandbox sessions.

A check that fails ends the trial: what comes after it would only repeat the fault. SandboxError passes through: it is
the infrastructure's failure, never a finding.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from astra_api.canonical import NotCanonicalError, canonical_json, parse_json
from astra_api.environment import Environment, Step
from astra_api.graph import levels
from astra_api.records import SessionLimits, ToolError, ToolErrorKind, ToolOutcome, ToolResult, Toolset
from astra_api.resource import quantity
from astra_sandbox.interface import Sandbox, Session, ToolsetRejected
from astra_sandbox.verification.artifact import NotReproducible, reloaded
from astra_sandbox.verification.constancy import Constancy
from astra_sandbox.verification.data_columns import columns_of
from astra_sandbox.verification.perturbation import Perturbation, leaves, perturbations
from astra_sandbox.verification.probing import Probe, probes
from astra_sandbox.verification.tools import compile_schema
from astra_sandbox.verification.verdict import SANDBOX_CHECKS, Finding, Reason

SEED, OTHER_SEED = 0, 1
VARIANT, OTHER_VARIANT = 0, 1
_STATEFUL_PERTURBATIONS = 4  # a fresh session each
_MAY_BE_RECEIPTS = {Reason.CONSTANT_TOOL, Reason.ECHOES_ARGUMENT, Reason.ANSWERS_UNKNOWN}
_UNEXPECTED = "zzvk_unexpected"
_SHOWN = 200

_REASONS = {
    ToolErrorKind.UNKNOWN_TOOL: (Reason.TOOL_NOT_DEFINED, "define the tool as a function of the source"),
    ToolErrorKind.INVALID_ARGUMENTS: (Reason.ARGUMENTS_INVALID, "give arguments that satisfy the tool's parameters"),
    ToolErrorKind.RAISED: (Reason.TOOL_RAISED, "return the answer for these arguments"),
    ToolErrorKind.TIMED_OUT: (Reason.TOOL_TIMED_OUT, "make it faster, or raise spec.sandbox.timeoutSeconds"),
    ToolErrorKind.OUT_OF_MEMORY: (Reason.TOOL_OUT_OF_MEMORY, "make it smaller, or raise spec.sandbox.memory"),
    ToolErrorKind.OUTPUT_TOO_LARGE: (Reason.OUTPUT_TOO_LARGE, "return less"),
}


@dataclass(frozen=True)
class GoldCall:
    """The gold call of one step; `index` is the step's place in spec.steps."""

    index: int
    step: Step
    tool: str
    arguments: dict[str, Any]

    @property
    def field(self) -> str:
        return f"spec.steps[{self.index}].call"

    async def run(self, session: Session) -> ToolOutcome:
        return await session.call(self.tool, canonical_json(self.arguments).decode())


class Failed(Exception):
    """A check found something; ends the trial."""

    def __init__(self, check: str, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.finding = Finding(check, reason, message)


class Trial:
    """One environment in the sandbox. `run` gives the checks that passed and what ended it."""

    def __init__(self, environment: Environment, sandbox: Sandbox) -> None:
        self._environment, self._sandbox = environment, sandbox
        self._toolset = environment.toolset
        self._stateful = environment.spec.state == "stateful"
        wanted = environment.spec.sandbox
        self._limits = SessionLimits(call_seconds=wanted.timeout_seconds, memory_bytes=int(quantity(wanted.memory)))
        self._calls = [
            GoldCall(index, step, step.call.tool, step.call.arguments)
            for index, step in enumerate(environment.spec.steps)
            if step.call is not None
        ]
        self.passed: list[str] = []
        self._unreadable: str | None = None  # why the artifact cannot be read back
        self._expected: dict[int, str] = {}  # step index -> the gold call's result, byte for byte

    async def run(self) -> Finding | None:
        """Runs the checks in order until one fails; `passed` holds those that did not. Raises SandboxError."""
        checks = (self._gold, self._deterministic, self._non_constant, self._assembled)
        async with AsyncExitStack() as stack:
            for name, check in zip(SANDBOX_CHECKS, checks, strict=True):
                try:
                    await check(stack)
                except Failed as failure:
                    return failure.finding
                except ToolsetRejected as rejection:
                    message = f"spec.source: {rejection}; make it load in a fresh Python process"
                    return Finding(name, Reason.SOURCE_FAILS_TO_LOAD, message)
                self.passed.append(name)
        return None

    @asynccontextmanager
    async def _session(
        self, toolset: Toolset | None = None, seed: int = SEED, variant: int = VARIANT
    ) -> AsyncIterator[Session]:
        (session,) = await self._sandbox.open_sessions(
            toolset or self._toolset, 1, seed=seed, limits=self._limits, variant=variant
        )
        try:
            yield session
        finally:
            await session.close()

    async def _gold(self, stack: AsyncExitStack) -> None:
        """The gold calls in one session; it stays open for the perturbed calls of a stateless environment."""
        self._first = session = await stack.enter_async_context(self._session())
        for call in self._calls_as_listed():
            outcome = await call.run(session)
            self._expected[call.index] = _require_gold("gold", call, outcome)

    async def _deterministic(self, _: AsyncExitStack) -> None:
        if not self._stateful:
            await self._require_same(self._first, self._calls, Reason.KEEPS_STATE, "when called again in its session")
        toolset = self._toolset
        try:
            toolset = reloaded(self._environment).toolset
        except NotReproducible as error:
            self._unreadable = str(error)
        async with self._session(toolset, seed=OTHER_SEED, variant=OTHER_VARIANT) as session:
            calls = self._calls_as_listed() if self._stateful else self._calls[::-1]
            elsewhere = "in a fresh session with another seed, hash seed, clock and working directory"
            await self._require_same(session, calls, Reason.NON_DETERMINISTIC, elsewhere)
        by_level = self._calls_by_level()
        if self._stateful and by_level != self._calls_as_listed():
            async with self._session() as session:
                order = "when independent steps run in another order (declare the order in dependsOn)"
                await self._require_same(session, by_level, Reason.ORDER_DEPENDENT, order)

    async def _require_same(self, session: Session, calls: Sequence[GoldCall], reason: Reason, when: str) -> None:
        for call in calls:
            outcome = await call.run(session)
            if isinstance(outcome, ToolResult) and outcome.json_text == self._expected[call.index]:
                continue
            if isinstance(outcome, ToolError) and outcome.kind in (
                ToolErrorKind.TIMED_OUT,
                ToolErrorKind.OUT_OF_MEMORY,
            ):
                _require_gold("deterministic", call, outcome)
            wanted = (
                "keep no state" if reason is Reason.KEEPS_STATE else "compute the answer from arguments and data alone"
            )
            raise Failed(
                "deterministic",
                reason,
                f"{call.field}: {call.tool} answers {_short(self._expected[call.index])}, but "
                f"{_short(outcome.observation())} {when}; {wanted}",
            )

    async def _assembled(self, _: AsyncExitStack) -> None:
        """The artifact, read back, is the same environment; it answered the gold calls in `_deterministic`."""
        if self._unreadable is not None:
            raise Failed("assembled", Reason.NOT_REPRODUCIBLE, self._unreadable)

    async def _non_constant(self, stack: AsyncExitStack) -> None:
        if self._stateful:
            for position, call in enumerate(self._calls_as_listed()):
                await self._perturb_stateful(position, call)
            await self._refuse_unexpected(await stack.enter_async_context(self._session()))
            return
        for call in self._calls:
            judge = self._judge(call)
            for perturbation in self._perturbations(call):
                if judge.wants(perturbation):
                    judge.add(perturbation, await _perturbed(self._first, call, perturbation.arguments))
            if suspicion := judge.verdict():
                raise _not_answering(call, suspicion)
        await self._refuse_unexpected(self._first)

    def _judge(self, call: GoldCall) -> Constancy:
        return Constancy(call.step, columns_of(self._toolset.source).standing)

    async def _perturb_stateful(self, position: int, call: GoldCall) -> None:
        """Perturbs one call in a session that made the gold calls before it; later calls may show the difference.

        What looks like no answer to its arguments may be the receipt for a change: it is, if any call sees the change.
        """
        calls = self._calls_as_listed()
        judge = self._judge(call)
        tried = [call.arguments]
        for perturbation in _few(self._perturbations(call)):
            if judge.wants(perturbation):
                tried.append(perturbation.arguments)
                async with self._session() as session:
                    for earlier in calls[:position]:
                        await earlier.run(session)
                    outcome = await _perturbed(session, call, perturbation.arguments)
                    judge.add(perturbation, outcome, await self._changes(session, calls[position + 1 :]))
        suspicion = judge.verdict()
        if suspicion is None:
            return
        if suspicion[0] in _MAY_BE_RECEIPTS:
            reads = not judge.evidence or suspicion[0] is not Reason.CONSTANT_TOOL
            if reads and await self._depends_on_state(position):
                return
            if await self._changes_state(position, tried):
                return
        raise _not_answering(call, suspicion)

    async def _depends_on_state(self, position: int) -> bool:
        """Whether a gold call answers otherwise in a fresh session or after other calls, or changes gold calls."""
        calls = self._calls_as_listed()
        call, others = calls[position], [*calls[:position], *calls[position + 1 :]]
        async with self._session() as session:
            if await self._changes(session, [call]):
                return True
        async with self._session() as session:
            if await self._changes(session, [*others, call, call]):
                return True
        tried = [(other.tool, one.arguments) for other in others for one in _few(self._perturbations(other))]
        async with self._session() as session:
            for tool, arguments in [*tried, *self._probes(call)]:
                await session.call(tool, canonical_json(arguments).decode())
                if await self._changes(session, [call]):
                    return True
        return False

    def _probes(self, call: GoldCall) -> list[Probe]:
        golds = [(other.tool, other.arguments) for other in self._calls_as_listed()]
        receipt = parse_json(self._expected[call.index])
        return probes(self._environment.spec.tools, golds, (call.tool, call.arguments), receipt)

    async def _changes_state(self, position: int, tried: Sequence[dict[str, Any]]) -> bool:
        """Whether the call at a position, with any of the arguments tried, changes what some call answers after it.

        The calls are the later gold calls and those of `probes`, in either order: one of them may undo the change.
        """
        calls = self._calls_as_listed()
        later, asked = [(other.tool, other.arguments) for other in calls[position + 1 :]], self._probes(calls[position])
        for after in ([*later, *asked], asked, asked[::-1]):
            untouched = await self._answers(position, None, after)
            for arguments in tried:
                if await self._answers(position, arguments, after) != untouched:
                    return True
        return False

    async def _answers(self, position: int, arguments: dict[str, Any] | None, after: Sequence[Probe]) -> list[str]:
        """What the calls `after` the one at a position answer; without `arguments`, where that is left out."""
        calls = self._calls_as_listed()
        async with self._session() as session:
            for earlier in calls[:position]:
                await earlier.run(session)
            if arguments is not None:
                await _perturbed(session, calls[position], arguments)
            return [(await session.call(tool, canonical_json(given).decode())).observation() for tool, given in after]

    async def _changes(self, session: Session, calls: Sequence[GoldCall]) -> bool:
        """Whether any of the calls answers otherwise than it did among the gold calls."""
        for call in calls:
            outcome = await call.run(session)
            if not isinstance(outcome, ToolResult) or outcome.json_text != self._expected[call.index]:
                return True
        return False

    async def _refuse_unexpected(self, session: Session) -> None:
        """An argument that no tool knows gives an error, unless the schema says that it takes any."""
        tools = {tool.name: tool for tool in self._environment.spec.tools}
        for call in {call.tool: call for call in self._calls}.values():
            parameters = tools[call.tool].parameters
            if parameters.get("additionalProperties", False) is not False or "patternProperties" in parameters:
                continue
            outcome = await _perturbed(session, call, {**call.arguments, _UNEXPECTED: 1})
            if isinstance(outcome, ToolResult):
                problem = "takes an argument that its parameters do not know; set additionalProperties: false"
                message = f"{call.field}: {call.tool} {problem}"
                raise Failed("nonConstant", Reason.ACCEPTS_UNKNOWN_ARGUMENTS, message)

    def _perturbations(self, call: GoldCall) -> list[Perturbation]:
        spec = self._environment.spec
        parameters = next(tool.parameters for tool in spec.tools if tool.name == call.tool)
        siblings = [other.arguments for other in self._calls if other.tool == call.tool and other is not call]
        columns = columns_of(self._toolset.source)

        def neighbours(value: Any) -> list[Any]:
            seed = f"{self._environment.digest}:{call.step.id}:{value!r}"
            of_siblings = [other for given in siblings for path, other in leaves(given) if type(other) is type(value)]
            return list(dict.fromkeys([*of_siblings, *columns.neighbours(value, 6, seed)]))

        return perturbations(
            parameters,
            call.arguments,
            compile_schema(parameters).is_valid,
            neighbours,
            self._environment.digest,
            lambda value: columns.absent(value, self._environment.digest),
        )

    def _calls_as_listed(self) -> list[GoldCall]:
        """The gold calls in `steps` order where that respects the dependencies, else by topological level."""
        seen: set[str] = set()
        for step in self._environment.spec.steps:
            if not seen.issuperset(step.depends_on):
                return self._calls_by_level()
            seen.add(step.id)
        return self._calls

    def _calls_by_level(self) -> list[GoldCall]:
        by_id = {call.step.id: call for call in self._calls}
        return [by_id[step.id] for level in levels(self._environment.spec.steps) for step in level if step.id in by_id]


async def _perturbed(session: Session, call: GoldCall, arguments: dict[str, Any]) -> ToolOutcome:
    try:
        return await session.call(call.tool, canonical_json(arguments).decode())
    except NotCanonicalError as error:
        return ToolError(kind=ToolErrorKind.INVALID_ARGUMENTS, message=str(error))


def _require_gold(check: str, call: GoldCall, outcome: ToolOutcome) -> str:
    """The result's JSON text. Raises Failed unless it answers the step."""
    gold = _short(json.dumps(call.step.answer, ensure_ascii=False))
    if isinstance(outcome, ToolError):
        reason, fix = _REASONS[outcome.kind]
        if outcome.kind is ToolErrorKind.RAISED and "what JSON cannot hold" in outcome.message:
            reason, fix = Reason.RESULT_NOT_JSON, "return JSON values only"
        elif outcome.kind is ToolErrorKind.RAISED and outcome.ended_process:
            reason, fix = Reason.TOOL_ENDED_PROCESS, "return, and leave the process alone"
        raise Failed(check, reason, f"{call.field}: {call.tool} failed: {_short(outcome.message)}; {fix}")
    try:
        value = parse_json(outcome.json_text)
        canonical_json(value)
    except NotCanonicalError as error:
        raise Failed(
            check, Reason.RESULT_NOT_JSON, f"{call.field}: {call.tool}: {error}; return JSON values only"
        ) from None
    if not call.step.matches(value):
        message = (
            f"{call.field}: {call.tool} answers {_short(outcome.json_text)}, not {gold} (match: {call.step.match}); "
            f"mend the tool, its arguments or spec.steps[{call.index}].answer"
        )
        raise Failed(check, Reason.GOLD_MISMATCH, message)
    return outcome.json_text


def _few(found: Sequence[Perturbation]) -> list[Perturbation]:
    """The perturbations that are worth a session each: other known values, and names that are unknown."""
    known = [perturbation for perturbation in found if perturbation.kind == "other"]
    unknown = [perturbation for perturbation in found if perturbation.kind == "unknown"]
    return [*known[:2], *unknown[:2], *known[2:], *unknown[2:]][:_STATEFUL_PERTURBATIONS]


def _not_answering(call: GoldCall, found: tuple[Reason, str]) -> Failed:
    reason, problem = found
    return Failed("nonConstant", reason, f"{call.field}: {call.tool} {problem}")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
