"""Each test has its own stores, and leaves no process behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from object_stores import BUCKET, Copying, Place, S3Server, content_of, google


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3")
    (server.root / BUCKET).mkdir(parents=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["file", "s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """One of each kind."""
    if request.param == "file":
        yield Place(f"file://{tmp_path}/store", {}, lambda name: content_of(tmp_path / "store" / name))
    elif request.param == "s3":
        server = request.getfixturevalue("s3")
        yield Place(f"s3://{BUCKET}/lab", server.environment(), lambda name: content_of(server.file(f"lab/{name}")))
    else:
        yield from google(tmp_path)


@pytest.fixture
def copying() -> Iterator[Callable[..., Copying]]:
    """Starts the process; it is gone when the test is."""
    started: list[Copying] = []

    def start(*arguments: Any, **options: Any) -> Copying:
        started.append(Copying(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()
