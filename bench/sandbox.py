"""Tool calls per second and session opening, next to a bare gRPC echo server in the same run.

    python bench/sandbox.py [--levels process,namespaces,gvisor] [--calls 8000] [--out FILE]

The echo server answers the same request type with the same payload, over the same kind of socket, to the same client
code at the same concurrency; it parses nothing and runs nothing. The ratio to it is what the sandbox itself costs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from astra_api.records import Toolset, ToolSpec
from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_api.sandbox.v1 import sandbox_pb2_grpc as stubs
from astra_sandbox.interface import Isolation, SandboxUnavailable
from astra_sandbox.launching import LocalSandbox, launch_local
from astra_sandbox.wire import toolset_to_wire

ARGUMENTS = '{"city": "Paris"}'
RESULT = '{"city":"Paris","population":2148000}'
SOURCE = """
_POPULATION = {"paris": 2148000, "rome": 2873000}
def city_population(city: str) -> dict:
    return {"city": city, "population": _POPULATION[city.strip().lower()]}
"""
TOOL = ToolSpec(
    name="city_population",
    description="Population of a city at the last census.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
TOOLSET = Toolset(tools=(TOOL,), source=SOURCE)
Driver = Callable[[Any, list[str], int], Awaitable[list[float]]]


class Echo(stubs.SandboxServiceServicer):
    """Answers every call at once with the same payload."""

    async def CallTool(self, request: Any, context: Any) -> Any:
        return pb.CallToolResponse(session_id=request.session_id, call_id=request.call_id, result_json=RESULT)

    async def Rollout(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(
                pb.CallToolResponse(session_id=request.session_id, call_id=request.call_id, result_json=RESULT)
            )


async def serve_echo(address: str) -> None:
    server = grpc.aio.server()
    stubs.add_SandboxServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def unary(stub: Any, sessions: list[str], calls: int) -> list[float]:
    """Latencies in seconds of `calls` unary calls, one at a time on each session."""
    latencies: list[float] = []

    async def work(session: str) -> None:
        for number in range(calls // len(sessions)):
            request = pb.CallToolRequest(
                session_id=session, call_id=f"{run_id}-{number}", tool=TOOL.name, arguments_json=ARGUMENTS
            )
            start = time.perf_counter()
            response = await stub.CallTool(request)
            latencies.append(time.perf_counter() - start)
            assert response.result_json == RESULT, response

    run_id = os.urandom(4).hex()
    await asyncio.gather(*(work(session) for session in sessions))
    return latencies


async def streamed(stub: Any, sessions: list[str], calls: int) -> list[float]:
    """The same over one Rollout stream."""
    latencies: list[float] = []
    run_id = os.urandom(4).hex()
    stream = stub.Rollout()
    sent: dict[str, tuple[int, float]] = {}
    unsent: list[str] = list(sessions)
    wake = asyncio.Event()
    wake.set()
    each = calls // len(sessions)
    total = each * len(sessions)

    async def write() -> None:
        written = 0
        while written < total:
            await wake.wait()
            wake.clear()
            batch, unsent[:] = list(unsent), []
            for session in batch:
                number = sent[session][0] + 1 if session in sent else 0
                sent[session] = (number, time.perf_counter())
                written += 1
                await stream.write(
                    pb.CallToolRequest(
                        session_id=session, call_id=f"{run_id}-{number}", tool=TOOL.name, arguments_json=ARGUMENTS
                    )
                )

    async def read() -> None:
        while len(latencies) < total:
            response = await stream.read()
            assert response.result_json == RESULT, response
            number, start = sent[response.session_id]
            latencies.append(time.perf_counter() - start)
            if number + 1 < each:
                unsent.append(response.session_id)
                wake.set()

    await asyncio.gather(write(), read())
    await stream.done_writing()
    return latencies


async def rate(driver: Driver, stub: Any, sessions: list[str], calls: int) -> dict[str, float]:
    start = time.perf_counter()
    latencies = sorted(await driver(stub, sessions, calls))
    seconds = time.perf_counter() - start
    return {
        "calls_per_second": round(len(latencies) / seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
    }


async def opened(stub: Any, count: int) -> list[str]:
    request = pb.OpenSessionsRequest(request_id=os.urandom(8).hex(), digest=TOOLSET.digest, count=count)
    return list((await stub.OpenSessions(request)).session_ids)


async def opening(stub: Any, count: int, times: int) -> float:
    """Median milliseconds to open `count` sessions, up to the answer."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        ids = await opened(stub, count)
        seconds.append(time.perf_counter() - start)
        await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))
    return round(statistics.median(seconds) * 1e3, 2)


