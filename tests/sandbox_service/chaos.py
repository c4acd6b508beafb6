"""Rollouts while servers, templates, sessions and connections are killed; and many sessions, to see what stays behind.

    python tests/sandbox_service/chaos.py [--rollouts 200] [--minutes 10] [--sessions 100000] [--out DIR]

`make soak` runs it for long; the tests run it short. Every trajectory is compared with that of an undisturbed twin.
With `--out`, the counts are written as soak.json and the curves of the sessions drawn as leaks.png.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from astra_api.records import CallRecord, SessionLimits, Toolset, ToolSpec
from astra_sandbox.client import Retry
from astra_sandbox.interface import Isolation, Session
from astra_sandbox.launching import LocalSandbox, launch_local

SOURCE = '''
import random
_SEEN = []
def remember(item):
    """A call that ran twice in one history would show."""
    _SEEN.append(item)
    return list(_SEEN)
def roll(sides):
    return random.randrange(sides)
def work(rounds):
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) % 1000003
    return total
def fail(text):
    raise ValueError(text)
def leave(status):
    raise SystemExit(status)
'''
NAMES = ("remember", "roll", "work", "fail", "leave")
LIMITS = SessionLimits(call_seconds=60)  # on a busy machine a call must not time out by itself


def toolset() -> Toolset:
    """A stateful toolset, in which history shows."""
    specs = tuple(ToolSpec(name=name, description="", parameters={"type": "object"}) for name in NAMES)
    return Toolset(tools=specs, source=SOURCE, state="stateful")


def script(number: int, calls: int) -> list[tuple[str, str]]:
    """The calls of rollout `number`: a function of the number alone."""
    draw = random.Random(number)
    steps: list[tuple[str, dict[str, object]]] = []
    for _ in range(calls):
        name = draw.choices(NAMES, weights=(5, 3, 3, 1, 0.3))[0]
        arguments: dict[str, dict[str, object]] = {
            "remember": {"item": draw.randrange(1000)},
            "roll": {"sides": 10**6},
            "work": {"rounds": draw.randrange(20_000)},
            "fail": {"text": "no such thing"},
            "leave": {"status": 3},
        }
        steps.append((name, arguments[name]))
    return [(name, json.dumps(arguments)) for name, arguments in steps]


async def play(session: Session, number: int, calls: int, pause: float) -> list[CallRecord]:
    """One rollout; between calls a model would be thinking."""
    draw = random.Random(number)
    for name, arguments in script(number, calls):
        await session.call(name, arguments)
        if pause:
            await asyncio.sleep(draw.uniform(0, 2 * pause))
    log = list(session.log)
    await session.close()
    return log


@dataclass
class Chaos:
    """What happened in one run."""

    rollouts: int = 0
    calls: int = 0
    different: int = 0
    replays: int = 0
    kills: Counter[str] = field(default_factory=Counter)


async def chaos(client: LocalSandbox, rollouts: int, calls: int, seed: int, pause: float = 0.02) -> Chaos:
    """Runs rollouts in groups of 8 undisturbed, then again while things are killed, and compares."""
    made = toolset()

    async def all_rollouts(pause: float) -> list[list[CallRecord]]:
        logs: list[list[CallRecord]] = [[] for _ in range(rollouts)]

        async def group(first: int) -> None:
            sessions = await client.open_sessions(made, min(8, rollouts - first), seed=first, limits=LIMITS)
            played = await asyncio.gather(
                *(play(session, first + index, calls, pause) for index, session in enumerate(sessions))
            )
            logs[first : first + len(played)] = played

        await asyncio.gather(*(group(first) for first in range(0, rollouts, 8)))
        return logs

    twins = await all_rollouts(0)
    found = Chaos(rollouts=rollouts, calls=sum(map(len, twins)))
    before = client.replays
    killer = asyncio.ensure_future(_kill_for_ever(client, random.Random(seed), found.kills))
    try:
        disturbed = await all_rollouts(pause)
    finally:
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)
    found.replays = client.replays - before
    found.different = sum(one != other for one, other in zip(twins, disturbed, strict=True))
    return found


async def _kill_for_ever(client: LocalSandbox, draw: random.Random, kills: Counter[str]) -> None:
    weights = {"session": 10, "template": 3, "zygote": 1, "server": 1, "connection": 4}
    while True:
        await asyncio.sleep(draw.uniform(0.02, 0.3))
        kind = draw.choices(list(weights), weights=list(weights.values()))[0]
        if kind == "connection":
            link = draw.choice(client.links)
            link.drop_stream()
            kills[kind] += 1
            continue
        server = draw.choice(client.servers)
        victims = processes(server.running.pid or 0)[kind]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(victims), signal.SIGKILL)
                kills[kind] += 1


def processes(server: int) -> dict[str, list[int]]:
    """The processes of a local server on this kernel, by what they are: told by how deep they lie below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    levels = [[server] if server in parents else []]
    for _ in range(6):
        levels.append([pid for pid, parent in parents.items() if parent in levels[-1]])
    levels = [level for level in levels if level]
    names = ("server", "zygote", "template", "session")
    found: dict[str, list[int]] = {name: [] for name in names}
    for name, level in zip(names, [*levels[:2], *levels[-2:]] if len(levels) >= 4 else levels, strict=False):
        found[name] = level
    return found


