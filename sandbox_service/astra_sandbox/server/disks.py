"""What sessions keep in files: nothing else bounds the disk that they write to."""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Iterator

from astra_sandbox.limits import MAXIMUM

_FILES = 4096  # of one session, at most
_FULL_FILES = 4  # as much as that many of the largest files may hold
_IN_MOVED_TO, _IN_CREATE, _IN_Q_OVERFLOW, _IN_ONLYDIR, _IN_ONESHOT = 0x80, 0x100, 0x4000, 0x01000000, 0x80000000
_EVENT = struct.Struct("iIII")  # `struct inotify_event`, before its name: watch, mask, cookie, length of the name
_CHUNK = 1 << 16
_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class Changes:
    """Tells which folders got an entry since they were seen to have none: inotify, one system call for all of them.

    Each watch tells once, so that nobody can flood it. Where the kernel gives no more watches, every folder counts as
    changed.
    """

    def __init__(self) -> None:
        self._file = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folders: dict[int, SessionFiles] = {}
        self._read_already = False

    def watch(self, folder: "SessionFiles", path: str) -> bool:
        """Whether the next entry in the folder will be told."""
        if self._file < 0:
            return False
        mask = _IN_CREATE | _IN_MOVED_TO | _IN_ONLYDIR | _IN_ONESHOT
        number = _libc.inotify_add_watch(self._file, os.fsencode(path), mask)
        if number < 0:
            return False
        self._folders[number] = folder
        return True

    def read(self) -> None:
        """Tells the folders that changed up to now."""
        if self._read_already or self._file < 0:
            return
        waiting = fcntl.ioctl(self._file, termios.FIONREAD, b"\0\0\0\0")
        if not int.from_bytes(waiting, "little"):  # a read that finds nothing costs far more under gVisor
            return
        data, start = os.read(self._file, _CHUNK), 0
        while start < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, start)
            start += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                for folder in self._folders.values():
                    folder.watched = False
                self._folders.clear()
            elif (told := self._folders.pop(number, None)) is not None:  # of a removed folder too
                told.watched = False

    @contextlib.contextmanager
    def read_once(self) -> Iterator[None]:
        """Reads now, and not again inside."""
        self.read()
        self._read_already = True
        try:
            yield
        finally:
            self._read_already = False

    def close(self) -> None:
        """Frees the watches."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class SessionFiles:
    """What a session keeps in files. `path`: its folder."""

    def __init__(self, path: str, changes: Changes) -> None:
        self._path, self._changes = path, changes
        self.watched = False  # whether its next entry will be told
        self._none = False  # as of the last look: no entry, and no file that has lost its name

    def fault(self, file_bytes: int, pid: int | None) -> str | None:
        """Why it keeps more than four of the largest files, or None. While it keeps nothing, it is not looked at.

        `file_bytes`: the limit of one file. `pid`: its process, for files that it has removed and still holds.
        """
        self._changes.read()
        if self.watched and self._none:
            return None
        if not self.watched:
            self.watched = self._changes.watch(self, self._path)
        try:
            size, files, named = _written(self._path)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # this server's fault: it looks again soon
                self._none = False
                return None
            return "the session hid files in a folder that cannot be looked at"
        nameless = _nameless(pid, os.path.basename(self._path), named, file_bytes)
        most = _FULL_FILES * file_bytes
        self._none = not files and not nameless
        if size + nameless > most or files > _FILES:
            return f"the session wrote more than {most >> 20} MiB or {_FILES} files"
        return None


def _written(folder: str) -> tuple[int, int, set[int]]:
    """(bytes, files, their inodes) below a folder; no more files are counted than tell that there are too many.

    Raises OSError for a folder that cannot be listed, or lies too deep.
    """
    size = files = 0
    inodes = set()
    waiting = [folder]
    while waiting and files <= _FILES:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                files += 1
                if files > _FILES:
                    break
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        found = entry.stat(follow_symlinks=False)
                        size += found.st_blocks * 512
                        inodes.add(found.st_ino)
    return size, files, inodes


def _nameless(pid: int | None, folder: str, named: set[int], file_bytes: int) -> int:
    """Bytes of the files of a session that have no name any more, where the kernel lets us look.

    Held open they are measured. One that is only mapped cannot be, and counts as the largest that it can be.
    """
    sizes: dict[int, int] = {}  # by inode: one file may be open, and mapped, more than once
    for file in _open_files(pid):
        if stat.S_ISREG(file.st_mode) and not file.st_nlink:
            sizes[file.st_ino] = file.st_blocks * 512
    within = os.fsencode(f"/{folder}/")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:  # under gVisor names may hold line ends, and make up lines
            if within in line:
                inode = line.split(maxsplit=5)[4:5]
                number = int(inode[0]) if inode and inode[0].isdigit() else -1
                if number not in named:
                    sizes.setdefault(number, file_bytes)
    return sum(sizes.values())


def _open_files(pid: int | None) -> Iterator[os.stat_result]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:  # it is root's, and this process is not: in its user namespace it may ask for copies
        yield from _copied_files(pid)
    except OSError:
        return
    else:
        for name in names:
            with contextlib.suppress(OSError):
                yield os.stat(f"/proc/{pid}/fd/{name}")


def _copied_files(pid: int | None) -> Iterator[os.stat_result]:
    if pid is None:
        return
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        for number in range(MAXIMUM.open_files):
            copy = _libc.syscall(_PIDFD_GETFD, process, number, 0)
            if copy >= 0:
                try:
                    yield os.fstat(copy)
                finally:
                    os.close(copy)
    finally:
        os.close(process)
