"""The processes below a local server, as the kernel knows them."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


def tree(pid: int) -> list[list[int]]:
    """[servers, zygotes, templates, sessions] below a local server."""
    levels = [[pid]]
    for _ in range(3):
        levels.append([child for parent in levels[-1] for child in children(parent)])
    return levels
