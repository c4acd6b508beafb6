"""Is a tool's gold answer an answer to its arguments? Judges perturbed calls one by one (METHOD section 2).

A single perturbed call may answer gold for honest reasons: two cities share a time zone, a comparison stays true. So:

- ConstantTool: every perturbed call answered gold; or the tool refuses some values, yet at least two other names that
  it knows answered gold and nothing answered otherwise (booleans excepted).
- AnswersUnknown: a required argument was replaced by names that cannot exist, and both answered gold (answers that mean
  "nothing" and booleans excepted).
- EchoesArgument: whatever stands in one argument came back as the answer.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.environment import Step
from astra_api.matching import matches
from astra_api.records import ToolErrorKind, ToolOutcome, ToolResult

from astra_sandbox.verification.perturbation import Path, Perturbation, leaves
from astra_sandbox.verification.verdict import Reason

Answer = Literal["gold", "different", "refused"]
ENDED = {ToolErrorKind.TIMED_OUT: Reason.TOOL_TIMED_OUT, ToolErrorKind.OUT_OF_MEMORY: Reason.TOOL_OUT_OF_MEMORY}
_MAX_OTHERS = 10
_ECHOES = 2
_KNOWN_NAMES = 2


@dataclass
class Constancy:
    """The evidence on one gold call. `wants` says whether a perturbation would add to it, `verdict` what it shows."""

    step: Step
    stateful: bool
    trials: list[tuple[Perturbation, Answer, Any]] = field(default_factory=list)
    ended: tuple[Reason, str] | None = None

    def __post_init__(self) -> None:
        arguments = self.step.call.arguments if self.step.call else {}
        self._echo_paths = [path for path, value in leaves(arguments) if self._same(value, self.step.answer)]

    def wants(self, perturbation: Perturbation) -> bool:
        if self.ended:
            return False
        if perturbation.kind == "unknown":
            return all(answer == "gold" for trial, answer, _ in self._of("unknown") if trial.path == perturbation.path)
        if len(self._of("other")) >= _MAX_OTHERS:
            return False
        echoes_open = any(self._echoes(path) < _ECHOES + 1 for path in self._suspects())
        return echoes_open or not any(answer == "different" for _, answer, _ in self.trials)

    def add(self, perturbation: Perturbation, outcome: ToolOutcome, changed_later: bool = False) -> None:
        """Takes the outcome of a perturbed call; `changed_later`: it changed what later calls answered."""
        if isinstance(outcome, ToolResult):
            value = _parsed(outcome.json_text)
            gold = self.step.matches(value) and not changed_later
            self.trials.append((perturbation, "gold" if gold else "different", value))
            return
        self.trials.append((perturbation, "refused", None))
        if outcome.kind in ENDED and perturbation.kind == "unknown":
            self.ended = (
                ENDED[outcome.kind],
                f"does not end for {_shown(perturbation)}; raise an error for unknown names",
            )

    def verdict(self) -> tuple[Reason, str] | None:
        """The reason and what was seen, or None for a tool that answers its arguments."""
        if self.ended:
            return self.ended
        answers = [answer for _, answer, _ in self.trials]
        if all(answer == "gold" for answer in answers):
            if not answers and self.stateful:
                return None
            seen = f"for {_shown(self.trials[-1][0])} too" if answers else "and there are no other arguments to give"
            return Reason.CONSTANT_TOOL, f"answers {self.step.answer!r} {seen}; compute it from the arguments"
        if not self.stateful and (path := self._answers_unknown()):
            trial = next(trial for trial, _, _ in self._of("unknown") if trial.path == path)
            return (
                Reason.ANSWERS_UNKNOWN,
                f"answers {self.step.answer!r} for {_shown(trial)}; raise an error for unknown names",
            )
        for path in self._suspects():
            if self._echoes(path) >= _ECHOES:
                problem = f"answers whatever is given as {_dotted(path)}; ask for what the caller lacks"
                return Reason.ECHOES_ARGUMENT, problem
        if "different" not in answers and not isinstance(self.step.answer, bool) and (known := self._known_names()):
            return Reason.CONSTANT_TOOL, f"answers {self.step.answer!r} for {known} too; compute it from the arguments"
        return None

    def _of(self, kind: str) -> list[tuple[Perturbation, Answer, Any]]:
        return [entry for entry in self.trials if entry[0].kind == kind]

    def _answers_unknown(self) -> Path | None:
        if self.step.answer is None or isinstance(self.step.answer, bool) or self.step.answer in (0, "", [], {}):
            return None
        for path in {trial.path for trial, _, _ in self._of("unknown") if trial.required}:
            if all(answer == "gold" for trial, answer, _ in self._of("unknown") if trial.path == path):
                return path
        return None

    def _suspects(self) -> list[Path]:
        """Places that hold the gold answer and of which nothing seen says that the tool does more than echo them."""
        return [
            path
            for path in self._echo_paths
            if all(
                answer == "refused" or (self._same(value, trial.value) if trial.path == path else answer == "gold")
                for trial, answer, value in self.trials
            )
        ]

    def _echoes(self, path: Path) -> int:
        return sum(answer == "different" for trial, answer, _ in self.trials if trial.path == path)

    def _known_names(self) -> str:
        """Two names among the perturbations of one required argument that answered gold; empty without them."""
        names: dict[Path, list[str]] = {}
        for trial, answer, _ in self._of("other"):
            if answer == "gold" and trial.required and isinstance(trial.value, str):
                names.setdefault(trial.path, []).append(repr(trial.value))
        return next((" and ".join(found[:2]) for found in names.values() if len(found) >= _KNOWN_NAMES), "")

    def _same(self, left: Any, right: Any) -> bool:
        return not isinstance(left, bool) and left not in (None, "") and matches(left, right, self.step.match)


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except NotCanonicalError:
        return None


def _shown(perturbation: Perturbation) -> str:
    return f"{_dotted(perturbation.path)} = {perturbation.value!r}"


def _dotted(path: Path) -> str:
    first, *rest = path
    return str(first) + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in rest)
