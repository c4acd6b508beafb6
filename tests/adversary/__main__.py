"""Prints the adversary table: `python -m adversary [--levels process,namespaces,gvisor,pod] [--out FILE]`.

All of it runs in process, network, mount and IPC namespaces of its own: attacks that succeed, as they do in the naive
server, hit nothing else on this machine.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from adversary.arenas import LEVELS
from adversary.probes import PROBES, SHORT
from adversary.table import run, text

_INSIDE = "ASTRA_ADVERSARY_INSIDE"
_FENCE = ["unshare", "--fork", "--pid", "--mount-proc", "--net", "--ipc", "--kill-child"]


def main() -> int:
    """Exit codes: 0 contained at every level asked for and every control succeeded, 1 not, 2 nothing to run."""
    parser = argparse.ArgumentParser(prog="python -m adversary", description=__doc__)
    parser.add_argument(
        "--levels",
        default=",".join(LEVELS),
        metavar="L,...",
        help="default: all of them; the exit code is 1 if one cannot be had here",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="probes whose name or topic holds TEXT")
    parser.add_argument("--short", action="store_true", help="a few probes of each topic, as `make test` does")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Markdown as well")
    parser.add_argument("--json", action="store_true", help="print JSON, for the tests")
    options = parser.parse_args()
    levels = [level for level in options.levels.split(",") if level]
    if not levels or not set(levels) <= set(LEVELS):
        parser.error(f"--levels {options.levels}: give some of {','.join(LEVELS)}")
    chosen = [probe for probe in PROBES if options.only in probe.name or options.only in probe.topic]
    chosen = [probe for probe in chosen if probe.name in SHORT or not options.short]
    if not chosen:
        parser.error(f"--only {options.only!r} is in no probe's name or topic")
    if os.environ.get(_INSIDE) != "yes":
        return fenced(sys.argv[1:]).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    table = asyncio.run(run(levels, chosen))
    if options.json:
        rows = [
            {"name": row.probe.name, "topic": row.probe.topic, "control": row.control} | row.levels for row in table
        ]
        print(json.dumps(rows))
    else:
        print(text(table))
    if options.out:
        options.out.write_text(text(table) + "\n")
    return 0 if all(row.good for row in table) else 1


def fenced(arguments: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
    """Runs this command in namespaces of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return subprocess.run(
        [*_FENCE, *user, sys.executable, "-m", "adversary", *arguments],
        env=os.environ | {_INSIDE: "yes"},
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


if __name__ == "__main__":
    sys.exit(main())
