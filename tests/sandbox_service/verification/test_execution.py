"""gold, deterministic, nonConstant, assembled: environments verified on a real server."""

import datetime
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from astra_api.environment import Environment, Step
from astra_api.graph import scenario
from astra_sandbox.interface import Sandbox
from astra_sandbox.verification import CHECKS, verify_environment

_TODAY = str(datetime.date.today())
pytestmark = pytest.mark.asyncio(loop_scope="session")
Maker = Callable[..., Environment]
_FAST = {"timeoutSeconds": 0.5}
_LOOK_UP = "return {'a': 42}[x]\n"


async def test_a_good_environment_is_verified(city: dict[str, Any], verifying_sandbox: Sandbox) -> None:
    environment = Environment.model_validate(city)
    verdict = await verify_environment(environment, verifying_sandbox)
    assert (verdict.phase, verdict.reason, verdict.message) == ("Verified", None, "")
    assert verdict.checks == dict.fromkeys(CHECKS, "passed")
    assert (verdict.digest, verdict.toolset) == (environment.digest, environment.toolset.digest)
    assert verdict == await verify_environment(environment, verifying_sandbox)


async def test_an_artifact_that_cannot_be_read_back_is_refused(
    city: dict[str, Any], verifying_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astra_sandbox.verification.artifact.manifest_text", lambda environments: "kind: [")
    verdict = await verify_environment(Environment.model_validate(city), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", "NotReproducible")
    assert [name for name, found in verdict.checks.items() if found == "failed"] == ["assembled"]


async def test_the_gold_calls_run_on_what_was_read_back(
    city: dict[str, Any], verifying_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment.model_validate(city)
    city["spec"]["source"] = "def city_population(city):\n    return 1\n"
    other = Environment.model_validate(city)
    monkeypatch.setattr("astra_sandbox.verification.execution.reloaded", lambda _: other)
    verdict = await verify_environment(environment, verifying_sandbox)
    assert (verdict.phase, verdict.checks["gold"]) == ("Rejected", "passed")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x):\n    while True:\n        pass\n", "ToolTimedOut"),
        ("import time\ndef f(x):\n    time.sleep(60)\n", "ToolTimedOut"),
        ("def f(x):\n    return len([bytes(1 << 20) for _ in range(1 << 20)])\n", "ToolOutOfMemory"),
        ("import os\ndef f(x):\n    while True:\n        os.fork()\n", "ToolRaised"),
        ("import os\ndef f(x):\n    os.fork()\n    " + _LOOK_UP, "ToolRaised"),
        ("import threading\ndef f(x):\n    threading.Thread(target=print).start()\n    " + _LOOK_UP, "ToolRaised"),
        ("def f(x):\n    return 'x' * (1 << 20)\n", "OutputTooLarge"),
        ("import sys\ndef f(x):\n    sys.exit(0)\n", "ToolEndedProcess"),
        ("import os\ndef f(x):\n    os._exit(0)\n", "ToolEndedProcess"),
        ("def f(x):\n    return {1, 2}\n", "ResultNotJson"),
        ("def f(x):\n    return float('nan')\n", "ResultNotJson"),
        ("def f(x):\n    return 2 ** 60\n", "ResultNotJson"),
        ("def f(x):\n    return {1: 2}\n", "ResultNotJson"),
        ("def f(x):\n    return f(x)\n", "ToolRaised"),
        ("def f(x):\n    from os import nothing_there\n", "ToolRaised"),
        ("import os.nothing_there\ndef f(x):\n    return 42\n", "SourceFailsToLoad"),
        ("def f(x):\n    return 42\nraise ValueError('no')\n", "SourceFailsToLoad"),
        ("def f(x):\n    return 42\nexit(0)\n", "SourceFailsToLoad"),
        ("def f(x):\n    return 42\ndel f\n", "SourceFailsToLoad"),
        ("def f(x):\n    return 43\n", "GoldMismatch"),
        ("def f(x):\n    return '42'\n", "GoldMismatch"),
        ("def f(x):\n    return None\n", "GoldMismatch"),
    ],
)
async def test_gold(verifying_sandbox: Sandbox, one_tool: Maker, source: str, reason: str) -> None:
    verdict = await verify_environment(one_tool(source, sandbox=_FAST), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", reason)
    assert verdict.checks["gold"] == "failed"
    assert verdict.checks["topology"] == "passed"
    assert {verdict.checks[name] for name in ("deterministic", "nonConstant", "assembled")} == {"skipped"}
    assert verdict.message.startswith(("spec.steps[0].call: f ", "spec.source: "))


def _hash_in_production() -> int:
    program = "print(hash('a') % 1000003)"
    environment = {"PYTHONHASHSEED": "0"}
    return int(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("source", "answer", "reason"),
    [
        ("import datetime\ndef f(x):\n    return {'a': str(datetime.date.today())}[x]\n", _TODAY, "NonDeterministic"),
        ("import time\ndef f(x):\n    return {'a': time.strftime('%Y-%m-%d')}[x]\n", _TODAY, "NonDeterministic"),
        (
            "import random\ndef f(x):\n    return {'a': random.random()}[x]\n",
            random.Random(0).random(),
            "NonDeterministic",
        ),
        ("def f(x):\n    return {'a': hash(x) % 1000003}[x]\n", _hash_in_production(), "NonDeterministic"),
        ("_N = [0]\ndef f(x):\n    _N[0] += 1\n    return {'a': 41}[x] + _N[0]\n", 42, "KeepsState"),
    ],
)
async def test_deterministic(
    verifying_sandbox: Sandbox, one_tool: Maker, source: str, answer: Any, reason: str
) -> None:
    verdict = await verify_environment(one_tool(source, answer), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", reason)
    assert (verdict.checks["gold"], verdict.checks["deterministic"]) == ("passed", "failed")
    assert verdict.checks["assembled"] == "skipped"


async def test_a_stateless_environment_must_not_depend_on_the_order_of_its_calls(
    verifying_sandbox: Sandbox, city: dict[str, Any]
) -> None:
    city["spec"]["source"] = (
        "_POPULATION = {'Paris': 2148000, 'Rome': 2873000}\n_SEEN = []\n\n"
        "def city_population(city):\n    _SEEN.append(city)\n"
        "    return _POPULATION[city] if 'Paris' in _SEEN else 0\n"
    )
    verdict = await verify_environment(Environment.model_validate(city), verifying_sandbox)
    assert verdict.checks["deterministic"] == "failed", verdict


@pytest.mark.parametrize(
    ("source", "arguments", "reason"),
    [
        ("def f(x):\n    return 42\n", {"x": "a"}, "ConstantTool"),
        ("def f(x):\n    return 42\n", {"x": 1}, "ConstantTool"),
        ("def f():\n    return 42\n", {}, "ConstantTool"),
        ("def f(x):\n    return {'b': 1}.get(x, 42)\n", {"x": "a"}, "AnswersUnknown"),
        (
            "def f(x):\n    if x not in ('a', 'b', 'c'):\n        raise KeyError(x)\n    return 42\n",
            {"x": "a"},
            "ConstantTool",
        ),
        ("def f(x):\n    return {'a': 42}.get(x)\n", {"x": "a"}, "AnswersUnknown"),
        ("def f(x):\n    return x\n", {"x": 42}, "EchoesArgument"),
        ("def f(x):\n    while x != 'a':\n        pass\n    return 42\n", {"x": "a"}, "ToolTimedOut"),
    ],
)
async def test_non_constant(
    verifying_sandbox: Sandbox, one_tool: Maker, source: str, arguments: dict[str, Any], reason: str
) -> None:
    verdict = await verify_environment(one_tool(source, 42, arguments, sandbox=_FAST), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", reason)
    assert verdict.checks["nonConstant"] == "failed"


async def test_an_argument_that_the_tool_does_not_know(verifying_sandbox: Sandbox, one_tool: Maker) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    tools = [{"name": "f", "description": "A tool.", "parameters": schema}]
    source = "def f(x, **others):\n    return {'a': 42}[x]\n"
    verdict = await verify_environment(one_tool(source, tools=tools), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", "AcceptsUnknownArguments")
    schema["additionalProperties"] = True  # says that it takes any
    assert (await verify_environment(one_tool(source, tools=tools), verifying_sandbox)).verified
    del schema["additionalProperties"]
    source = "def f(x):\n    return {'a': 42}[x]\n"
    assert (await verify_environment(one_tool(source, tools=tools), verifying_sandbox)).verified


_CITIES = "_P = {'paris': 42, 'rome': 28, 'oslo': 7}\ndef f(x):\n    "


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (_CITIES + "return _P.get(x, 0)\n", {"x": "paris"}),
        (_CITIES + "return _P.get(x.lower(), -1)\n", {"x": "Paris"}),
        (_CITIES + "return _P.get(x) or f'City {x} not found'\n", {"x": "paris"}),
        (_CITIES + "try:\n        return _P[x]\n    except KeyError:\n        return []\n", {"x": "paris"}),
        ("_P = {101: 42, 102: 7}\ndef f(x):\n    return _P.get(x, 0)\n", {"x": 101}),
        (
            "_P = {('a', 1): 42, ('b', 1): 7, ('a', 2): 9}\ndef f(x, y):\n    return _P.get((x, y), 0)\n",
            {"x": "a", "y": 1},
        ),
        ("def f(x):\n    if x == 'a':\n        return 42\n    return 0\n", {"x": "a"}),
    ],
)
async def test_a_default_in_place_of_an_error(
    verifying_sandbox: Sandbox, one_tool: Maker, source: str, arguments: dict[str, Any]
) -> None:
    verdict = await verify_environment(one_tool(source, 42, arguments), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", "AnswersUnknown")
    assert verdict.message.endswith("; raise an error for unknown names")


async def test_a_code_that_no_data_holds_has_the_form_that_the_schema_wants(
    verifying_sandbox: Sandbox, one_tool: Maker
) -> None:
    code = {"type": "string", "pattern": "^[A-Z]{2}$"}
    schema = {"type": "object", "properties": {"x": code}, "required": ["x"], "additionalProperties": False}
    tools = [{"name": "f", "description": "A tool.", "parameters": schema}]
    source = "_P = {'FR': 42, 'DE': 7, 'IT': 9}\ndef f(x):\n    return _P%s\n"
    verdict = await verify_environment(one_tool(source % ".get(x, 0)", 42, {"x": "FR"}, tools=tools), verifying_sandbox)
    assert verdict.reason == "AnswersUnknown"
    assert (
        await verify_environment(one_tool(source % "[x]", 42, {"x": "FR"}, tools=tools), verifying_sandbox)
    ).verified


_BASKET = """
_ITEMS = {"tea": 1}
_OPEN = [True]

def add(item, quantity):
    if item not in _ITEMS:
        raise KeyError(item)
    _ITEMS[item] += quantity
    return _ITEMS[item]

def total():
    return sum(_ITEMS.values()) if _OPEN[0] else -1

def close():
    _OPEN[0] = False
    return "closed"

def size():
    return 1
"""


_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}
Call = tuple[str, dict[str, Any], Any, list[str]]  # tool, arguments, answer, dependsOn


def _stateful(source: str, *calls: Call, unused: dict[str, dict[str, Any]] | None = None) -> Environment:
    """An environment of a source; `unused` are tools that no step calls, with examples of their arguments."""
    steps = [
        {
            "id": f"s{index}",
            "question": "?",
            "answer": answer,
            "dependsOn": needs,
            "call": {"tool": tool, "arguments": arguments},
        }
        for index, (tool, arguments, answer, needs) in enumerate(calls)
    ]
    taken = {**{tool: arguments for tool, arguments, *_ in calls}, **(unused or {})}
    tools = [
        {
            "name": name,
            "description": "A tool.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": _KINDS[type(value)]} for key, value in given.items()},
                "required": list(given),
                "additionalProperties": False,
            },
        }
        for name, given in taken.items()
    ]
    spec = {
        "question": "?",
        "answer": calls[-1][2],
        "domain": "d",
        "scenario": scenario([Step.model_validate(step) for step in steps]),
        "steps": steps,
        "tools": tools,
        "source": source,
        "state": "stateful",
    }
    return Environment.model_validate({"metadata": {"name": "basket"}, "spec": spec})


