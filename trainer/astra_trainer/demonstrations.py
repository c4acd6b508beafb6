"""Expert trajectories, made by executing gold steps in a real sandbox.

Steps that do not depend on each other are called in one turn, dependent ones in later turns; the last turn answers. A
seeded share holds an injected error that the expert recovers from: a failure of the service, a call that breaks its
schema, a wrong tool, a name misread. What the expert says, and nothing else, is trained on; a mistake that was injected
into what it says is context, not a lesson. Needless calls are a lesson: at the rate of `detours` the expert repeats
itself, as wordy as real teachers are, and a model that imitates it earns full recall with poor precision.
"""

import asyncio
import json
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from astra_api.answers import answer_sentence
from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.environment import Environment, GoldCall, Step
from astra_api.errors import BadInput
from astra_api.graph import levels
from astra_api.records import ToolCall, ToolError, ToolErrorKind, ToolOutcome, ToolSpec, Trajectory
from astra_sandbox.interface import Sandbox, Session
from astra_trainer.chat import ChatFormat
from astra_trainer.rollout import Episode, EpisodeSessions, Place, Transcript, session_limits
from astra_trainer.seeds import derive_seed


class GoldMismatch(BadInput):
    """The gold steps do not hold: the environment must be mended and verified, never trained on."""


@dataclass(frozen=True)
class DemonstrationSettings:
    """`recoveries`: the share of demonstrations with one injected error (METHOD: 20%).

    `detours`: the share of gold calls that a needless one follows.
    """

    recoveries: float = 0.2
    detours: float = 0.0


TRANSIENT_FAILURES = (
    ToolError(kind=ToolErrorKind.TIMED_OUT, message="no answer within the time limit; try again"),
    ToolError(kind=ToolErrorKind.RAISED, message="ConnectionError: service unreachable; try again"),
)
_OWN_MISTAKES = 0.75  # share of the injected errors; the others are failures of the service
_PER_SESSION = 64  # demonstrations, at most
INJECTED = "injected"  # prefix of the call ids of failures that no sandbox gave: a replay leaves them out


async def demonstrate_all(
    episodes: Sequence[Episode],
    *,
    sandbox: Sandbox,
    chat: ChatFormat,
    settings: DemonstrationSettings,
    seed: int,
    concurrency: int = 16,
    on_done: Callable[[], None] = lambda: None,
) -> list[Trajectory]:
    """One demonstration an episode, in order; `on_done` hears of each.

    Raises GoldMismatch and SandboxError: a data set is whole or not made.
    """
    gate = asyncio.Semaphore(concurrency)

    def place(number: int) -> Place:
        return Place(stage="sft", step=0, group=number, seed=seed)

    async def share(numbers: Sequence[int]) -> list[Trajectory]:
        first = episodes[numbers[0]].environment
        async with gate:
            opened = await sandbox.open_sessions(
                first.toolset, 1, seed=place(numbers[0]).session_seed, limits=session_limits(first)
            )
            try:
                made = []
                for number in numbers:
                    made.append(await _demonstrate(episodes[number], opened[0], sandbox, chat, settings, place(number)))
                    on_done()
                return made
            finally:
                await opened[0].close()

    shares = _sharing_a_session([episode.environment for episode in episodes])
    running = [asyncio.ensure_future(share(numbers)) for numbers in shares]
    try:
        made = chain.from_iterable(await asyncio.gather(*running))
        return sorted(made, key=lambda trajectory: trajectory.group)
    finally:
        for task in running:
            task.cancel()


def _sharing_a_session(environments: Sequence[Environment]) -> list[list[int]]:
    """Which of them, by number, are demonstrated in one session: those of one toolset that keeps no state."""
    alike: dict[Hashable, list[int]] = {}
    for number, environment in enumerate(environments):
        own = number if environment.spec.state == "stateful" else None
        alike.setdefault((environment.toolset.digest, session_limits(environment), own), []).append(number)
    return [
        numbers[start : start + _PER_SESSION]
        for numbers in alike.values()
        for start in range(0, len(numbers), _PER_SESSION)
    ]


