"""Object stores as processes of their own on this machine: rclone speaks S3, an emulator speaks Google's."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIASTORAGETEST", "a-secret-that-nothing-may-print"
BUCKET = "snapshots"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < end, "no answer in 60 s"
        time.sleep(0.05)


@dataclass
class S3Server:
    """`rclone serve s3`: it checks signatures, and keeps each object in a file of `root`."""

    root: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        rclone = Path(sys.executable).with_name("rclone")
        command = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}"]
        with (self.root.parent / "rclone.log").open("ab") as log:
            command += ["--config", os.devnull, "--vfs-cache-mode", "off", self.root]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        _wait_for_port(self.port, self.process)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def file(self, name: str) -> Path:
        """Where the object below the bucket lies."""
        return self.root / BUCKET / name

    def environment(self, secret: str = SECRET) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.port}"
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": secret, "AWS_ENDPOINT_URL": address} | {
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True)
class Place:
    """A store to copy to: its URL, what a client needs in its environment, and how a test looks at it."""

    url: str
    environment: Mapping[str, str]
    read: Callable[[str], bytes | None]


def content_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def google(tmp_path: Path) -> Iterator[Place]:
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", BUCKET, "--in-memory"]
    with (tmp_path / "gs.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gcp_storage_emulator", "start", *options], stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"

    def read(name: str) -> bytes | None:
        path = urllib.parse.quote(f"lab/{name}", safe="")
        try:
            with urllib.request.urlopen(f"{address}/storage/v1/b/{BUCKET}/o/{path}?alt=media", timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    try:
        _wait_for_port(port, process)
        yield Place(f"gs://{BUCKET}/lab", {"STORAGE_EMULATOR_HOST": address}, read)
    finally:
        process.kill()
        process.wait()


class Copying:
    """The process that copies, and what it says."""

    def __init__(self, url: str, out: Path, environment: Mapping[str, str], run: str = "me", patience: float = 5.0):
        arguments = [url, run, str(out), str(patience), str(os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "astra_trainer.object_store.upload", *arguments],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        self.output.extend(iter(self.process.stdout.readline, ""))

    @property
    def news(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.output)]

    def told(self, kind: str) -> list[Any]:
        return [news[kind] for news in self.news if kind in news]

    def wait_until(self, what: Callable[[], Any], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.01)

    def finish(self, seconds: float = 120.0) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=seconds)
        self._listening.join(10)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listening.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def make_snapshot(out: Path, name: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """A snapshot in a run directory; the digests of its files."""
    building = out / "checkpoints" / f".{name}"
    for path, content in files.items():
        (building / path).parent.mkdir(parents=True, exist_ok=True)
        (building / path).write_bytes(content)
    building.rename(out / "checkpoints" / name)
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


class SlowWay:
    """A way to a server that lets through so many bytes a second, and counts them."""

    def __init__(self, port: int, rate: float):
        self._target, self._rate, self.passed = port, rate, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)

    def _accept(self) -> None:
        with self._server, contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
            back.start()
            self._pass(client, server, True)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                sink.sendall(data)
                if slow:
                    self.passed += len(data)
                    time.sleep(len(data) / self._rate)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
