"""Gold answers in what a model reads, and honest tools that only seem to say them."""

from typing import Any

import pytest

from astra_api.environment import Environment
from astra_sandbox.verification.leakage import check_leakage

Manifest = dict[str, Any]


def _leaks(
    answer: Any, *, argument: Any = "France", match: str = "exact", tolerance: float = 0.0, **tool: Any
) -> list[str]:
    step = {"id": "s1", "question": "?", "answer": answer, "match": match, "tolerance": tolerance}
    call = {"tool": tool.get("name", "lookup"), "arguments": {"key": argument}}
    properties = tool.pop("properties", {"key": {"type": "string"}})
    parameters = {"type": "object", "properties": properties, **tool.pop("parameters", {})}
    spec = {
        "question": "?",
        "answer": answer,
        "domain": "d",
        "scenario": "single-hop",
        "steps": [{**step, "call": call}],
        "tools": [{"name": "lookup", "description": "Looks something up.", "parameters": parameters, **tool}],
        "source": "",
    }
    environment = Environment.model_validate({"metadata": {"name": "e"}, "spec": spec})
    return [finding.message.partition(":")[0] for finding in check_leakage(environment.spec)]


@pytest.mark.parametrize(
    ("answer", "description"),
    [
        ("Paris", "Capital of a country, such as Paris."),
        ("Paris", "PARIS, always."),
        ("Saint-Denis", "Answers saint denis here."),
        (2148000, "Population, e.g. 2148000."),
        (2148000, "Population (2,148,000 for one)."),
        (2148000, "Population (2 148 000 for one)."),
        ("2148000", "Population: 2148000"),
        (12.57, "Ratio of 12.57 at most."),
        (42, "Always returns 42."),
        (42, "The answer is 42"),
        ("FR", "Returns 'FR'."),
        ("東京", "首都は東京です。"),
        (["Paris", "Lyon"], "Cities like Lyon and Paris."),
        ({"city": "Paris", "people": 2148000}, "Paris has 2148000 people."),
    ],
)
def test_a_description_that_says_the_answer(answer: Any, description: str) -> None:
    assert _leaks(answer, description=description) == ["spec.tools[0].description"]


@pytest.mark.parametrize(
    ("answer", "description"),
    [
        ("Paris", "Capital of a country. Comparison included."),
        (2148000, "Population of a city, of 21480001 at most."),
        (42, "Takes up to 42 keys."),
        (3, "Returns the 3 letter code."),
        (1, "Returns 1 if true, else 0."),
        (True, "Returns true if the country is landlocked."),
        ("yes", "Answers yes or no."),
        (None, "Returns null for unknown values."),
        ("Fe", "Is a fe male."),
        (725, "Population, 7250 or 1725 or 0.725."),
        (["Paris", "Lyon"], "Cities like Lyon."),
        ([], "A list."),
        ([True], "A list, true."),
    ],
)
def test_a_description_that_does_not(answer: Any, description: str) -> None:
    assert _leaks(answer, description=description) == []


_KEY = "parameters.properties.key"


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        ({"name": "paris_lookup"}, "name"),
        ({"name": "lookupParis"}, "name"),
        ({"properties": {"key": {"type": "string", "description": "a country of Paris"}}}, f"{_KEY}.description"),
        ({"properties": {"key": {"type": "string", "default": "Paris"}}}, f"{_KEY}.default"),
        ({"properties": {"key": {"type": "string", "examples": ["Rome", "paris"]}}}, f"{_KEY}.examples"),
        ({"properties": {"key": {"type": "string", "enum": ["France", "Paris"]}}}, f"{_KEY}.enum"),
        ({"properties": {"key": {}, "paris": {}}}, "parameters.properties.paris"),
        ({"properties": {"key": {"anyOf": [{"const": "Paris"}, {}]}}}, f"{_KEY}.anyOf[0].const"),
        ({"parameters": {"$defs": {"c": {"title": "Of Paris"}}}}, "parameters.$defs.c.title"),
        ({"properties": {"key": {"items": {"default": ["Paris"]}}}}, f"{_KEY}.items.default"),
    ],
)
def test_every_place_of_a_tool_is_read(tool: Manifest, field: str) -> None:
    assert _leaks("Paris", **tool) == [f"spec.tools[0].{field}"]


def test_numbers_in_schemas() -> None:
    key = "spec.tools[0].parameters.properties.key"
    assert _leaks(2148000, properties={"key": {"default": 2148000}}) == [f"{key}.default"]
    assert _leaks(2148000, properties={"key": {"enum": ["2148000", "x"]}}) == [f"{key}.enum"]
    assert _leaks(2148000, name="lookup_2148000") == ["spec.tools[0].name"]
    assert _leaks(10, properties={"key": {"default": 10, "maximum": 100}}) == []
    assert _leaks(100, properties={"key": {"maximum": 100}}) == []


def test_a_number_within_the_tolerance_is_said_too() -> None:
    assert _leaks(12.57, match="numeric", tolerance=0.1, description="Ratio, 12.5 or so.") == [
        "spec.tools[0].description"
    ]
    assert _leaks(12.57, match="numeric", tolerance=0.01, description="Ratio, 12.5 or so.") == []


def test_a_tool_that_picks_one_of_its_arguments_may_list_them() -> None:
    properties = {"key": {"enum": ["Paris", "Rome"]}}
    assert _leaks("Paris", argument="Paris", properties=properties) == []
    assert _leaks("Paris", argument="Rome", properties=properties) != []


def test_another_tool_may_be_named_after_an_intermediate_answer_but_not_describe_it(city: Manifest) -> None:
    city["spec"]["tools"].append({"name": "census_2148000", "description": "Year.", "parameters": {"type": "object"}})
    assert list(check_leakage(Environment.model_validate(city).spec)) == []
    city["spec"]["tools"][1]["description"] = "Not 2148000."
    assert [finding.reason for finding in check_leakage(Environment.model_validate(city).spec)] == ["GoldLeaked"]


def test_the_main_answer_of_a_reasoning_step_is_kept_too(city: Manifest) -> None:
    city["spec"]["tools"][0]["description"] += " They differ by 725,000."
    messages = [finding.message for finding in check_leakage(Environment.model_validate(city).spec)]
    assert len(messages) == 1
    assert "spec.answer" in messages[0]