_ADD = ("add", {"item": "tea", "quantity": 3}, 4, [])


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([_ADD, ("total", {}, 4, ["s0"])], None),
        ([_ADD, ("close", {}, "closed", ["s0"]), ("total", {}, -1, ["s1"])], None),
        ([_ADD, ("total", {}, 5, ["s0"])], "GoldMismatch"),
        ([_ADD, ("size", {}, 1, ["s0"])], "ConstantTool"),
        ([("size", {}, 1, []), _ADD], "ConstantTool"),
        ([_ADD, ("total", {}, 4, ["s0"]), ("add", {"item": "tea", "quantity": 2}, 6, [])], "OrderDependent"),
        ([_ADD, ("add", {"item": "honey", "quantity": 2}, 6, ["s0"])], "ToolRaised"),
    ],
)
async def test_stateful(verifying_sandbox: Sandbox, calls: list[Any], reason: str | None) -> None:
    verdict = await verify_environment(_stateful(_BASKET, *calls), verifying_sandbox)
    assert (verdict.reason, verdict.verified) == (reason, reason is None), verdict


def _chain(*calls: tuple[str, dict[str, Any], Any]) -> list[Call]:
    """Calls one after another."""
    return [(*call, [f"s{index - 1}"] if index else []) for index, call in enumerate(calls)]


