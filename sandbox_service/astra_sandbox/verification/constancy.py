"""Is a tool's gold answer an answer to its arguments? Judges perturbed calls one by one (METHOD section 2).

A single perturbed call may answer gold for honest reasons: two cities share a time zone, a comparison stays true. So:

- ConstantTool: every perturbed call answered gold; or the tool refuses some values, yet at least two other names that
  it knows answered gold and nothing answered otherwise (booleans excepted).
- AnswersUnknown: a required argument was replaced by names that cannot exist, and each time it answered gold (booleans
  and answers that mean "nothing" excepted), null, or in words that nothing is known, where an error is due. Where the
  gold argument stands in the tool's data, any one answer to all of them is a default in place of an error, 0 and an
  empty list too, unless the tool may have looked for rows and found none: where values repeat, or gold is 1 or a list.
- EchoesArgument: whatever stands in one argument came back as the answer.

In a stateful environment a call may do its work in what other calls answer: there these are suspicions, and hold for
calls that change nothing.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from astra_api.canonical import NotCanonicalError, parse_json
from astra_api.environment import Step
from astra_api.matching import fold, matches
from astra_api.records import ToolErrorKind, ToolOutcome, ToolResult
from astra_sandbox.verification.data_columns import Standing
from astra_sandbox.verification.perturbation import Path, Perturbation, leaves, value_at
from astra_sandbox.verification.verdict import Reason

_ENDED = {ToolErrorKind.TIMED_OUT: Reason.TOOL_TIMED_OUT, ToolErrorKind.OUT_OF_MEMORY: Reason.TOOL_OUT_OF_MEMORY}
_MAX_OTHERS = 10
_ECHOES = 2
_KNOWN_NAMES = 2
_UNKNOWN_NAMES = 2  # that tell an answer from a default
_NOTHING = {"n a", "na", "none", "null", "nil", "missing", "undefined", "unbekannt", "未知", "不详"}
_NOTHING_KNOWN = re.compile(
    r"^(?:error|invalid)\b|\b(?:unknown|not (?:found|known|available|exist|listed|recognized|recognised)|no such|"
    r"does ?n t exist|no (?:data|information|record|entry)|nicht gefunden|nicht bekannt)\b"
)


class Evidence(NamedTuple):
    """One perturbed call and how it was answered; `null` only where null is not gold."""

    perturbation: Perturbation
    answer: Literal["gold", "different", "null", "refused"]
    value: Any


@dataclass
class Constancy:
    """The evidence on one gold call. `wants` says whether a perturbation would add to it, `verdict` what it shows."""

    step: Step
    standing: Callable[[Any], Standing] = lambda _: None
    evidence: list[Evidence] = field(default_factory=list)
    ended: tuple[Reason, str] | None = None
    changed_later: bool = False

    def wants(self, perturbation: Perturbation) -> bool:
        if self.ended:
            return False
        if perturbation.kind == "unknown":
            earlier = [entry for entry in self._of("unknown") if entry.perturbation.path == perturbation.path]
            if perturbation.path in self._echoed():
                return True
            return not any(self._tells(entry) for entry in earlier) and len(earlier) < _UNKNOWN_NAMES
        if len(self._of("other")) >= _MAX_OTHERS:
            return False
        return bool(self._echoed()) or not any(entry.answer in ("different", "null") for entry in self.evidence)

    def add(self, perturbation: Perturbation, outcome: ToolOutcome, changed_later: bool = False) -> None:
        """Takes the outcome of a perturbed call; `changed_later`: it changed what later calls answered."""
        if isinstance(outcome, ToolResult):
            value = _parsed(outcome.json_text)
            gold = self.step.matches(value) and not changed_later
            self.changed_later |= changed_later
            other: Literal["null", "different"] = "null" if outcome.json_text == "null" else "different"
            self.evidence.append(Evidence(perturbation, "gold" if gold else other, value))
            return
        self.evidence.append(Evidence(perturbation, "refused", None))
        if outcome.kind in _ENDED and perturbation.kind == "unknown" and isinstance(perturbation.value, str):
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
        if self.changed_later:
            return None
        if unknown := self._answered_unknown():
            said = "null" if unknown.value is None else repr(unknown.value)
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

    def _tells(self, entry: Evidence) -> bool:
        """Whether one unknown name shows that the tool tells unknown names from known ones, or works on any."""
        if entry.answer == "different":
            return self._standing(entry) is None and not _says_nothing(entry.value, entry.perturbation.value)
        return entry.answer == "refused"

    def _standing(self, entry: Evidence) -> Standing:
        return self.standing(value_at(self.step.call.arguments, entry.perturbation.path)) if self.step.call else None

    def _answered_unknown(self) -> Evidence | None:
        """A required argument for which every unknown name was answered as if it were known, or by a default."""
        paths: dict[Path, list[Evidence]] = {}
        for entry in self._of("unknown"):
            if entry.perturbation.required:
                paths.setdefault(entry.perturbation.path, []).append(entry)
        return next((found[0] for found in paths.values() if self._by_default(found)), None)

    def _by_default(self, found: list[Evidence]) -> bool:
        """Whether the answers to unknown names in one argument stand in place of errors."""
        answers = {entry.answer for entry in found}
        if "refused" in answers:
            return False
        boolean = isinstance(self.step.answer, bool)
        if answers == {"null"} or (answers == {"gold"} and not boolean and self.step.answer not in _EMPTY):
            return True
        if not _says_nothing(self.step.answer, None) and all(
            _says_nothing(entry.value, entry.perturbation.value) for entry in found
        ):
            return True
        standing, values = self._standing(found[0]), [_without(e.value, e.perturbation.value) for e in found]
        if boolean or standing is None or isinstance(values[0], bool) or values[0] is _GIVEN:
            return False
        empty = _is_empty(values[0])
        counts = self.step.answer == 1 or isinstance(self.step.answer, list | dict)
        if empty and (standing == "repeated" or (standing == "single" and counts)):
            return False
        if len(values) < _UNKNOWN_NAMES:
            return standing != "repeated" and (empty or values[0] == -1)
        return all(value == values[0] for value in values)

    def _echoed(self) -> list[Path]:
        """Places that hold the gold answer, where nothing seen says that the tool does more than echo them."""
        arguments = self.step.call.arguments if self.step.call else {}
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


_EMPTY: tuple[Any, ...] = (None, 0, "", [], {})
_GIVEN = object()  # stands for the given name in an answer


def _without(value: Any, given: Any) -> Any:
    """An answer, with a mark wherever it only repeats what it was given."""
    if isinstance(value, dict):
        return {key: _without(item, given) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, given) for item in value]
    return _GIVEN if type(value) is type(given) and value == given else value


def _is_empty(value: Any) -> bool:
    """0, "", [], {}, null, or an object or list of these."""
    if isinstance(value, dict | list):
        return all(item is _GIVEN or _is_empty(item) for item in _items(value))
    return value in _EMPTY and not isinstance(value, bool)


def _says_nothing(value: Any, given: Any) -> bool:
    """Whether an answer says in words that nothing is known: "unknown", "City not found", {"error": ...}."""
    if isinstance(value, str):
        folded = fold(value)
        return folded in _NOTHING or _NOTHING_KNOWN.search(folded) is not None
    if not isinstance(value, dict | list):
        return False
    if isinstance(value, dict) and any(fold(key) in ("error", "errors") and item for key, item in value.items()):
        return True
    telling = [item for item in _items(value) if item is not None and item != given]
    return bool(telling) and all(_says_nothing(item, given) for item in telling)


def _items(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    yield from value.values() if isinstance(value, dict) else value


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
