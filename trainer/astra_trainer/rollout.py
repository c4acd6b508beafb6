"""A rollout: a policy and an environment take turns until the policy answers or a limit is met.

Engine-agnostic: any Generator, any Sandbox. What a tool does wrong is an observation; what the infrastructure does
wrong (SandboxError) leaves `run_rollout` as an exception, so that it can never become a reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.records import (
    CallRecord,
    Message,
    SessionLimits,
    ToolCall,
    ToolOutcome,
    Toolset,
    ToolSpec,
    Trajectory,
)
from astra_api.resource import quantity
from astra_api.rewards import RewardKind, score
from astra_sandbox.interface import Sandbox, Session
from astra_trainer.chat import ChatFormat
from astra_trainer.generation import Generator
from astra_trainer.seeds import derive_seed
from astra_trainer.tool_calls import unreadable

Stage = Literal["base", "sft", "rl"]
Split = Literal["train", "holdout"]


class PromptTooLong(BadInput):
    """The question and its tools alone exceed `max_prompt_tokens`."""


@dataclass(frozen=True)
class Episode:
    """One environment as one prompt offers it: its own tools and mixed-in irrelevant ones, in the order shown."""

    environment: Environment
    tools: tuple[ToolSpec, ...]
    foreign: Mapping[str, Toolset] = field(default_factory=dict)  # mixed-in tool's name -> the toolset it runs in

    @property
    def name(self) -> str:
        return self.environment.name

    @property
    def messages(self) -> tuple[Message, ...]:
        return (Message(role="user", content=self.environment.spec.question),)


@dataclass(frozen=True)
class RolloutSettings:
    """The limits of a rollout and how it is sampled and scored. Prompt and response limits are in tokens."""

    max_turns: int = 32
    max_prompt_tokens: int = 25600
    max_response_tokens: int = 49152  # everything after the prompt: generated turns and tool responses
    temperature: float = 1.0
    reward: RewardKind = "f1"


@dataclass(frozen=True)
class Place:
    """Where in a run a rollout stands: with `seed`, all that its randomness depends on.

    Held-out rollouts draw the same randomness at every checkpoint, so that checkpoints differ by their weights alone.
    """

    stage: Stage
    step: int
    group: int
    index: int = 0
    split: Split = "train"
    seed: int = 0

    def turn_seed(self, turn: int) -> int:
        """The sampler's seed for a turn."""
        return derive_seed(*self._group_key, self.index, turn)

    @property
    def session_seed(self) -> int:
        """The seed of the sandbox sessions: one for a whole group, so that its rollouts differ by the policy alone."""
        return derive_seed(*self._group_key, "session")

    @property
    def _group_key(self) -> tuple[int | str, ...]:
        checkpoint = () if self.split == "holdout" else (self.stage, self.step)
        return (self.seed, self.split, *checkpoint, self.group)


class EpisodeSessions:
    """The session of an episode's own toolset, and those of mixed-in tools' toolsets, opened when first needed."""

    def __init__(self, episode: Episode, own: Session, sandbox: Sandbox, seed: int):
        self._foreign = episode.foreign
        self._limits = session_limits(episode.environment)
        self._own = own
        self._sandbox = sandbox
        self._seed = seed
        self._opened: dict[str, Session] = {}
        self.log: list[CallRecord] = []

    async def call(self, call: ToolCall, call_id: str) -> ToolOutcome:
        """Runs one call where its tool lives and logs it. Raises SandboxError, never for what a tool does."""
        outcome: ToolOutcome | None = unreadable(call)
        if outcome is None:
            session = await self._session(call.tool)
            outcome = await session.call(call.tool, call.arguments_json, call_id=call_id)
        self.record(call, call_id, outcome)
        return outcome

    def record(self, call: ToolCall, call_id: str, outcome: ToolOutcome) -> None:
        """Logs an outcome that no session gave (an unreadable call, an injected failure)."""
        self.log.append(
            CallRecord(call_id=call_id, tool=call.tool, arguments_json=call.arguments_json, outcome=outcome)
        )

    async def close(self) -> None:
        """Closes the mixed-in tools' sessions; the own session belongs to its group."""
        while self._opened:
            _, session = self._opened.popitem()
            await session.close()

    async def _session(self, tool: str) -> Session:
        toolset = self._foreign.get(tool)
        if toolset is None:
            return self._own  # which answers UNKNOWN_TOOL for what it lacks
        if toolset.digest not in self._opened:
            opened = await self._sandbox.open_sessions(toolset, 1, seed=self._seed, limits=self._limits)
            self._opened[toolset.digest] = opened[0]
        return self._opened[toolset.digest]


