"""The watch of Environments, against a server that pages, cuts connections and forgets versions."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from farms import environment_body
from kubernetes.client import ApiClient, Configuration

from astra_api.kube import ENVIRONMENT, Kube, KubeError
from astra_api.resource import Selector
from astra_operator.census import Census
from astra_operator.environment_watch import Change, EnvironmentWatches

ALL = [Selector()]


class Server:
    """Lists what is in `objects`, and answers each watch with the next of `answers`: bytes to send before it ends."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 10
        self.answers: list[bytes] = []
        self.asked: list[dict[str, str]] = []
        self.refuses: int | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = {key: value[0] for key, value in parse_qs(urlparse(self.path).query).items()}
                server.asked.append(query)
                if server.refuses is not None:
                    self.answer(server.refuses, {"message": "not now"})
                elif "watch" in query:
                    self.stream()
                else:
                    self.answer(200, server.page(query))

            def answer(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while not server.answers and not server.ended.is_set():
                    time.sleep(0.01)
                data = server.answers.pop(0) if server.answers else b""
                for begin in range(0, len(data), 700):  # lines are cut anywhere
                    part = data[begin : begin + 700]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.close_connection = True  # without the last chunk: a cut connection

            def log_message(self, *_: Any) -> None:
                pass

        self.ended = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{self._http.server_address[1]}"
        configuration.retries = 0
        self.kube = Kube(ApiClient(configuration))

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        begin, limit = int(query.get("continue", "0")), int(query["limit"])
        names = sorted(self.objects)
        rest = str(begin + limit) if begin + limit < len(names) else ""
        items = [self.objects[name] for name in names[begin : begin + limit]]
        return {"metadata": {"resourceVersion": str(self.version), "continue": rest}, "items": items}

    def put(self, *names: str, phase: str = "Verified") -> None:
        for name in names:
            self.objects[name] = environment_body(name, phase)

    def say(self, *events: tuple[str, str]) -> None:
        """Sends (type, name of an object) on the watch that is open, or on the next, and cuts it."""
        self.answers.append(b"".join(self.line(kind, name) for kind, name in events))

    def line(self, kind: str, name: str) -> bytes:
        self.version += 1
        body = self.objects.get(name) or environment_body(name)
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return json.dumps({"type": kind, "object": body}).encode() + b"\n"

    @property
    def lists(self) -> list[dict[str, str]]:
        return [query for query in self.asked if "watch" not in query]

    @property
    def watched_from(self) -> list[str]:
        return [query["resourceVersion"] for query in self.asked if "watch" in query]

    def close(self) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Watched:
    """A census that is kept by watches of a server."""

    def __init__(self, server: Server) -> None:
        self.census = Census()
        self.told: list[Change] = []
        self.watches = EnvironmentWatches(server.kube, (), self.census, self.told.append)
        self.watches.start()

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.census.names(None)}


@pytest.fixture
def watched(server: Server) -> Iterator[Callable[[], Watched]]:
    made: list[Watched] = []

    def begin() -> Watched:
        made.append(Watched(server))
        return made[-1]

    yield begin
    for one in made:
        one.watches.stop()


def soon(look: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_lists_in_pages_and_is_complete_only_then(server: Server, watched: Callable[[], Watched]) -> None:
    server.put(*(f"e{number:03}" for number in range(95)), phase="Verified")
    server.put("new", phase="Pending")
    server.refuses = 500
    found = watched()
    soon(lambda: len(server.asked) > 0)
    assert not found.watches.complete("lab"), "it knows nothing while the server refuses"
    server.refuses = None
    soon(lambda: found.watches.complete("lab"))
    assert found.census.count("lab", ALL) == (95, 0, 1)
    assert len(server.lists) >= 3, "no answer holds them all"
    assert [change.name for change in found.told if change.unfinished] == ["new"], "the decided ones are left alone"


def test_changes_are_told_and_a_cut_watch_goes_on_where_it_was(server: Server, watched: Callable[[], Watched]) -> None:
    server.put("a", "b")
    found = watched()
    soon(lambda: found.watches.complete("lab"))
    listed, lists = server.version, len(server.lists)
    server.put("c")
    server.answers.append(server.line("ADDED", "c") + server.line("DELETED", "a")[:-40])  # the second is cut short
    soon(lambda: found.names == {"a", "b", "c"})
    server.say(("DELETED", "a"))
    soon(lambda: found.names == {"b", "c"})
    assert server.watched_from[:2] == [str(listed), str(listed + 1)]
    assert len(server.lists) == lists, "nothing was missed, so nothing is listed again"
    assert found.told[-1] == Change("lab", "a", counts=True, unfinished=False)


def test_one_that_was_deleted_while_the_watch_was_broken_leaves_the_census(
    server: Server, watched: Callable[[], Watched]
) -> None:
    server.put("stays", "goes")
    server.put("waits", phase="Pending")
    found = watched()
    soon(lambda: found.watches.complete("lab"))
    del server.objects["goes"], server.objects["waits"]
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
    server.answers.append(json.dumps(gone).encode() + b"\n")
    soon(lambda: found.names == {"stays"})
    assert found.census.count("lab", ALL) == (1, 0, 0), "nothing holds a run up that is not there"
    assert {change.name for change in found.told[-2:]} == {"goes", "waits"}


def test_a_bookmark_moves_the_version_and_nothing_else(server: Server, watched: Callable[[], Watched]) -> None:
    server.put("a")
    found = watched()
    soon(lambda: found.watches.complete("lab"))
    told = len(found.told)
    mark = {"type": "BOOKMARK", "object": {"kind": "Environment", "metadata": {"resourceVersion": "77"}}}
    server.answers.append(json.dumps(mark).encode() + b"\n")
    soon(lambda: server.watched_from[-1:] == ["77"])
    assert len(found.told) == told
    assert found.names == {"a"}


def test_a_watch_that_is_refused_says_why(server: Server) -> None:
    server.refuses = 403
    with pytest.raises(KubeError, match="not now") as caught:
        next(server.kube.watch(ENVIRONMENT, "lab", "1"))
    assert caught.value.status == 403
