"""Processes of the untrusted side, as the server sees them: who sent a message, killing them, counting them."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct

_MAX_MESSAGE = 1 << 16
_CREDENTIALS = struct.Struct("3i")
_SYSINFO_BYTES, _SYSINFO_PROCS = 256, 80  # `struct sysinfo` is smaller; where its count of processes lies
_TICKS = os.sysconf("SC_CLK_TCK")  # of a second

_libc = ctypes.CDLL(None)


def running_processes() -> int:
    """How many processes (Linux counts threads) the machine has, or gVisor: one system call. Exact below 65,536."""
    buffer = ctypes.create_string_buffer(_SYSINFO_BYTES)
    _libc.sysinfo(buffer)
    return int.from_bytes(buffer.raw[_SYSINFO_PROCS : _SYSINFO_PROCS + 2], "little")


def process_groups() -> dict[int, list[int]]:
    """The processes of each process group, by its leader's process id."""
    members: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                members.setdefault(int(_stat(name)[2]), []).append(int(name))
    return members


def processor_seconds(pid: int | None) -> float:
    """Processor time that a process has taken itself, in seconds; 0 if it is gone."""
    try:
        fields = _stat(pid)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def waited_seconds(pid: int | None) -> float:
    """Seconds that a process was ready to run and waited for a processor, since it began; 0 where nobody accounts it.

    gVisor does not; there a sandbox is throttled or paused as a whole.
    """
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _stat(pid: int | str | None) -> list[bytes]:
    """What the kernel says of a process, after its name: state, parent, group, ... Raises OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def receive_with_pid(sock: socket.socket) -> tuple[bytes, int | None]:
    """One message and the sender's process id, as the kernel translates it into this process's namespace."""
    data, control, _, _ = sock.recvmsg(_MAX_MESSAGE, socket.CMSG_SPACE(_CREDENTIALS.size))
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0]
            return data, pid if pid > 0 else None
    return data, None


class ProcessHandle:
    """A process of the untrusted side that can be killed safely: by pidfd, where the kernel has it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        try:
            self._fd: int | None = os.pidfd_open(pid)
        except OSError:  # gVisor of 2022 has no pidfd
            self._fd = None

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def lives(self) -> bool:
        """Whether it is known to have not ended; without pidfd nothing is known."""
        if self._fd is None:
            return False
        ended = select.poll()
        ended.register(self._fd, select.POLLIN)
        return not ended.poll(0)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, or is not to be seen."""
        if self._fd is not None:
            return not self.lives
        try:
            return _stat(self._pid)[0] in (b"Z", b"X")
        except OSError:
            return True

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            else:
                os.kill(self._pid, signal.SIGKILL)
        self.forget()

    def kill_group(self) -> None:
        """SIGKILL to the process group that this process leads: to be called while it lives, or as it ends."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self.kill()

    def forget(self) -> None:
        """Frees the handle."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
