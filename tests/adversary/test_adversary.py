"""The short form of the adversary table: every attack succeeds in the naive server, and at no level of containment."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adversary.__main__ import fenced
from adversary.arenas import LEVELS, missing
from adversary.probes import PROBES, SHORT
from adversary.table import CONTAINED, ESCAPED, Row

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    """The table, one row a probe."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--user", "true"], check=False).returncode:
        pytest.skip("namespaces, in which attacks that succeed hit nothing, cannot be made here (unshare)")
    ran = fenced(["--json", "--short"], capture_output=True, cwd=HERE)
    assert ran.stdout, ran.stderr[-2000:]
    rows: list[dict[str, str]] = json.loads(ran.stdout.splitlines()[-1])
    return rows


def test_the_short_form_has_a_probe_of_every_topic() -> None:
    assert {probe.topic for probe in PROBES if probe.name in SHORT} == {probe.topic for probe in PROBES}
    assert {probe.name for probe in PROBES} >= SHORT


@pytest.mark.parametrize(
    ("control", "level", "good"),
    [
        ("succeeds", CONTAINED, True),
        ("FAILS", CONTAINED, False),
        ("succeeds", ESCAPED, False),
        ("succeeds", f"{ESCAPED} (SandboxDied: the server died)", False),
        ("succeeds", "no runsc", False),
    ],
)
def test_only_what_ran_and_was_contained_is_good(control: str, level: str, good: bool) -> None:
    assert Row(PROBES[0], control, {"process": CONTAINED, "gvisor": level}).good is good


@pytest.mark.parametrize("arguments", [["--levels", "vm"], ["--levels", ""], ["--only", "nothing of that name"]])
def test_a_run_of_nothing_is_refused(arguments: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", "adversary", *arguments], cwd=HERE, capture_output=True, check=False)
    assert ran.returncode == 2
    assert arguments[0].encode() in ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_attack_succeeds_where_nothing_contains_it(table: list[dict[str, str]]) -> None:
    assert {row["name"]: row["control"] for row in table} == dict.fromkeys(SHORT, "succeeds")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("level", LEVELS)
def test_no_attack_succeeds(table: list[dict[str, str]], level: str) -> None:
    if lacking := missing(level):
        pytest.skip(f"there is no {lacking}")
    assert {row["name"]: row[level] for row in table} == dict.fromkeys(SHORT, CONTAINED)
