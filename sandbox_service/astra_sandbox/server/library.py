"""Python's library and the time zones as one archive: all that there is to read in the root folder of a jail."""

import importlib.util
import marshal
import os
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

_UNWANTED = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages"),
    *("right", "posix", "__pycache__"),
}


def write_library(path: Path) -> None:
    """Writes the archive of this interpreter: compiled modules, and zones where `zoneinfo` looks for them last."""
    library, zones = Path(sysconfig.get_path("stdlib")), Path("/usr/share/zoneinfo")
    with zipfile.ZipFile(path, "w") as archive:
        for source in _below(library, ".py"):
            archive.writestr(str(source.relative_to(library).with_suffix(".pyc")), _compiled(source))
        packages = {Path("tzdata"), Path("tzdata/zoneinfo")}
        for zone in _below(zones, ""):
            name = Path("tzdata/zoneinfo", zone.relative_to(zones))
            archive.writestr(str(name), zone.read_bytes())
            packages.add(name.parent)
        for package in sorted(packages):
            archive.writestr(str(package / "__init__.py"), "")


def _below(top: Path, suffix: str) -> Iterator[Path]:
    """Files with this suffix, but for what no tool needs."""
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(set(folders) - _UNWANTED)
        paths = [Path(folder, name) for name in sorted(names)]
        yield from (path for path in paths if path.suffix == suffix and path.is_file())


def _compiled(source: Path) -> bytes:
    try:
        return Path(importlib.util.cache_from_source(str(source), optimization="")).read_bytes()
    except OSError:
        try:
            code = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
        except (SyntaxError, ValueError):  # files that test the parser
            return b""
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
