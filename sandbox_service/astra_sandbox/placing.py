"""The places where a local server can run, strongest first, and how it is started in each.

A server ends when its standard input closes: it never outlives the process that launched it, not even after kill -9.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

import astra_api
import astra_sandbox
from astra_sandbox.interface import Isolation
from astra_sandbox.server.containment import has_other_users
from astra_sandbox.server.library import write_library

_STOP_SECONDS = 5.0
_LIBRARY = "python.zip"


class LaunchError(Exception):
    """A server cannot be started in a place; the message says why."""


class Running(Protocol):
    """A server that was started."""

    @property
    def pid(self) -> int | None:
        """The process to kill if the server shall die, where it is one of this machine."""
        ...

    async def wait(self) -> None:
        """Returns when the server has ended."""
        ...

    async def stop(self) -> None:
        """Ends it."""
        ...

    def last_words(self) -> str:
        """The end of what it wrote, to explain a failure."""
        ...


class Place(Protocol):
    """A way to contain a server."""

    @property
    def name(self) -> str: ...

    @property
    def isolation(self) -> Isolation: ...

    @property
    def meaning(self) -> str:
        """A few words for people."""
        ...

    async def start(self, folder: Path, capacity: int) -> Running:
        """Starts a server that listens at `folder`/server.sock. Raises LaunchError."""
        ...


class _Subprocess:
    """A server that is a child of this process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def wait(self) -> None:
        await self._process.wait()

    async def stop(self) -> None:
        """Closes its standard input; what does not end then is killed."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-5:])[-800:]

    @classmethod
    async def start(cls, command: list[str], environment: dict[str, str], folder: Path) -> "_Subprocess":
        """Starts a command whose output goes to a file in `folder`. Raises LaunchError."""
        log = folder / "server.log"
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # a Ctrl-C here is for this process to handle
                )
            except OSError as error:
                raise LaunchError(f"{command[0]}: {error.strerror}") from None
        return cls(process, log)


@dataclass(frozen=True)
class OnThisKernel:
    """A plain server process; it contains its sessions by itself."""

    name: str
    isolation: Isolation
    meaning: str

    async def start(self, folder: Path, capacity: int) -> Running:
        """Starts the server."""
        command = _server_command(folder / "server.sock", capacity, self.name)
        return await _Subprocess.start(command, os.environ | {"PYTHONPATH": _python_path()}, folder)


@dataclass(frozen=True)
class InGvisor:
    """A server in a gVisor sandbox of its own, run by `runsc` from an OCI bundle: no network, a read-only view of
    Python and of this package, and one folder shared with the host, in which it makes its socket.
    """

    name: str = "gvisor"
    isolation: Isolation = Isolation.GVISOR
    meaning: str = "gVisor, run by runsc"

    async def start(self, folder: Path, capacity: int) -> Running:
        """Starts the server in `runsc`."""
        runsc = shutil.which("runsc")
        if runsc is None:
            raise LaunchError("runsc is not installed")
        bundle = folder / "bundle"
        (bundle / "rootfs").mkdir(parents=True, exist_ok=True)
        if not (folder / _LIBRARY).exists():  # written there, inside of gVisor, it would take ten times as long
            await asyncio.to_thread(write_library, folder / _LIBRARY)
        (bundle / "config.json").write_text(json.dumps(self._configuration(folder, capacity)))
        command = [
            runsc,
            *([] if os.geteuid() == 0 and has_other_users() else ["--rootless"]),
            "--network=none",
            "--host-uds=create",
            "--ignore-cgroups",
            f"--root={folder / 'state'}",
            "run",
            f"--bundle={bundle}",
            f"astra-{os.getpid()}-{os.urandom(4).hex()}",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        return await _Subprocess.start(command, environment, folder)  # runsc needs a TMPDIR open to everybody

    def _configuration(self, folder: Path, capacity: int) -> dict[str, Any]:
        shared = Path("/run/astra")
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            _bind(os.path.realpath(folder), str(shared), "rw"),
        ]
        mounts += [_bind(os.path.realpath(path), path, "ro") for path in _needed_paths()]
        nothing: list[str] = []
        return {
            "ociVersion": "1.0.0",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": [
                    *_server_command(shared / "server.sock", capacity, "auto"),
                    *("--library", str(shared / _LIBRARY)),
                ],
                "env": [f"PYTHONPATH={_python_path()}", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8"],
                "cwd": "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted"), nothing),
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs", "readonly": True},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }


@dataclass(frozen=True)
class InDocker:
    """A server in a container of a Docker engine with the runtime `runsc`.

    Needs the sandbox image (ASTRA_SANDBOX_IMAGE, never pulled), and a runtime registered with `--host-uds=create`.
    """

    name: str = "docker"
    isolation: Isolation = Isolation.GVISOR
    meaning: str = "gVisor, run by a Docker engine"

    async def start(self, folder: Path, capacity: int) -> Running:
        """Starts a container."""
        return await asyncio.to_thread(self._start, folder, capacity)

    def _start(self, folder: Path, capacity: int) -> Running:
        try:
            import docker
        except ImportError:
            raise LaunchError("the extra [docker] is not installed") from None
        address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if address.startswith("unix://") and not os.path.exists(address.removeprefix("unix://")):
            raise LaunchError(f"no Docker engine at {address}")
        image = os.environ.get("ASTRA_SANDBOX_IMAGE", "astra-farm/sandbox:latest")
        try:
            engine = docker.from_env(timeout=20)
            if "runsc" not in engine.info().get("Runtimes", {}):
                raise LaunchError("the Docker engine has no runtime runsc")
            engine.images.get(image)
            low = engine.api
            host = low.create_host_config(
                runtime="runsc",
                auto_remove=True,
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=4096,
                tmpfs={"/tmp": "size=512m,mode=1777"},
                binds={str(folder): {"bind": "/run/astra", "mode": "rw"}},
            )
            listen = ["--listen", "unix:/run/astra/server.sock", "--capacity", str(capacity), "--exit-with-stdin"]
            created = low.create_container(
                image,
                command=["python", "-m", "astra_sandbox", *listen],
                user=f"{os.getuid()}:{os.getgid()}",
                stdin_open=True,
                detach=False,
                host_config=host,
            )
            lifeline = low.attach_socket(created["Id"], params={"stdin": 1, "stream": 1})
            low.start(created["Id"])
        except (docker.errors.DockerException, OSError) as error:
            raise LaunchError(f"the Docker engine: {str(error)[:300]}") from None
        return _Container(low, created["Id"], lifeline)


class _Container:
    """A server in a Docker container; `lifeline` is its standard input."""

    def __init__(self, api: Any, identity: str, lifeline: Any) -> None:
        self._api, self._id, self._lifeline = api, identity, lifeline

    @property
    def pid(self) -> int | None:
        return None

    async def wait(self) -> None:
        import docker

        with contextlib.suppress(docker.errors.NotFound):  # removed: it has ended
            await asyncio.to_thread(self._api.wait, self._id, timeout=None)

    async def stop(self) -> None:
        import docker

        self._lifeline.close()
        with contextlib.suppress(docker.errors.NotFound):
            await asyncio.to_thread(self._api.remove_container, self._id, force=True)

    def last_words(self) -> str:
        import docker

        try:
            output: bytes = self._api.logs(self._id, tail=5)
        except docker.errors.DockerException as error:
            return str(error)[:300]
        return output.decode(errors="replace")[-800:]


PLACES: tuple[Place, ...] = (
    InGvisor(),
    InDocker(),
    OnThisKernel("namespaces", Isolation.NAMESPACES, "Linux namespaces"),
    OnThisKernel("process", Isolation.PROCESS, "processes with limits; nothing hides this machine's kernel"),
)


def _server_command(socket_path: Path, capacity: int, contain: str) -> list[str]:
    listen = ["--listen", f"unix:{socket_path}", "--capacity", str(capacity), "--contain", contain, "--exit-with-stdin"]
    return [sys.executable, "-P", "-m", "astra_sandbox", *listen]


def _python_path() -> str:
    """The source roots of this distribution, wherever it runs from."""
    return os.pathsep.join(str(root) for root in _roots())


def _roots() -> list[Path]:
    packages = (astra_sandbox.__file__, astra_api.__path__[0] + "/x")
    return sorted({Path(package).resolve().parent.parent for package in packages})


def _needed_paths() -> list[str]:
    """What a server reads: Python, its packages, the shared libraries, this distribution."""
    own = {str(root) for root in _roots()}
    python = {sys.prefix, sys.base_prefix, sys.base_exec_prefix, sysconfig.get_path("platlib")}
    python.add(str(Path(grpc.__file__).parents[1]))
    system = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"}
    wanted = sorted(path for path in own | python | system if os.path.exists(path))
    return [path for path in wanted if not any(path.startswith(other + "/") for other in wanted)]


def _bind(source: str, destination: str, mode: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": [mode, "rbind"]}
