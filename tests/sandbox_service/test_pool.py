"""A toolset with servers of its own is opened on them, and nothing else is."""

from pathlib import Path
from typing import Any

import pytest

from astra_api.environment import Environment
from astra_api.records import Toolset
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import SandboxUnavailable
from astra_sandbox.pool import Pools, Servers, own_servers
from sandbox_servers import run_server


def environment(name: str, **changes: Any) -> Environment:
    sandbox = {"isolation": "pod", "replicas": 2} | changes
    spec = {
        "question": "Number?",
        "answer": 7,
        "domain": "numbers",
        "scenario": "single-hop",
        "steps": [{"id": "s1", "question": "?", "answer": 7, "call": {"tool": "ping", "arguments": {}}}],
        "tools": [{"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}],
        "source": f"def ping() -> int:\n    return 7  # {name}\n",
        "sandbox": sandbox,
    }
    endpoint = f"env-{name}-sandbox.lab.svc:50051" if sandbox["replicas"] else None
    return Environment.model_validate({"metadata": {"name": name}, "spec": spec, "status": {"endpoint": endpoint}})


def test_each_pod_of_an_environment_is_named() -> None:
    alone = environment("alone")
    others = [environment("warm", isolation="session"), environment("usual", isolation="session", replicas=0)]
    addresses = tuple(f"env-alone-sandbox-{number}.env-alone-sandbox.lab.svc:50051" for number in range(2))
    own = {alone.toolset.digest: Servers(addresses=addresses, certificates="/own/alone")}
    assert own_servers([alone, *others], {"ASTRA_OWN_TLS_DIR": "/own"}) == own
    assert own_servers(others) == {}


async def test_its_sessions_are_on_its_own_servers(tmp_path: Path, stateless: Toolset, stateful: Toolset) -> None:
    async with (
        run_server(f"unix:{tmp_path}/shared", "--capacity", "16") as (shared, _),
        run_server(f"unix:{tmp_path}/own", "--capacity", "4") as (own, _),
    ):
        pools = Pools(SandboxClient([shared]), {stateful.digest: Servers(addresses=(own,))})
        try:
            one = await pools.open_sessions(stateful, 2, seed=1)
            other = await pools.open_sessions(stateless, 3, seed=1)
            status = {server.address: server for server in await pools.status()}
            assert (status[own].sessions, status[own].toolsets) == (2, 1)
            assert (status[shared].sessions, status[shared].toolsets) == (3, 1)
            assert sum(server.capacity for server in status.values()) == 16, "the others have no room there"
            for session in [*one, *other]:
                assert (await session.call("add", '{"a": 1}')).observation().startswith("error: INVALID_ARGUMENTS")
                await session.close()
        finally:
            await pools.close()


async def test_a_toolset_never_leaves_its_own_servers(tmp_path: Path, stateless: Toolset) -> None:
    async with run_server(f"unix:{tmp_path}/shared") as (shared, _):
        pools = Pools(SandboxClient([shared]), {stateless.digest: Servers(addresses=(f"unix:{tmp_path}/gone",))})
        pools.clients[stateless.digest].retry = Retry(budget=0.2)
        try:
            with pytest.raises(SandboxUnavailable, match="gone"):
                await pools.open_sessions(stateless, 1)
        finally:
            await pools.close()


def test_a_certificate_that_is_not_there_is_told(tmp_path: Path) -> None:
    servers = Servers(addresses=("a:1",), certificates=str(tmp_path))
    with pytest.raises(OSError, match=r"client\.crt"):
        Pools(SandboxClient(["unix:/nowhere"]), {"x": servers})
