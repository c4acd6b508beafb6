"""What sessions keep in files, where they write to a disk that nothing else bounds."""

import contextlib
import os

_FILES = 4096  # of one session, at most


class Disks:
    """Measures private directories. `scratch`: the folder they lie in; None where their own file system bounds them."""

    def __init__(self, scratch: str | None) -> None:
        self._scratch = scratch

    @property
    def unbounded(self) -> bool:
        """Whether there is anything to watch."""
        return self._scratch is not None

    def fault(self, folder: str, most: int) -> str | None:
        """Why a private directory holds too much (`most`: bytes), or None."""
        if self._scratch is None:
            return None
        size, files = _written(os.path.join(self._scratch, folder))
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
