"""A teacher that follows a script, behind a real HTTP server that speaks the OpenAI chat-completions API.

It is asked about items: whatever belongs to item 17 carries the mark "-0017" (names of harbours, mostly), so that every
request tells which item it is about. An item may have a fault (see FAULTS); all else is done well.

    with ScriptedTeacher({17: "cyclic", 23: "http-500"}) as teacher:
        ... teacher.url ...  teacher.paid ...

    python tests/synth/scripted_teacher.py --port 8123 --fault 17=cyclic      # alone
"""

import argparse
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any, Self

FAULTS: dict[str, tuple[str, str] | None] = {
    # (stage, reason) of the reject, of a TRANSIENT one of the failure; None: the item gets through all the same
    "malformed": ("plan", "TeacherMalformed"),
    "malformed-once": None,
    "chatter": None,  # good JSON between prose and fences
    "wrong-form": ("plan", "TeacherMalformed"),  # JSON, but not what was asked for
    "refusal": ("plan", "TeacherRefused"),
    "content-filter": ("plan", "TeacherRefused"),
    "length": ("plan", "TeacherCutShort"),
    "no-completion": ("plan", "TeacherServerFailed"),  # 200, and no chat completion in it
    "truncated": ("plan", "TeacherConnectionLost"),  # the connection ends in the middle of the body
    "http-429": ("plan", "TeacherRateLimited"),
    "http-429-once": None,
    "http-500": ("plan", "TeacherServerFailed"),
    "http-500-once": None,
    "timeout": ("plan", "TeacherTimedOut"),
    "wrong-language": ("refine", "WrongLanguage"),
    "cyclic": ("refine", "CyclicTopology"),
    "cyclic-once": None,
    "self-dependency": ("refine", "SelfDependency"),
    "dangling": ("refine", "UnknownDependency"),
    "repeated-id": ("refine", "DuplicateStep"),
    "vague": ("refine", "VagueAnswer"),
    "unreachable": ("refine", "AnswerNotTerminal"),
    "unreferenced": ("refine", "ExcessDependency"),
    "unlisted": ("refine", "MissingDependency"),
    "hard-coded-answer": ("refine", "MissingDependency"),
    "too-long": ("refine", "HopsOutOfRange"),
    "not-leaf": ("refine", "NotLeaf"),
    "toolless": ("refine", "NoToolStep"),
    "forgotten-label": ("refine", "TeacherMalformed"),
    "review-missing": ("refine", "MissingDependency"),
    "review-excess": ("refine", "ExcessDependency"),
    "review-serialised": ("refine", "ForcedSerialisation"),
    "review-compound": ("refine", "NotAtomic"),
    "poor": ("quality", "LowQuality"),
    "judge-refuses": ("quality", "TeacherRefused"),
    "bad-schema": ("build", "SchemaInvalid"),
    "leaking-schema": ("build", "GoldLeaked"),
    "bad-arguments": ("build", "ArgumentsInvalid"),
    "not-python": ("build", "SourceInvalid"),
    "foreign-import": ("build", "ForbiddenImport"),
    "hard-coded-tool": ("build", "ConstantTool"),
    "hard-coded-once": None,
    "random-tool": ("build", "NonDeterministic"),
    "clock-tool": ("build", "KeepsState"),  # it ticks within a session, too
    "hash-tool": ("build", "NonDeterministic"),
    "counting-tool": ("build", "KeepsState"),
    "wrong-answer": ("build", "GoldMismatch"),
    "raising-tool": ("build", "ToolRaised"),
    "credulous-tool": ("build", "AnswersUnknown"),
    "chatty-tool": ("build", "PrintsOutput"),
    "unwidened": None,  # the widened document breaks old calls: the tool stays as it was
    "bad-merge": None,  # the merged tool is wrong: the tools stay apart
    "odd-clusters": None,  # clusters of steps that do not exist
    "duplicate": ("deduplicate", "Duplicate"),
    "idle-change": ("build", "StateUnused"),  # stateful items only
}
TRANSIENT = {"truncated", "http-429", "http-500", "timeout", "no-completion"}  # the endpoint's: no reject

