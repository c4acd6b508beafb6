"""The final answer of a rollout: what a model has to say, where it stands, and whether it is right. One rule for all.

An answer is the last message of a rollout, if an assistant wrote it and called nothing in it. It is what follows the
phrase "The answer is" (in the question's language, said once), else the whole message. It is right if it is the gold
answer and nothing besides: a message that lists candidates, repeats the question or holds scraps of markup is wrong.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from astra_api.canonical import NotCanonicalError, canonical_json, parse_json
from astra_api.environment import EnvironmentSpec, Step
from astra_api.matching import fold
from astra_api.records import Message


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PHRASES = {
    "ar": "الإجابة هي",
    "de": "Die Antwort lautet",
    "en": "The answer is",
    "es": "La respuesta es",
    "fr": "La réponse est",
    "hi": "उत्तर है",
    "it": "La risposta è",
    "ja": "答えは",
    "ko": "정답은",
    "nl": "Het antwoord is",
    "pl": "Odpowiedź to",
    "pt": "A resposta é",
    "ru": "Ответ:",
    "tr": "Cevap:",
    "uk": "Відповідь:",
    "zh": "答案是",
}
_SCRAP = re.compile(r"</?\w*(tool|think|function|call|response)\w*|<\||\|>|\"\}\}|```|\[/?TOOL|\[/?INST", re.IGNORECASE)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_COMMA_IS_DECIMAL = _words("de es fr it nl pl pt ru tr uk cs da fi nb no sv el hu ro bg hr sl sk sr id vi ca")
_ORDERED = re.compile(
    r"\b(in (\w+ )?order|order of|order(ed)? by|sort(ed)?|rank(ed|ing)?|ascending|descending|alphabetical(ly)?"
    r"|(largest|smallest|highest|lowest|biggest|oldest|newest|longest|shortest|most|least|latest|earliest|nearest"
    r"|cheapest|heaviest|lightest) first|from (the )?\w+est to (the )?\w+|geordnet|sortiert|Reihenfolge|zuerst"
    r"|aufsteigend|absteigend|ordre|tri(és?|ées?)|orden|ordenad[oa]s?)\b|顺序|排序|从.{1,4}到|依次",
    re.IGNORECASE,
)
_JOINS = _words("and und et y e i и και en og och ja ve dan & 和 与 以及 及 と")  # between the last two of a list
_TRUE = _words("true yes ja oui sí si да 是 対 はい sim tak evet")
_FALSE = _words("false no nein non нет 否 不是 いいえ não nie hayır nee")
_NOT_A_UNIT = _JOINS | _TRUE | _FALSE | _words("or not oder nicht ou pas o u или не neither maybe about")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMERAL = re.compile(
    r"(?<![^\W\d_])[-+−]?(?:\d{1,3}(?:[,.'’\u00a0\u202f ]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+)?(?!\d)"
)
_UNIT_WORDS = 3
_BETWEEN = " ,;、，،\n\t"  # items of a list
_BULLET = re.compile(r"(?:^|\n)\s*(?:[-*•]|\d+[.)])\s+")
_JOIN = re.compile(rf"(?:(?:{'|'.join(sorted(map(re.escape, _JOINS)))})\s+|和|与|以及|及|と)")


def phrase(language: str) -> str:
    """The words that introduce an answer in a language, given as a BCP 47 tag; English where none are known."""
    return _PHRASES.get(_primary(language), _PHRASES["en"])


def answer_sentence(spec: EnvironmentSpec) -> str:
    """The gold answer as the rule has it said: what an expert answers."""
    text = spec.answer if isinstance(spec.answer, str) else json.dumps(spec.answer, ensure_ascii=False)
    separator = "" if phrase(spec.language).endswith(("是", "は", "은")) else " "
    return f"{phrase(spec.language)}{separator}{text}."


def final_answer(messages: Sequence[Message], language: str = "en") -> str | None:
    """The answer that a rollout ended with, as it stands there; None if it gave none, or several."""
    text = _last_words(messages)
    if text is None:
        return None
    found = [match for one in {phrase(language), _PHRASES["en"]} for match in re.finditer(re.escape(one), text, re.I)]
    if len(found) > 1:
        return None
    stated = text[found[0].end() :].lstrip(": ") if found else text
    return stated or None


def holds_scraps(messages: Sequence[Message]) -> bool:
    """Whether the last message, an assistant's without calls, holds scraps of calls or of a template's marks."""
    text = _last_words(messages)
    return text is not None and _SCRAP.search(text) is not None


def _last_words(messages: Sequence[Message]) -> str | None:
    """The last message without its first thought, if an assistant wrote it and called nothing in it."""
    if not messages or messages[-1].role != "assistant" or messages[-1].tool_calls:
        return None
    return _THOUGHT.sub("", unicodedata.normalize("NFC", messages[-1].content), count=1).strip()


def is_right(spec: EnvironmentSpec, messages: Sequence[Message]) -> bool:
    """Whether the rollout's final answer is the gold answer, matched as the answering step is, and nothing besides."""
    stated = None if holds_scraps(messages) else final_answer(messages, spec.language)
    return stated is not None and states(spec, stated)


