"""The private folders of templates and sessions: who makes them, who may write beside them, and how they go.

Untrusted code has the user of its siblings, and so would have their rights to a folder that both can reach. The server
makes these folders itself, in folders in which that user may create nothing: what a session writes lies in its own
folder or nowhere. For this the server is root, or in a user namespace in which modes do not bind it.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"  # in a server's top folder: held while the server lives
_CAP_DAC_OVERRIDE = 1
_VAIN_PASSES = 10
_MOST_PASSES = 20_000  # over one tree, a pass for each level: who goes on writing in it cannot keep a thread busy


def capabilities() -> int:
    """The effective ones of this process, a bit each."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def overrides_modes() -> bool:
    """Whether this process may write where the mode of a folder forbids it."""
    return bool(capabilities() >> _CAP_DAC_OVERRIDE & 1)


class PrivateFolders:
    """Those below `top`. `user`: whom sessions run as."""

    def __init__(self, top: str, user: int) -> None:
        self._top, self._user = top, user
        self._shared = user == os.geteuid()
        # sessions pass through. The last case is the weak one: their rights are the server's, and Landlock holds them
        self._mode = 0o711 if not self._shared else 0o111 if overrides_modes() else 0o300
        os.chmod(top, self._mode)

    def make_for_template(self, names: list[str]) -> str:
        """The folder of a template, from the top down: its sessions get theirs in it. Raises OSError."""
        path = self._top
        for name in names:
            path = os.path.join(path, name)
            os.mkdir(path)
            os.chmod(path, self._mode)
        return path

    def make_for_session(self, template: str, name: str) -> str:
        """The folder of a session: empty, and its own to write in. Raises OSError."""
        path = os.path.join(template, name)
        os.mkdir(path, 0o700)
        if not self._shared:
            os.chown(path, self._user, -1)
        return path

    def remove(self, path: str) -> None:
        """Removes the folder of a process that is gone."""
        try:
            os.rmdir(path)  # nearly always empty
        except OSError:
            asyncio.get_running_loop().run_in_executor(None, remove_tree, path)

    def remove_of_template(self, path: str) -> None:
        """Removes what `make_for_template` made, and all that lies in it."""
        self.remove(os.path.join(self._top, os.path.relpath(path, self._top).partition(os.sep)[0]))


def remove_tree(top: str) -> None:
    """Removes a folder, however deep its tree is and whatever its modes say; what cannot be removed stays.

    No link is followed, also if somebody swaps a folder for one meanwhile. Folders in folders are moved up before they
    are emptied, so that no more than two are open. A lock goes last: without it nobody would finish what was
    interrupted. Who still writes in it can keep it from going.
    """
    with contextlib.suppress(OSError):
        with _opened(top, None) as folder:
            vain = 0
            for _ in range(_MOST_PASSES):
                entries = [entry for entry in _entries(folder) if entry.name != LOCK]
                done = [_try_to_remove(entry, folder) for entry in entries]
                vain = 0 if any(done) else vain + 1
                if not entries or vain == _VAIN_PASSES:
                    break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(LOCK, dir_fd=folder)
        os.rmdir(top)


def _try_to_remove(entry: os.DirEntry[str], parent: int) -> bool:
    try:
        _remove_shallow(entry, parent)
    except FileNotFoundError:
        return True  # somebody else removed it
    except OSError:
        return False  # it is not to be removed, or changed meanwhile
    return True


def _remove_shallow(entry: os.DirEntry[str], parent: int) -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.name, dir_fd=parent)
        return
    with _opened(entry.name, parent) as folder:
        for inner in _entries(folder):
            if inner.is_dir(follow_symlinks=False):
                with _opened(inner.name, folder):  # its mode has to let it be moved
                    os.rename(inner.name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=parent)
            else:
                os.unlink(inner.name, dir_fd=folder)
    os.rmdir(entry.name, dir_fd=parent)


def _entries(folder: int) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


@contextlib.contextmanager
def _opened(name: str, parent: int | None) -> Iterator[int]:
    """A folder and no link to one, with a mode that lets its owner in."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        with contextlib.suppress(OSError):  # not its owner, but one whom modes do not bind
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
    finally:
        os.close(place)
    try:
        yield folder
    finally:
        os.close(folder)
