"""Writes the table of the chart's values into docs/chart.md: `python scripts/chart_values.py [--check]`.

The text of a value is the comment `# -- ...` above it in values.yaml; its default is what stands there.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "chart.md"
BEGIN, END = "<!-- values: made by `make chart-docs` -->", "<!-- end of values -->"


def described(text: str) -> Iterator[tuple[str, str]]:
    """(path, description) of every value that has one, in order."""
    path: list[tuple[int, str]] = []
    pending = ""
    for line in text.splitlines():
        if comment := re.match(r"\s*# -- (.*)", line):
            pending = comment[1]
        elif key := re.match(r"( *)([A-Za-z]\w*):", line):
            indent = len(key[1])
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key[2])]
            if pending:
                yield ".".join(name for _, name in path), pending
            pending = ""


def table(text: str) -> str:
    """The Markdown table."""
    values = yaml.safe_load(text)
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, description in described(text):
        value: Any = values
        for name in path.split("."):
            value = value[name]
        rows.append(f"| `{path}` | `{json.dumps(value)}` | {description} |")
    return "\n".join(rows)


def page(current: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = current.partition(BEGIN)
    _, _, after = rest.partition(END)
    values = (ROOT / "helm" / "astra-farm" / "values.yaml").read_text()
    return f"{before}{BEGIN}\n\n{table(values)}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Exit codes: 0 written, or up to date; 1 --check found it out of date."""
    current = PAGE.read_text()
    made = page(current)
    if arguments == ["--check"]:
        return 0 if made == current else 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
