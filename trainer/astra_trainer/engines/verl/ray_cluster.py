"""Whether the Ray cluster that RAY_ADDRESS names can hold a run.

verl reserves processors beside each GPU of a node, and Ray waits for ever for what no node can give. As a program,
`ray_cluster ADDRESS NODES` prints what the nodes declare, when there are as many or none came in a while.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence

from astra_api.errors import BadInput

RESERVED = 10  # CPUs beside each GPU: verl's `RayResourcePool`, as its SFT on several nodes makes it
_SECONDS = 60.0
_ON_THEIR_WAY_SECONDS = 20.0  # nodes of a cluster that has just been made


async def check_nodes(address: str, nodes: int, gpus: int) -> None:
    """Raises BadInput where there is no cluster, or fewer than `nodes` nodes that hold `gpus` GPUs with their CPUs."""
    await _knock(address)
    command = (sys.executable, "-m", "astra_trainer.engines.verl.ray_cluster", address, str(nodes))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        said, errors = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        said, errors = b"", f"no answer within {_SECONDS:.0f} s".encode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise _unusable(address, lines[-1])
    if fault := shortage(json.loads(said.splitlines()[-1]), nodes, gpus):
        raise BadInput(fault)


async def _knock(address: str) -> None:
    """Ray itself would try for a minute to reach a port that nobody listens at."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return  # a name that only Ray can resolve
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), _SECONDS)
    except (OSError, TimeoutError) as error:
        raise _unusable(address, str(error) or "no answer") from None
    writer.close()


def _unusable(address: str, why: str) -> BadInput:
    return BadInput(f"RAY_ADDRESS: {address} cannot be used: {why}; name the head of a running Ray cluster")


def shortage(found: Sequence[Mapping[str, float]], nodes: int, gpus: int) -> str | None:
    """What nodes that declare these resources (Ray's names: CPU, GPU) lack of `nodes` with `gpus` GPUs each."""
    fit = [node for node in found if node.get("GPU", 0) >= gpus]
    if len(fit) < nodes:
        return (
            f"spec.trainer.nodes: {nodes} nodes with {gpus} GPUs are asked; of the {len(found)} nodes at RAY_ADDRESS "
            f"{len(fit)} declare as many; add nodes, or lower trainer.nodes or trainer.gpusPerNode"
        )
    wanted = RESERVED * gpus
    able = [node for node in fit if node.get("CPU", 0) >= wanted]
    if len(able) < nodes:
        most = max(node.get("CPU", 0) for node in fit if node not in able)
        return (
            f"RAY_ADDRESS: verl reserves {wanted} CPUs beside the {gpus} GPUs of a node, and some declare {most:.0f} "
            f"(Ray counts these, it binds nobody to a core); start the nodes with `ray start --num-cpus "
            f"{12 * gpus + 16}`"
        )
    return None


def main() -> None:
    import ray

    address, nodes = sys.argv[1], int(sys.argv[2])
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    deadline = time.monotonic() + _ON_THEIR_WAY_SECONDS
    while True:
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if len(found) >= nodes or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print(json.dumps(found))
    ray.shutdown()


if __name__ == "__main__":
    main()
