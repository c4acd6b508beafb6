"""Private folders: made for one session, closed to others of its user, and removed whatever lies in them."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astra_api.records import ToolResult, Toolset
from astra_sandbox.client import SandboxClient
from astra_sandbox.interface import Isolation
from astra_sandbox.server.folders import LOCK, PrivateFolders, remove_tree

SOURCE = """
import os, tempfile
from pathlib import Path
def temporary():
    with tempfile.TemporaryFile() as file:
        file.write(b"kept for a while")
        file.seek(0)
        return file.read().decode()
def unnamed():
    try:
        os.open(".", os.O_TMPFILE | os.O_RDWR)
    except OSError as error:
        return error.errno
def touch():
    Path("a").touch()
    Path("a").touch()
    try:
        os.utime("..", (1, 1))
    except PermissionError:
        return os.listdir(".") == ["a"]
def open_up():
    Path("b").mkdir()
    refused = []
    for change, arguments in ((os.chmod, ("b", 7)), (os.chmod, ("..", 7)), (os.setxattr, ("b", "user.note", b"x"))):
        try:
            change(*arguments)
        except OSError as error:
            refused.append(error.errno)
    return refused
def beside():
    try:
        Path("../note").write_text("x")
    except OSError as error:
        return error.errno
"""


async def test_a_session_has_its_folder_and_no_other(real_sandbox: Any, make_toolset: Callable[..., Toolset]) -> None:
    toolset = make_toolset(SOURCE, "temporary", "unnamed", "touch", "open_up", "beside")
    (session,) = await real_sandbox.open_sessions(toolset, 1)
    outcomes = [await session.call(tool.name, "{}") for tool in toolset.tools]
    assert outcomes == [ToolResult(json_text=text) for text in ('"kept for a while"', "95", "true", "[1,1,1]", "13")]
    await session.close()


LOADING = """
WRITTEN, REFUSED = [], []
for place in (".", "..", "../..", "/", "/scratch", "/tmp", "/dev/shm"):
    try:
        open(place + "/note", "w").close()
        WRITTEN.append(place)
    except OSError as error:
        REFUSED.append(error.errno)
def written():
    return [WRITTEN, REFUSED[0]]
"""


async def test_a_source_has_no_folder_to_write_in(real_sandbox: Any, make_toolset: Callable[..., Toolset]) -> None:
    (session,) = await real_sandbox.open_sessions(make_toolset(LOADING, "written"), 1)
    assert await session.call("written", "{}") == ToolResult(json_text="[[],13]")
    await session.close()


@pytest.mark.parametrize("kind", ["process", "namespaces"])
async def test_nor_has_it_where_the_server_is_not_root(
    kind: str, somebody: tuple[str, ...], tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset]
) -> None:
    """Its user is the server's then."""
    if kind == "namespaces" and shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")
    async with server(tmp_path, "--contain", kind, prefix=somebody) as (address, process):
        client = SandboxClient([address])
        (status,) = await client.status()
        assert status.isolation == Isolation[kind.upper()]
        assert "user id 1000 in the session" in status.measures
        assert not [measure for measure in status.measures if "no user namespace" in measure]
        sessions = await client.open_sessions(make_toolset(LOADING + SOURCE, "written", "touch", "beside"), 2)
        for session in sessions:
            outcomes = [await session.call(name, "{}") for name in ("written", "touch", "beside")]
            assert outcomes == [ToolResult(json_text=text) for text in ("[[],13]", "true", "13")]
            await session.close()
        await client.close()
        process.terminate()
        assert await process.wait() == 0


async def test_what_sessions_leave_is_removed(
    tmp_path: Path, server: Any, make_toolset: Callable[..., Toolset], monkeypatch: Any
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    source = "import os\ndef leave():\n    os.makedirs('a/b')\n    open('a/b/c', 'w').close()"
    async with server(tmp_path) as (address, process):
        client = SandboxClient([address])
        (scratch,) = _scratch(tmp_path)
        for _ in range(3):
            sessions = await client.open_sessions(make_toolset(source, "leave"), 4)
            for session in sessions:
                await session.call("leave", "{}")
                await session.close()
        await client.close()
        async with asyncio.timeout(5):
            while list(scratch.glob("*/*")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # they go when their processes are gone
        process.terminate()
        assert await process.wait() == 0
    assert not _scratch(tmp_path)


def _scratch(folder: Path) -> list[Path]:
    return list(folder.glob("astra-sandbox-*"))


def test_modes_forbid_others_what_the_maker_may(tmp_path: Path) -> None:
    folders = PrivateFolders(str(tmp_path), os.geteuid())
    template = folders.make_for_template(["name", "variant", "1"])
    session = folders.make_for_session(template, "session")
    assert os.stat(session).st_mode & 0o777 == 0o700
    closed = [tmp_path, tmp_path / "name", tmp_path / "name" / "variant", Path(template)]
    modes = {path.stat().st_mode & 0o777 for path in closed}
    assert modes == ({0o111} if os.geteuid() == 0 else {0o300})


trees = st.recursive(
    st.booleans(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=20
)


@settings(max_examples=50, deadline=None)
@given(tree=trees, mode=st.sampled_from([0, 0o300, 0o700]))
def test_every_tree_goes(tree: Any, mode: int, tmp_path_factory: Any) -> None:
    top = tmp_path_factory.mktemp("top")

    def grow(path: Path, inner: Any) -> None:
        if isinstance(inner, dict):
            path.mkdir()
            for name, below in inner.items():
                grow(path / name, below)
            path.chmod(mode)
        elif inner:
            path.symlink_to("/")
        else:
            path.write_text("x")

    grow(top / "grown", tree)
    (top / LOCK).touch()
    remove_tree(str(top))
    assert not top.exists()


def test_a_tree_deeper_than_a_path_reaches_goes(tmp_path: Path) -> None:
    top, home = tmp_path / "top", os.getcwd()
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(1500):  # deeper than Python recurses, and in all longer than a path may be
            os.mkdir("deep")
            os.chdir("deep")
        Path("file").write_text("x")
    finally:
        os.chdir(home)
    remove_tree(str(top))
    assert not top.exists()


SWAPPING = """
import ctypes, sys
exchange, a, b = ctypes.CDLL(None).renameat2, *(f"{sys.argv[1]}/{name}".encode() for name in "ab")
print("swapping", flush=True)
while True:
    exchange(-100, a, -100, b, 2)
"""


def test_a_folder_that_is_swapped_for_a_link_takes_nothing_with_it(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    for name in "cd":
        (outside / name).mkdir(parents=True)
        (outside / name / "file").write_text("x")
    outside.chmod(0o755)
    swapping = subprocess.Popen([sys.executable, "-c", SWAPPING, str(top)], stdout=subprocess.PIPE)
    try:
        assert swapping.stdout is not None
        assert swapping.stdout.readline() == b"swapping\n"
        for number in range(300):
            (top / "a" / "inner").mkdir(parents=True)
            (top / "b").symlink_to(outside)
            for _ in range(10):
                remove_tree(str(top))
            if top.exists():  # who goes on can keep it from going
                top.rename(tmp_path / f"left-{number}")
    finally:
        swapping.kill()
        swapping.communicate()
    for left in tmp_path.glob("left-*"):
        remove_tree(str(left))
        assert not left.exists()
    assert sorted(path.name for path in outside.rglob("*")) == ["c", "d", "file", "file"]
    assert outside.stat().st_mode & 0o777 == 0o755


def test_what_cannot_be_removed_is_no_error(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "not-there"))