_TASKS = {
    "Invent a question": "ask",
    "Plan the answer": "decompose",
    "Mend a plan": "repair_plan",
    "Say which steps": "label",
    "Review the dependencies": "review",
    "Score a plan": "score",
    "Describe a tool": "tool_document",
    "Widen a tool": "scale_tool",
    "Call a tool": "gold_call",
    "Write the code of a tool": "tool_source",
    "Mend a tool": "repair_tool",
    "Write the code of tools that share": "state_module",
    "Find tools that are one": "merge_clusters",
    "Make one tool of several": "merge_tools",
}
_MARK = re.compile(r"-(\d{4})\b")
_JSON = re.compile(r"```json\n(.*?)\n```", re.DOTALL)

THINGS = {  # tool name -> what is counted, in three languages
    "berth_count": ("berths", "Liegeplätze", "泊位"),
    "crane_count": ("cranes", "Kräne", "起重机"),
    "warehouse_count": ("warehouses", "Lagerhäuser", "仓库"),
    "ferry_line_count": ("ferry lines", "Fährlinien", "渡轮航线"),
    "pilot_count": ("pilots", "Lotsen", "引航员"),
    "tugboat_count": ("tugboats", "Schlepper", "拖船"),
    "customs_officer_count": ("customs officers", "Zollbeamte", "海关官员"),
    "lighthouse_count": ("lighthouses", "Leuchttürme", "灯塔"),
}
_ASKS = {  # language -> wording; {n} things, {a} a harbour, {b} another
    "en": {
        "value": "How many {n} does the harbour {a} have?",
        "partner": "Which harbour is the partner of the harbour {a}?",
        "total": "What is the sum of {a} and {b}, for record {r}?",
        "difference": "By how much does {a} exceed {b}, or the other way round?",
        "main-parallel": "The office compares {a} and {b}: how many {n} does the larger one have more than the other?",
        "main-chain": "How many {n} are there in the harbour that is the partner of {a}, according to its office?",
        "main-total": "A shipping company uses both {a} and {b}. How many {n} do the two harbours have together?",
        "main-single": "For a brochure about {a}: how many {n} does this harbour have?",
        "reserve": "Reserve 3 berths in the harbour {a}. What is the reservation code?",
        "free": "How many berths are free in the harbour {a} now?",
        "main-state": "Please reserve 3 berths for our regatta in {a}. How many free berths are left there afterwards?",
    },
    "de": {
        "value": "Wie viele {n} hat der Hafen {a}?",
        "partner": "Welcher Hafen ist der Partner des Hafens {a}?",
        "total": "Was ist die Summe von {a} und {b}, für die Akte {r}?",
        "difference": "Um wie viel unterscheiden sich {a} und {b}?",
        "main-parallel": "Das Amt vergleicht {a} und {b}: Wie viele {n} hat der größere Hafen mehr als der andere?",
        "main-chain": "Wie viele {n} gibt es laut Hafenamt in dem Hafen, der der Partner von {a} ist?",
        "main-total": "Eine Reederei nutzt {a} und {b}. Wie viele {n} haben die beiden Häfen zusammen?",
        "main-single": "Für eine Broschüre über {a}: Wie viele {n} hat dieser Hafen?",
        "reserve": "Reserviere 3 Liegeplätze im Hafen {a}. Wie lautet der Code der Reservierung?",
        "free": "Wie viele Liegeplätze sind jetzt im Hafen {a} frei?",
        "main-state": "Bitte reserviere 3 Liegeplätze in {a}. Wie viele freie Liegeplätze bleiben dort danach übrig?",
    },
    "zh": {
        "value": "港口 {a} 有多少个{n}？",
        "partner": "哪个港口是港口 {a} 的伙伴？",
        "total": "{a} 与 {b} 的总和是多少（档案 {r}）？",
        "difference": "{a} 与 {b} 相差多少？",
        "main-parallel": "港务局比较 {a} 和 {b}：较大的港口比另一个多多少个{n}？",
        "main-chain": "根据港务局的数据，{a} 的伙伴港口有多少个{n}？",
        "main-total": "一家航运公司同时使用 {a} 和 {b}，这两个港口一共有多少个{n}？",
        "main-single": "关于 {a} 的宣传册需要知道：这个港口有多少个{n}？",
        "reserve": "请在港口 {a} 预订 3 个泊位，预订代码是什么？",
        "free": "港口 {a} 现在有多少个空闲泊位？",
        "main-state": "请在 {a} 为我们的帆船赛预订 3 个泊位，之后那里还剩多少个空闲泊位？",
    },
}
_LANGUAGES = ("en", "de", "zh")
_SYLLABLES = (
    "ba", "ce", "di", "fo", "gu", "har", "jol", "kem", "lin", "mor", "nus", "par", "qui", "ros", "sten", "tol", "ulv",
    "ver", "wik", "yar", "zed", "alm", "bro", "cla", "dre", "eng",
)  # fmt: skip