_ORDERS = """
_ORDERS = {}

def create_order(customer):
    _ORDERS[len(_ORDERS) + 1] = [customer, {}]
    return len(_ORDERS)

def add_item(order, item, quantity):
    _ORDERS[order][1][item] = quantity

def items(order):
    return sum(_ORDERS[order][1].values())

def owner(order):
    return _ORDERS[order][0]
"""
_MODE = "_S = {'mode': 'off'}\ndef mode():\n    return _S['mode']\ndef set_mode(mode):\n    "
_RATES = """
_RATES = {"USD": 1.0, "EUR": 2.0}

def set_rate(currency, rate):
    if currency not in _RATES:
        raise KeyError(currency)
    _RATES[currency] = rate

def convert(amount, currency):
    return amount * _RATES[currency]
"""
_BANK = """
_MONEY = {"ada": 100, "bob": 50}

def transfer(source, target, amount):
    if _MONEY[source] < amount:
        raise ValueError("not enough")
    _MONEY[source] -= amount
    _MONEY[target] += amount
    return True

def balance(account):
    return _MONEY[account]
"""
_LOG = "_L = ['first']\ndef append(entry):\n    _L.append(entry)\ndef line(number):\n    return _L[number]\n"
_FILES = (
    "def write(name, text):\n    with open(name, 'w') as file:\n        file.write(text)\n    return 'saved'\n"
    "def read(name):\n    with open(name) as file:\n        return file.read()\n"
)
_STORE = "_D = {'tea': 1, 'rye': 2, 'ham': 3}\ndef delete(key):\n    del _D[key]\n    return 'gone'\n"
_LAMP = "_ON = [False]\ndef toggle():\n    _ON[0] = not _ON[0]\ndef is_on():\n    return _ON[0]\n"
_CLOSURE = """
def _counter():
    number = 0
    def following():
        nonlocal number
        number += 1
        return number
    return following

_FOLLOWING = _counter()

def next_id():
    return _FOLLOWING()
"""
_STACK = """
_VALUES = [0]

def add(number):
    _VALUES.append(_VALUES[-1] + number)
    return "done"

def undo():
    _VALUES.pop()
    return "undone"

def value():
    return _VALUES[-1]
"""
_PAIRS = "_D = {'a': 1}\ndef put(key, value):\n    _D[key] = value\ndef get(key):\n    return _D.get(key, 0)\n"


