"""Is a tool's gold answer an answer to its arguments? Judges perturbed calls one by one (METHOD section 2).

A single perturbed call may answer gold for honest reasons: two cities share a time zone, a comparison stays true. So:

- ConstantTool: every perturbed call answered gold; or the tool refuses some values, yet at least two other names that
  it knows answered gold and nothing answered otherwise (booleans excepted).
- AnswersUnknown: a required argument was replaced by names that cannot exist, and each time it answered gold (booleans
  and answers that mean "nothing" excepted) or null, where an error is due.
- EchoesArgument: whatever stands in one argument came back as the answer.

In a stateful environment a call may do its work in what later calls answer: only ConstantTool is judged there.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.environment import Step
from astra_api.matching import matches
from astra_api.records import ToolErrorKind, ToolOutcome, ToolResult
from astra_sandbox.verification.perturbation import Path, Perturbation, leaves
from astra_sandbox.verification.verdict import Reason

_ENDED = {ToolErrorKind.TIMED_OUT: Reason.TOOL_TIMED_OUT, ToolErrorKind.OUT_OF_MEMORY: Reason.TOOL_OUT_OF_MEMORY}
_MAX_OTHERS = 10
_ECHOES = 2
_KNOWN_NAMES = 2


class Evidence(NamedTuple):
    """One perturbed call and how it was answered; `null` only where null is not gold."""

    perturbation: Perturbation
    answer: Literal["gold", "different", "null", "refused"]
    value: Any


@dataclass
class Constancy:
    """The evidence on one gold call. `wants` says whether a perturbation would add to it, `verdict` what it shows."""

    step: Step
    stateful: bool
    evidence: list[Evidence] = field(default_factory=list)
    ended: tuple[Reason, str] | None = None

    def wants(self, perturbation: Perturbation) -> bool:
        if self.ended:
            return False
        if perturbation.kind == "unknown":
            earlier = [entry for entry in self._of("unknown") if entry.perturbation.path == perturbation.path]
            telling = any(entry.answer in ("refused", "different") for entry in earlier)
            return not telling or perturbation.path in self._echoed()
        if len(self._of("other")) >= _MAX_OTHERS:
            return False
        return bool(self._echoed()) or not any(entry.answer in ("different", "null") for entry in self.evidence)

    def add(self, perturbation: Perturbation, outcome: ToolOutcome, changed_later: bool = False) -> None:
        """Takes the outcome of a perturbed call; `changed_later`: it changed what later calls answered."""
        if isinstance(outcome, ToolResult):
            value = _parsed(outcome.json_text)
            gold = self.step.matches(value) and not changed_later
            other: Literal["null", "different"] = "null" if outcome.json_text == "null" else "different"
            self.evidence.append(Evidence(perturbation, "gold" if gold else other, value))
            return
        self.evidence.append(Evidence(perturbation, "refused", None))
        if outcome.kind in _ENDED and perturbation.kind == "unknown":
            problem = f"does not end for {_shown(perturbation)}; raise an error for unknown names"
            self.ended = _ENDED[outcome.kind], problem

    def verdict(self) -> tuple[Reason, str] | None:
        """The reason and what was seen, or None for a tool that answers its arguments."""
        if self.ended:
            return self.ended
        answers = {entry.answer for entry in self.evidence}
        if answers <= {"gold"}:
            seen = (
                f"for {_shown(self.evidence[-1].perturbation)} too" if answers else "and there is nothing else to give"
            )
            return Reason.CONSTANT_TOOL, f"answers {self.step.answer!r} {seen}; compute it from the arguments"
        if self.stateful:
            return None
        if unknown := self._answered_unknown():
            said = "null" if unknown.answer == "null" else repr(self.step.answer)
            return (
                Reason.ANSWERS_UNKNOWN,
                f"answers {said} for {_shown(unknown.perturbation)}; raise an error for unknown names",
            )
        for path in self._echoed():
            if (
                sum(entry.answer == "different" for entry in self.evidence if entry.perturbation.path == path)
                >= _ECHOES
            ):
                return (
                    Reason.ECHOES_ARGUMENT,
                    f"answers whatever is given as {_dotted(path)}; ask for what the caller lacks",
                )
        if answers <= {"gold", "refused"} and not isinstance(self.step.answer, bool) and (names := self._known_names()):
            return Reason.CONSTANT_TOOL, f"answers {self.step.answer!r} for {names} too; compute it from the arguments"
        return None

    def _of(self, kind: str) -> list[Evidence]:
        return [entry for entry in self.evidence if entry.perturbation.kind == kind]

    def _answered_unknown(self) -> Evidence | None:
        """A required argument for which every unknown name was answered gold, or every one null."""
        empty = isinstance(self.step.answer, bool) or self.step.answer in (None, 0, "", [], {})
        required = [entry for entry in self._of("unknown") if entry.perturbation.required]
        for entry in required:
            answers = {other.answer for other in required if other.perturbation.path == entry.perturbation.path}
            if answers == {"null"} or (answers == {"gold"} and not empty):
                return entry
        return None

    def _echoed(self) -> list[Path]:
        """Places that hold the gold answer, where nothing seen says that the tool does more than echo them."""
        arguments = self.step.call.arguments if self.step.call and not self.stateful else {}
        return [
            path
            for path, value in leaves(arguments)
            if self._same(value, self.step.answer)
            and all(
                entry.answer == "refused"
                or (
                    self._same(entry.value, entry.perturbation.value)
                    if entry.perturbation.path == path
                    else entry.answer == "gold"
                )
                for entry in self.evidence
            )
        ]

    def _known_names(self) -> str:
        """Two names, perturbing one required argument, that answered gold; empty without them."""
        names: dict[Path, list[str]] = {}
        for perturbation, answer, _ in self._of("other"):
            if answer == "gold" and perturbation.required and isinstance(perturbation.value, str):
                names.setdefault(perturbation.path, []).append(repr(perturbation.value))
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
