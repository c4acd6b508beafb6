"""Which environments verl draws."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

from astra_api.environment import Environment
from astra_api.manifests import load_manifests
from astra_api.training_run import TrainingRun
from astra_sandbox.pool import Servers
from astra_trainer.engines.verl import job
from astra_trainer.engines.verl.datasets import EnvironmentDraws
from astra_trainer.kept_environments import kept, write_environments

EXAMPLE = Path(__file__).parents[4] / "examples" / "verl-cpu.yaml"


@pytest.fixture
def draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnvironmentDraws]:
    found = [manifest.resource for manifest in load_manifests([EXAMPLE])]
    run = next(resource for resource in found if isinstance(resource, TrainingRun))
    environments = tmp_path / "environments.json"
    write_environments(environments, [kept(resource) for resource in found if isinstance(resource, Environment)])
    file = tmp_path / "job.json"
    job.Job(
        run=run.model_dump(mode="json", by_alias=True, exclude_none=True),
        environments=str(environments),
        model="/nowhere",
        sandboxes=Servers(addresses=("unix:/nowhere",)),
        capacity=8,
        room=512,
        spool=str(tmp_path),
    ).write(file)
    monkeypatch.setenv(job.JOB, str(file))
    job.floor.cache_clear()
    yield EnvironmentDraws()
    job.floor.cache_clear()


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
def test_draws_go_on_where_a_state_was_kept(draws: EnvironmentDraws) -> None:
    """Whatever a step drew, of use, surplus or neither, is not drawn again."""
    config = OmegaConf.create({"shuffle": False})

    def loader() -> Any:
        """As verl's trainer makes it."""
        order = create_rl_sampler(config, draws)
        return StatefulDataLoader(
            draws, batch_size=1, num_workers=0, drop_last=True, collate_fn=collate_fn, sampler=order
        )

    def numbers(batches: Iterator[Any], count: int) -> list[int]:
        return [int(batch["number"][0]) for batch in islice(batches, count)]

    before, after = loader(), loader()
    assert numbers(iter(before), 5) == [0, 1, 2, 3, 4]
    after.load_state_dict(before.state_dict())
    assert numbers(iter(after), 3) == [5, 6, 7]
