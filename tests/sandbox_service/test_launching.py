"""Local launching: the strongest containment that works, what is said about it, and that nothing stays behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from astra_api.records import Toolset
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.interface import Isolation, SandboxUnavailable
from astra_sandbox.launching import launch_local
from sandbox_servers import tcp_server

EMPTY = "/nonexistent"


def _require(level: str) -> None:
    program = {"namespaces": "bwrap", "gvisor": "runsc"}.get(level)
    if program and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


async def test_the_strongest_containment_is_taken_and_named(stateless: Toolset) -> None:
    best = Isolation.GVISOR if shutil.which("runsc") else Isolation.NAMESPACES if shutil.which("bwrap") else None
    async with launch_local() as client:
        assert best is None or client.isolation is best
        assert client.isolation.name.lower() in client.containment
        session = (await client.open_sessions(stateless, 1))[0]
        assert (await session.call("add", '{"a": 1, "b": 1}')).observation() == "2"


async def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", EMPTY)
    async with launch_local() as client:
        assert client.isolation in (Isolation.PROCESS, Isolation.NAMESPACES)  # namespaces need no program
        assert "runsc is not installed" in client.containment
        assert "bubblewrap" in "".join((await client.status())[0].measures)


async def test_a_minimum_is_never_undercut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", EMPTY)
    with pytest.raises(SandboxUnavailable, match="runsc is not installed"):
        async with launch_local(minimum=Isolation.GVISOR):
            pass
    with pytest.raises(SandboxUnavailable, match="weaker than the minimum"):
        async with launch_local(minimum=Isolation.GVISOR, level=Isolation.PROCESS):
            pass


async def test_the_environment_can_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTRA_ISOLATION", "process")
    async with launch_local() as client:
        assert client.isolation is Isolation.PROCESS
        assert "namespaces of its own: none" in (await client.status())[0].measures
    monkeypatch.setenv("ASTRA_ISOLATION", "hope")
    with pytest.raises(SandboxUnavailable, match="process, namespaces, gvisor"):
        async with launch_local():
            pass


async def test_a_docker_engine_that_is_not_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("docker")
    from astra_sandbox.placing import InDocker, LaunchError

    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(LaunchError, match="Docker"):
        await InDocker().start(tmp_path, 8)


@pytest.mark.parametrize("name", ["a b ü", "run #1", "tm%41p", "q?x=1", "a,b", 'it\'s "it"\n', "long/" * 40])
async def test_any_folder_for_temporary_files_will_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm, CI systems and people name them; the kernel and gRPC bound the paths of sockets."""
    folder = tmp_path / name
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    async with launch_local(level=Isolation.PROCESS) as client:
        assert list(folder.iterdir())
        assert (await client.status())[0].isolation is Isolation.PROCESS
        link = client.servers[0].folder.parent
    assert not list(folder.iterdir())
    assert not link.parent.exists() or link.parent == folder


@pytest.mark.parametrize("level", [Isolation.NAMESPACES, Isolation.GVISOR])
async def test_a_long_folder_will_do_for_every_containment(
    level: Isolation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _require(level.name.lower())
    folder = tmp_path / ("long/" * 40)
    folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    async with launch_local(level=level) as client:
        assert client.isolation is level


async def test_where_no_socket_can_be_made_the_error_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long/" * 40)
    folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("astra_sandbox.launching._SHORT_FOLDERS", (f"{tmp_path}/none",))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(SandboxUnavailable, match="set TMPDIR to one that can be written"):
        async with launch_local():
            pass


async def test_proxies_of_the_environment_are_not_for_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with tcp_server() as (address, tls):
        client = SandboxClient([address], tls, retry=Retry(budget=10))
        assert len(await client.status()) == 1
        await client.close()


@pytest.mark.parametrize("level", ["process", "namespaces", "gvisor"])
def test_nothing_outlives_a_killed_parent(level: str, tmp_path: Path) -> None:
    _require(level)
    script = (
        "import asyncio\nfrom astra_sandbox.launching import launch_local\n"
        "async def main():\n    async with launch_local() as client:\n"
        "        print('up', flush=True)\n        await asyncio.sleep(600)\nasyncio.run(main())"
    )
    mark = f"ASTRA_TEST_MARK={os.urandom(8).hex()}"
    name, value = mark.split("=")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "ASTRA_ISOLATION": level,
        "TMPDIR": str(tmp_path),
        name: value,
    }
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert marked(mark)
        os.kill(parent.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert not marked(mark)


def marked(mark: str) -> list[int]:
    """Running processes that have inherited the mark: launched servers and what they started with it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
