"""Does a question already say an answer that it asks for? (METHOD section 2.)

"Find the city served by Pantelleria Airport" says Pantelleria: nobody needs a tool. The rule, so that honest questions
are not accused:

- Texts of at least 3 letters (2 in scripts without spaces; codes of 2 or 3 capitals as they are written) and numbers of
  at least 2 significant digits count, where they stand as whole words or numerals. Yes, no, true, none and the like,
  and numbers of one digit never do. A list or an object is said where all that it holds is.
- What a question offers is not said: "Is it open or closed?", "Is the shop open?", "if it is open".
- A choice among what was given is not said: "Which of Rome and Paris is larger?", where the gold calls take both.
- A number that a gold call takes is there for that call, unless the call depends on the step that is to find it.
- In a stateful environment a question says what is to be changed, and steps work by what they change: only the main
  answer counts, and not where it is a word in lower case ("closed") or what a call before it takes.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import networkx as nx

from astra_api.environment import EnvironmentSpec, Step
from astra_api.graph import step_graph, terminal_steps
from astra_api.matching import fold, matches
from astra_sandbox.verification.leakage import NEVER, scalars
from astra_sandbox.verification.mentions import Mention, number_mentions, plain, significant, spaceless, text_mentions
from astra_sandbox.verification.perturbation import leaves
from astra_sandbox.verification.verdict import Finding, Reason

_FEWEST_LETTERS, _FEWEST_DIGITS = 3, 2
_FEWEST_DIGITS_ELSEWHERE = 3  # of a number that another step's question says
_OR_SPACED = r"(?:or|OR|vs\.?|versus|oder|ou|o|или|либо)\s"  # no O'Hare
_OR_SPACELESS = r"(?:或者?|还是|または|それとも|또는)"
_ARTICLE = r"(?:(?:the|an?|der|die|das|eine?|le|la|les|une?|el|los|las)\s+)?"
_ASKS = r"(?:which|what|who|where|when|how|tell|find|give|list|name|look)\b"
_WORD = rf"(?!(?i:{_ASKS}))[^\s,、，]+"
_LISTED = rf"{_WORD}(?:\s+{_WORD}){{0,2}}\s*"  # what stands between two commas of an enumeration
_OFFERED_AFTER = re.compile(rf"[\"'’”)]?\s*(?:[,、，]\s*{_LISTED})*[,、，]?\s*(?:{_OR_SPACED}|{_OR_SPACELESS})")
_OFFERED_BEFORE = re.compile(rf"(?:(?:^|[\s,]){_OR_SPACED}|{_OR_SPACELESS})\s*{_ARTICLE}[\"'‘“(]?$")
_POLAR = re.compile(
    r"\s*(?:is|are|was(?!\s+(?:ist|sind|war|waren|hat|haben|wird|werden|kostet)\b)|were|does|do|did|has|have|had|will|"
    r"ist|sind|war|waren|hat|haben|hatte|wird|werden)\s+(?!you\b|we\b|sie\b|du\b|ihr\b).*\?$|.*(?:吗|嗎)[？?]?$",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(
    r"(?:\b(?:whether|if|ob|falls|wenn)\b(?!\s+(?:you|possible|we|sie|du|ihr)\b)|是否|如果)[^,;:，；：]*$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r".*?(?:[?？!！。;；\n]+|\.(?=\s|$)|$)", re.DOTALL)
_NEAR = 200  # characters around a mention that may show that it is offered
_PART_OF_A_DATE = re.compile(r"\d[-/.:]$"), re.compile(r"^[-/:]\d")


@dataclass(frozen=True)
class Known:
    """What a question may say all the same: texts to choose among, group by group, and values that calls take."""

    choices: Sequence[Sequence[str]] = ()
    taken: Sequence[Any] = ()

    def holds(self, answer: Any, question: str) -> bool:
        return any(_same(answer, value) for value in self.taken) or any(
            self._chosen(answer, group, question) for group in self.choices
        )

    def _chosen(self, answer: Any, group: Sequence[str], question: str) -> bool:
        """Whether it is one of several texts that were given and that the question names."""
        if not any(_same(answer, text) for text in group):
            return False
        return len({fold(text) for text in group if any(True for _ in text_mentions(text, question))}) > 1


def check_questions(spec: EnvironmentSpec) -> Iterator[Finding]:
    """No question says the answer that it asks for, and the main question none that a step is to find."""
    steps = _Steps(spec)
    said = steps.main_is_said()
    if said:
        yield _found("spec.question", spec.answer, "which is the answer; ask so that a tool is needed to know it")
    if spec.state == "stateful":
        return
    for index, step in enumerate(spec.steps):
        own, known = f"spec.steps[{index}]", partial(steps.known, index)
        told = step.call is None or (said and step.matches(spec.answer))
        if not told and says(spec.question, step.answer, step.tolerance, known):
            yield _found("spec.question", step.answer, f"which {own} is to find; ask so that its call is needed")
        if says(step.question, step.answer, step.tolerance, known):
            yield _found(f"{own}.question", step.answer, "which is its answer; ask so that its call is needed")
        for other in steps.apart(index):
            answer = spec.steps[other].answer
            if _takes_ahead(step, answer) and not any(True for _ in _mentions(answer, 0.0, spec.question)):
                problem = f"which spec.steps[{other}] is to find; list {spec.steps[other].id} in {own}.dependsOn"
                yield _found(f"{own}.question", answer, problem)


def says(question: str, answer: Any, tolerance: float, known: Callable[[], Known]) -> bool:
    """Whether a question says an answer, all of it, and neither offers it nor says it for what is known."""
    if isinstance(answer, list | dict):
        parts = [part for part in scalars(answer) if not isinstance(part, bool) and part is not None]
        return bool(parts) and all(says(question, part, 0.0, known) for part in parts)
    mentions = _mentions(answer, tolerance, question)
    return any(not _offered(plain(question), mention) for mention in mentions) and not known().holds(answer, question)


class _Steps:
    """The steps of an environment, by index, and what the questions may know of them."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self._index = {step.id: index for index, step in enumerate(spec.steps)}
        self._graph = step_graph(spec.steps)

    def main_is_said(self) -> bool:
        """Whether the main question says the main answer, whichever terminal step gives it."""
        spec = self._spec
        if spec.state == "stateful" and isinstance(spec.answer, str) and spec.answer.islower():
            return False
        ends = [self._index[step.id] for step in terminal_steps(spec.steps) if step.matches(spec.answer)]
        return bool(ends) and all(
            says(spec.question, spec.answer, spec.steps[end].tolerance, partial(self.known, end)) for end in ends
        )

    def apart(self, index: int) -> list[int]:
        """The steps with a call that neither come before this one nor after it."""
        related = self._before(index) | self._after(index) | {index}
        calling = [other for other, step in enumerate(self._spec.steps) if step.call is not None]
        return [other for other in calling if other not in related]

    def known(self, index: int) -> Known:
        """What questions may say of a step's answer."""
        before, after, steps = sorted(self._before(index)), self._after(index), self._spec.steps
        answers = [value for other in before for value in scalars(steps[other].answer)]
        if self._spec.state == "stateful":
            taken = [value for other in [*before, index] for value in self._arguments(other)]
        else:
            given = [value for other in range(len(steps)) if other not in after for value in self._arguments(other)]
            taken = [value for value in [*given, *answers] if _is_number(value)]
            taken += answers if steps[index].call is None else []
        return Known([*self._groups([*before, index]), _texts(self._arguments(index)), _texts(answers)], taken)

    def _groups(self, indexes: Iterable[int]) -> list[list[str]]:
        """The texts that calls take, those for one parameter of one tool together."""
        groups: dict[tuple[str, str], list[str]] = {}
        for index in indexes:
            if (call := self._spec.steps[index].call) is not None:
                for path, value in leaves(call.arguments):
                    groups.setdefault((call.tool, path[0]), []).append(value)
        return [_texts(group) for group in groups.values()]

    def _arguments(self, index: int) -> list[Any]:
        call = self._spec.steps[index].call
        return list(scalars(call.arguments)) if call is not None else []

    def _before(self, index: int) -> set[int]:
        return self._indexes(nx.ancestors(self._graph, self._spec.steps[index].id))

    def _after(self, index: int) -> set[int]:
        return self._indexes(nx.descendants(self._graph, self._spec.steps[index].id))

    def _indexes(self, names: Iterable[str]) -> set[int]:
        return {self._index[name] for name in names if name in self._index}


