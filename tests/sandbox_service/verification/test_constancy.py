"""What perturbed calls show, over every tool that a pure Python function can be."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from astra_api.canonical import canonical_json
from astra_api.environment import GoldCall, Step
from astra_api.records import ToolError, ToolErrorKind, ToolOutcome, ToolResult
from astra_sandbox.verification.constancy import Constancy
from astra_sandbox.verification.data_columns import Standing
from astra_sandbox.verification.perturbation import perturbations

_KNOWN = {"paris": 10, "rome": 20, "oslo": 10, "bern": 10}


def _judged(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    optional: tuple[str, ...] = (),
    standing: Callable[[Any], Standing] = lambda _: None,
) -> str | None:
    """The reason found for a tool, asked as the verifier asks it; None for a good one."""
    required = [name for name in arguments if name not in optional]
    schema = {"type": "object", "properties": {name: {} for name in arguments}, "required": required}
    call = GoldCall(tool="f", arguments=dict(arguments))
    step = Step(id="s", question="?", answer=function(**arguments), call=call)
    judge = Constancy(step, standing)
    neighbours: Callable[[Any], list[Any]] = lambda value: [name for name in _KNOWN if name != value]  # noqa: E731
    for perturbation in perturbations(schema, arguments, lambda _: True, neighbours, "seed"):
        if judge.wants(perturbation):
            judge.add(perturbation, _outcome(function, perturbation.arguments))
    verdict = judge.verdict()
    return verdict[0] if verdict else None


def _outcome(function: Callable[..., Any], arguments: Mapping[str, Any]) -> ToolOutcome:
    try:
        return ToolResult(json_text=canonical_json(function(**arguments)).decode())
    except (LookupError, ValueError, TypeError) as error:
        return ToolError(kind=ToolErrorKind.RAISED, message=repr(error))


def _default_gold(x: str) -> int:
    return {"rome": 20}.get(x, 10)


def _known_only(x: str) -> int:
    if x not in _KNOWN:
        raise KeyError(x)
    return 99


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        (lambda: 7, {}, "ConstantTool"),
        (lambda x: 7, {"x": "paris"}, "ConstantTool"),
        (lambda x: 7, {"x": 3}, "ConstantTool"),
        (lambda x: True, {"x": "paris"}, "ConstantTool"),
        (lambda x, y: 7, {"x": "paris", "y": [1, 2]}, "ConstantTool"),
        (_known_only, {"x": "paris"}, "ConstantTool"),
        (_default_gold, {"x": "paris"}, "AnswersUnknown"),
        (lambda x: _KNOWN.get(x), {"x": "paris"}, "AnswersUnknown"),
        (lambda x, unit: _KNOWN[x], {"x": "paris", "unit": "km"}, "AnswersUnknown"),
        (lambda x: x, {"x": "paris"}, "EchoesArgument"),
        (lambda x: x, {"x": 12}, "EchoesArgument"),
    ],
)
def test_tools_that_do_not_answer_their_arguments(
    function: Callable[..., Any], arguments: dict[str, Any], reason: str
) -> None:
    assert _judged(function, arguments) == reason


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda x: _KNOWN[x], {"x": "paris"}),  # two neighbours answer the same
        (lambda x, y: _KNOWN[x] - _KNOWN[y], {"x": "paris", "y": "oslo"}),
        (lambda x: x in _KNOWN, {"x": "paris"}),
        (lambda x, y: _KNOWN[x] < _KNOWN[y], {"x": "paris", "y": "rome"}),
        (lambda x, y: x > y, {"x": 9, "y": 4}),
        (lambda x, y: max(x, y), {"x": 9, "y": 4}),
        (lambda x, y: min(x, y), {"x": 4, "y": 9}),
        (lambda x, y: min(x, y), {"x": "Lagos", "y": "Paris"}),
        (lambda x, y: max(x, y), {"x": "Lagos", "y": "Paris"}),
        (lambda x: abs(x), {"x": 5}),
        (lambda x, digits: round(x, digits), {"x": 5.25, "digits": 3}),
        (lambda items: sum(items), {"items": [1, 2, 3]}),
        (lambda items: max(items), {"items": [1, 2, 3]}),
        (lambda items: [item for item in items if item in _KNOWN], {"items": ["paris", "x"]}),
        (lambda text: len(text.split()), {"text": "hello world"}),
        (lambda text: text.upper(), {"text": "PARIS"}),
        (lambda word: sum(name.startswith(word) for name in _KNOWN), {"word": "po"}),  # nothing found is an answer
        (lambda at: at["lat"] + at["lon"], {"at": {"lat": 1.5, "lon": 2.5}}),
    ],
)
def test_honest_tools(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert _judged(function, arguments) is None


_ORDERS = [("ada", 3), ("bob", 4), ("ada", 5)]


def _standing(value: Any) -> Standing:
    return "key" if value in _KNOWN else "repeated" if value in ("ada", "bob") else None


@pytest.mark.parametrize(
    "default",
    [
        0,
        -1,
        999,
        "",
        "unknown",
        "N/A",
        "Europe",
        "City not found",
        [],
        {},
        [0],
        {"error": "no"},
        {"found": False},
        None,
    ],
)
def test_a_default_for_a_key_that_the_data_lacks(default: Any) -> None:
    assert _judged(lambda x: _KNOWN.get(x, default), {"x": "paris"}, standing=_standing) == "AnswersUnknown"
    told = _judged(lambda x: {"city": x, "n": _KNOWN.get(x, default)}, {"x": "paris"}, standing=_standing)
    assert told == "AnswersUnknown"


@pytest.mark.parametrize("default", ["unknown", "N/A", "Not found", {"error": "no such city"}, None])
def test_words_that_nothing_is_known_are_no_answer_whatever_the_data(default: Any) -> None:
    assert _judged(lambda x: _KNOWN.get(x, default), {"x": "paris"}) == "AnswersUnknown"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: sum(name == x for name, _ in _ORDERS),
        lambda x: sum(number for name, number in _ORDERS if name == x),
        lambda x: [number for name, number in _ORDERS if name == x],
        lambda x: {"name": x, "orders": [number for name, number in _ORDERS if name == x], "total": 0},
    ],
)
def test_a_filter_may_find_nothing(function: Callable[..., Any]) -> None:
    assert _judged(function, {"x": "ada"}, standing=_standing) is None


@pytest.mark.parametrize("found", [1, ["tea"], {"tea": 2}])
def test_rows_that_happen_not_to_repeat_may_be_looked_for(found: Any) -> None:
    known, nothing = {"ada": found, "bob": 2}, type(found)()
    assert _judged(lambda x: known.get(x, nothing), {"x": "ada"}, standing=lambda _: "single") is None
    assert _judged(lambda x: known.get(x, nothing), {"x": "ada"}, standing=lambda _: "key") == "AnswersUnknown"
    assert _judged(lambda x: known.get(x, nothing), {"x": "bob"}, standing=lambda _: "single") == "AnswersUnknown"


def test_a_filter_that_says_something_else_has_a_default() -> None:
    found = {"ada": 8, "bob": 4}
    assert _judged(lambda x: found.get(x, -1), {"x": "ada"}, standing=_standing) == "AnswersUnknown"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: _KNOWN[x],
        lambda x: x in _KNOWN,
        lambda x: x.upper(),
        lambda x: len(x),
        lambda x: f"{x}!",
        lambda x: x[::-1],
    ],
)
def test_what_works_on_any_text_works_on_a_known_one(function: Callable[..., Any]) -> None:
    assert _judged(function, {"x": "paris"}, standing=_standing) is None


def test_an_optional_argument_may_be_ignored() -> None:
    assert _judged(lambda x, style: _KNOWN[x], {"x": "paris", "style": "short"}, optional=("style",)) is None


def test_a_tool_that_hangs_for_unknown_names() -> None:
    step = Step(id="s", question="?", answer=1, call=GoldCall(tool="f", arguments={"x": "paris"}))
    judge = Constancy(step)
    first, second, *_ = perturbations({"type": "object"}, {"x": "paris"}, lambda _: True, lambda _: [], "seed")
    judge.add(first, ToolError(kind=ToolErrorKind.TIMED_OUT, message="", ended_process=True))
    assert not judge.wants(second)
    verdict = judge.verdict()
    assert verdict is not None
    assert verdict[0] == "ToolTimedOut"


def test_in_a_stateful_environment_an_effect_on_later_calls_counts() -> None:
    step = Step(id="s", question="?", answer="saved", call=GoldCall(tool="f", arguments={"x": "paris"}))
    for changed, reason in ((False, "ConstantTool"), (True, None)):
        judge = Constancy(step)
        for perturbation in perturbations({"type": "object"}, {"x": "paris"}, lambda _: True, lambda _: [], "seed"):
            judge.add(perturbation, ToolResult(json_text='"saved"'), changed_later=changed)
        verdict = judge.verdict()
        assert (verdict[0] if verdict else None) == reason