async def _demonstrate(
    episode: Episode,
    session: Session,
    sandbox: Sandbox,
    chat: ChatFormat,
    settings: DemonstrationSettings,
    place: Place,
) -> Trajectory:
    """One expert trajectory, its own tools called in `session`. Raises GoldMismatch and SandboxError."""
    sessions = EpisodeSessions(episode, session, sandbox, place.session_seed)
    try:
        return await _Expert(episode, chat, sessions, place, settings).trajectory()
    finally:
        await sessions.close()


@dataclass(frozen=True)
class _Move:
    """One call of the expert: a gold call, one that a failure strikes, a mistake made on purpose, or a needless one."""

    step: Step
    call: ToolCall
    failure: ToolError | None = None
    mistake: bool = False
    needless: bool = False


class _Expert:
    """Plays one episode by its gold steps."""

    def __init__(
        self,
        episode: Episode,
        chat: ChatFormat,
        sessions: EpisodeSessions,
        place: Place,
        settings: DemonstrationSettings,
    ):
        self._episode = episode
        self._environment = episode.environment
        self._chat = chat
        self._sessions = sessions
        self._place = place
        self._transcript = Transcript(chat, episode, chat.prompt(episode.messages, episode.tools))
        self._rng = random.Random(derive_seed(place.seed, "demonstration", place.step, place.group, place.index))
        steps = [step.id for step in self._environment.spec.tool_steps]
        recovers = self._rng.random() < settings.recoveries and bool(steps)
        self._struck = self._rng.choice(steps) if recovers else None  # the step whose first call fails
        self._detours = settings.detours

    async def trajectory(self) -> Trajectory:
        for level in self._levels():
            moves = [move for step in level if step.call is not None for move in self._moves(step)]
            while moves:
                moves = [_Move(step, gold_call(step)) for step in await self._turn(moves)]
        self._say(answer_sentence(self._environment.spec))
        finished = self._transcript.finish(self._place, self._sessions.log, "answered", "f1", sampled=False)
        if finished.reward.recall < 1.0:
            unsolved = {step.id for step in self._environment.spec.tool_steps} - set(finished.reward.solved)
            raise GoldMismatch(f"{self._environment.name}: the gold calls leave steps {sorted(unsolved)} unsolved")
        return finished

    def _levels(self) -> list[list[Step]]:
        try:
            return levels(self._environment.spec.steps)
        except ValueError as error:
            raise GoldMismatch(f"{self._environment.name}: spec.steps: {error}") from None

    def _moves(self, step: Step) -> list[_Move]:
        """The call of a step and, at the rate of detours, the same once more; no detour from what goes wrong.

        None in a stateful environment: there a call may change what the next one finds.
        """
        move = self._move(step)
        stateful = self._environment.spec.state == "stateful"
        if move.mistake or move.failure or stateful or self._rng.random() >= self._detours:
            return [move]
        return [move, _Move(step, move.call, needless=True)]

    def _move(self, step: Step) -> _Move:
        call = gold_call(step)
        if step.id != self._struck:
            return _Move(step, call)
        slips = [
            calls for calls in (invalid_calls(step, self._environment), misread_calls(step, self._episode)) if calls
        ]
        if slips and self._rng.random() < _OWN_MISTAKES:
            return _Move(step, self._rng.choice(self._rng.choice(slips)), mistake=True)
        return _Move(step, call, failure=self._rng.choice(TRANSIENT_FAILURES))

    async def _turn(self, moves: Sequence[_Move]) -> list[Step]:
        """Makes the calls of one turn; returns the steps that they leave unsolved."""
        turn = self._transcript.turns
        self._say("", [move.call for move in moves], trained=not any(move.mistake for move in moves))
        place = f"{self._place.group}-{turn}"  # other demonstrations may use the same session
        outcomes = [await self._run(move, f"{place}-{number}") for number, move in enumerate(moves)]
        self._transcript.add_responses([outcome.observation() for outcome in outcomes])
        made = zip(moves, outcomes, strict=True)
        return [move.step for move, outcome in made if not move.needless and not _solves(move, outcome)]

    async def _run(self, move: _Move, call_id: str) -> ToolOutcome:
        if move.failure is not None:
            self._sessions.record(move.call, f"{INJECTED}-{call_id}", move.failure)
            return move.failure
        outcome = await self._sessions.call(move.call, call_id)
        if move.mistake or move.needless:
            return outcome
        where = f"{self._environment.name}: step {move.step.id}"
        if isinstance(outcome, ToolError):
            raise GoldMismatch(f"{where}: the gold call fails with {outcome.kind}: {outcome.message}")
        if not _answers(move.step, outcome):
            gold = json.dumps(move.step.answer, ensure_ascii=False)
            raise GoldMismatch(
                f"{where}: the gold call returns {outcome.json_text[:200]}, not the gold answer {gold[:200]} "
                f"(match: {move.step.match})"
            )
        return outcome

    def _say(self, content: str, calls: Sequence[ToolCall] = (), *, trained: bool = True) -> None:
        tokens = self._chat.assistant_turn(content, calls)
        self._transcript.add_turn(tokens, [0.0] * len(tokens), trained=trained)


