"""Seeds as users write them, and the order they are drawn in."""

import json
from pathlib import Path
from typing import Any

import pytest

from astra_api.errors import BadInput
from astra_api.synthesis_run import KnowledgeSource, QuestionsSource
from astra_synth.instances.seeds import Seed, Seeds, open_seeds


def knowledge(**fields: Any) -> KnowledgeSource:
    return KnowledgeSource.model_validate({"type": "knowledge"} | fields)


def drawn(seeds: Seeds, count: int) -> set[Seed]:
    return {seeds.draw(index).seed for index in range(count)}


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {"domain": "weather", "text": "Rain."},
        {"domain": "movie", "knowledge_corpus": "A film."},
        {"domain": "x"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    seeds = open_seeds(knowledge(path="a.jsonl"), tmp_path, 0)
    assert drawn(seeds, 3) == {Seed("weather", "Rain."), Seed("movie", "A film."), Seed("x", "")}


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "sea_ports.md").write_text("About ports.")
    (tmp_path / "texts" / "notes.csv").write_text("a,b")
    assert drawn(open_seeds(knowledge(path="texts"), tmp_path, 0), 1) == {Seed("sea ports", "About ports.")}


def test_questions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One?\n\nTwo?\nOne?\n")
    seeds = open_seeds(QuestionsSource(type="questions", path="a.txt"), tmp_path, 0)
    assert seeds.limit(100) == 2
    assert {seed.question for seed in drawn(seeds, 2)} == {"One?", "Two?"}


def test_domains_alone() -> None:
    seeds = open_seeds(knowledge(domains=["travel"]), Path(), 0)
    assert seeds.draw(0).seed == Seed("travel", "")
    assert [seeds.draw(index).turn for index in range(3)] == [0, 1, 2]


def test_a_draw_is_a_function_of_seed_and_index() -> None:
    source = knowledge(domains=[f"d{n}" for n in range(50)], statefulShare=0.3, languages=["en", "de"])
    first, second = (open_seeds(source, Path(), 4) for _ in range(2))
    draws = [first.draw(index) for index in range(400)]
    assert draws == [second.draw(index) for index in range(400)]
    assert draws != [open_seeds(source, Path(), 5).draw(index) for index in range(400)]
    assert 0.2 < sum(draw.stateful for draw in draws) / 400 < 0.4
    assert sum(draw.language == "de" for draw in draws) == 200
    assert {draw.language for draw in draws if draw.seed.domain == "d0"} == {"en", "de"}


BAD = {
    "not JSON": ("{", "line 1: not JSON"),
    "not an object": ("[]", "not a JSON object"),
    "nothing to start from": ("{}", "neither text nor domain"),
    "a number": ('{"text": 3}', "text is int; write a text"),
    "empty": ("", "holds no text; give at least one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(BadInput, match=r"a\.jsonl") as caught:
        open_seeds(knowledge(path="a.jsonl"), tmp_path, 0)
    assert message in str(caught.value)


LINES = '{"domain": "travel", "question": "Where is 0?"}\n{"domain": "travel", "question": "Where is ä?"}\n'
PLAIN = "Where is 0?\nWhere is ä?\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("q.jsonl", LINES.encode()),
        ("q.JSONL", LINES.encode()),
        ("q.ndjson", LINES.encode()),
        ("q.jsonl", LINES.encode("utf-8-sig")),
        ("q.jsonl", LINES.replace("\n", "\r\n").encode("utf-16")),
        ("q.txt", PLAIN.encode("utf-8-sig")),
        ("Q.TXT", PLAIN.encode()),
        ("q.txt", PLAIN.replace("\n", "\r\n").encode("utf-16")),
        ("q.txt", PLAIN.replace("\n", "\r").encode()),
    ],
)
def test_kinds_and_encodings_of_questions(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    seeds = open_seeds(QuestionsSource(type="questions", path=name), tmp_path, 0)
    assert {seed.question for seed in drawn(seeds, 2)} == {"Where is 0?", "Where is ä?"}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("q.json", b'[{"question": "Where?"}]', r"q\.json: is of no known kind \(\.jsonl, \.ndjson, \.txt\)"),
        ("q.csv", b"domain,question\n", "of no known kind"),
        ("q.CSV", b"domain,question\n", "of no known kind"),
        ("q.jsonl.gz", b"\x1f\x8b", "of no known kind"),
        ("q.pdf", b"%PDF-1.7", "of no known kind"),
        ("q.md", b"Where?", "of no known kind"),
        ("q", b"Where?", "of no known kind"),
        ("q.txt", b'{"question": "Where?"}\n', r"q\.txt line 1: is a JSON object.*name the file \.jsonl"),
        ("q.txt", "Where?\nWo ist Ä?".encode("latin-1"), r"byte 15 \(line 2\) is not UTF-8; save it as UTF-8"),
        ("q.txt", b"Where?\0\0", "holds a NUL"),
        ("q.txt", b"\xff\xfeW", "is not UTF-8"),
        ("q.jsonl", b'{"question": "Where is \\ud83d?"}', "line 1: question holds half of a character"),
        ("none.csv", None, "does not exist"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(name: str, data: bytes | None, message: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=message):
        open_seeds(QuestionsSource(type="questions", path=name), tmp_path, 0)


def test_what_a_system_hides_in_a_folder_is_no_text(tmp_path: Path) -> None:
    for name, data in (
        ("NOTES.TXT", b"\xef\xbb\xbfA note."),
        ("._NOTES.TXT", b"\0\x05\x16\x07"),
        (".hidden.md", b"no"),
        ("a.json", b"[]"),
    ):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.txt").mkdir()
    assert drawn(open_seeds(knowledge(path="."), tmp_path, 0), 1) == {Seed("NOTES", "A note.")}
    (tmp_path / "NOTES.TXT").unlink()
    with pytest.raises(BadInput, match=r"holds no text \(\.txt or \.md\)"):
        open_seeds(knowledge(path="."), tmp_path, 0)
    (tmp_path / "wide.txt").write_bytes(b"a\xe4b")
    with pytest.raises(BadInput, match=r"wide\.txt: cannot be read: byte 2"):
        open_seeds(knowledge(path="."), tmp_path, 0)
    with pytest.raises(BadInput, match=r"a\.json: is of no known kind \(\.jsonl, \.ndjson, \.txt, \.md\)"):
        open_seeds(knowledge(path="a.json"), tmp_path, 0)


def test_missing_and_unfit_paths(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"spec\.environments\.source\.path: .*cannot be read"):
        open_seeds(knowledge(path="none.jsonl"), tmp_path, 0)
    with pytest.raises(BadInput, match="is a folder"):
        open_seeds(QuestionsSource(type="questions", path="."), tmp_path, 0)
    (tmp_path / "a.jsonl").write_text('{"domain": "x"}')
    with pytest.raises(BadInput, match="line 1: has no question"):
        open_seeds(QuestionsSource(type="questions", path="a.jsonl"), tmp_path, 0)
