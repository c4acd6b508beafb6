"""Held-out evaluation on rollout servers alone: `evaluate STAGE STEP RESULT OVERRIDE...`, in a process of its own."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from astra_api.files import replace
from astra_trainer.engines.verl.generation import ServerGenerator
from astra_trainer.engines.verl.job import Floor, floor
from astra_trainer.evaluation import evaluate
from astra_trainer.generation import Generation
from astra_trainer.workplace import rollout_settings


class _Servers:
    """A Generator for many rollouts at once: each context is served by whichever server is free."""

    def __init__(self, client: Any, here: Floor) -> None:
        self._client, self._stop_ids, self._room = client, here.chat.stop_ids, here.job.room

    async def generate(self, context: Any, *, max_tokens: int, temperature: float, seed: int) -> Generation:
        one = ServerGenerator(self._client, self._stop_ids, self._room)
        return await one.generate(context, max_tokens=max_tokens, temperature=temperature, seed=seed)


async def _evaluate(here: Floor, overrides: list[str], stage: Any, step: int) -> dict[str, Any]:
    spec = here.run.spec
    async with _serving(overrides) as client:
        found = await evaluate(
            here.split.holdout,
            stage=stage,
            step=step,
            samples=spec.evaluation.samples,
            seed=spec.seed,
            mixer=here.mixer,
            sandbox=here.sandbox,
            generator=_Servers(client, here),
            chat=here.chat,
            settings=rollout_settings(here.run, spec.evaluation.temperature),
            concurrency=max(1, here.job.capacity // (2 * spec.evaluation.samples)),
        )
    await here.sandbox.close()
    return {
        "trajectories": [json.loads(trajectory.model_dump_json()) for trajectory in found.trajectories],
        "excluded": [json.loads(reject.model_dump_json()) for reject in found.excluded],
    }


@asynccontextmanager
async def _serving(overrides: list[str]) -> AsyncIterator[Any]:
    """verl's rollout servers, over the model that `overrides` name, and nothing that trains."""
    import ray
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
    from verl.workers.rollout.llm_server import LLMServerManager

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides)
    settings: Any = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    given = settings.pop("runtime_env", None) or {}
    environment = get_ppo_ray_runtime_env(config)["env_vars"] | (given.get("env_vars") or {})
    ray.init(**settings, runtime_env={"env_vars": environment})
    OmegaConf.resolve(config)
    try:
        manager = await asyncio.to_thread(LLMServerManager.create, config=config)
        yield manager.get_client()
    finally:
        ray.shutdown()


def main() -> None:
    stage, step, result, *overrides = sys.argv[1:]
    found = asyncio.run(_evaluate(floor(), overrides, stage, int(step)))
    replace(Path(result), json.dumps(found, ensure_ascii=False).encode())


if __name__ == "__main__":
    main()