@dataclass(frozen=True)
class Held:
    """What a server and its processes hold."""

    sessions: int
    processes: int
    descriptors: int
    files: int
    kib: int

    @classmethod
    def by(cls, server: int, sessions: int) -> "Held":
        """Measured now. `kib`: memory of the server alone, which lives longest."""
        tree = {pid for level in processes(server).values() for pid in level}
        descriptors = 0
        for pid in tree:
            with contextlib.suppress(OSError):
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        pages = int(Path(f"/proc/{server}/statm").read_text().split()[1])
        return cls(sessions, len(tree), descriptors, _scratch_entries(server), pages * os.sysconf("SC_PAGE_SIZE") >> 10)


def _scratch_entries(server: int) -> int:
    """Entries of the folders in which the server's sessions have theirs, where this machine sees them."""
    count = 0
    for pid in processes(server)["template"]:
        with contextlib.suppress(OSError):
            inside = os.path.basename(os.readlink(f"/proc/{pid}/cwd")) == "empty"  # beside sessions' folders
            count += len(os.listdir(f"/proc/{pid}/cwd/{'..' if inside else ''}"))
    return count


async def leaks(client: LocalSandbox, sessions: int, points: int) -> Iterator[Held]:
    """Opens and closes `sessions` sessions in groups of 8, each with one call, and measures in between."""
    made = toolset()
    server = client.servers[0].running.pid
    assert server is not None
    curve = []
    each = max(1, sessions // points)
    done = 0

    async def group(first: int) -> None:
        opened = await client.open_sessions(made, 8, seed=first, limits=LIMITS)
        for session in opened:
            await session.call("remember", '{"item": 1}')
        await asyncio.gather(*(session.close() for session in opened))

    while done < sessions:
        until = min(sessions, done + each)
        while done < until:
            await asyncio.gather(*(group(done + 8 * index) for index in range(4)))
            done += 32
        await asyncio.sleep(0.5)  # the last ends are being noticed
        curve.append(Held.by(server, done))
        print(curve[-1], flush=True)
    return iter(curve)


def draw(curve: list[Held], path: Path) -> None:
    """What was held after each number of sessions: level lines, where nothing leaks."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for axis, name in zip(axes, ("processes", "descriptors", "files", "kib"), strict=True):
        axis.plot([held.sessions / 1000 for held in curve], [getattr(held, name) for held in curve], marker=".")
        axis.set(
            title={"kib": "memory of the server, KiB"}.get(name, name),
            xlabel="thousand sessions opened",
            ylim=(0, None),
        )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


async def _main(options: argparse.Namespace) -> int:
    level = Isolation[options.level.upper()]
    rounds: list[Chaos] = []
    curve: list[Held] = []
    end = time.monotonic() + 60 * options.minutes
    while not rounds or time.monotonic() < end:
        async with launch_local(servers=2, level=level, retry=Retry(budget=120)) as client:
            rounds.append(await chaos(client, options.rollouts, 20, options.seed + len(rounds)))
        print(f"chaos {len(rounds)}: {rounds[-1]}", flush=True)
    if options.sessions:
        async with launch_local(level=level, retry=Retry(budget=120)) as client:
            curve = list(await leaks(client, options.sessions, 20))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        report = {"level": options.level, "chaos": [vars(one) for one in rounds], "leaks": [vars(one) for one in curve]}
        (options.out / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
        if curve:
            draw(curve, options.out / "leaks.png")
    return 1 if any(one.different for one in rounds) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sessions", type=int, default=100_000, help="sessions of the leak run; 0 for none")
    parser.add_argument("--level", default="process", choices=["process", "namespaces"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for soak.json and leaks.png")
    sys.exit(asyncio.run(_main(parser.parse_args())))
