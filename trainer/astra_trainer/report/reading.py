"""Trajectories to read: which ones of an evaluation, and how a rollout is laid out turn by turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from astra_api.records import CallRecord, Trajectory
from astra_trainer.report.wording import visible


@dataclass(frozen=True)
class Choice:
    """A rollout worth reading, and the same prompt's rollout of the stage before (None: there is none)."""

    label: str
    after: Trajectory
    before: Trajectory | None

    @property
    def gain(self) -> float:
        return self.after.reward.f1 - self.before.reward.f1 if self.before else 0.0


@dataclass(frozen=True)
class Called:
    """A call of a turn. `response` is None when it was not run."""

    tool: str
    arguments: str
    response: str | None
    failed: bool


@dataclass(frozen=True)
class Turn:
    """What the model wrote, and the calls it asked for."""

    text: str
    calls: list[Called]


def choose(after: Sequence[Trajectory], before: Sequence[Trajectory]) -> list[Choice]:
    """Best, typical and worst by F1, then what gained and what lost most since `before`; no environment twice.

    Of equals the one with more steps to solve, then the first.
    """
    earlier = {(trajectory.environment, trajectory.index): trajectory for trajectory in before}
    left = [Choice("", trajectory, earlier.get((trajectory.environment, trajectory.index))) for trajectory in after]
    if not left:
        return []
    middle = median(choice.after.reward.f1 for choice in left)
    kinds: list[tuple[str, Callable[[Choice], float], float]] = [  # label, what is wanted most of, more than
        ("Best", lambda choice: choice.after.reward.f1, -1.0),
        ("Worst", lambda choice: -choice.after.reward.f1, -2.0),
        ("Typical", lambda choice: -abs(choice.after.reward.f1 - middle), -2.0),
        ("Gained most", lambda choice: choice.gain, 0.0),
        ("Lost most", lambda choice: -choice.gain, 0.0),
    ]
    found: list[Choice] = []
    for label, worth, least in kinds:
        worths = [(worth(choice), choice.after.reward.needed) for choice in left]
        most = max(worths, default=(least, 0))
        if most[0] > least:
            best = left[worths.index(most)]
            found.append(replace(best, label=label))
            left = [choice for choice in left if choice.after.environment != best.after.environment]
    return found


def question(trajectory: Trajectory) -> str:
    """The first thing that the user said."""
    return visible(next((message.content for message in trajectory.messages if message.role == "user"), ""))


def turns(trajectory: Trajectory) -> list[Turn]:
    """The assistant's turns, each call with the outcome that its session gave."""
    records = iter(trajectory.calls)
    return [
        Turn(
            visible(message.content),
            [_called(call.tool, call.arguments_json, next(records, None)) for call in message.tool_calls],
        )
        for message in trajectory.messages
        if message.role == "assistant"
    ]


def _called(tool: str, arguments: str, record: CallRecord | None) -> Called:
    """Calls are run and logged in listed order; those of a turn that was cut off are not run."""
    response = visible(record.outcome.observation()) if record else None
    return Called(visible(tool), visible(arguments), response, record is not None and record.outcome.type == "error")
