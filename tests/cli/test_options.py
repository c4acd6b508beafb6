"""`--set`: a field of a run from the command line, checked as the manifest is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astra_api.errors import BadInput
from astra_api.manifests import load_manifests
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_cli.options import with_settings

RUN = {
    "metadata": {"name": "x", "labels": {"a.b/c": "d"}},
    "spec": {
        "model": {"preset": "tiny"},
        "sft": {"dataset": {"type": "gold"}, "epochs": 2},
        "rl": {"steps": 140},
        "evaluation": {"benchmarks": ["holdout"]},
    },
}


def run() -> TrainingRun:
    return TrainingRun.model_validate(RUN)


def test_fields_are_set_in_order_and_nothing_else_changes() -> None:
    found = with_settings(run(), ["spec.rl.steps=10", "spec.seed=3", "spec.rl.learningRate=5e-6", "spec.rl.steps=12"])
    assert found.spec.rl is not None
    assert (found.spec.rl.steps, found.spec.seed, found.spec.rl.learning_rate) == (12, 3, 5e-6)
    restored = with_settings(found, ["spec.rl.steps=140", "spec.seed=null", "spec.rl.learningRate="])
    assert restored == run()


def test_lists_names_with_dots_objects_and_removal() -> None:
    found = with_settings(
        run(),
        [
            "spec.evaluation.benchmarks[0]=bfcl-multi-turn",
            "spec.evaluation.benchmarks.1=holdout",
            r"metadata.labels.a\.b/c=e",
            "spec.model.preset=null",  # alone it would leave no model
            "spec.model.path=/models/mine",
            "spec.sft=null",
            "spec.sandboxes.replicas=4",
        ],
    )
    assert found.spec.evaluation.benchmarks == ["bfcl-multi-turn", "holdout"]
    assert found.metadata.labels == {"a.b/c": "e"}
    assert (found.spec.model.path, found.spec.model.preset) == ("/models/mine", None)
    assert found.spec.sft is None
    assert found.spec.sandboxes.replicas == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("spec.rl.setps=1", "spec.rl.setps: unknown field: remove it; did you mean steps?"),
        ("sepc.rl.steps=1", "sepc: unknown field: remove it; did you mean spec?"),
        ("spec.rl.steps=many", "spec.rl.steps: input should be a valid integer"),
        ("spec.rl.steps=-1", "spec.rl.steps: "),
        ("spec.rl.steps", "give FIELD=VALUE, as spec.rl.steps=10"),
        ("=3", "give FIELD=VALUE"),
        ("spec..steps=3", "give FIELD=VALUE"),
        ("spec.rl.steps=[1", "the value is not YAML"),
        ("spec.rl.steps=.nan", "is not a JSON number"),
        ("spec.seed.x=3", "spec.seed: 3 is neither an object nor a list; it has no x"),
        ("spec.evaluation.benchmarks[2]=tau2", "spec.evaluation.benchmarks: a list of 1; 2 is no item, nor the next"),
        ("spec.evaluation.benchmarks.first=tau2", "first is no item"),
        ("spec.model.path=/x", "spec.model: give exactly one of"),
        ("spec.rl.algorithm=ppo", "spec.rl.algorithm: "),
        ("kind=SynthesisRun", "kind: "),
        ("metadata.name=null", "metadata.name: required field is missing"),
    ],
)
def test_what_cannot_be_set_is_named(setting: str, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        with_settings(with_settings(run(), ["spec.seed=3"]), [setting])
    assert str(raised.value).startswith(f"--set {setting}: ")
    assert message in str(raised.value)


@given(st.integers(0, 2**31), st.integers(1, 10**6), st.floats(1e-9, 1e-2))
def test_what_was_set_is_what_is_read(seed: int, steps: int, rate: float) -> None:
    found = with_settings(run(), [f"spec.seed={seed}", f"spec.rl.steps={steps}", f"spec.rl.learningRate={rate!r}"])
    assert found.spec.rl is not None
    assert (found.spec.seed, found.spec.rl.steps, found.spec.rl.learning_rate) == (seed, steps, rate)


def test_every_example_stays_as_it_is_when_nothing_new_is_set(examples: Path) -> None:
    """What was read, written and read again is the same run."""
    seen = 0
    for file in sorted(examples.rglob("*.yaml")):
        if "helm" in file.parts:
            continue
        for loaded in load_manifests([file]) if "kind: " in file.read_text() else []:
            if isinstance(loaded.resource, TrainingRun | SynthesisRun):
                seen += 1
                name = loaded.resource.metadata.name
                assert with_settings(loaded.resource, [f"metadata.name={name}"]) == loaded.resource
    assert seen > 5
