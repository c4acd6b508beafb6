"""Enters new namespaces without bubblewrap, whose set-up of a loopback device and of mounts gVisor refuses.

Run as a bare script: `python enter.py '{"bind": [[from, to], ...], "links": [[target, path], ...], ...}' COMMAND ...`.
A user namespace gives the right to make the others; the command runs in them as the same user, as process 1, in a root
of its own that holds only what is named, and exec takes every capability away again.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any

_NEW = 0x10000000 | 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000 | 0x40000000  # user, mnt, pid, ipc, uts, net
_READ_ONLY, _NOSUID, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 32, 1 << 12, 1 << 14, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def main() -> None:
    """Becomes the command; the process that was started waits for it."""
    plan, command = json.loads(sys.argv[1]), sys.argv[2:]
    user, group = os.getuid(), os.getgid()
    _checked(_libc.unshare(_NEW), "unshare")
    if os.path.exists("/proc/self/setgroups"):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    child = os.fork()  # the first child is in the new pid namespace
    if child:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os.kill(child, signal.SIGKILL))
        os.closerange(0, 256)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    _build(plan)
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    os.execve(command[0], command, plan["environment"])


def _build(plan: dict[str, Any]) -> None:
    """A root of its own, and into it."""
    root = plan["root"]
    _mount(None, "/", None, _PRIVATE | _REC)
    _mount("tmpfs", root, "tmpfs", _NOSUID, "mode=0755")
    for source, target in plan["bind"]:
        inside = root + target
        if os.path.isdir(source):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            open(inside, "w").close()
        _mount(source, inside, None, _BIND)
        if not source.startswith("/dev/"):
            _mount(None, inside, None, _BIND | _REMOUNT | _READ_ONLY)
    for target, path in plan["links"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    os.makedirs(root + plan["scratch"])
    _mount("tmpfs", root + plan["scratch"], "tmpfs", _NOSUID, f"mode=0755,size={plan['scratch_bytes']}")
    _mount(None, root, None, _REMOUNT | _BIND | _READ_ONLY)
    os.chroot(root)
    os.chdir("/")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    _checked(_libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"mount {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
