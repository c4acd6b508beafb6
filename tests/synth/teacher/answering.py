"""An endpoint that answers what a test says, over real HTTP."""

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from astra_synth.teacher import Prompt, Reply

TEXT = '{"question": "How many berths?"}'


class Question(Reply):
    """The smallest reply."""

    question: str


class Ask(Prompt[Question]):
    """A prompt of a few words."""

    def messages(self, **values: Any) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Ask something, please. " * 10}]


ASK = Ask("ask", Question)


@dataclass(frozen=True)
class Say:
    """One answer of the endpoint."""

    body: Any
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


def completion(content: Any = TEXT, finish: Any = "stop", usage: Any = ..., **message: Any) -> dict[str, Any]:
    """A chat completion as most endpoints write it."""
    made: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 8} if usage is ... else usage,
    }
    return made if usage is not None else {name: value for name, value in made.items() if name != "usage"}


@dataclass
class Asked:
    """What the endpoint was asked: path, headers and body of each request."""

    url: str
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def answering(answer: Callable[[dict[str, Any], int], Say] | Say, tls: ssl.SSLContext | None = None) -> Iterator[Asked]:
    """A server on a port of its own. `answer` makes an answer from a request's body and number, from 0."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with contextlib.suppress(ssl.SSLError, ConnectionError):  # of clients that do not trust it
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(asked.bodies)
                asked.paths.append(self.path)
                asked.headers.append(dict(self.headers))
                asked.bodies.append(body)
            said = answer if isinstance(answer, Say) else answer(body, number)
            self.send_response(said.status)
            for name, value in {"Content-Type": said.kind, **said.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.content)))
            self.end_headers()
            self.wfile.write(said.content)

        do_GET = do_POST

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    asked = Asked(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
