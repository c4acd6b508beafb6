"""What a teacher starts from: knowledge texts, names of domains, or questions, read from the user's files.

    FILE.jsonl    one JSON object a line: {"domain": ..., "text": ...} or {"domain": ..., "question": ...}; or .ndjson
    FILE.txt      questions: one a line; knowledge: one text, its domain the file's name; or .md
    FOLDER        knowledge only: every .txt and .md in it, a text each

`knowledge_corpus` is read like `text`; a line with a domain and no text asks for the domain alone. Files are UTF-8, or
UTF-16 with a byte order mark; the case of a suffix says nothing, and a file with another one is refused.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from astra_api.canonical import NotCanonicalError, digest, parse_json
from astra_api.errors import BadInput
from astra_api.synthesis_run import KnowledgeSource, QuestionsSource

_FIELD = "spec.environments.source.path"
_TEXT_FIELDS = ("text", "knowledge", "knowledge_corpus")
_DOMAIN_LENGTH = 63
_LINES, _TEXTS = (".jsonl", ".ndjson"), (".txt", ".md")


@dataclass(frozen=True)
class Seed:
    """One thing to start from: a text (empty: the domain alone) or a question."""

    domain: str
    text: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class SeedDraw:
    """What item i starts from."""

    seed: Seed
    language: str | None  # of the question; None: that of the given question
    stateful: bool
    turn: int  # how often this seed was drawn before


class Seeds:
    """The seeds of a run in the order they are drawn: item i is a function of (run seed, i)."""

    def __init__(self, seeds: list[Seed], source: KnowledgeSource | QuestionsSource, seed: int) -> None:
        self._source, self._seed = source, seed
        self._seeds = Random(f"{seed}/seeds").sample(seeds, len(seeds))
        self.fingerprint = digest([[item.domain, item.text, item.question] for item in seeds])

    def limit(self, count: int) -> int:
        """How many items may be drawn for a run of `count`: a question once, a text again and again."""
        return len(self._seeds) if isinstance(self._source, QuestionsSource) else 4 * count + 20

    def draw(self, index: int) -> SeedDraw:
        turn, place = divmod(index, len(self._seeds))
        if isinstance(self._source, QuestionsSource):
            return SeedDraw(self._seeds[place], None, False, turn)
        languages = self._source.languages
        stateful = Random(f"{self._seed}/state/{index}").random() < self._source.stateful_share
        return SeedDraw(self._seeds[place], languages[(index + turn) % len(languages)], stateful, turn)


def open_seeds(source: KnowledgeSource | QuestionsSource, folder: Path, seed: int) -> Seeds:
    """Reads the seeds that a source names; its path is relative to `folder`. Raises BadInput."""
    if isinstance(source, KnowledgeSource) and source.domains is not None:
        return Seeds([Seed(_domain(domain), text="") for domain in source.domains], source, seed)
    path = folder / (source.path or "")
    wants = "question" if isinstance(source, QuestionsSource) else "text"
    found = list(dict.fromkeys(_read(path, wants)))
    if not found:
        kinds = f" ({' or '.join(_TEXTS)})" if path.is_dir() else ""
        raise BadInput(f"{_FIELD}: {path}: holds no {wants}{kinds}; give at least one")
    return Seeds(found, source, seed)


def _read(path: Path, wants: str) -> Iterator[Seed]:
    kind = path.suffix.lower()
    if path.is_dir():
        if wants == "question":
            raise BadInput(f"{_FIELD}: {path}: is a folder; give a .jsonl or .txt of questions")
        for file in sorted(file for file in path.iterdir() if _is_text(file)):
            yield from _text_of(file)
    elif kind in _LINES:
        for number, line in enumerate(_content(path).split("\n"), start=1):
            if line.strip():
                yield _seed(line, wants, f"{path} line {number}")
    elif wants == "question" and kind == ".txt":
        for number, line in enumerate(_content(path).split("\n"), start=1):
            if question := line.strip():
                _refuse_json(question, f"{path} line {number}")
                yield Seed("general", question=question)
    elif wants == "text" and kind in _TEXTS:
        yield from _text_of(path)
    else:
        known = (*_LINES, ".txt") if wants == "question" else (*_LINES, *_TEXTS)
        problem = f"is of no known kind ({', '.join(known)})" if path.exists() else "does not exist, so cannot be read"
        raise BadInput(f"{_FIELD}: {path}: {problem}; give a file of {wants}s, in a .jsonl one JSON object a line")


def _is_text(file: Path) -> bool:
    """Whether a file of a folder is a text, and none that a system hides beside it (`._notes.txt`)."""
    return file.suffix.lower() in _TEXTS and not file.name.startswith(".") and file.is_file()


def _content(file: Path) -> str:
    """The text of a file, without its byte order mark, its lines ended by line feeds. Raises BadInput."""
    try:
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise BadInput(f"{_FIELD}: {file}: cannot be read: {error.strerror}; give a file that can be") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"cannot be read: byte {error.start + 1} (line {line}) is not UTF-8"
        raise BadInput(f"{_FIELD}: {file}: {problem}; save it as UTF-8 text") from None
    if "\0" in text:
        raise BadInput(f"{_FIELD}: {file}: is no text: it holds a NUL; save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_json(line: str, where: str) -> None:
    """Raises BadInput for an object of JSON, which is no question but may hold one."""
    if line.startswith("{"):
        try:
            parse_json(line)
        except NotCanonicalError:
            return
        raise BadInput(f"{where}: is a JSON object, not a question; name the file .jsonl")


def _text_of(file: Path) -> Iterator[Seed]:
    if text := _content(file).strip():
        yield Seed(_domain(file.stem.replace("_", " ").replace("-", " ")), text=text)


def _seed(line: str, wants: str, where: str) -> Seed:
    try:
        value: Any = parse_json(line)
    except NotCanonicalError as error:
        raise BadInput(f"{where}: not JSON: {error}; write one JSON object a line") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where}: not a JSON object; write one a line")
    domain = _field(value, "domain", where)
    if wants == "question":
        question = _field(value, "question", where)
        if not question:
            raise BadInput(f"{where}: has no question; give the field question")
        return Seed(_domain(domain), question=question)
    text = next((_field(value, name, where) for name in _TEXT_FIELDS if value.get(name)), "")
    if not text and not domain:
        raise BadInput(f"{where}: has neither text nor domain; give at least one of them")
    return Seed(_domain(domain), text=text)


def _field(value: dict[str, Any], name: str, where: str) -> str:
    found = value.get(name) or ""
    if not isinstance(found, str):
        raise BadInput(f"{where}: {name} is {type(found).__name__}; write a text")
    if re.search("[\ud800-\udfff]", found):
        raise BadInput(f"{where}: {name} holds half of a character (\\ud800 to \\udfff); write the whole of it")
    return found.strip()


def _domain(text: str) -> str:
    return " ".join(text.split())[:_DOMAIN_LENGTH].strip() or "general"
