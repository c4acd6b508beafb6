"""Shortages of a machine (disk, files, memory), told on one line with the fix, whatever library met them."""

import errno
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator

from astra_api.errors import BadInput, RunFailed

_FIXES = {
    errno.ENOSPC: "no space left on the disk; free some",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "larger than a file may be here (ulimit -f, or the file system); raise the limit",
    errno.EMFILE: "too many open files for this process; raise the limit (ulimit -n 4096)",
    errno.ENFILE: "too many open files on this machine; close some, or raise fs.file-max",
    errno.EROFS: "the file system is read-only; make it writable",
    errno.EIO: "the disk failed (input/output error); see the system's log",
    errno.ENOMEM: "no memory left; free some",
    errno.EAGAIN: "no more processes or threads may be started; raise the limit (ulimit -u)",
}
_ON_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_MANY = 65536  # descriptors: more than any run opens
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # whatever was given
_SAYS = {  # what libraries of other languages make of them; they lose the number, and often the file
    errno.ENOSPC: re.compile(r"No space left on device|os error 28\b|StorageFull", re.IGNORECASE),
    errno.EDQUOT: re.compile(r"Disk quota exceeded|os error 122\b"),
    errno.EFBIG: re.compile(r"File too large|os error 27\b"),
    errno.EMFILE: re.compile(r"Too many open files|os error 24\b|Too many open file descriptors"),
    errno.EROFS: re.compile(r"Read-only file system|os error 30\b"),
    errno.EAGAIN: re.compile(r"can't start new thread|Resource temporarily unavailable.*(fork|thread)"),
}
_FULL = 64 << 20  # bytes left of a disk that may have been full when a larger file was to be written
_TORCH = re.compile(r"PytorchStreamWriter failed writing|file write failed|unexpected pos \d+")


def require_limits() -> None:
    """Takes as many descriptors as this process may have. Raises RunFailed where no sandbox could run in its limits."""
    from astra_sandbox.limits import MAXIMUM
    from astra_sandbox.worker.template import MAX_FD  # what a sandbox server sets for its own processes

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY if hard == resource.RLIM_INFINITY else min(hard, _MANY)
    if soft != resource.RLIM_INFINITY and soft < most:
        soft = most
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < MAX_FD:
        problem = f"only {soft} files may be open at once, and {MAX_FD} are needed"
        raise RunFailed(f"{problem}; raise the limit (ulimit -n 4096)")
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if size != resource.RLIM_INFINITY and size < MAXIMUM.file_bytes:
        problem = f"a file may have {size >> 10} KiB at most, and {MAXIMUM.file_bytes >> 20} MiB are needed"
        raise RunFailed(f"{problem}; raise the limit (ulimit -f unlimited)")


def shortage(error: BaseException, folder: str | None = None) -> str | None:
    """The shortage behind an error, with its file (else `folder`) and the fix; None for another error."""
    for cause in _causes(error):
        number = _unwritten(folder) if _TORCH.search(str(cause)) else _number(cause)
        if number is None:
            continue
        place = (cause.filename if isinstance(cause, OSError) else None) or (
            _fullest(folder) if number in _ON_DISK else None
        )
        return f"{place}: {_FIXES[number]}" if place else _FIXES[number]
    return None


def _fullest(folder: str | None) -> str | None:
    """The one of the folders that a command writes into that has the least space left."""
    places = [place for place in (folder, tempfile.gettempdir()) if place and os.path.isdir(place)]
    return min(places, key=lambda place: shutil.disk_usage(place).free, default=None)


def _unwritten(folder: str | None) -> int:
    """Why torch could not write a file, which it does not tell."""
    place = _fullest(folder)
    return errno.ENOSPC if place is None or shutil.disk_usage(place).free < _FULL else errno.EFBIG


def cut_short(error: BadInput, folder: str | None = None) -> str | None:
    """The shortage for which an input was taken to be bad, where that was so."""
    cause = error.__cause__ or error.__context__
    if cause is None or not any(_number(found) in _PASSING for found in _causes(cause)):
        return None
    return shortage(cause, folder)


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno if error.errno in _FIXES and error.errno != errno.EAGAIN else None
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    text = str(error)
    return next((number for number, says in _SAYS.items() if says.search(text)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it; those that name a file first."""
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        here = left.pop()
        if here is None or any(here is known for known in found):
            continue
        found.append(here)
        left += [here.__cause__, here.__context__]
        if isinstance(here, BaseExceptionGroup):
            left += here.exceptions
    yield from sorted(found, key=lambda cause: not (isinstance(cause, OSError) and cause.filename))
