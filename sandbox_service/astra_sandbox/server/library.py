"""What there is to read in the root folder of a jail: Python's library and the time zones as one archive, and the
compiled modules with the shared libraries that they need, where they always are."""

import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

_UNWANTED = {
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages"),
    *("right", "posix", "__pycache__"),
}
_UNWANTED_COMPILED = ("_test", "_xx", "xx", "_tkinter", "_ctypes_test", "_crypt")


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


_LOAD_ALL = """
import sys

def mapped():
    with open("/proc/self/maps") as maps:
        return {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}

before = mapped()
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ImportError:
        pass
print(*sorted(mapped() - before), sep="\\n")
"""


def copy_compiled_modules(root: Path) -> None:
    """Copies this interpreter's compiled modules below `root`, and what the dynamic loader loads with them.

    Raises OSError when the interpreter cannot say which these are.
    """
    folders = [Path(path) for path in sys.path if Path(path).name == "lib-dynload"]
    names = {path.name.partition(".")[0] for folder in folders for path in folder.glob("*.so")}
    wanted = sorted(name for name in names if not name.startswith(_UNWANTED_COMPILED))
    command = [sys.executable, "-I", "-c", _LOAD_ALL, *wanted]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise OSError(f"Python's compiled modules cannot be loaded: {told.stderr[-300:]}")
    for path in [Path(name) for name in told.stdout.splitlines() if ".so" in name]:
        copy = Path(f"{root}{path}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        for other in path.parent.glob(path.name.partition(".so")[0] + ".so*"):  # it is asked for by its short name
            if other.is_symlink() and other.resolve() == path:
                copy.with_name(other.name).symlink_to(path.name)


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
