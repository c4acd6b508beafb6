"""A model of a few thousand parameters, and trajectories over its vocabulary."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from astra_api.records import Reward, Trajectory
from astra_trainer.tiny import TinyModel

SHAPE = TinyModel(
    vocabulary=320,
    hidden=32,
    intermediate=64,
    layers=2,
    heads=4,
    key_value_heads=2,
    context=256,
    practice=(),
)
MakeTrajectory = Callable[..., Trajectory]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, make_environment: Callable[..., object]) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    SHAPE.build([make_environment()], seed=1, folder=folder)  # type: ignore[list-item]
    return folder


@pytest.fixture(scope="session")
def make_trajectory() -> MakeTrajectory:
    """A trajectory of random tokens: a prompt, a generated turn, a tool response, a generated turn."""

    def make(seed: int, reward: float = 0.0, lengths: tuple[int, int, int, int] = (12, 6, 5, 4)) -> Trajectory:
        rng = random.Random(seed)
        tokens = [rng.randrange(8, 260) for _ in range(sum(lengths))]
        mask = [flag for flag, length in zip((0, 1, 0, 1), lengths, strict=True) for _ in range(length)]
        return Trajectory(
            environment=f"e{seed}",
            digest="sha256:0",
            domain="test",
            split="train",
            stage="rl",
            step=1,
            group=0,
            index=0,
            messages=(),
            tools=(),
            tokens=tuple(tokens),
            mask=tuple(mask),
            logprobs=(0.0,) * len(tokens),
            turns=2,
            calls=(),
            ended="answered",
            reward=Reward(value=reward, recall=0.0, precision=0.0, f1=reward, solved=(), needed=1, calls=1),
        )

    return make
