"""Files that are written whole or not at all, readable by whom the umask says."""

import contextlib
import os
import secrets
from pathlib import Path


def replace(file: Path, content: bytes) -> None:
    """Whoever looks sees the old file or the new one, also where several write it at once; what cannot be written
    leaves nothing behind. A machine that fails may lose the new one."""
    draft = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        draft.write_bytes(content)
        os.replace(draft, file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def share(folder: Path) -> None:
    """Gives all that a folder holds the mode that its own says: libraries make some files for their owner alone.

    The folder itself was made under the umask. Links are left as they are.
    """
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)
