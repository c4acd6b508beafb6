"""`python -m astra_operator`: waits for the Lease, serving /metrics and /healthz meanwhile, then runs kopf."""

import asyncio
import logging
import signal
import sys
from typing import Any

import kopf

from astra_api.errors import BadInput
from astra_api.kube import Kube, KubeError
from astra_operator import handlers, metrics
from astra_operator.lease import LEASE_SECONDS, Lease, die
from astra_operator.operator import Operator
from astra_operator.settings import OperatorSettings

_USAGE = f"""\
usage: python -m astra_operator

Runs the operator. It is configured by environment variables:

{OperatorSettings.__doc__}
example: ASTRA_NAMESPACE=astra ASTRA_RUNTIME_CLASS= KUBECONFIG=kubeconfig python -m astra_operator
"""


class Pages:
    """What /metrics and /healthz tell: of a process that waits, then of its operator."""

    operator: Operator | None = None

    def fault(self) -> str | None:
        return self.operator.heartbeat.fault() if self.operator is not None else None

    def refresh(self) -> None:
        if self.operator is not None:
            self.operator.refresh_gauges()


async def run(settings: OperatorSettings) -> None:
    """Until SIGTERM or SIGINT."""
    pages = Pages()
    server = await metrics.serve(settings.metrics_port, pages.fault, pages.refresh)
    kube = await asyncio.to_thread(Kube.connect)
    identity = handlers.identity()
    lease = Lease(kube.hurried(LEASE_SECONDS), settings.namespace, settings.lease_name, identity)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lease.give_up)
    await asyncio.to_thread(lease.acquire)
    if not lease.held:
        await server.cleanup()
        return
    lease.keep(die)
    watched = sorted({*settings.watched, settings.namespace}) if settings.watched else ()
    memo = kopf.Memo(settings=settings, kube=kube.guarded(lease.check), lease=lease, pages=pages)
    try:
        known: Any = identity  # kopf would ask for the user's name, which a pod's user need not have
        await kopf.operator(standalone=True, identity=known, clusterwide=not watched, namespaces=watched, memo=memo)
    finally:
        await server.cleanup()


def main() -> int:
    """Exit codes: 0 stopped, 1 no API, 2 bad usage, 70 the Lease was lost."""
    if sys.argv[1:]:
        print(_USAGE, file=sys.stderr if sys.argv[1:] != ["--help"] else sys.stdout)
        return 0 if sys.argv[1:] == ["--help"] else 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    try:
        asyncio.run(run(OperatorSettings.of_environment()))
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KubeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 0
    return 0


sys.exit(main())