def _takes_ahead(step: Step, answer: Any) -> bool:
    """Whether a step says, and its call takes, what another one has yet to find."""
    if step.call is None or not any(_same(answer, value) for value in scalars(step.call.arguments)):
        return False
    if _is_number(answer) and len(significant(str(answer))) < _FEWEST_DIGITS_ELSEWHERE:
        return False
    return any(True for _ in _mentions(answer, 0.0, step.question))


def _mentions(answer: Any, tolerance: float, question: str) -> Iterator[Mention]:
    """Where a question says a scalar that tells something."""
    if answer is None or isinstance(answer, bool | list | dict) or fold(str(answer)) in NEVER:
        return
    given = plain(question)
    if _is_number(answer):
        if len(significant(str(answer))) >= _FEWEST_DIGITS:
            yield from (m for m in number_mentions(answer, question, tolerance) if not _in_code(given, m))
        return
    folded = fold(answer)
    code = len(folded) <= _FEWEST_LETTERS and answer.strip().isupper()
    if len(folded) < (2 if code or spaceless(answer) else _FEWEST_LETTERS):
        return
    for mention in text_mentions(answer, question):
        if not code or given[mention.start : mention.end].isupper():  # CAN is not the "can" of "can you"
            yield mention


def _offered(question: str, mention: Mention) -> bool:
    """Whether a question offers what it says: as one of several, or for a yes or a no."""
    ends, polar = _sentences(question)
    place = bisect_right(ends, mention.start)
    start, end = ends[place - 1] if place else 0, max(ends[place], mention.end)
    before, after = question[max(start, mention.start - _NEAR) : mention.start], question[mention.end : end][:_NEAR]
    continued = question[mention.start].isupper() and re.match(r"\s[A-Z]", after) is not None  # London in London City
    return (
        polar[place]
        or _OFFERED_AFTER.match(after) is not None
        or (_OFFERED_BEFORE.search(before) is not None and not continued)
        or _CONDITION.search(before) is not None
    )