@pytest.mark.parametrize(
    ("source", "calls", "unused"),
    [
        (
            _ORDERS,
            [
                ("create_order", {"customer": "Ada"}, 1),
                ("add_item", {"order": 1, "item": "tea", "quantity": 3}, None),
                ("items", {"order": 1}, 3),
            ],
            {},
        ),
        (_ORDERS, [("create_order", {"customer": "Ada"}, 1)], {"owner": {"order": 1}}),
        (_ORDERS, [("create_order", {"customer": "Ada"}, 1), ("create_order", {"customer": "Bob"}, 2)], {}),
        (_MODE + "_S['mode'] = mode\n", [("mode", {}, "off"), ("set_mode", {"mode": "eco"}, None)], {}),
        (_MODE + "_S['mode'] = mode\n    return mode\n", [("set_mode", {"mode": "eco"}, "eco")], {"mode": {}}),
        (
            _MODE + "_S['mode'] = mode\n    return 'ok'\n",
            [("set_mode", {"mode": "off"}, "ok"), ("mode", {}, "off")],
            {},
        ),
        (
            _RATES,
            [("set_rate", {"currency": "EUR", "rate": 3.5}, None), ("convert", {"amount": 10, "currency": "USD"}, 10)],
            {},
        ),
        (
            _BANK,
            [("transfer", {"source": "ada", "target": "bob", "amount": 30}, True)],
            {"balance": {"account": "ada"}},
        ),
        (_LOG, [("line", {"number": 0}, "first"), ("append", {"entry": "second"}, None)], {}),
        (_FILES, [("write", {"name": "a.txt", "text": "hello"}, "saved")], {"read": {"name": "a"}}),
        (_STORE, [("delete", {"key": "tea"}, "gone")], {}),
        (_LAMP, [("toggle", {}, None)], {"is_on": {}}),
        (_CLOSURE, [("next_id", {}, 1)], {}),
        (_STACK, [("add", {"number": 5}, "done"), ("undo", {}, "undone"), ("value", {}, 0)], {}),
        (_PAIRS, [("put", {"key": "a", "value": 7}, None), ("get", {"key": "a"}, 7)], {}),
    ],
)
async def test_a_call_that_changes_state_is_judged_by_what_others_answer(
    verifying_sandbox: Sandbox, source: str, calls: list[Any], unused: dict[str, Any]
) -> None:
    verdict = await verify_environment(_stateful(source, *_chain(*calls), unused=unused), verifying_sandbox)
    assert verdict.verified, verdict