def states(spec: EnvironmentSpec, stated: str) -> bool:
    """Whether a text is the gold answer and nothing besides."""
    step, language, ordered = answering_step(spec), _primary(spec.language), bool(_ORDERED.search(_asked(spec)))
    readings = {stated, _without_stop(stated), _plain(stated)}
    return any(_states(step, spec.answer, reading, language, ordered) for reading in readings)


def answering_step(spec: EnvironmentSpec) -> Step:
    """The last step whose answer is the main answer: the main answer is compared as its answer is."""
    gold = canonical_json(spec.answer)
    last = [step for step in spec.steps if canonical_json(step.answer) == gold]
    return last[-1] if last else spec.steps[-1]


def _asked(spec: EnvironmentSpec) -> str:
    return f"{spec.question}\n{answering_step(spec).question}"


def _states(step: Step, gold: Any, stated: str, language: str, ordered: bool) -> bool:
    value = _spelled(stated)
    if isinstance(gold, bool):
        return value is gold or fold(stated) in (_TRUE if gold else _FALSE)
    if isinstance(gold, int | float):
        return any(_matches(step, number, gold) for number in _quantities(stated, language))
    if isinstance(gold, str):
        return _same_text(step, stated, gold) or (isinstance(value, str) and _same_text(step, value, gold))
    if isinstance(gold, list):
        if isinstance(value, list):
            return _same_items(step, value, gold, language, ordered)
        return bool(gold) and any(
            _same_items(step, items, gold, language, ordered) for items in _enumerations(stated, gold)
        )
    try:
        return value is not _NOTHING and canonical_json(value) == canonical_json(gold)
    except NotCanonicalError:
        return False


def _matches(step: Step, actual: Any, gold: Any) -> bool:
    if step.match == "numeric":
        return abs(float(actual) - float(gold)) <= step.tolerance
    return float(actual) == float(gold)


def _same_text(step: Step, stated: str, gold: str) -> bool:
    if step.match == "text":
        return fold(stated) == fold(gold) != ""
    if step.match == "numeric":
        wanted = _quantities(gold, "en")
        return any(_matches(step, one, other) for one in _quantities(stated, "en") for other in wanted)
    return _squeezed(stated) == _squeezed(gold) != ""


