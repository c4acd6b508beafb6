"""Namespaces and a root folder of its own, for a worker process: inside what bubblewrap made, or without it.

A zygote gets the right to make namespaces either from bubblewrap, or by a user namespace of its own (`enter_user`). It
tries once what the kernel lets it do (`try_out`), and every template then enters its own (`enter`): a template is the
first process of its process namespace, so that its end is the end of all that it forked. gVisor of 2022 makes user,
pid, ipc and network namespaces, but mounts nothing in them; there a root folder that holds Python's library alone
(`jail`) keeps everything else out of sight.
"""

import contextlib
import ctypes
import os
import sys

NOBODY = 65534  # the user of sessions, where the server may choose one
_FLAGS = {"mnt": 0x00020000, "ipc": 0x08000000, "pid": 0x20000000, "net": 0x40000000, "user": 0x10000000}
_MS_PRIVATE_REC, _MS_BIND = 1 << 18 | 1 << 14, 1 << 12
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 1, 4, 8, 24
_CAP_SYS_ADMIN, _LAST_CAP = 21, 40
_CAPABILITY_VERSION = 0x20080522
_SIGKILL = 9
_ARCHIVE = "/python.zip"  # in the jail

_libc = ctypes.CDLL(None, use_errno=True)


def enter_user() -> list[str]:
    """A user namespace, in it others for the network, messages and mounts: what was entered. Keeps the user's ids."""
    if not own_user():
        return []
    entered = ["user", *(name for name in ("net", "ipc") if _libc.unshare(_FLAGS[name]) == 0)]
    if _libc.unshare(_FLAGS["mnt"]) == 0 and _libc.mount(None, b"/", None, _MS_PRIVATE_REC, None) == 0:
        entered.append("mnt")
    return entered


def own_user() -> bool:
    """Enters a user namespace where the kernel allows: in it this process may do all with what is its user's."""
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_FLAGS["user"]) != 0:
        return False
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else its files in /proc belong to root; a zygote hides itself again
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(text)  # setgroups: gVisor has the file and refuses it
    return True


def keep_capabilities() -> None:
    """Lets capabilities survive the coming change of user; `regain` then takes up the one that namespaces need."""
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)


def regain() -> None:
    """CAP_SYS_ADMIN alone, if it is there to be had."""
    _set_capabilities(1 << _CAP_SYS_ADMIN)


def jail(root: str) -> None:
    """Makes `root` the root folder: modules are found in its archive, and compiled ones where they always are."""
    library = os.path.dirname(os.__file__)
    if _libc.chroot(os.fsencode(root)) != 0:
        raise OSError(ctypes.get_errno(), "no root folder of its own")
    os.chdir("/")
    sys.path[:] = [_ARCHIVE, *(path for path in sys.path if os.path.basename(path) == "lib-dynload")]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):  # packages look for their own parts where they were loaded from
        if getattr(module, "__path__", None):
            module.__path__ = [path.replace(library, _ARCHIVE) for path in module.__path__]


def try_out(scratch: str, wanted: tuple[str, ...]) -> list[str]:
    """Which of the namespaces a template can have to itself: asked of the kernel, in a process that ends at once."""
    pid = os.fork()
    if pid == 0:
        found = 0
        for bit, name in enumerate(_FLAGS):
            if name in wanted and _libc.unshare(_FLAGS[name]) == 0:
                found |= 1 << bit if name != "mnt" or _show_as(scratch, scratch) else 0
        os._exit(found)
    found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [name for bit, name in enumerate(_FLAGS) if found > 0 and found >> bit & 1]


def enter(namespaces: list[str], scratch: str, folder: list[str]) -> str:
    """Enters them; returns in a new process, with the path of a template's `folder` (names, from `scratch` down).

    With a mount namespace of its own it finds nothing else in `scratch`. The process that called ends when the new one
    does. Raises OSError.
    """
    for name in namespaces:
        if _libc.unshare(_FLAGS[name]) != 0:
            raise OSError(ctypes.get_errno(), f"no {name} namespace")
    if "mnt" in namespaces:
        if not _show_as(os.path.join(scratch, folder[0]), scratch):
            raise OSError(ctypes.get_errno(), "no view of its own")
        folder = folder[1:]
    if "pid" in namespaces:
        child = os.fork()
        if child:
            _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
            os.closerange(0, 256)
            os.waitpid(child, 0)
            os._exit(0)
    drop_capabilities()
    return os.path.join(scratch, *folder)


def drop_capabilities() -> None:
    """None is left, and none can be had again."""
    for number in range(_LAST_CAP + 1):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    _set_capabilities(0)


def _show_as(folder: str, place: str) -> bool:
    return bool(_libc.mount(os.fsencode(folder), os.fsencode(place), None, _MS_BIND, None) == 0)


def _set_capabilities(mask: int) -> None:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable; low words, high words
    _libc.capset(header, sets)
