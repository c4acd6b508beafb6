"""Sandboxes of every kind, and the toolset that the contract suite runs on them."""

import asyncio
import contextlib
import datetime
import importlib.util
import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
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
from astra_sandbox.link import ClientTls

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


@contextlib.asynccontextmanager
async def run_server(listen: str, *flags: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A server process of its own, in bare processes: where it answers, and the process."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "astra_sandbox",
            "--listen",
            listen,
            "--contain",
            "process",
            "--exit-with-stdin",
            *flags,
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert "serving on" in line, line
    try:
        yield line.split("serving on ")[1].split()[0], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def tcp_server() -> AsyncIterator[tuple[str, ClientTls]]:
    """A server on loopback TCP with mutual TLS, and what a client needs to reach it."""
    with tempfile.TemporaryDirectory() as folder:
        client_tls = write_certificates(Path(folder))
        flags = [word for name in ("cert", "key", "ca") for word in (f"--tls-{name}", f"{folder}/{name}.pem")]
        async with run_server("0.0.0.0:0", "--capacity", "64", *flags) as (address, _):
            yield address.replace("0.0.0.0", "127.0.0.1"), client_tls


def write_certificates(folder: Path) -> ClientTls:
    """An authority, a server pair as cert.pem, key.pem, ca.pem, and a client pair signed by it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)

    def signed(name: str, issuer: Any = None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )
        return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key

    def pem(certificate: Any, key: Any) -> tuple[bytes, bytes]:
        form = serialization.PrivateFormat.PKCS8
        encoding = serialization.Encoding.PEM
        return certificate.public_bytes(encoding), key.private_bytes(encoding, form, serialization.NoEncryption())

    authority = signed("authority")
    authority_pem = pem(*authority)[0]
    certificate, key = pem(*signed("server", authority))
    for name, content in (("cert", certificate), ("key", key), ("ca", authority_pem)):
        (folder / f"{name}.pem").write_bytes(content)
    return ClientTls(*pem(*signed("client", authority)), authority_pem)


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
    return lambda folder, *flags: run_server(f"unix:{folder}/s", *flags)
