"""What sessions keep in files, where they write to a disk that nothing else bounds."""

import contextlib
import os
import time

_FILES = 4096  # of one session, at most
_TICK = 100_000_000  # nanoseconds; file systems' clocks are coarser than the real one


class PrivateFolder:
    """A session's directory. `path`: None where its own file system bounds it."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._seen_empty = 0  # when it last changed, as of the last look, if it was empty then

    def fault(self, most: int) -> str | None:
        """Why it holds too much (`most`: bytes), or None. One system call, while it stays empty."""
        if self._path is None:
            return None
        try:
            changed = os.stat(self._path).st_ctime_ns  # unlike the time of modification, nobody can set it
        except OSError:  # it is being removed
            return None
        if changed == self._seen_empty:
            return None
        size, files = _written(self._path)
        if not files and time.time_ns() - changed > _TICK:  # what is written from now on shows as another time
            self._seen_empty = changed
        if size > most or files > _FILES:
            return f"the session wrote more than {most >> 20} MiB or {_FILES} files"
        return None


def _written(folder: str) -> tuple[int, int]:
    """(bytes, files) below a folder; no more files are counted than tell that there are too many."""
    size = files = 0
    waiting = [folder]
    while waiting and files <= _FILES:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                files += 1
                if files > _FILES:
                    break
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
    return size, files
