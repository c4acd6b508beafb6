"""Every probe at every level, beside its positive control."""

import sys
from dataclasses import dataclass, field

from adversary.arenas import Contained, contained, missing, naive
from adversary.probing import VICTIM, Probe, sound
from astra_sandbox.interface import SandboxError, SandboxUnavailable

CONTAINED, ESCAPED = "contained", "ESCAPED"


@dataclass
class Row:
    """One probe: what its control did, and what came of it at each level."""

    probe: Probe
    control: str
    levels: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Contained at every level, and the control shows that it need not have been. Not to have run is not good."""
        return self.control == "succeeds" and all(what == CONTAINED for what in self.levels.values())


async def control(probe: Probe) -> str:
    """What the probe does where nothing contains it; tried again, for a busy machine may cut an attack short."""
    for _ in range(3):
        async with naive() as arena:
            try:
                if await probe.attack(arena):
                    return "succeeds"
            except (EOFError, TimeoutError, ConnectionError, KeyError):
                return "succeeds"  # the naive server is dead, or waits for ever
    return "FAILS"


async def attempt(probe: Probe, arena: Contained) -> str:
    """What the probe does in a real server. A server that dies of it, or serves no one else, has not contained it."""
    restarts = arena.restarts
    try:
        escaped = await probe.attack(arena)
        await arena.close_all()
        victim = (await arena.open(VICTIM))[0]
        escaped = escaped or not sound(await victim.call("fine")) or arena.restarts != restarts
    except SandboxError as error:
        return f"{ESCAPED} ({type(error).__name__}: {error})"[:200]
    finally:
        await arena.close_all()
    return ESCAPED if escaped else CONTAINED


async def run(levels: list[str], chosen: list[Probe]) -> list[Row]:
    """The table of these probes at these levels."""
    rows = []
    for probe in chosen:
        _progress(f"control: {probe.name}")
        rows.append(Row(probe, await control(probe)))
    for level in levels:
        lacking = missing(level)
        if lacking:
            for row in rows:
                row.levels[level] = f"no {lacking}"
            continue
        try:
            async with contained(level) as arena:
                for row in rows:
                    _progress(f"{level}: {row.probe.name}")
                    row.levels[level] = await attempt(row.probe, arena)
        except SandboxUnavailable as error:
            for row in rows:
                row.levels.setdefault(level, str(error)[:60])
    _progress("")
    return rows


def text(rows: list[Row]) -> str:
    """The table in Markdown."""
    levels = list(rows[0].levels) if rows else []
    lines = [f"| attack on | by | naive server | {' | '.join(levels)} |", "|---" * (3 + len(levels)) + "|"]
    for row in rows:
        cells = [row.levels[level] for level in levels]
        lines.append(f"| {row.probe.topic} | {row.probe.name} | {row.control} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line[:78]:78}", end="\r", file=sys.stderr, flush=True)