def _squeezed(text: str) -> str:
    """Case, composition, white space, kinds of quotes and dashes folded; all other signs count, as in C++ and C#."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub("[\u2010-\u2015\u2212]", "-", re.sub("[\u2018\u2019\u02bc`´]", "'", plain))
    return " ".join(plain.split())


def _same_items(step: Step, stated: Sequence[Any], gold: Sequence[Any], language: str, ordered: bool) -> bool:
    """Whether each gold item is stated once and nothing else is; in the gold order where the question asks for one."""
    if len(stated) != len(gold):
        return False
    left = list(gold)
    for place, item in enumerate(stated):
        candidates = [gold[place]] if ordered else left
        found = next((one for one in candidates if _is_item(step, item, one, language)), _NOTHING)
        if found is _NOTHING:
            return False
        if not ordered:
            left.remove(found)
    return True


def _is_item(step: Step, item: Any, gold: Any, language: str) -> bool:
    if isinstance(item, str):
        return _states(step, gold, item, language, False)
    if isinstance(item, bool) or isinstance(gold, bool) or item is None:
        return item is gold
    if isinstance(item, int | float) and isinstance(gold, int | float):
        return _matches(step, item, gold)
    try:
        return canonical_json(item) == canonical_json(gold)
    except NotCanonicalError:
        return False


def _enumerations(stated: str, gold: Sequence[Any]) -> Iterator[list[str]]:
    """The ways to read a text as a list: items between commas, semicolons or line ends, the last after `and`."""
    text = stated.strip().removeprefix("[").removesuffix("]")
    if all(isinstance(item, str) for item in gold):
        yield from _tilings(_BULLET.sub(",", text), [str(item) for item in gold])
        return
    if len(gold) == 1:
        yield [_plain(text)]
    for separator in (r"\n", r";", r"[,、،，]\s+|[、，]", r","):
        parts = [_BULLET.sub("", part) for part in re.split(separator, text) if part.strip()]
        yield [_plain(part) for part in parts]
        if split := _split_last(parts):
            yield [_plain(part) for part in split]


def _tilings(text: str, gold: Sequence[str]) -> Iterator[list[str]]:
    """The orders in which the gold items, which may have commas of their own, make up a text between separators."""
    left = _squeezed(text).lstrip(_BETWEEN)
    if not gold and not left.strip(_BETWEEN + "."):
        yield []
    for place, item in enumerate(gold):
        if item in gold[:place]:
            continue
        start = _squeezed(item)
        for opening, closing in [("", ""), *_WRAPPINGS]:
            whole = f"{opening}{start}{closing}"
            rest = left[len(whole) :]
            if start and left.startswith(whole) and not _is_one_word(whole[-1:] + rest[:1]):
                remaining, following = [*gold[:place], *gold[place + 1 :]], rest.lstrip(_BETWEEN)
                for tail in dict.fromkeys((following, _JOIN.sub("", following, count=1))):
                    yield from ([item, *others] for others in _tilings(tail, remaining))


def _is_one_word(pair: str) -> bool:
    """Whether two characters belong to one word, in a script that has spaces between words."""
    return len(pair) == 2 and all(char.isalnum() and unicodedata.category(char) != "Lo" for char in pair)


def _split_last(parts: list[str]) -> list[str]:
    """The items, the last of them split at its only `and`, or without the `and` that it begins with."""
    words = parts[-1].split() if parts else []
    joins = [place for place, word in enumerate(words) if word.casefold() in _JOINS]
    if len(joins) != 1:
        joined = re.split(r"和|与|以及|と", parts[-1]) if parts else []
        return [*parts[:-1], *joined] if len(joined) == 2 else []
    before, after = " ".join(words[: joins[0]]), " ".join(words[joins[0] + 1 :])
    return [*parts[:-1], *filter(None, (before, after))] if after else []


def _quantities(stated: str, language: str) -> set[float]:
    """The numbers that a text may be: one numeral, with a sign of money before it or a unit after it."""
    text = unicodedata.normalize("NFKC", stated).strip().replace("−", "-")
    found = list(_NUMERAL.finditer(text))
    if len(found) != 1:
        return set()
    before, after = text[: found[0].start()].strip(), text[found[0].end() :]
    if any(char.isalnum() or unicodedata.category(char) not in ("Sc", "Ps", "Zs") for char in before.strip("~=")):
        return set()
    if after and after[0].isalpha() and not after[0].isascii() and _primary(language) in ("en", "de", "fr", "es"):
        return set()
    if re.match(r"(st|nd|rd|th)\b|\s*[,;:/|]|\s*\n", after):
        return set()  # an ordinal, or the first of several
    words = after.strip(" .").split()
    scale = _SCALES.get(words[0].casefold(), 1) if words else 1
    unit = words[1:] if scale > 1 else words
    if len(unit) > _UNIT_WORDS or any(_spoils(word) for word in unit):
        return set()
    return {number * scale for number in _numbers(found[0].group(), language)}


def _spoils(word: str) -> bool:
    """Whether a word after a number is no part of a unit."""
    bare = word.strip(".,;()")
    if any(char.isdigit() for char in bare) and not re.fullmatch(r"\w{1,3}[²³23]", bare):
        return True
    return not bare or bare.casefold() in _NOT_A_UNIT or bool(re.search(r"[,;:!?\"{}<>\[\]|\\]", word.strip(".,")))


def _numbers(numeral: str, language: str) -> set[float]:
    """The values of a numeral: as JSON has it, as English groups its digits, and as the question's language does."""
    body = re.sub("['’\u00a0\u202f ]", "", numeral)
    if re.match(r"[-+]?0\d", body):
        return set()  # a code
    readings = {body} if "," not in body else set()
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", body):
        readings.add(body.replace(",", ""))
    if language in _COMMA_IS_DECIMAL:
        if re.fullmatch(r"[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+", body):
            readings.add(body.replace(".", "").replace(",", "."))
        if re.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+", body):
            readings.add(body.replace(".", ""))
    values = set()
    for reading in readings:
        try:
            values.add(float(reading))
        except ValueError:
            continue
    return {value for value in values if abs(value) != float("inf")}


_NOTHING = object()
_WRAPPINGS = [(mark, mark) for mark in ("**", "__", "*", "_", "`", '"', "'")] + [("“", "”"), ("„", "“"), ("«", "»")]


def _plain(text: str) -> str:
    """A text without a final full stop and without emphasis or quotes around all of it."""
    plain = text.strip()
    for _ in range(3):
        before = plain
        plain = _without_stop(plain)
        for opening, closing in _WRAPPINGS:
            plain = _unwrapped(plain, opening, closing)
        if plain == before:
            break
    return plain


def _without_stop(text: str) -> str:
    return text[:-1].rstrip() if text.endswith((".", "。", "।")) else text


def _unwrapped(text: str, opening: str, closing: str) -> str:
    inner = text[len(opening) : -len(closing)]
    whole = len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
    return inner.strip() if whole and opening not in inner and closing not in inner else text


def _spelled(text: str) -> Any:
    try:
        return parse_json(text)
    except NotCanonicalError:
        return _NOTHING


def _primary(language: str) -> str:
    return language.split("-")[0].lower()