def _solves(move: _Move, outcome: ToolOutcome) -> bool:
    """Whether a call gives its step's answer; a misread name may have been the same name."""
    return move.call.tool == gold_call(move.step).tool and _answers(move.step, outcome)


def gold_call(step: Step) -> ToolCall:
    """The call that answers a step that needs a tool."""
    if step.call is None:
        raise ValueError(f"step {step.id} needs no tool")
    return ToolCall(tool=step.call.tool, arguments_json=json.dumps(step.call.arguments, ensure_ascii=False))


def invalid_calls(step: Step, environment: Environment) -> list[ToolCall]:
    """Plausible mistakes in a step's gold call, each sure to break the tool's schema (so no tool runs on them).

    A required argument left out, under a misspelt name, or of another type.
    """
    call = step.call
    tool = next((tool for tool in environment.spec.tools if call is not None and tool.name == call.tool), None)
    if call is None or tool is None:
        return []
    required = [name for name in tool.parameters.get("required") or [] if name in call.arguments]
    variants: list[dict[str, Any]] = []
    for name in required:
        rest = {key: value for key, value in call.arguments.items() if key != name}
        variants.append(rest)
        variants.append({key + "_" if key == name else key: value for key, value in call.arguments.items()})
        schema = (tool.parameters.get("properties") or {}).get(name)
        if isinstance(schema, dict) and schema.get("type") in ("string", "integer", "number"):
            variants.append({**call.arguments, name: [call.arguments[name]]})
    return [ToolCall(tool=call.tool, arguments_json=json.dumps(each, ensure_ascii=False)) for each in variants]


def misread_calls(step: Step, episode: Episode) -> list[ToolCall]:
    """Plausible mistakes in a step's gold call that the schemas accept, so that the tools themselves answer them.

    The same arguments to another tool of the prompt, and a text argument that lost its last or first word or its last
    letters. None in a stateful environment: there a mistake could not be taken back.
    """
    call = step.call
    if call is None or episode.environment.spec.state == "stateful":
        return []
    variants = [
        {**call.arguments, name: part}
        for name, value in call.arguments.items()
        if isinstance(value, str)
        for part in _parts(value)
    ]
    parts = [ToolCall(tool=call.tool, arguments_json=json.dumps(each, ensure_ascii=False)) for each in variants]
    return [*_other_tools(call, episode), *parts]


def _other_tools(call: GoldCall, episode: Episode) -> list[ToolCall]:
    """The arguments of a gold call given to each other tool of the prompt that takes as many texts."""
    values = list(call.arguments.values())
    if not all(isinstance(value, str) for value in values):
        return []
    calls = []
    for tool in episode.tools:
        names = _text_arguments(tool)
        if tool.name != call.tool and len(names) == len(values):
            arguments = json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)
            calls.append(ToolCall(tool=tool.name, arguments_json=arguments))
    return calls


def _text_arguments(tool: ToolSpec) -> list[str]:
    """Names of the required arguments; none if one of them is not a text."""
    parameters: dict[str, Any] = tool.parameters
    properties = parameters.get("properties") or {}
    required = list(parameters.get("required") or [])
    return required if all(properties.get(name, {}).get("type") == "string" for name in required) else []


def _parts(text: str) -> list[str]:
    """A text without its last word, without its first, without its last letters: those of them that are left."""
    words = text.split()
    parts = (" ".join(words[:-1]), " ".join(words[1:]), text[: -max(1, len(text) // 3)])
    return [part for part in parts if part.strip()]


def _answers(step: Step, outcome: ToolOutcome) -> bool:
    if isinstance(outcome, ToolError):
        return False
    try:
        return step.matches(parse_json(outcome.json_text))
    except NotCanonicalError:
        return False
