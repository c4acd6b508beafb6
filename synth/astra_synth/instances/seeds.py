"""What a teacher starts from: knowledge texts, names of domains, or questions, read from the user's files.

    FILE.jsonl    one JSON object a line: {"domain": ..., "text": ...} or {"domain": ..., "question": ...}
    FILE.txt      questions: one a line; knowledge: one text, its domain the file's name
    FOLDER        knowledge only: every .txt and .md in it, a text each

`knowledge_corpus` is read like `text`; a line with a domain and no text asks for the domain alone.
"""

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
    try:
        found = list(dict.fromkeys(_read(path, wants)))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{_FIELD}: {path}: cannot be read: {error}; give a file of {wants}s") from None
    if not found:
        raise BadInput(f"{_FIELD}: {path}: holds no {wants}; give at least one")
    return Seeds(found, source, seed)


def _read(path: Path, wants: str) -> Iterator[Seed]:
    if path.is_dir():
        if wants == "question":
            raise BadInput(f"{_FIELD}: {path}: is a folder; give a .jsonl or .txt of questions")
        for file in sorted(file for file in path.iterdir() if file.suffix in (".txt", ".md")):
            yield from _text_of(file)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if line.strip():
                yield _seed(line, wants, f"{path} line {number}")
    elif wants == "question":
        lines = (line.strip() for line in path.read_text(encoding="utf-8").split("\n"))
        yield from (Seed("general", question=line) for line in lines if line)
    else:
        yield from _text_of(path)


def _text_of(file: Path) -> Iterator[Seed]:
    if text := file.read_text(encoding="utf-8").strip():
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
    return found.strip()


def _domain(text: str) -> str:
    return " ".join(text.split())[:_DOMAIN_LENGTH].strip() or "general"
