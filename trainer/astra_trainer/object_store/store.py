"""A folder in object storage: s3:// and gs:// by Arrow's clients, file:// by the file system, all through fsspec."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from astra_api.errors import BadInput

URL = "spec.checkpoint.objectStore.url"
_CHUNK = 8 << 20
_UNDER_WAY = 64 << 20  # bytes: Arrow sends the parts of an object beside each other, and would read all of it for that
_RETRIES = timedelta(seconds=30)  # of Google's client, within one call
_UNREACHABLE = (
    "NETWORK_CONNECTION",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_FAILURE",
    "REQUEST_TIMEOUT",
    "SLOW_DOWN",
    "THROTTLING",
    "HTTP status 5",
    "Status(UNAVAILABLE",
    "Status(DEADLINE_EXCEEDED",
    "Status(INTERNAL",
)
_SECRET = ("SECRET", "TOKEN", "PASSWORD")

Moved = Callable[[int], None]


@dataclass(frozen=True)
class Content:
    """What an object or a file holds."""

    size: int
    sha256: str


class Store:
    """Objects below a folder. All calls raise OSError when the store cannot be reached or refuses."""

    def __init__(self, files: AbstractFileSystem, root: str):
        self._files, self._root = files, root

    def size(self, name: str) -> int | None:
        """The bytes of an object; None if there is none."""
        try:
            found = self._files.info(self._path(name))
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else None

    def read(self, name: str) -> bytes | None:
        """All of a small object; None if there is none."""
        try:
            with self._files.open(self._path(name), "rb") as source:
                return bytes(source.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Puts a small object in place of what may be there."""
        with self._files.open(self._path(name), "wb") as target:
            target.write(content)

    def put(self, name: str, file: Path, moved: Moved) -> Content:
        """Copies a file, in parts if it is large; what was sent. `moved` hears of bytes as they go."""
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as source, self._files.open(self._path(name), "wb") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
                size += len(chunk)
                if size % _UNDER_WAY == 0:
                    target.flush()
                moved(len(chunk))
        return Content(size, digest.hexdigest())

    def content(self, name: str, moved: Moved) -> Content:
        """What an object holds, by reading all of it back."""
        digest, size = hashlib.sha256(), 0
        with self._files.open(self._path(name), "rb") as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                moved(len(chunk))
        return Content(size, digest.hexdigest())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def connect(url: str) -> Store:
    """The folder that a URL names. Nothing is sent yet; credentials are those of the environment.

    Raises BadInput for a URL that cannot be used, and where the library was built without its kind of store.
    """
    scheme, _, rest = url.partition("://")
    place, _, folder = rest.partition("/")
    if "@" in place:
        raise BadInput(f"{URL}: holds credentials; take them out of the URL, and give them in the environment")
    if scheme == "file":
        if place:
            raise BadInput(f"{URL}: {url}: a path is needed after file://, as in file:///mnt/snapshots")
        return Store(LocalFileSystem(auto_mkdir=True), f"/{folder}".rstrip("/"))
    if scheme not in _CLIENTS or not place:
        raise BadInput(f"{URL}: {url}: give s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER")
    try:
        client = _CLIENTS[scheme]()
    except ImportError as error:
        raise BadInput(f"{URL}: {scheme}:// cannot be used: {error}; install astra-farm[trainer]") from None
    return Store(ArrowFSWrapper(client), f"{place}/{folder}".rstrip("/"))


def _s3() -> object:
    from pyarrow.fs import S3FileSystem

    # Stores that are not Amazon's often do not know its checksums behind the data; objects are read back anyway.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return S3FileSystem(endpoint_override=endpoint, tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"))


def _gs() -> object:
    from pyarrow.fs import GcsFileSystem

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator is None:
        return GcsFileSystem(retry_time_limit=_RETRIES)
    scheme, _, address = emulator.rpartition("://")
    return GcsFileSystem(
        anonymous=True, scheme=scheme or "http", endpoint_override=address.rstrip("/"), retry_time_limit=_RETRIES
    )


_CLIENTS: dict[str, Callable[[], object]] = {"s3": _s3, "gs": _gs}


def is_unreachable(error: Exception) -> bool:
    """Whether a store could not be reached or had no time, as opposed to one that refused."""
    return any(word in str(error) for word in _UNREACHABLE)


def reason(error: Exception) -> str:
    """An error in one line, without what the environment keeps secret."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for name, value in os.environ.items():
        if len(value) >= 8 and any(word in name.upper() for word in _SECRET):
            text = text.replace(value, f"({name})")
    return text if len(text) <= 500 else f"{text[:500]}..."