async def resetting(stub: Any, times: int) -> float:
    """Median milliseconds to replace a session that was used by a fresh one."""
    seconds = []
    ids = await opened(stub, 1)
    for _ in range(times):
        await unary(stub, ids, 1)
        start = time.perf_counter()
        await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))
        ids = await opened(stub, 1)
        seconds.append(time.perf_counter() - start)
    await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))
    return round(statistics.median(seconds) * 1e3, 2)


async def many(client: LocalSandbox, sessions: int, calls: int) -> dict[str, float]:
    """Many sessions at once through the client: every call must give the result."""
    start = time.perf_counter()
    groups = await asyncio.gather(*(client.open_sessions(TOOLSET, 8) for _ in range(sessions // 8)))
    all_sessions = [session for group in groups for session in group]
    open_seconds = time.perf_counter() - start

    async def work(session: Any) -> None:
        for _ in range(calls):
            outcome = await session.call(TOOL.name, ARGUMENTS)
            assert outcome.observation() == RESULT, outcome

    start = time.perf_counter()
    await asyncio.gather(*(work(session) for session in all_sessions))
    seconds = time.perf_counter() - start
    await asyncio.gather(*(session.close() for session in all_sessions))
    return {
        "sessions": len(all_sessions),
        "open_seconds": round(open_seconds, 2),
        "calls_per_second": round(len(all_sessions) * calls / seconds),
        "replays": client.replays,
    }


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def processor_seconds(pids: list[int]) -> float:
    """Processor time of processes so far; it is comparable on a busy machine, where rates are not."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def held_mib(pids: list[int]) -> float:
    """Memory of processes, MiB; what they share is counted once."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


async def pod_cost(level: Isolation) -> dict[str, float]:
    """What `astra_api.pod_costs` holds: memory of a server, of a toolset, of a session; calls of a core."""
    toolsets, sessions, calls = 32, 256, 40
    async with launch_local(level=level, capacity=sessions) as client:
        server = client.servers[0].running.pid
        assert server is not None

        async def held() -> float:
            await asyncio.sleep(1)
            return held_mib(tree(server))

        base = await held()
        numbered = [TOOLSET.model_copy(update={"source": f"{SOURCE}# {number}\n"}) for number in range(toolsets)]
        loaded = [session for one in numbered for session in await client.open_sessions(one, 1)]
        with_toolsets = await held()
        opened = [session for _ in range(sessions // 8 - 4) for session in await client.open_sessions(numbered[0], 8)]
        each = (await held() - with_toolsets) / len(opened)

        async def work(session: Any) -> None:
            for _ in range(calls):
                await session.call(TOOL.name, ARGUMENTS)

        before = processor_seconds(tree(server))
        await asyncio.gather(*(work(session) for session in opened))
        seconds = processor_seconds(tree(server)) - before
        await asyncio.gather(*(session.close() for session in [*loaded, *opened]))
    return {
        "base_mib": round(base),
        "toolset_mib": round((with_toolsets - base) / toolsets - each, 1),
        "session_mib": round(each, 1),
        "calls_per_core": round(calls * len(opened) / seconds),
    }


async def compared(driver: Driver, stub: Any, echo: Any, ids: list[str], calls: int, rounds: int) -> dict[str, Any]:
    """Of `rounds` pairs of measurements, the best of each server, and the median of the ratios."""
    await driver(stub, ids, min(calls, 640))
    pairs = [(await rate(driver, echo, ids, calls), await rate(driver, stub, ids, calls)) for _ in range(rounds)]
    bare, ours = (max(side, key=lambda row: row["calls_per_second"]) for side in zip(*pairs, strict=True))
    ratios = [mine["calls_per_second"] / theirs["calls_per_second"] for theirs, mine in pairs]
    return ours | {"echo": bare, "ratio": round(statistics.median(ratios), 2)}


async def by_sessions(
    client: LocalSandbox, stub: Any, echo: Any, counts: list[int], calls: int, rounds: int
) -> dict[str, Any]:
    """For each number of sessions, all in use at once: both kinds of calls next to the echo server's, and memory."""
    server = client.servers[0].running.pid
    assert server is not None
    found: dict[str, Any] = {}
    before = held_mib(tree(server))
    ids: list[str] = []
    for count in counts:
        while len(ids) < count:
            ids += await opened(stub, min(64, count - len(ids)))
        await asyncio.sleep(1)
        row: dict[str, Any] = {"mib_per_session": round((held_mib(tree(server)) - before) / count, 1)}
        many_calls = max(4 * count, min(calls, 800 * count))  # a session may have 10,000
        try:
            row["unary"] = await compared(unary, stub, echo, ids, many_calls // 2, rounds)
            seconds = processor_seconds(tree(server))
            row["stream"] = await compared(streamed, stub, echo, ids, many_calls, rounds)
        except (grpc.RpcError, asyncio.InvalidStateError):  # docs/sandbox.md: gVisor's ptrace platform ends itself
            found[str(count)] = {"lost": True}
            break
        done = rounds * (many_calls // count * count) + min(many_calls, 640) // count * count
        row["us_per_call"] = round((processor_seconds(tree(server)) - seconds) / done * 1e6)
        found[str(count)] = row
    return found


async def measure(level: Isolation, echo: Any, calls: int, rounds: int) -> dict[str, Any]:
    async with (
        launch_local(level=level, capacity=1100) as client,
        grpc.aio.insecure_channel(client.addresses[0]) as channel,
    ):
        stub = stubs.SandboxServiceStub(channel)
        await stub.PutToolset(toolset_to_wire(TOOLSET))
        first = time.perf_counter()
        await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=await opened(stub, 1)))
        found: dict[str, Any] = {"containment": client.containment}
        found["first_opening_ms"] = round((time.perf_counter() - first) * 1e3, 1)
        times = 100 if level < Isolation.GVISOR else 30
        found["open_1_ms"] = await opening(stub, 1, times)
        found["open_8_ms"] = await opening(stub, 8, times)
        found["reset_ms"] = await resetting(stub, times)
        found["sessions"] = await by_sessions(client, stub, echo, [1, 32, 256, 1000], calls, rounds)
    async with launch_local(level=level) as client:  # a fresh server: under ptrace 1,000 sessions hold most process ids
        found["client_32"] = await many(client, 32, calls // 32)
        found["client_256"] = await many(client, 256, 20)
    found["pod"] = await pod_cost(level)
    return found


def show(level: str, found: dict[str, Any]) -> None:
    print(f"\n{level}: {found['containment']}")
    opening = f"one {found['open_1_ms']} ms, a group of 8 {found['open_8_ms']} ms, reset {found['reset_ms']} ms"
    print(f"  opening (median): {opening}")
    print(f"  {'sessions':>8} {'':6} {'calls/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'echo/s':>8} {'of echo':>8}")
    for count, row in found["sessions"].items():
        if "lost" in row:
            print(f"  {count:>8} the server ended itself under these sessions")
            continue
        for name in ("unary", "stream"):
            one = row[name]
            times = f"{one['p50_ms']:>8} {one['p99_ms']:>8}"
            bare = one["echo"]["calls_per_second"]
            print(f"  {count:>8} {name:6} {one['calls_per_second']:>8} {times} {bare:>8} {one['ratio']:>8.0%}")
        cost = f"{row['us_per_call']} us of processor time a call in the stream, sessions included"
        print(f"  {'':>8} {cost}, {row['mib_per_session']} MiB a session")
    for name in ("client_32", "client_256"):
        row = found[name]
        text = f"{row['calls_per_second']} calls/s through SandboxClient, opened in {row['open_seconds']} s"
        print(f"  {row['sessions']} sessions: {text}, no error, {row['replays']} replays")
    cost = found["pod"]
    parts = f"{cost['base_mib']} MiB, {cost['toolset_mib']} MiB a toolset, {cost['session_mib']} MiB a session"
    print(f"  a pod holds {parts}; a core answers {cost['calls_per_core']} calls/s")


async def run(levels: list[str], calls: int, rounds: int) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "calls": calls,
        "levels": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/echo"
        server = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--echo", address, stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            await server.stdout.readline()
            async with grpc.aio.insecure_channel(address) as channel:
                echo = stubs.SandboxServiceStub(channel)
                await unary(echo, ["x"] * 32, 640)
                for level in levels:
                    fewer = calls // 4 if level == "gvisor" else calls
                    try:
                        found = await measure(Isolation[level.upper()], echo, fewer, rounds)
                    except SandboxUnavailable as error:
                        print(f"\n{level}: not here: {error}")
                        continue
                    report["levels"][level] = found
                    show(level, found)
        finally:
            server.kill()
            await server.wait()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default="process,namespaces,gvisor")
    parser.add_argument("--calls", type=int, default=8000, help="calls of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, echo and sandbox in turn")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--echo", metavar="ADDR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        asyncio.run(serve_echo(options.echo))
        return
    report = asyncio.run(run(options.levels.split(","), options.calls, options.rounds))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