@lru_cache(maxsize=256)
def _sentences(question: str) -> tuple[list[int], list[bool]]:
    """Where the sentences of a question end, and which of them want a yes or a no."""
    found = [sentence for sentence in _SENTENCE.finditer(question) if sentence[0]]
    return [sentence.end() for sentence in found], [
        _POLAR.fullmatch(sentence[0].strip()) is not None for sentence in found
    ]


def _in_code(question: str, mention: Mention) -> bool:
    """Whether a numeral is a part of a date or a time (2025-11-24, 14:30) or a code that begins with zeros (A-0012)."""
    if re.match(r"0\d", mention.digits):
        return True
    before, after = _PART_OF_A_DATE
    left, right = question[max(mention.start - 2, 0) : mention.start], question[mention.end : mention.end + 2]
    return before.search(left) is not None or after.search(right) is not None


def _texts(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _is_number(value: Any) -> bool:
    return matches(value, value, "numeric")


def _same(left: Any, right: Any) -> bool:
    """Whether two scalars are one number, or one text whatever its case, accents and punctuation."""
    if isinstance(left, str) and isinstance(right, str) and fold(plain(left)) == fold(plain(right)) != "":
        return True
    return matches(left, right, "numeric")


def _found(field: str, answer: Any, problem: str) -> Finding:
    return Finding("leakage", Reason.ANSWER_IN_QUESTION, f"{field}: says {answer!r}, {problem}")
