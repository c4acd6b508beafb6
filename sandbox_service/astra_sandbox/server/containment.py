"""Where a zygote runs: in namespaces that bubblewrap makes, in a jail that it makes itself, or as a bare process."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import astra_sandbox
from astra_sandbox.server.folders import capabilities
from astra_sandbox.server.library import copy_compiled_modules, write_library
from astra_sandbox.worker.enclosure import NOBODY

_OWN = Path(astra_sandbox.__file__).parent
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from astra_sandbox.worker.zygote import main; main(int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Placement:
    """How to start a zygote, and what the zygote must know about it."""

    name: str  # namespaces | jail | process
    argv: tuple[str, ...]
    environment: dict[str, str]
    scratch: str  # the folder for private directories, as the zygote sees it
    own_paths: tuple[str, ...]
    read_only: tuple[str, ...]  # what untrusted code may read
    drop_user: bool
    enclose: bool = False  # templates enter namespaces of their own
    jail: str | None = None  # the root folder that the zygote takes, as it is seen before


def namespaces(control_fd: int, variant: int, change_user: bool, scratch: str) -> Placement:
    """User, mount, pid, network, ipc and uts namespaces, a minimal read-only root, an empty environment.

    As root (`change_user`) no user namespace is made; the zygote gives up root instead, which keeps sessions off root's
    files.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError("bubblewrap (bwrap) is not installed")
    python, readable = _python()
    argv = [bwrap, "--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if change_user:
        argv += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    else:
        argv += ["--unshare-all", "--unshare-user"]
    argv += ["--cap-add", "CAP_SYS_ADMIN"]  # for the namespaces of templates, which give it up before a source loads
    for folder in _parents([*readable, "/own/astra_sandbox/worker", "/dev/null"]):
        argv += ["--perms", "0755", "--dir", folder]  # bubblewrap would make them for root alone
    for path in readable:
        if os.path.islink(path):
            argv += ["--symlink", os.readlink(path), path]
        else:
            argv += ["--ro-bind", path, path]
    argv += ["--ro-bind", str(_OWN / "__init__.py"), "/own/astra_sandbox/__init__.py"]
    argv += ["--ro-bind", str(_OWN / "worker"), "/own/astra_sandbox/worker"]
    argv += ["--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"]
    argv += ["--bind", scratch, "/scratch", "--remount-ro", "/", "--chdir", "/"]
    environment = _environment(variant)
    for name, value in environment.items():
        argv += ["--setenv", name, value]
    argv += ["--", *_command(python, "/own", control_fd)]
    return Placement(
        name="namespaces",
        argv=tuple(argv),
        environment={},
        scratch="/scratch",
        own_paths=("/own",),
        read_only=(*readable, "/dev/null", "/dev/urandom"),
        drop_user=change_user,
        enclose=True,
    )


def jail(control_fd: int, variant: int, change_user: bool, scratch: str, library: Path | None) -> Placement:
    """A user namespace, and a root folder with nothing but Python's library: what can be had without bubblewrap.

    So it is in gVisor pods, where mounting is refused.
    """
    root = Path(scratch, "root")
    if not root.exists():
        _furnish(root, library)
    python, _ = _python()
    return Placement(
        name="jail",
        argv=tuple(_command(python, str(_OWN.parent), control_fd)),
        environment=_environment(variant),
        scratch="/scratch",
        own_paths=(str(_OWN.parent),),
        read_only=tuple(f"/{entry.name}" for entry in sorted(root.iterdir()) if entry.name != "scratch"),
        drop_user=change_user,
        enclose=True,
        jail=str(root),
    )


def _furnish(root: Path, library: Path | None) -> None:
    """The root folder of a jail: Python's library, what its compiled modules load, and a place for sessions."""
    building = root.with_name("building")
    (building / "scratch").mkdir(parents=True)
    archive = building / "python.zip"
    if library is None:
        write_library(archive)
    else:
        shutil.copyfile(library, archive)
    copy_compiled_modules(building)
    for path in [building, *building.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555)  # sessions may own them, and then have no other mode either
    building.rename(root)


def process(control_fd: int, variant: int, change_user: bool, scratch: str) -> Placement:
    """A bare process; as root it becomes `nobody` where `nobody` can read Python's library."""
    python, readable = _python()
    stdlib = Path(sysconfig.get_path("stdlib"))
    open_to_all = all(folder.stat().st_mode & 0o005 == 0o005 for folder in (stdlib, *stdlib.parents))
    return Placement(
        name="process",
        argv=tuple(_command(python, str(_OWN.parent), control_fd)),
        environment=_environment(variant),
        scratch=scratch,
        own_paths=(str(_OWN.parent),),
        read_only=(*readable, "/dev/null", "/dev/urandom"),
        drop_user=change_user and open_to_all,
    )


def start(placement: Placement, control_fd: int) -> subprocess.Popen[bytes]:
    """Starts the zygote with `control_fd` as its only descriptor beyond stderr."""
    return subprocess.Popen(
        placement.argv,
        env=placement.environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[control_fd],
        process_group=0,  # a Ctrl-C at the terminal is the server's to handle
    )


def may_change_user() -> bool:
    """Root with its capabilities, where there is another user; root in a container may lack either.

    To be asked before a user namespace is entered.
    """
    needed = 1 << 6 | 1 << 7  # CAP_SETGID, CAP_SETUID
    return os.geteuid() == 0 and capabilities() & needed == needed and has_other_users()


def has_other_users() -> bool:
    """Whether this process's user namespace knows others than its own, NOBODY for one."""
    for kind in ("uid", "gid"):
        rows = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        if not any(int(first) <= NOBODY < int(first) + int(count) for first, _, count in rows):
            return False
    return True


def _python() -> tuple[str, list[str]]:
    """The interpreter behind any virtual environment, and the folders it needs."""
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    folders = [path for path in ("/usr", "/lib", "/lib32", "/lib64") if os.path.lexists(path)]
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    return executable, folders + sorted(
        prefix for prefix in prefixes if not prefix.startswith("/usr/") and prefix != "/usr"
    )


def _parents(paths: list[str]) -> list[str]:
    return sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})


def _command(python: str, own: str, control_fd: int) -> list[str]:
    return [python, "-s", "-S", "-P", "-B", "-X", "utf8", "-c", _START, own, str(control_fd)]


def _environment(variant: int) -> dict[str, str]:
    return {"PYTHONHASHSEED": str(1000 + variant) if variant else "0", "LANG": "C.UTF-8", "TZ": "UTC", "HOME": "/"}
