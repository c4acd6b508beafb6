"""The final answer of a rollout: what is right, and every way to be right by accident that anybody thought of."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from astra_api.answers import answer_sentence, final_answer, holds_scraps, is_right
from astra_api.canonical import canonical_json
from astra_api.environment import EnvironmentSpec
from astra_api.records import Message, ToolCall

LANGUAGES = ["en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "uk", "tr", "ar", "hi", "zh", "ja", "ko", "fi"]
WORDS = st.text(st.sampled_from("abcdefgxyzäößÉñ"), min_size=1, max_size=8)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda number: round(number, 3))


def spec(
    answer: Any, *, match: str = "exact", tolerance: float = 0.0, language: str = "en", question: str = "Which?"
) -> EnvironmentSpec:
    step = {
        "id": "s1", "question": "?", "answer": answer, "match": match, "tolerance": tolerance,
        "call": {"tool": "find", "arguments": {}},
    }  # fmt: skip
    return EnvironmentSpec.model_validate(
        {
            "question": question, "answer": answer, "language": language, "domain": "lab", "scenario": "single-hop",
            "steps": [step], "tools": [{"name": "find", "description": "", "parameters": {"type": "object"}}],
            "source": "def find(): ...",
        }
    )  # fmt: skip


def said(text: str, *calls: ToolCall) -> list[Message]:
    return [Message(role="user", content="Which?"), Message(role="assistant", content=text, tool_calls=calls)]


def right(answer: Any, text: str, **about: Any) -> bool:
    return is_right(spec(answer, **about), said(text))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (725000, "725,000"), (725000, "725 000"), (725000, "The answer is 725,000 people."), (725000, "**725,000**"),
        (725000, "725\u202f000"), (1200000, "1.2 million people"), (12.9, "$12.90"), (12.9, "12.90 USD"),
        (12.9, "€12.9."), (45, "45%"), (-5, "−5 °C"), (100, "100 m²"), (0.5, ".5"), (3, "3.0"), (12, "12."),
        ("Paris", "paris."), ("Paris", '"Paris"'), ("Paris", "the answer is: **Paris**"), ("Paris", "  Paris\n"),
        ("Paris", "Rome has fewer people. The answer is Paris."), ("Paris", "<think>Rome?</think>Paris"),
        ("U.S.A.", "The answer is U.S.A."), ("St. John's", "St. John’s."), ("C++", "c++"),
        (True, "Yes."), (False, "false"), (True, "true"), ({"a": [1]}, '{"a":[1.0]}'), ([], "[]"), (None, "null"),
        (["Paris", "Rome"], "Rome and Paris"), (["Paris", "Rome"], "- Paris\n- Rome"), (["Paris"], "Paris"),
        (["Paris", "Rome"], "1. Rome\n2. Paris"), (["a", "b", "c"], '["c","a","b"]'), (["a", "b", "c"], "a, b, and c"),
        (["Trinidad and Tobago", "Fiji"], "Fiji and Trinidad and Tobago"), ([1200, 5], "1,200, 5"),
        (["Washington, D.C.", "Rome"], "The answer is Rome, Washington, D.C."), ([1, 2, 3], "1, 2 and 3"),
    ],
)  # fmt: skip
def test_what_a_person_would_call_right(answer: Any, text: str) -> None:
    assert right(answer, text)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (725000, "725"), (725000, "1725000"), (725000, "7250001"), (725000, "725,0001"), (5, "-5"), (5, "5e3"),
        (2, "1 or 2"), (2, "2 or 1"), (2, "2, not 3"), (2, "2 or three"), (2, "maybe 2"), (2, "1,2"), (12, "1 2"),
        (10, "10 20"), (3, "v3"), (3, "3rd"), (5, "5/6"), (5, "5-6"), (5, "5:6"), (5, "<5"), (12.345, "12,345"),
        (12345, "12.345"), (1, "true"), (True, "1"), (True, "yes and no"), (0, ""), (2, "two"),
        ("Paris", "Paris or Rome"), ("Paris", "Rome and Paris"), ("Paris", "Paris (not Rome)"), ("Paris", "not Paris"),
        ("Paris", "Parison"), ("Paris", "Which? Paris"), ("Paris", "The answer is Paris. The answer is Rome."),
        ("Paris", 'Paris"}}</tool_call>'), ("Paris", "<tool_call>Paris"), ("Paris", "Paris<|im_end|>"),
        ("Paris", "```Paris```"), ("Paris", "</think>Paris"), ("Paris", "Paris is the answer I think"),
        ("C", "C#"), ("C#", "C"), ("a", "an a"), ("Paris", "The answer is"), ("Paris", ""),
        (["Paris", "Rome"], "Paris"), (["Paris", "Rome"], "Paris, Rome, Oslo"), (["Paris", "Rome"], "Paris, Paris"),
        ([1, 2], "12"), ([1, 2], "1, 2, 3"), (["Paris"], "Paris, Rome"),
        ({"a": 1}, '{"a":1,"b":2}'), ([], "none of them"),
    ],
)  # fmt: skip
def test_what_only_looks_right(answer: Any, text: str) -> None:
    assert not right(answer, text)


def test_only_the_last_message_counts_and_it_calls_nothing() -> None:
    found = spec("Paris")
    call = ToolCall(tool="find", arguments_json="{}")
    assert not is_right(found, said("Paris", call))
    assert not is_right(found, [*said("Paris"), Message(role="tool", content="Paris")])
    assert not is_right(found, [])
    assert not is_right(found, [Message(role="user", content="Paris")])
    assert final_answer(said("I see. The answer is Paris.")) == "Paris."
    assert holds_scraps(said('Paris"}}'))
    assert not holds_scraps(said("Paris"))
    assert not holds_scraps(said("<tool_call>", call)), "a call is no answer"


@pytest.mark.parametrize(
    ("answer", "language", "text"),
    [
        (725000, "de", "725.000"), (725000, "de", "Die Antwort lautet 725.000 Einwohner."), (3.5, "de", "3,5"),
        (1234.5, "fr", "1 234,5"), ("Rom", "de", "Die Antwort lautet Rom."), ("Rom", "de-AT", "The answer is Rom."),
        ("罗马", "zh", "答案是罗马。"), (["罗马", "巴黎"], "zh", "巴黎和罗马"), (5, "zh", "5人"), (True, "de", "Ja."),
        (["Rom", "Paris"], "de", "Paris und Rom"), ("Москва", "ru", "Ответ: Москва."),
    ],
)  # fmt: skip
def test_other_languages(answer: Any, language: str, text: str) -> None:
    assert right(answer, text, language=language)


def test_numbers_and_texts_are_matched_as_the_answering_step_is() -> None:
    assert right(3.14159, "3.14", match="numeric", tolerance=0.01)
    assert not right(3.14159, "3.1", match="numeric", tolerance=0.01)
    assert right("Côte-d'Ivoire", "côte d ivoire", match="text")
    assert not right("Côte-d'Ivoire", "côte d ivoire")


def test_an_order_counts_where_the_question_asks_for_one() -> None:
    for question in ("List them in alphabetical order.", "List them, largest first.", "Ranked by people?"):
        assert right(["a", "b"], "a, b", question=question)
        assert not right(["a", "b"], "b, a", question=question)
    assert right(["a", "b"], "b, a", question="Which was the first city of both lands?")


@pytest.mark.parametrize(
    ("answer", "language", "text"),
    [
        (725000, "en", "The answer is 725000."), ("Oslo", "en-GB", "The answer is Oslo."),
        ("Østersø", "da", "The answer is Østersø."), ([1, "ä"], "de", 'Die Antwort lautet [1, "ä"].'),
        (True, "en", "The answer is true."), ("罗马", "zh", "答案是罗马."),
    ],
)  # fmt: skip
def test_an_expert_says_it_in_the_questions_language(answer: Any, language: str, text: str) -> None:
    assert answer_sentence(spec(answer, language=language)) == text


@given(
    answer=NAMES | NUMBERS | st.booleans() | st.lists(NAMES | NUMBERS, max_size=4), language=st.sampled_from(LANGUAGES)
)
def test_an_experts_sentence_is_right_in_every_language(answer: Any, language: str) -> None:
    found = spec(answer, language=language)
    assert is_right(found, said(answer_sentence(found)))


@given(
    gold=NAMES | NUMBERS, other=NAMES | NUMBERS, join=st.sampled_from([" or ", " and ", ", ", "; ", " / ", "\n", " "])
)
def test_several_candidates_in_any_order_are_wrong(gold: Any, other: Any, join: str) -> None:
    assume(canonical_json(gold) != canonical_json(other))
    unit = isinstance(gold, int | float) and isinstance(other, str)
    first, second = (text if isinstance(text, str) else canonical_json(text).decode() for text in (gold, other))
    assert not right(gold, f"{second}{join}{first}")
    assert (unit and join == " ") or not right(gold, f"{first}{join}{second}"), "5 metres is one number"


@given(gold=st.integers(0, 10**8), digits=st.text("0123456789", min_size=1, max_size=4))
def test_a_number_inside_a_longer_one_is_wrong(gold: int, digits: str) -> None:
    assert not right(gold, f"{gold}{digits}")
    assert int(f"{digits}{gold}") == gold or not right(gold, f"{digits}{gold}")


@given(
    answer=NAMES | NUMBERS,
    scrap=st.sampled_from(['"}}', "</tool_call>", "<tool_call>", "<|im_end|>", "</think>", "```"]),
)
def test_scraps_are_wrong_wherever_they_stand(answer: Any, scrap: str) -> None:
    found = spec(answer)
    text = answer_sentence(found)
    assert not is_right(found, said(text + scrap))
    assert not is_right(found, said(scrap + text))


@given(items=st.lists(NAMES, min_size=2, max_size=5, unique_by=str.casefold), data=st.data())
def test_a_list_is_right_with_each_item_once(items: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(items))
    assert right(items, ", ".join(shuffled))
    assert right(items, canonical_json(shuffled).decode())
    assert not right(items, ", ".join(shuffled[1:])) or " ".join(items).count(" ") > len(items)
    assert not right(items, ", ".join([*shuffled, shuffled[0]]))
    assert not right(items, ", ".join([*shuffled, "zzz zzz zzz"]))
