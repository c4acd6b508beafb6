"""Sandboxes of every kind, and the toolset that the contract suite runs on them."""

import contextlib
import importlib.util
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from astra_api.records import Toolset, ToolSpec
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.fake import FakeSandbox
from astra_sandbox.interface import Isolation, Sandbox
from astra_sandbox.launching import launch_local
from sandbox_servers import run_server, tcp_server

TOOLBOX = Path(__file__).with_name("toolbox.py")
_SCHEMAS = {
    "add": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "echo": {"value": {}},
    "fail": {"text": {"type": "string"}},
    "unjsonable": {"kind": {"type": "string"}},
    "text": {"length": {"type": "integer"}},
    "roll": {},
    "remember": {"item": {}},
    "leave": {"status": {}},
    "dive": {"depth": {"type": "integer"}},
    "noisy": {"value": {}},
}


def tool(name: str, properties: dict[str, Any]) -> ToolSpec:
    """A tool that takes exactly these arguments."""
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return ToolSpec(name=name, description=name, parameters=schema)


def toolbox(state: str) -> Toolset:
    """The toolbox as a toolset."""
    tools = tuple(tool(name, properties) for name, properties in _SCHEMAS.items())
    return Toolset(tools=tools, source=TOOLBOX.read_text(), state=state)  # type: ignore[arg-type]


def toolbox_functions() -> dict[str, Callable[..., Any]]:
    """The toolbox as functions with a memory of their own."""
    spec = importlib.util.spec_from_file_location("toolbox", TOOLBOX)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: getattr(module, name) for name in _SCHEMAS}


@pytest.fixture(scope="session")
def stateless() -> Toolset:
    return toolbox("stateless")


@pytest.fixture(scope="session")
def stateful() -> Toolset:
    return toolbox("stateful")


@pytest.fixture(scope="session")
def make_toolset() -> Callable[..., Toolset]:
    """(source, names..., state) -> a toolset whose tools take any arguments."""

    def make(source: str, *names: str, state: str = "stateless") -> Toolset:
        specs = tuple(ToolSpec(name=name, description="", parameters={"type": "object"}) for name in names)
        return Toolset(tools=specs, source=source, state=state)  # type: ignore[arg-type]

    return make


def require(program: str) -> None:
    """Skips the test, saying what is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@contextlib.asynccontextmanager
async def _fake() -> AsyncIterator[Sandbox]:
    modules = {toolbox(state).digest: toolbox_functions for state in ("stateless", "stateful")}
    yield FakeSandbox(modules=modules, capacity=64)


@contextlib.asynccontextmanager
async def _remote() -> AsyncIterator[Sandbox]:
    async with tcp_server() as (address, tls):
        client = SandboxClient([address], tls, retry=Retry(budget=20))
        try:
            yield client
        finally:
            await client.close()


def _local(level: Isolation) -> Callable[[], contextlib.AbstractAsyncContextManager[Sandbox]]:
    return lambda: launch_local(level=level, capacity=64, retry=Retry(budget=20))


_KINDS: dict[str, tuple[str | None, Callable[[], contextlib.AbstractAsyncContextManager[Sandbox]]]] = {
    "fake": (None, _fake),
    "process": (None, _local(Isolation.PROCESS)),
    "namespaces": ("bwrap", _local(Isolation.NAMESPACES)),
    "gvisor": ("runsc", _local(Isolation.GVISOR)),
    "remote": (None, _remote),
}
_REAL = [name for name in _KINDS if name not in ("fake", "remote")]


@contextlib.asynccontextmanager
async def _sandbox(kind: str) -> AsyncIterator[Sandbox]:
    program, make = _KINDS[kind]
    if program:
        require(program)
    async with make() as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="session", scope="session", params=_KINDS)
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Every implementation of the interface."""
    async with _sandbox(request.param) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session", scope="session", params=_REAL)
async def real_sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Every containment in which source really runs."""
    async with _sandbox(request.param) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def process_sandbox() -> AsyncIterator[Sandbox]:
    """The plainest real server."""
    async with _sandbox("process") as made:
        yield made


@pytest.fixture(scope="session")
def tls_server() -> Any:
    """Makes TLS servers: `async with tls_server() as (address, client_tls)`."""
    return tcp_server


@pytest.fixture(scope="session")
def server() -> Any:
    """Starts servers: `async with server(folder, *flags) as (address, process)` listens on a socket in `folder`."""
    return lambda folder, *flags, **options: run_server(f"unix:{folder}/s", *flags, **options)


@pytest.fixture(scope="session")
def somebody() -> tuple[str, ...]:
    """What runs a command as a user who is not root."""
    command = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
    if subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("unshare (util-linux 2.34) makes no user namespace here")
    return command


@pytest.fixture(params=["the user of these tests", "a user who is not root"])
def prefix(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What runs a server, as each."""
    command: tuple[str, ...] = request.getfixturevalue("somebody") if "not root" in request.param else ()
    return command
