"""What a process does to itself before it runs untrusted code: seccomp, Landlock, limits. All of it is inherited by
forks and none of it can be undone.

Each measure that the kernel or the interpreter lacks is left out; the server measures what is in force.
"""

import contextlib
import ctypes
import mmap
import os
import resource

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = 9
_CREATE_RULESET = 444  # landlock_create_ruleset

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


class _Program(ctypes.Structure):
    """`struct sock_fprog`: a seccomp filter in BPF."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


class SyscallFilter:
    """A seccomp program, ready to be installed with one system call. An empty program installs nothing."""

    def __init__(self, bpf: bytes) -> None:
        self._code = ctypes.create_string_buffer(bpf, len(bpf)) if bpf else None
        if self._code is not None:
            self._program = _Program(len(bpf) // 8, ctypes.addressof(self._code))

    def install(self) -> None:
        """Filters this process from now on. Raises OSError."""
        if self._code is not None:
            _prctl(_PR_SET_NO_NEW_PRIVS, 1)
            _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(self._program))


def hide_from_peers() -> None:
    """Keeps processes of the same user from reading or tracing this one."""
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Ends this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def adopt_orphans() -> None:
    """Makes this process the parent of all that its children leave behind. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def landlock_version() -> int:
    """Of the kernel's interface; 0 without Landlock."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, 1)))


class FileView:
    """Landlock: the files that a process may see. Without Landlock in the kernel it does nothing."""

    _ADD_RULE, _RESTRICT = 445, 446
    _READ = 0b1101  # execute, read a file, read a directory
    _FILE_READ = 0b101
    _PATH_BENEATH = 1

    def __init__(self, read_only: list[str]) -> None:
        self._abi = landlock_version()
        # rights by ABI: 13 at first, then refer, truncate, (network), device ioctls
        self._all = (1 << {0: 0, 1: 13, 2: 14, 3: 15, 4: 15}.get(self._abi, 16)) - 1
        network = 0b11 if self._abi >= 4 else 0
        scoped = 0b11 if self._abi >= 6 else 0  # abstract sockets and signals
        self._attributes = (ctypes.c_uint64 * 3)(self._all, network, scoped)
        self._size = 8 if self._abi < 4 else 16 if self._abi < 6 else 24
        self._read_only = []
        if self._abi:
            for path in read_only:
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                    rights = self._READ if os.path.isdir(path) else self._FILE_READ | 0b10
                    self._read_only.append(self._rule(fd, rights))

    def confine(self, private: str) -> None:
        """From now on this process sees the read-only paths and may write below `private`. Raises OSError."""
        if not self._abi:
            return
        ruleset = _checked(_libc.syscall(_CREATE_RULESET, self._attributes, self._size, 0))
        own = os.open(private, os.O_PATH | os.O_CLOEXEC)
        for rule in (*self._read_only, self._rule(own, self._all)):
            _checked(_libc.syscall(self._ADD_RULE, ruleset, self._PATH_BENEATH, rule, 0))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _checked(_libc.syscall(self._RESTRICT, ruleset, 0))
        os.close(own)
        os.close(ruleset)

    def _rule(self, fd: int, rights: int) -> bytes:
        return (rights & self._all).to_bytes(8, "little") + fd.to_bytes(4, "little")


def address_space() -> int:
    """Bytes of address space this process uses, found without /proc: the least limit under which a page still maps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 0, 1 << 46 if hard == resource.RLIM_INFINITY else hard
    while high - low > mmap.PAGESIZE:
        middle = (low + high) // 2
        try:
            resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
            mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
            high = middle
        except (OSError, MemoryError, ValueError):
            low = middle
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return high


def limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Sets a limit, never above the hard limit already in force."""
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(soft if hard is None else hard, ceiling)
    resource.setrlimit(kind, (soft, soft if hard is None else hard))


def _prctl(option: int, first: int, second: int = 0) -> None:
    _checked(_libc.prctl(option, first, second, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
