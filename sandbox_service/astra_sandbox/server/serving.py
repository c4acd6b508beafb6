"""Puts the service on an address, and takes it off again."""

import asyncio
import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_api.sandbox.v1 import sandbox_pb2_grpc as stubs
from astra_sandbox.command import Tls
from astra_sandbox.server.disks import Changes
from astra_sandbox.server.memory import Memory
from astra_sandbox.server.probe import gvisor_kernel, measure
from astra_sandbox.server.rounds import Rounds
from astra_sandbox.server.rpc import Server
from astra_sandbox.server.service import Policy, SandboxService
from astra_sandbox.server.templates import LoadRejectedError, Templates, WorkerLostError
from astra_sandbox.server.zygotes import Nursery, Zygote
from astra_sandbox.wire import MESSAGE_BYTES

_NAME = pb.DESCRIPTOR.services_by_name["SandboxService"].full_name
READY = "astra_sandbox: serving on"  # printed with the address once calls are answered


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    address: str
    tls: Tls | None
    capacity: int
    idle_seconds: float
    drain_seconds: float
    memory_limit: int | None
    metrics_port: int | None


def serve(nursery: Nursery, zygote: Zygote, settings: Settings, orphaned: threading.Event) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code. An orphan does not wait for its sessions to end."""
    try:
        return uvloop.run(_serve(nursery, zygote, settings, orphaned))
    finally:
        zygote.close()
        nursery.close()


async def _serve(nursery: Nursery, zygote: Zygote, settings: Settings, orphaned: threading.Event) -> int:
    policy = Policy(capacity=settings.capacity, idle_seconds=settings.idle_seconds)
    address = settings.address
    changes = Changes()
    templates = Templates(nursery, zygote, changes, Rounds(changes) if gvisor_kernel() else None)
    memory = Memory(settings.memory_limit)
    service = SandboxService(templates, policy, memory, changes)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        service.isolation, service.measures = await measure(templates, zygote, nursery.missing)
    except (LoadRejectedError, WorkerLostError) as error:
        print(f"astra_sandbox: the probe of the sandbox failed: {error}", file=sys.stderr)
        return 1
    server = Server(MESSAGE_BYTES)
    stubs.add_SandboxServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    healthiness = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthiness, server)
    names = [_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), server)
    try:
        port = await server.listen(address, settings.tls)
    except OSError as error:
        print(f"astra_sandbox: cannot listen on {address}: {error}", file=sys.stderr)
        return 1
    stop_metrics = _serve_metrics(service, settings)
    if stop_metrics is None:
        return 1
    for name in ("", _NAME):
        await healthiness.set(name, health_pb2.HealthCheckResponse.SERVING)
    shown = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    print(f"{READY} {shown} ({service.isolation.name.lower()})", flush=True)
    background = [asyncio.ensure_future(service.expire_forever()), asyncio.ensure_future(service.guard.watch())]
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # a server keeps logs: young objects rarely die in cycles here
    await stop.wait()
    service.draining = True
    await healthiness.enter_graceful_shutdown()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0 if orphaned.is_set() else settings.drain_seconds):
            await service.wait_empty()
    for task in background:
        task.cancel()
    for session in list(service.sessions.values()):
        session.close("the server stopped")
    await server.stop(0 if orphaned.is_set() else 1)
    templates.close()
    changes.close()
    stop_metrics()
    service.metrics.close()
    return 0


def _serve_metrics(service: SandboxService, settings: Settings) -> Callable[[], None] | None:
    """Answers scrapes where they are asked for, on the host that calls come to; None if that fails."""
    if settings.metrics_port is None:
        return lambda: None
    host = "127.0.0.1" if settings.address.startswith("unix:") else settings.address.rpartition(":")[0].strip("[]")
    try:
        return service.metrics.serve(host, settings.metrics_port)
    except OSError as error:
        print(f"astra_sandbox: --metrics-port {settings.metrics_port}: {error.strerror}", file=sys.stderr)
        return None
