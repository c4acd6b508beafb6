"""Files that are written whole or not at all."""

import os
from pathlib import Path


def replace(file: Path, content: bytes) -> None:
    """Whoever looks sees the old file or the new one; a machine that fails may lose the new one."""
    draft = file.with_name(f"{file.name}.part")
    draft.write_bytes(content)
    os.replace(draft, file)
