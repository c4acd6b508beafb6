"""Files that are written whole or not at all, and folders that are readable as the umask says."""

import os
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from astra_api.files import replace, share


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    file, errors = tmp_path / "report.html", list[BaseException]()

    def write(number: int) -> None:
        try:
            for _ in range(50):
                replace(file, f"{number}".encode() * 20_000)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert os.listdir(tmp_path) == ["report.html"]
    assert len(set(file.read_bytes())) == 1


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 4 KiB: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_what_does_not_fit_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    replace(file, b"old")
    with pytest.raises(OSError, match="File too large"):
        replace(file, b"new" * 4096)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["status.json"]


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640), (0o077, 0o700, 0o600)]
)
def test_a_shared_folder_is_readable_as_the_umask_says(tmp_path: Path, umask: int, folder: int, file: int) -> None:
    before = os.umask(umask)
    try:
        top = tmp_path / "model"
        top.mkdir()
        (top / "inner").mkdir(mode=0o700)
        (top / "weights").touch(mode=0o600)
        (top / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").touch(mode=0o600)
        share(top)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in top.iterdir() if not path.is_symlink()}
    assert modes == {"inner": folder, "weights": file}
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o600
