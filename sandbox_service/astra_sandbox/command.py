"""The server's command line. The first zygote starts here, before gRPC is imported (ARCHITECTURE, decision 3)."""

import argparse
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from astra_sandbox.server.zygotes import Nursery

_EXAMPLES = """\
examples:
  python -m astra_sandbox --listen 127.0.0.1:50051
  python -m astra_sandbox --listen unix:/run/astra/sandbox.sock --capacity 64
  python -m astra_sandbox --listen 127.0.0.1:50051 --memory-limit 2147483648 --metrics-port 9464
  python -m astra_sandbox --listen 0.0.0.0:50051 --tls-cert tls.crt --tls-key tls.key --tls-ca ca.crt
"""
_ORPHAN_SECONDS = 3.0  # an orphan that has not ended by then is cut short
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


@dataclass(frozen=True)
class Tls:
    """One side's certificate chain and key, and the authority that the other side must show, as PEM."""

    certificate: bytes
    key: bytes
    authority: bytes


def main(arguments: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Exit codes: 0 drained, 1 could not start, 2 bad usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    tls = _tls(parser, options)
    _check_address(parser, options.listen, tls)
    from astra_sandbox.server.templates import raise_open_files
    from astra_sandbox.server.zygotes import Nursery, ZygoteError

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    raise_open_files()
    nursery = Nursery(wanted=options.contain, library=options.library)
    try:
        return _serve(nursery, options, tls)
    except ZygoteError as error:
        print(f"astra_sandbox: {error}", file=sys.stderr)
        return 1
    finally:
        nursery.close()


def _leave(number: int, _: object) -> NoReturn:
    """Ends this process where a signal comes before the server heeds it, with what there is to clean up."""
    raise SystemExit(128 + number)


def _serve(nursery: "Nursery", options: argparse.Namespace, tls: Tls | None) -> int:
    nursery.unbind_modes()
    zygote = nursery.launch(0)
    orphaned = threading.Event()
    if options.exit_with_stdin:
        threading.Thread(target=_exit_with_stdin, args=(orphaned,), daemon=True).start()
    from astra_sandbox.server.serving import Settings, serve  # imports gRPC

    settings = Settings(
        address=options.listen,
        tls=tls,
        capacity=options.capacity,
        idle_seconds=options.idle_seconds,
        drain_seconds=options.drain_seconds,
        memory_limit=options.memory_limit,
        metrics_port=options.metrics_port,
    )
    return serve(nursery, zygote, settings, orphaned)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m astra_sandbox",
        description="Runs tool calls in isolated sessions and serves them over gRPC (astra.sandbox.v1).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen", required=True, metavar="ADDR", help="HOST:PORT, or unix:PATH; beyond loopback TLS is required"
    )
    parser.add_argument(
        "--capacity", type=_positive_int, default=512, metavar="N", help="sessions at most (default 512)"
    )
    parser.add_argument(
        "--idle-seconds",
        type=_positive,
        default=900.0,
        metavar="S",
        help="a session without calls ends after S (default 900)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=_positive,
        default=25.0,
        metavar="S",
        help="on SIGTERM, wait S for sessions to end (default 25)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_positive_int,
        metavar="BYTES",
        help="memory of this pod: near it the session that uses most is ended (default: what the kernel says)",
    )
    ready = Path(sys.prefix, "lib/astra/python.zip")  # written by an image's build
    parser.add_argument(
        "--library",
        type=Path,
        metavar="FILE",
        default=ready if ready.exists() else None,
        help="Python's library as an archive, for a jail (default: the image's, or written at start)",
    )
    parser.add_argument(
        "--metrics-port", type=_port, metavar="PORT", help="serve Prometheus metrics there, on the host of --listen"
    )
    parser.add_argument(
        "--contain",
        choices=["auto", "namespaces", "process"],
        default="auto",
        help="auto: namespaces where possible, else bare processes; what is in force shows in GetStatus",
    )
    for name, meaning in (
        ("cert", "this server's certificate chain"),
        ("key", "its private key"),
        ("ca", "the authority whose clients may connect"),
    ):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=f"PEM file: {meaning}")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input closes")
    return parser


def _tls(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Tls | None:
    paths = {name: getattr(options, f"tls_{name}") for name in ("cert", "key", "ca")}
    given = [name for name, path in paths.items() if path is not None]
    if not given:
        return None
    if len(given) < len(paths):
        parser.error("--tls-cert, --tls-key and --tls-ca go together")
    contents = {}
    for name, path in paths.items():
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            parser.error(f"--tls-{name}: {path}: {error.strerror}")
        if b"-----BEGIN" not in contents[name]:
            parser.error(f"--tls-{name}: {path} is not a PEM file")
    return Tls(contents["cert"], contents["key"], contents["ca"])


def _check_address(parser: argparse.ArgumentParser, address: str, tls: Tls | None) -> None:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not os.path.isdir(os.path.dirname(path) or "."):
            parser.error(f"--listen: the folder of {path} does not exist")
        if len(os.fsencode(path)) > 107:
            parser.error("--listen: a socket path may have 107 bytes at most")
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        parser.error(f"--listen: {address!r} is neither HOST:PORT nor unix:PATH")
    if tls is None and host not in _LOOPBACK:
        parser.error(f"--listen: {host} is not loopback: give --tls-cert, --tls-key and --tls-ca")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 < value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return value


def _exit_with_stdin(orphaned: threading.Event) -> None:
    """Ends this process when the other end of standard input is gone, as it is after a kill -9 of the parent."""
    while os.read(0, 1024):
        continue
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)