class Transcript:
    """A rollout under construction: the messages for people, the tokens for training, in step with each other."""

    def __init__(self, chat: ChatFormat, episode: Episode, prompt: Sequence[int]):
        self._chat = chat
        self._episode = episode
        self.prompt_tokens = len(prompt)
        self.tokens = list(prompt)
        self.mask = [0] * len(prompt)
        self.logprobs = [0.0] * len(prompt)
        self.messages = list(episode.messages)
        self.turns = 0

    @property
    def response_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def add_turn(
        self, tokens: Sequence[int], logprobs: Sequence[float], *, trained: bool = True
    ) -> tuple[ToolCall, ...]:
        """Appends an assistant turn as generated; returns its calls. `trained=False` keeps it out of the loss."""
        if len(tokens) != len(logprobs):
            raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities")
        self.tokens += tokens
        self.mask += [int(trained)] * len(tokens)
        self.logprobs += logprobs
        content, calls = self._chat.parse(tokens)
        self.messages.append(Message(role="assistant", content=content, tool_calls=calls, weight=int(trained)))
        self.turns += 1
        return calls

    def add_responses(self, observations: Sequence[str], limit: int | None = None) -> bool:
        """Appends the tool responses of the last turn, unless the response would exceed `limit` tokens."""
        given = self._chat.tool_responses(observations)
        if limit is not None and self.response_tokens + len(given) > limit:
            return False
        self.tokens += given
        self.mask += [0] * len(given)
        self.logprobs += [0.0] * len(given)
        self.messages += [Message(role="tool", content=observation) for observation in observations]
        return True

    def finish(
        self,
        place: Place,
        calls: Sequence[CallRecord],
        ended: Literal["answered", "max_turns", "max_tokens"],
        reward: RewardKind,
        *,
        sampled: bool = True,
    ) -> Trajectory:
        environment = self._episode.environment
        return Trajectory(
            environment=environment.name,
            digest=environment.digest,
            domain=environment.spec.domain,
            split=place.split,
            stage=place.stage,
            step=place.step,
            group=place.group,
            index=place.index,
            messages=tuple(self.messages),
            tools=tuple(tool.name for tool in self._episode.tools),
            tool_schemas=tuple(tool.as_json() for tool in self._episode.tools),
            tokens=tuple(self.tokens),
            mask=tuple(self.mask),
            logprobs=tuple(self.logprobs) if sampled else (),
            turns=self.turns,
            calls=tuple(calls),
            ended=ended,
            reward=score(environment.spec, calls, reward, self.messages),
        )


async def run_rollout(
    episode: Episode,
    *,
    place: Place,
    session: Session,
    sandbox: Sandbox,
    generator: Generator,
    chat: ChatFormat,
    settings: RolloutSettings,
    prompt: Sequence[int] | None = None,
) -> Trajectory:
    """One rollout in an open session of the episode's own toolset (the caller closes it).

    All calls of a turn run in listed order. Ends when a turn calls no tool (`answered`), after the calls of the last
    allowed turn (`max_turns`), or when a turn was cut or the responses do not fit (`max_tokens`). A cut turn has no
    consequence, so it is not trained on: its calls are not run, and its mask is 0. Otherwise a policy that repeats
    itself to the limit after its last call would be rewarded for each repetition. `prompt` saves rendering
    `episode_prompt` again for each rollout of a group.
    Raises PromptTooLong, and SandboxError for what must not be scored.
    """
    transcript = Transcript(chat, episode, episode_prompt(episode, chat, settings) if prompt is None else prompt)
    sessions = EpisodeSessions(episode, session, sandbox, place.session_seed)
    try:
        ended = await _take_turns(transcript, sessions, place, generator, settings)
    finally:
        await sessions.close()
    return transcript.finish(place, sessions.log, ended, settings.reward)


def episode_prompt(episode: Episode, chat: ChatFormat, settings: RolloutSettings) -> list[int]:
    """The tokens an episode starts from. Raises PromptTooLong."""
    prompt = chat.prompt(episode.messages, episode.tools)
    if len(prompt) > settings.max_prompt_tokens:
        raise PromptTooLong(
            f"{episode.environment.name}: the prompt has {len(prompt)} tokens, over maxPromptTokens "
            f"{settings.max_prompt_tokens}; raise it, or mix in fewer irrelevant tools"
        )
    return prompt


def session_limits(environment: Environment) -> SessionLimits:
    """What spec.sandbox asks for."""
    sandbox = environment.spec.sandbox
    return SessionLimits(call_seconds=sandbox.timeout_seconds, memory_bytes=int(quantity(sandbox.memory)))


async def _take_turns(
    transcript: Transcript,
    sessions: EpisodeSessions,
    place: Place,
    generator: Generator,
    settings: RolloutSettings,
) -> Literal["answered", "max_turns", "max_tokens"]:
    for turn in range(settings.max_turns):
        budget = settings.max_response_tokens - transcript.response_tokens
        if budget <= 0:
            return "max_tokens"
        generation = await generator.generate(
            transcript.tokens, max_tokens=budget, temperature=settings.temperature, seed=place.turn_seed(turn)
        )
        calls = transcript.add_turn(generation.tokens, generation.logprobs, trained=generation.ended)
        if not generation.ended:
            return "max_tokens"
        if not calls:
            return "answered"
        outcomes = [await sessions.call(call, f"{turn}-{number}") for number, call in enumerate(calls)]
        if turn + 1 == settings.max_turns:
            break
        if not transcript.add_responses([outcome.observation() for outcome in outcomes], settings.max_response_tokens):
            return "max_tokens"
    return "max_turns"
