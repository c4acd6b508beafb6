"""What the operator counts, for Prometheus; and the two pages it serves."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

WRITES = Counter("astra_operator_writes", "Requests that changed something in the API.", ["kind", "verb"])
RECONCILES = Counter("astra_operator_reconciles", "Reconciliations, by their result.", ["kind", "result"])
QUEUE = Gauge("astra_operator_queue", "Objects that wait for a worker, or have one.")
VERIFICATIONS = Counter("astra_verifications", "Verdicts, by phase and reason.", ["phase", "reason"])
VERIFICATION_SECONDS = Histogram(
    "astra_verification_seconds", "Time to verify one Environment.", buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
)
ENVIRONMENTS = Gauge("astra_environments", "Environments, by phase.", ["phase"])
RUNS = Gauge("astra_runs", "Runs, by kind and phase.", ["kind", "phase"])
POOL_READY = Gauge("astra_verifier_pods_ready", "Pods of the verification pool that serve.")
POOL_WANTED = Gauge("astra_verifier_pods_wanted", "Pods that the verification pool shall have; 0 while it sleeps.")
POOL_ISOLATED = Gauge(
    "astra_verifier_network_isolated", "1 where canaries of the verification pool were refused egress."
)
LEADER = Gauge("astra_operator_leader", "1 while this process holds the Lease.")


async def serve(port: int, healthy: Callable[[], str | None], refresh: Callable[[], None]) -> web.AppRunner:
    """/metrics, and /healthz: 200, or 503 with what is wrong. `refresh` sets the gauges before they are read."""

    async def metrics(_: web.Request) -> web.Response:
        refresh()
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        fault = healthy()
        return web.Response(text=fault or "ok", status=503 if fault else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", health)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
