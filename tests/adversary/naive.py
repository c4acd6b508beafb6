"""The positive control: a tool server as one might write it in an afternoon, which contains nothing.

It loads a source in its own process, forks a session from itself, and exchanges pickles with it over pipes; the
time-out is an exception inside the session. Orders come as JSON lines on standard input, answers go to standard
output: `{"open": source, "limits", "extra"}`, `{"call": session, "tool", "arguments", "call_id"}`, `{"close"}`.

It keeps a secret in its environment, its memory, a file and an open descriptor, as servers do.
"""

import contextlib
import ctypes
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import types

_NEWNET = 0x40000000
METADATA = "169.254.169.254"


class Answers:
    """Services of this machine that an attack should not reach; each answers with the secret."""

    def __init__(self, secret: str) -> None:
        addresses = ["127.0.0.1", METADATA]
        if ctypes.CDLL(None).unshare(_NEWNET) != 0:  # a network of its own, in which the metadata address exists
            raise SystemExit("the naive server runs only where `python -m adversary` has fenced it in")
        for command in ("link set lo up", f"address add {METADATA}/32 dev lo"):
            subprocess.run(["ip", *command.split()], check=True, stdout=subprocess.DEVNULL)
        self.streams = [socket.create_server((address, 80 if address == METADATA else 0)) for address in addresses]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        self.local = socket.socket(socket.AF_UNIX)
        self.local.bind("\0astra-adversary-control")
        self.local.listen()
        self.facts = {
            "port": self.streams[0].getsockname()[1],
            "dns": self.datagrams.getsockname()[1],
        }
        if os.fork() == 0:
            self._serve(secret.encode())

    def _serve(self, secret: bytes) -> None:
        while True:
            for ready in select.select([*self.streams, self.local, self.datagrams], [], [], 1)[0]:
                if ready is self.datagrams:
                    _, peer = ready.recvfrom(2048)
                    ready.sendto(secret, peer)
                else:
                    with contextlib.suppress(OSError), ready.accept()[0] as connection:
                        connection.sendall(secret)
            if os.getppid() == 1:
                os._exit(0)


def session(tools: types.ModuleType, calls: int, replies: int, limits: dict) -> None:
    """Runs calls until the pipe ends. The time-out is an exception that the tool can catch."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("the call took too long")

    signal.signal(signal.SIGALRM, late)
    incoming, outgoing = os.fdopen(calls, "rb"), os.fdopen(replies, "wb", buffering=0)
    while True:
        call_id, tool, arguments = pickle.load(incoming)
        signal.alarm(int(limits.get("call_seconds") or 5))
        try:
            outcome = ("result", getattr(tools, tool)(**arguments))
        except BaseException as error:
            outcome = ("error", repr(error))
        signal.alarm(0)
        outgoing.write(pickle.dumps((call_id, outcome)))


def main() -> None:
    """Serves orders until standard input ends."""
    if os.environ.get("ASTRA_ADVERSARY_INSIDE") != "yes":
        raise SystemExit("the naive server runs only where `python -m adversary` has fenced it in")
    secret = os.environ["NAIVE_SECRET"]
    facts = Answers(secret).facts
    held = open(os.environ["NAIVE_FILE"])  # noqa: SIM115 (an open descriptor that sessions inherit is the point)
    os.set_inheritable(held.fileno(), True)
    sessions: dict[str, tuple[int, object, object, dict]] = {}
    loaded: dict[str, types.ModuleType] = {}  # by source: each session is forked from the same
    spoken = []  # what was said to sessions stays in the server's memory, as in a log
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        spoken.append(order)
        if "open" in order:
            module = loaded.get(order["open"])
            if module is None:
                module = loaded[order["open"]] = types.ModuleType("toolset")
                exec(order["open"], module.__dict__)
            calls, replies = os.pipe(), os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(calls[1])
                session(module, calls[0], replies[1], order["limits"])
            os.close(calls[0])
            os.close(replies[1])
            name = str(pid)
            sessions[name] = (pid, os.fdopen(calls[1], "wb", buffering=0), os.fdopen(replies[0], "rb"), {})
            answer = {"session": name, "pid": pid}
        elif "call" in order:
            _, outgoing, incoming, seen = sessions[order["call"]]
            outgoing.write(pickle.dumps((order["call_id"], order["tool"], order["arguments"])))
            while order["call_id"] not in seen:
                call_id, outcome = pickle.load(incoming)
                seen.setdefault(call_id, outcome)
            kind, value = seen[order["call_id"]]
            answer = {"kind": kind, "value": value}
        else:
            os.kill(sessions[order["close"]][0], signal.SIGTERM)
            answer = {}
        try:
            text = json.dumps(answer)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps({"kind": "result", "value": repr(answer)[:100]})
        print(text, flush=True)


if __name__ == "__main__":
    main()
