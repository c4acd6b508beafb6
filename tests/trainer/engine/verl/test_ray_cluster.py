"""What a Ray cluster lacks for a run is told before anything starts."""

import pytest

from astra_api.errors import BadInput
from astra_trainer.engines.verl.ray_cluster import check_nodes, shortage

ABLE = {"CPU": 112.0, "GPU": 8.0, "memory": 1e12}
HEAD = {"CPU": 4.0}


@pytest.mark.parametrize(
    ("found", "nodes", "gpus", "field"),
    [
        ([ABLE, ABLE, HEAD], 2, 8, None),
        ([ABLE, ABLE], 1, 4, None),
        ([{"CPU": 80, "GPU": 8}], 1, 8, None),
        ([ABLE, HEAD], 2, 8, "spec.trainer.nodes: 2 nodes with 8 GPUs are asked; of the 2 nodes"),
        ([], 1, 1, "spec.trainer.nodes"),
        ([ABLE, {"CPU": 79, "GPU": 8}], 2, 8, "RAY_ADDRESS: verl reserves 80 CPUs .* declare 79 .*--num-cpus 112"),
        ([ABLE, {"GPU": 8}], 2, 8, "RAY_ADDRESS: .* declare 0"),
    ],
)
def test_what_the_nodes_lack(found: list[dict[str, float]], nodes: int, gpus: int, field: str | None) -> None:
    fault = shortage(found, nodes, gpus)
    if field is None:
        assert fault is None
    else:
        with pytest.raises(BadInput, match=field):
            raise BadInput(fault)


async def test_no_cluster_is_told() -> None:
    with pytest.raises(BadInput, match=r"RAY_ADDRESS: 127\.0\.0\.1:9 cannot be used: .*Connect call failed"):
        await check_nodes("127.0.0.1:9", 2, 1)


async def test_what_is_no_cluster_is_told() -> None:
    """A port that speaks something else, or a name that Ray does not know."""
    pytest.importorskip("ray", reason="needs Ray: `make test-verl` asks a cluster that is there")
    with pytest.raises(BadInput, match=r"RAY_ADDRESS: nowhere cannot be used: "):
        await check_nodes("nowhere", 2, 1)
