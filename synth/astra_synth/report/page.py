"""The page: what the run was, its yield and cost by stage, its distributions, and a few examples to read."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from astra_api.display import share, shortened, visible
from astra_api.environment import Environment
from astra_api.files import replace
from astra_api.plotting import draw
from astra_api.records import Reject
from astra_synth.output import read_unasked
from astra_synth.report.plots import PLOTS
from astra_synth.report.reading import Synthesis, read_synthesis

_PLOTS = "plots"
_EXAMPLES = 8  # of rejects


def write_report(directory: Path) -> Path:
    """Writes `report.html` and its plots into the output directory of a run; returns the page's path.

    Takes a run at any point: what it does not have yet is left out. The same directory gives the same bytes. Raises
    BadInput when it is not the output of a run, or damaged.
    """
    synthesis = read_synthesis(directory)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "shortened": shortened, "json": _json}
    environment.globals |= {"share": share}
    source = files("astra_synth").joinpath("templates", "report.html.jinja").read_text(encoding="utf-8")
    page = directory / "report.html"
    sections = draw(PLOTS, synthesis, directory / _PLOTS, {})
    replace(page, environment.from_string(source).render(**_content(synthesis), sections=sections).encode())
    return page


def _content(synthesis: Synthesis) -> dict[str, Any]:
    accounts, count = synthesis.accounts, synthesis.run["spec"]["count"]
    made = len(synthesis.environments)
    return {
        "name": visible(synthesis.run["name"]),
        "facts": list(_facts(synthesis)),
        "unfinished": f"{made} of {count} environments" if made < count else None,
        "stages": accounts.stages() if accounts.records else [],
        "total": accounts.total,
        "compared": _compared(synthesis) if made else [],
        "reasons": sorted(synthesis.reasons.items(), key=lambda entry: (-entry[1], entry[0])),
        "examples": _examples(synthesis.environments),
        "rejects": _rejects(synthesis),
        "notes": _notes(synthesis),
        "unasked": read_unasked(synthesis.directory),
    }


def _facts(synthesis: Synthesis) -> Iterator[tuple[str, str]]:
    spec = synthesis.run["spec"]
    source = spec["environments"]["source"]
    yield "Source", visible(f"{source['type']}: {source.get('pack') or source.get('path') or 'domains'}")
    for role in ("teacher", "judge"):
        if role in spec:
            yield role.capitalize(), visible(spec[role]["model"])
    yield "Seed", str(spec["seed"])
    yield "Verified", f"{len(synthesis.environments):,} environments · {len(synthesis.domains)} domains"
    yield "Rejected", f"{len(synthesis.rejects):,}"
    if total := synthesis.accounts.total.calls:
        used = synthesis.accounts.total
        yield "Teacher", f"{total:,} calls · {used.tokens:,} tokens" + (f" · cost {used.cost:.2f}" if used.cost else "")


def _compared(synthesis: Synthesis) -> list[tuple[str, str, str]]:
    """This run beside the paper's published set (arXiv 2601.21558)."""
    made, steps, calls = len(synthesis.environments), synthesis.steps, synthesis.tool_steps
    hops = synthesis.hops
    return [
        ("Instances", f"{made:,}", "6,596"),
        ("Sub-questions", f"{steps:,}", "28,794"),
        ("Sub-questions an instance, mean", f"{steps / made:.2f}", "4.37"),
        ("Tool calls an instance, range", f"{min(hops)}–{max(hops)}", "1–20"),
        ("Sub-questions that need a tool", f"{calls / steps:.1%}", "91.3%"),
    ]


def _examples(environments: list[Environment]) -> list[Environment]:
    """The first environment of each scenario type."""
    found: dict[str, Environment] = {}
    for environment in environments:
        found.setdefault(f"{environment.spec.scenario} {environment.spec.state}", environment)
    return list(found.values())


def _rejects(synthesis: Synthesis) -> list[tuple[Reject, str]]:
    """The first reject of each reason, with its question where one is known."""
    questions = {record.name: record.question for record in synthesis.accounts.records}
    first: dict[str, Reject] = {}
    for reject in synthesis.rejects:
        first.setdefault(reject.reason, reject)
    return [(reject, questions.get(reject.name, "")) for reject in list(first.values())[:_EXAMPLES]]


def _notes(synthesis: Synthesis) -> list[str]:
    return [f"{record.name}: {note}" for record in synthesis.accounts.records for note in record.notes]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
