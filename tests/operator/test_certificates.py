"""Certificates of pools on real servers: each run's open its own pool and no other."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from astra_api.records import Toolset, ToolSpec
from astra_operator.manifests.certificates import make_certificates
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import SandboxUnavailable
from astra_sandbox.link import ClientTls
from astra_sandbox.server.serving import READY

PING = Toolset(
    tools=(ToolSpec(name="ping", description="", parameters={"type": "object"}),),
    source="def ping():\n    return 7\n",
)


def _files(folder: Path, service: str) -> Path:
    folder.mkdir()
    for name, content in make_certificates(service, "lab", datetime.now(UTC)).items():
        (folder / name).write_bytes(base64.b64decode(content))
    return folder


def _tls(folder: Path, service: str) -> ClientTls:
    certificate, key, authority = ((folder / name).read_bytes() for name in ("client.crt", "client.key", "ca.crt"))
    return ClientTls(certificate, key, authority, f"{service}-0.{service}.lab.svc")


@contextmanager
def _server(files: Path) -> Iterator[str]:
    flags = [
        f"--tls-{flag}={files / name}"
        for flag, name in (("cert", "server.crt"), ("key", "server.key"), ("ca", "ca.crt"))
    ]
    command = [sys.executable, "-m", "astra_sandbox", "--listen", "127.0.0.1:0", "--exit-with-stdin", *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith(READY)
            yield line.removeprefix(READY).split()[0]
        finally:
            process.stdin.close()
            process.wait(20)


async def test_another_runs_certificate_is_refused(tmp_path: Path) -> None:
    mine, other = _files(tmp_path / "mine", "pool-a"), _files(tmp_path / "other", "pool-b")
    with _server(mine) as address:
        own = SandboxClient([address], _tls(mine, "pool-a"), retry=Retry(budget=20))
        (session,) = await own.open_sessions(PING, 1)  # the door works
        assert (await session.call("ping", "{}")).observation() == "7"
        await session.close()
        await own.close()
        strangers = [
            _tls(other, "pool-a"),  # an authority of another run, for server and client
            ClientTls(  # knows the server's authority, and shows a certificate of another
                (other / "client.crt").read_bytes(),
                (other / "client.key").read_bytes(),
                (mine / "ca.crt").read_bytes(),
                "pool-a-0.pool-a.lab.svc",
            ),
            _tls(mine, "pool-b"),  # expects another pool's server
        ]
        for tls in strangers:
            stranger = SandboxClient([address], tls, retry=Retry(budget=1))
            with pytest.raises(SandboxUnavailable):
                await stranger.open_sessions(PING, 1)
            await stranger.close()
