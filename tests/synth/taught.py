"""Runs with the scripted teacher, as tests make them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astra_api.environment import Environment
from astra_api.manifests import load_manifests
from astra_api.records import Reject
from astra_api.synthesis_run import SynthesisRun

NOT_COMPARED = ("teacher",)  # the cache and transcript: it holds seconds


def write_seeds(folder: Path, numbers: Sequence[int]) -> None:
    """A knowledge file with one text for each item."""
    lines = [{"domain": "harbours", "text": f"The register of Port-{number:04d}."} for number in numbers]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def taught_run(url: str, count: int, source: dict[str, Any] | None = None, **changes: Any) -> SynthesisRun:
    """A run over `seeds.jsonl`; `changes` go to the teacher where they are its fields, else to `environments`."""
    teacher: dict[str, Any] = {"baseUrl": url, "model": "scripted", "retries": 1, "timeoutSeconds": 10.0}
    environments: dict[str, Any] = {
        "source": {"type": "knowledge", "path": "seeds.jsonl", "languages": ["en", "de", "zh"]} | (source or {}),
        "hops": {"min": 1, "max": 4},
    }
    for name, value in changes.items():
        known = name in ("retries", "timeoutSeconds", "concurrency", "budget", "price", "maxTokens")
        (teacher if known else environments)[name] = value
    spec = {"count": count, "seed": 5, "teacher": teacher, "environments": environments}
    return SynthesisRun.model_validate({"metadata": {"name": "harbours"}, "spec": spec})


def write_questions(folder: Path, numbers: Sequence[int]) -> None:
    """A file with one question for each item, no two of which are alike."""
    asked = (
        "How many of them does the harbour Haven-{:04d} have in all?",
        "Our captain asks about Haven-{:04d}; what would the register tell her?",
        "For a brochure on seaside towns, please look up Haven-{:04d} and give me the figure.",
        "Does anybody know what number the office of Haven-{:04d} published?",
    )
    lines = [asked[place % len(asked)].format(number) for place, number in enumerate(numbers)]
    (folder / "questions.txt").write_text("\n".join(lines))


def asking(url: str, count: int, **changes: Any) -> SynthesisRun:
    """A run over `questions.txt`; `changes` go to the teacher."""
    run = taught_run(url, count, **changes).model_dump(mode="json", by_alias=True)
    run["spec"]["environments"] = {"source": {"type": "questions", "path": "questions.txt"}}
    return SynthesisRun.model_validate(run)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of an output directory that two equal runs have in common."""
    files = (file for file in sorted(out.rglob("*")) if file.is_file())
    named = {str(file.relative_to(out)): file for file in files}
    return {
        name: file.read_bytes()
        for name, file in named.items()
        if not name.startswith(NOT_COMPARED) and not name.endswith(".part")
    }


def environments(out: Path) -> list[Environment]:
    found = [manifest.resource for manifest in load_manifests([out / "environments"])]
    return [resource for resource in found if isinstance(resource, Environment)]


def rejects(out: Path) -> list[Reject]:
    return [Reject.model_validate_json(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
