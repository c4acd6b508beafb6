"""A run on real verl, Ray, vLLM and sandboxes, with everything killed once on its way to the end."""

import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: run `make test-verl`")
pytest.importorskip("ray", reason="needs Ray: run `make test-verl`")

from farm import GROUPS, RL_STEPS, SFT_STEPS, Farm  # after the packages without which it is of no use

pytestmark = [pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    farm = Farm(tmp_path_factory.mktemp("verl"))
    yield farm
    farm.end()


def test_killed_sandboxes_cost_nothing_and_a_killed_run_leaves_nothing_running(farm: Farm) -> None:
    process = farm.start()
    farm.wait(process, lambda: farm.rl_steps() >= 1, 900)
    farm.kill_sandboxes()
    farm.wait(process, lambda: farm.rl_steps() >= 2, 300)
    assert all(line["excluded"] == 0 for line in farm.lines() if line["stage"] == "rl")
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    late = (
        "ray::DashboardA",
        "ray::RuntimeEnv",
    )  # notice after a while that their node is gone; the next run ends them
    while left := [worker for worker in farm.workers() if worker[1] not in late]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_killed_rollout_engine_ends_the_run_with_a_clear_error(farm: Farm) -> None:
    before = farm.rl_steps()
    process = farm.start()
    farm.wait(process, lambda: farm.rl_steps() > before, 600)
    farm.kill("VLLM::EngineCor")
    began = time.monotonic()
    assert process.wait(timeout=60) == 1
    assert time.monotonic() - began < 60
    assert "rollout engine" in farm.said()
    assert "Traceback" not in farm.said()
    assert not list(farm.workers())


def test_the_run_goes_on_to_its_end(farm: Farm) -> None:
    process = farm.start()
    assert process.wait(timeout=900) == 0, farm.said()
    counts = Counter((line["stage"], line["step"]) for line in farm.lines())
    expected = [("sft", step) for step in range(1, SFT_STEPS + 1)] + [("rl", step) for step in range(1, RL_STEPS + 1)]
    assert counts == Counter(expected), "one line a step, in spite of it all"
    assert [line["stage"] for line in farm.lines("evaluation")] == ["base", "sft", "rl"]
    rl = [line for line in farm.lines() if line["stage"] == "rl"]
    for line in rl:
        assert line["logprob_mismatch_mean"] < 1e-3
        assert 0.0 <= line["tool_wait_share"] < 1.0
        assert line["offered"] >= line["groups"]
    for before, after in pairwise(rl):
        assert after["stale_groups"] == min(before["surplus_groups"], GROUPS), "a surplus is trained on next"
    draws = farm.draws()
    assert len(draws) == len(set(draws)) == sum(line["offered"] for line in rl), "none twice"
    assert max(draws) < sum(line["offered"] + line["excluded"] for line in rl), "none left out"
    for state in (farm.out / "state" / "verl-rl").glob("global_step_*"):
        assert (state / "transfer_queue").is_dir()
    names = {folder.name for folder in (farm.out / "checkpoints").iterdir()}
    assert {"sft-40", "rl-4", "rl-5"} <= names
    states = sorted(folder.name for folder in (farm.out / "state" / "verl-rl").glob("global_step_*"))
    assert states == ["global_step_4", "global_step_5"]
    assert (farm.out / "report.html").exists()
    assert {child.name for child in farm.folder.iterdir()} == {"out", "said.txt"}, (
        "nothing is left in the user's folder"
    )


def test_its_checkpoint_is_a_model_for_anyone(farm: Farm) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from astra_trainer.engines.embedded.engine import EmbeddedEngine, Schedule

    folder = farm.out / "checkpoints" / f"rl-{RL_STEPS}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    weights = dict(EmbeddedEngine(folder, Schedule(1e-4, 1)).policy().named_parameters())
    before = dict(AutoModelForCausalLM.from_pretrained(farm.out / "checkpoints" / "sft-40").named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_finished_run_does_nothing_twice(farm: Farm) -> None:
    before = Path(farm.out / "metrics.jsonl").read_bytes()
    began = time.monotonic()
    assert farm.start().wait(timeout=120) == 0
    assert time.monotonic() - began < 60
    assert Path(farm.out / "metrics.jsonl").read_bytes() == before