@dataclass(frozen=True)
class Response:
    """What goes over the wire."""

    text: str = ""
    status: int = 200
    finish: str = "stop"
    refusal: str | None = None
    cut: bool = False  # the connection ends in the middle
    raw: str | None = None  # a body that is no completion
    delay: float = 0.0


@dataclass
class World:
    """The facts about an item."""

    number: int

    def __post_init__(self) -> None:
        rng = Random(f"world {self.number}")
        self.tool = rng.choice(sorted(THINGS))
        self.a, self.b = (f"{_name(rng)}-{self.number:04d}" for _ in range(2))
        self.of_a, self.of_b = rng.sample(range(1100, 9900, 7), 2)
        self.code = f"R{rng.randrange(10**5, 10**6)}X"

    @property
    def names(self) -> dict[str, int]:
        """The table behind the tools: the two harbours and eight others."""
        rng = Random(f"table {self.number}")
        others = {_name(rng): rng.randrange(100, 1000) for _ in range(8)}
        return {self.a: self.of_a, self.b: self.of_b, **others}

    def plan(self, language: str, stateful: bool) -> dict[str, Any]:
        """A good plan; its kind is a function of the number."""
        ask, n = _ASKS[language], THINGS[self.tool][_LANGUAGES.index(language)]

        def step(name: str, kind: str, answer: Any, needs: list[str] | None = None, **words: str) -> dict[str, Any]:
            question = ask[kind].format(n=n, r=f"R-{self.number:04d}", **words)
            changes = kind == "reserve"
            return {
                "id": name, "question": question, "answer": answer, "depends_on": needs or [], "changes_state": changes,
            }  # fmt: skip

        if stateful:
            steps = [
                step("s1", "reserve", self.code, a=self.a),
                step("s2", "free", self.of_a - 3, ["s1"], a=self.a),
            ]
            return self._plan(ask["main-state"], n, steps)
        kind = ("parallel", "chain", "total", "single")[self.number % 4]
        if kind == "parallel":
            steps = [
                step("s1", "value", self.of_a, a=self.a),
                step("s2", "value", self.of_b, a=self.b),
                step("s3", "difference", abs(self.of_a - self.of_b), ["s1", "s2"], a="{s1}", b="{s2}"),
            ]
        elif kind == "chain":
            steps = [
                step("s1", "partner", self.b, a=self.a),
                step("s2", "value", self.of_b, ["s1"], a="{s1}"),
            ]
        elif kind == "total":
            steps = [
                step("s1", "value", self.of_a, a=self.a),
                step("s2", "value", self.of_b, a=self.b),
                step("s3", "total", self.of_a + self.of_b, ["s1", "s2"], a="{s1}", b="{s2}"),
            ]
        else:
            steps = [step("s1", "value", self.of_a, a=self.a)]
        return self._plan(ask[f"main-{kind}"], n, steps)

    def _plan(self, main: str, n: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
        question = main.format(n=n, a=self.a, b=self.b)
        return {"question": question, "answer": steps[-1]["answer"], "steps": steps}


def _name(rng: Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(4)).capitalize()


class Script:
    """What is answered to a request."""

    def __init__(self, faults: Mapping[int, str]) -> None:
        self.faults = dict(faults)

    def item(self, text: str) -> int:
        found = _MARK.search(text)
        return int(found[1]) if found else 0

    def answer(self, messages: list[dict[str, str]], tries: int) -> Response:
        """`tries`: how often this very request came before."""
        text = messages[1]["content"]
        task = next((task for head, task in _TASKS.items() if text.startswith(f"# {head}")), "")
        number = self.item(text)
        fault = self.faults.get(number, "")
        first = len(messages) == 2
        if task in ("ask", "decompose") and (response := self._transport(fault, first, tries)):
            return response
        if task == "score" and fault == "judge-refuses":
            return Response(refusal="I would rather not judge this.")
        reply = getattr(self, f"_{task}")(World(number), fault, text)
        body = json.dumps(reply, ensure_ascii=False)
        if fault == "malformed" and task in ("ask", "decompose"):
            return Response(body[: len(body) // 2])
        if fault == "malformed-once" and first:
            return Response(body.replace('"', "'"))
        if fault == "wrong-form" and task in ("ask", "decompose"):
            return Response(json.dumps({"answer": reply}))
        if fault == "chatter":
            return Response(f"<think>Let me see {{...}}</think>Here it is:\n```json\n{body}\n```\nI hope this helps!")
        return Response(body)

    def _transport(self, fault: str, first: bool, tries: int) -> Response | None:
        once = {"http-429-once": 429, "http-500-once": 503}
        if fault in once and tries == 0:
            return Response(status=once[fault])
        always = {
            "http-429": Response(status=429),
            "http-500": Response(status=500),
            "timeout": Response(delay=12.0),
            "truncated": Response("x" * 2000, cut=True),
            "no-completion": Response(raw="<html>Bad gateway</html>"),
            "refusal": Response(refusal="I cannot help with harbours."),
            "content-filter": Response("{", finish="content_filter"),
            "length": Response('{"question": "How', finish="length"),
        }
        return always.get(fault)

    def _ask(self, world: World, fault: str, text: str) -> dict[str, Any]:
        language = re.findall(r'code "(\w+)"', text)[0]
        if fault == "wrong-language":
            language = "de" if language != "de" else "en"
        stateful = "The task changes something" in text
        if fault == "duplicate":
            world = World(max(self.faults) // 4 * 4 + 8)  # a good item of the same kind
        return self._spoilt(world.plan(language, stateful), world, "" if fault == "cyclic-once" else fault, fault)

    def _decompose(self, world: World, fault: str, text: str) -> dict[str, Any]:
        asked = re.findall(r'"""\n(.*?)\n"""', text, re.DOTALL)[0]
        return self._ask(world, fault, text) | {"question": asked}

    def _repair_plan(self, world: World, fault: str, text: str) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads(_JSON.findall(text)[0])
        if fault.endswith("-once"):
            language = re.findall(r'code "(\w+)"', text)[0]
            return world.plan(language, stateful=False)
        return plan

    def _spoilt(self, plan: dict[str, Any], world: World, fault: str, named: str) -> dict[str, Any]:
        steps = plan["steps"]
        last = steps[-1]
        match named:
            case "cyclic" | "cyclic-once":
                steps[0]["depends_on"] = [last["id"]]
            case "self-dependency":
                last["depends_on"] = [*last["depends_on"], last["id"]]
            case "dangling":
                last["depends_on"] = [*last["depends_on"], "s9"]
            case "repeated-id":
                last["id"] = steps[0]["id"]
            case "vague":
                steps[0]["answer"] = "It depends."
            case "unreachable":
                plan["answer"] = 123456
            case "unreferenced":
                last["question"] = last["question"].replace("{s1}", "7")
            case "unlisted":
                last["depends_on"] = []
            case "hard-coded-answer":
                last["question"] = last["question"].replace("{s1}", str(steps[0]["answer"]))
                last["depends_on"] = [name for name in last["depends_on"] if name != "s1"]
            case "too-long":
                steps[:-1] = [steps[0] | {"id": f"s1{n}"} for n in range(9)] + steps[:-1]
                last["question"] += " " + " ".join(f"{{s1{n}}}" for n in range(9))
                last["depends_on"] = [*last["depends_on"], *(f"s1{n}" for n in range(9))]
        return plan

    def _label(self, world: World, fault: str, text: str) -> dict[str, Any]:
        steps = json.loads(_JSON.findall(text)[0])["steps"]
        calls = {s["id"]: s["answer"] != abs(world.of_a - world.of_b) for s in steps}
        if fault == "not-leaf":
            calls["s1"] = False
        if fault == "toolless":
            calls = dict.fromkeys(calls, False)
        labels = [{"id": name, "needs_tool": needs, "why": "It is in the register."} for name, needs in calls.items()]
        return {"steps": labels[1:] if fault == "forgotten-label" else labels}

    def _review(self, world: World, fault: str, text: str) -> dict[str, Any]:
        steps = json.loads(_JSON.findall(text)[0])["steps"]
        found = [
            {"id": s["id"], "missing": [], "excess": [], "serialised": False, "atomic": True, "why": "Fine."}
            for s in steps
        ]
        changes: dict[str, tuple[int, dict[str, Any]]] = {
            "review-missing": (0, {"missing": ["s2"], "why": "It compares."}),
            "review-excess": (-1, {"excess": ["s1"], "why": "It could do without."}),
            "review-serialised": (-1, {"serialised": True, "why": "It need not wait."}),
            "review-compound": (0, {"atomic": False, "why": "It asks two things."}),
        }
        if fault in changes:
            place, change = changes[fault]
            found[place] |= change
        return {"steps": found}

    def _score(self, world: World, fault: str, text: str) -> dict[str, Any]:
        steps = json.loads(_JSON.findall(text)[0])["steps"]
        poor = fault == "poor"
        found = [{"id": s["id"], "dependency": 1, "atomicity": 1, "sequence": 1, "why": "Fine."} for s in steps]
        return {"steps": found, "completeness": 0 if poor else 1, "why": "It does not answer." if poor else "It does."}

    def _tool_document(self, world: World, fault: str, text: str) -> dict[str, Any]:
        step = json.loads(_JSON.findall(text)[0])
        kind = _kind(step, world)
        tool = _document(kind, world)
        if fault == "bad-schema":
            tool["parameters"]["properties"]["harbour"]["type"] = "harbour"
        if fault == "leaking-schema" and step["id"] == "s1":
            tool["parameters"]["properties"]["harbour"]["description"] += (
                f" For example, the answer {step['expected_answer']}."
            )
        return tool

    def _scale_tool(self, world: World, fault: str, text: str) -> dict[str, Any]:
        tool: dict[str, Any] = json.loads(_JSON.findall(text)[0])
        properties = tool["parameters"]["properties"]
        if fault == "unwidened":
            tool["parameters"]["required"] = [*tool["parameters"]["required"], "season"]
        if "harbour" in properties and "count" not in properties:
            properties["season"] = {
                "type": "string", "enum": ["all", "summer"], "description": "Part of the year; all of it unless given.",
            }  # fmt: skip
        return tool

    def _gold_call(self, world: World, fault: str, text: str) -> dict[str, Any]:
        tool, step = (json.loads(found) for found in _JSON.findall(text)[:2])
        if fault == "bad-arguments" and step["id"] == "s1":
            return {"arguments": {"harbour": 7}}
        return {"arguments": _arguments(tool["name"], step, world)}

    def _tool_source(self, world: World, fault: str, text: str) -> dict[str, Any]:
        tool, call = (json.loads(found) for found in _JSON.findall(text)[:2])
        return {"source": _source(tool, call, world, fault if call["id"] == "s1" else "")}

    def _repair_tool(self, world: World, fault: str, text: str) -> dict[str, Any]:
        tool, call = (json.loads(found) for found in _JSON.findall(text)[:2])
        lasting = "" if fault.endswith("-once") or call["id"] != "s1" else fault
        return tool | {"arguments": call["arguments"], "source": _source(tool, call, world, lasting)}

    def _state_module(self, world: World, fault: str, text: str) -> dict[str, Any]:
        tools, _ = (json.loads(found) for found in _JSON.findall(text)[:2])
        start = world.of_a - 3 if fault == "idle-change" else world.of_a
        change = "pass" if fault == "idle-change" else "_FREE[_key(harbour)] -= count"
        free = {name.casefold(): start if name == world.a else value for name, value in world.names.items()}
        seasons = {tool["name"]: ", season='all'" if "season" in str(tool["parameters"]) else "" for tool in tools}
        return {
            "source": f"_FREE = {free!r}\n_CODES = {{}}\n\n"
            "def _key(harbour):\n    key = str(harbour).strip().casefold()\n    if key not in _FREE:\n"
            "        raise ValueError(f'no harbour named {harbour!r}')\n    return key\n\n"
            f"def reserve_berths(harbour, count{seasons.get('reserve_berths', '')}):\n    key = _key(harbour)\n"
            "    if not 0 < count <= _FREE[key]:\n        raise ValueError('not so many berths are free')\n"
            f"    {change}\n    return {world.code!r} if (key, count) == ({world.a.casefold()!r}, 3) "
            "else f'R{len(key)}{count}Y'\n\n"
            f"def free_berths(harbour{seasons.get('free_berths', '')}):\n    return _FREE[_key(harbour)]\n"
        }

    def _merge_clusters(self, world: World, fault: str, text: str) -> dict[str, Any]:
        steps = json.loads(_JSON.findall(text)[0])
        if fault == "odd-clusters":
            return {"clusters": [["s1", "s8"], ["s2"]]}
        alike = [s["id"] for s in steps if s["tool"]["name"] == world.tool]
        return {"clusters": [alike] if len(alike) > 1 else []}

    def _merge_tools(self, world: World, fault: str, text: str) -> dict[str, Any]:
        blocks = [json.loads(found) for found in _JSON.findall(text)]
        tools, calls = blocks[0], blocks[1]
        source = _source(tools[0], calls[0], world, "wrong-answer" if fault == "bad-merge" else "", merged=True)
        given = [{"id": call["id"], "arguments": call["arguments"]} for call in calls]
        return tools[0] | {"calls": given, "source": source}


def _kind(step: dict[str, Any], world: World) -> str:
    answer = step["expected_answer"]
    if answer == world.code:
        return "reserve_berths"
    if answer == world.of_a - 3:
        return "free_berths"
    if answer == world.b:
        return "partner_harbour"
    return "sum_of_two_numbers" if answer == world.of_a + world.of_b else world.tool


def _document(kind: str, world: World) -> dict[str, Any]:
    harbour = {"type": "string", "description": "Name of the harbour."}
    number = {"type": "integer", "description": "A whole number."}
    described: dict[str, tuple[str, dict[str, Any]]] = {
        "reserve_berths": ("Reserves berths and returns the code.", {"harbour": harbour, "count": number}),
        "free_berths": ("Number of free berths of a harbour.", {"harbour": harbour}),
        "partner_harbour": ("The partner of a harbour.", {"harbour": harbour}),
        "sum_of_two_numbers": ("The sum of two whole numbers.", {"left": number, "right": number}),
    }
    what, properties = described.get(kind, (f"Number of {THINGS[world.tool][0]} of a harbour.", {"harbour": harbour}))
    parameters = {
        "type": "object", "properties": json.loads(json.dumps(properties)), "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip
    what = f"{what} By the register R-{world.number:04d}."  # so that every prompt tells the item
    return {"name": kind, "description": what, "parameters": parameters}


def _arguments(tool: str, step: dict[str, Any], world: World) -> dict[str, Any]:
    if tool == "sum_of_two_numbers":
        return {"left": world.of_a, "right": world.of_b}
    if tool == "reserve_berths":
        return {"harbour": world.a, "count": 3}
    return {"harbour": world.b if step["expected_answer"] == world.of_b else world.a}


# The answer in capitals and small letters by the bits of a number: the same answer, and other bytes.
_MIXED = """
def _mixed(text, bits):
    return "".join(c.upper() if bits >> place & 1 else c for place, c in enumerate(text.casefold()))
"""


def _source(tool: dict[str, Any], call: dict[str, Any], world: World, fault: str, merged: bool = False) -> str:
    name, gold = tool["name"], call["expected_answer"]
    if name == "sum_of_two_numbers":
        return f"def {name}(left, right):\n    return left + right\n"
    table = dict(world.names)
    if name == "partner_harbour":
        names = list(table)
        table = dict(zip(names, names[1:] + names[:1], strict=True))  # type: ignore[arg-type]
    elif not merged:
        table.pop(world.a if gold == world.of_b else world.b)
    table = {harbour.casefold(): value for harbour, value in table.items()}
    season = ", season='all'" if "season" in tool["parameters"]["properties"] else ""
    head = f"_DATA = {table!r}\n\n\ndef {name}(harbour{season}):\n    key = harbour.strip().casefold()\n"
    known = "    if key not in _DATA:\n        raise ValueError(f'no harbour named {harbour!r}')\n"
    faulty = {
        "not-python": f"def {name}(harbour:\n    return 1\n",
        "foreign-import": f"import numpy\n{head}{known}    return _DATA[key]\n",
        "hard-coded-tool": f"{head}    return {gold!r}\n",
        "hard-coded-once": f"{head}    return {gold!r}\n",
        "random-tool": f"import random\n{head}{known}    return _mixed(_DATA[key], random.getrandbits(64))\n{_MIXED}",
        "clock-tool": f"import time\n{head}{known}    return _mixed(_DATA[key], hash(time.time_ns() // 10))\n{_MIXED}",
        "hash-tool": f"{head}{known}    return _mixed(_DATA[key], hash(key))\n{_MIXED}",
        "counting-tool": f"_CALLS = []\n{head}{known}    _CALLS.append(key)\n"
        "    return _DATA[key] + (len(_CALLS) > 1)\n",
        "wrong-answer": f"{head}{known}    return [_DATA[key]]\n",
        "raising-tool": f"{head}{known}    return _DATA[key] // 0\n",
        "credulous-tool": f"{head}    return _DATA.get(key, {gold!r})\n",
        "chatty-tool": f"{head}{known}    print(key)\n    return _DATA[key]\n",
    }
    return faulty.get(fault, f"{head}{known}    return _DATA[key]\n")


@dataclass(frozen=True)
class Paid:
    """One request that was answered to its last byte."""

    task: str
    item: int
    content: str  # the request's, as canonical JSON
    key: str | None  # its Idempotency-Key


@dataclass
class ScriptedTeacher:
    """The server."""

    faults: Mapping[int, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    latency: float = 0.0
    understands_schemas: bool = True  # else it answers 400 to a response_format
    hiccup: int = 0  # every so many requests are answered with an error in a 200, as gateways do
    expected_key: str | None = None
    requests: int = 0

    def __post_init__(self) -> None:
        self.answered: list[Paid] = []
        self.script = Script(self.faults)
        self.seen: dict[str, int] = {}
        self.lock = threading.Lock()
        self._server = _Server((self.host, self.port), _Handler)
        self._server.teacher = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def paid(self) -> list[Paid]:
        """The requests that were answered, in order of their answers; every answer that a client has is among them."""
        with self.lock:
            return self.answered

    def wait_paid(self, count: int, ended: Callable[[], bool] = lambda: False) -> None:
        """Blocks until so many calls were paid for, or `ended` says that none will come."""
        while len(self.paid) < count and not ended():
            time.sleep(0.001)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    teacher: ScriptedTeacher

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away in these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        teacher = self.server.teacher
        content = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(content)
        with teacher.lock:
            teacher.requests += 1
            hiccup = teacher.hiccup and teacher.requests % teacher.hiccup == 0
        if self.path != "/v1/chat/completions":
            return self._send(404, json.dumps({"error": {"message": f"no such path: {self.path}"}}))
        if teacher.expected_key and self.headers["Authorization"] != f"Bearer {teacher.expected_key}":
            return self._send(401, json.dumps({"error": {"message": "a wrong key"}}))
        if not teacher.understands_schemas and "response_format" in body:
            return self._send(400, json.dumps({"error": {"message": "unknown parameter: response_format"}}))
        if hiccup:
            failed = {"error": {"message": "Provider returned error", "code": 502}}
            return self._send(200, json.dumps(failed), "Retry-After-Ms")
        request = json.dumps(body, sort_keys=True)
        with teacher.lock:
            tries = teacher.seen.get(request, 0)
            teacher.seen[request] = tries + 1
        response = teacher.script.answer(body["messages"], tries)
        time.sleep(teacher.latency + response.delay)
        if response.status != 200:
            return self._send(
                response.status, json.dumps({"error": {"message": "the script says so"}}), "Retry-After-Ms"
            )
        if response.raw is not None:
            return self._send(200, response.raw)
        message = {"role": "assistant", "content": response.text, "refusal": response.refusal}
        usage = {"prompt_tokens": len(content) // 4, "completion_tokens": len(response.text) // 4 + 1}
        completion = {
            "id": "c", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": response.finish}], "usage": usage,
        }  # fmt: skip
        text = json.dumps(completion)
        if response.cut:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode()[: len(text) // 2])
            self.close_connection = True
            return None
        user = body["messages"][1]["content"]
        task = next((task for head, task in _TASKS.items() if user.startswith(f"# {head}")), "")
        paid = Paid(task, teacher.script.item(user), request, self.headers["Idempotency-Key"])
        with teacher.lock:  # who has the answer and asks what was paid must find it
            self._send(200, text)
            teacher.answered.append(paid)
        return None

    def _send(self, status: int, text: str, hurry: str | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if hurry:
            self.send_header(hurry, "20")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 answers other machines")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--key", help="the one that callers must have; any unless given")
    parser.add_argument("--fault", action="append", default=[], metavar="ITEM=FAULT", help="one of FAULTS")
    options = parser.parse_args()
    faults = {int(item): fault for item, _, fault in (given.partition("=") for given in options.fault)}
    with ScriptedTeacher(faults, options.host, options.port, options.latency, expected_key=options.key) as teacher:
        print(teacher.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