@pytest.mark.parametrize(
    ("source", "calls", "unused", "reason"),
    [
        (_MODE + "return 'ok'\n", [("set_mode", {"mode": "eco"}, "ok")], {"mode": {}}, "ConstantTool"),
        (_MODE + "return None\n", [("set_mode", {"mode": "eco"}, None)], {"mode": {}}, "ConstantTool"),
        (_MODE + "return mode\n", [("set_mode", {"mode": "eco"}, "eco")], {"mode": {}}, "EchoesArgument"),
        ("def create(x):\n    return 1\n", [("create", {"x": "Ada"}, 1)], {}, "ConstantTool"),
        ("def next_id():\n    return 1\n", [("next_id", {}, 1)], {}, "ConstantTool"),
        ("_L = []\ndef append(x):\n    _L.append(x)\n", [("append", {"x": "a"}, None)], {}, "ConstantTool"),
        (
            "_L = []\n_P = {'rome': 5, 'oslo': 6}\ndef note(x):\n    _L.append(x)\n    return list(_L)\n"
            "def people(city):\n    return _P.get(city, 0)\n",
            [("note", {"x": "a"}, ["a"]), ("people", {"city": "rome"}, 5)],
            {},
            "AnswersUnknown",
        ),
    ],
)
async def test_a_stateful_tool_that_changes_nothing_is_judged_by_its_answers(
    verifying_sandbox: Sandbox, source: str, calls: list[Any], unused: dict[str, Any], reason: str
) -> None:
    verdict = await verify_environment(_stateful(source, *_chain(*calls), unused=unused), verifying_sandbox)
    assert (verdict.phase, verdict.reason) == ("Rejected", reason), verdict


async def test_match_rules(verifying_sandbox: Sandbox, one_tool: Maker) -> None:
    source = "def f(x):\n    return {'a': ' saint-DENIS. ', 'b': 'Lyon'}[x]\n"
    environment = one_tool(source, "Saint Denis")
    assert (await verify_environment(environment, verifying_sandbox)).reason == "GoldMismatch"
    step = environment.spec.steps[0].model_dump(by_alias=True) | {"match": "text"}
    environment = one_tool(source, "Saint Denis", steps=[step])
    assert (await verify_environment(environment, verifying_sandbox)).verified
