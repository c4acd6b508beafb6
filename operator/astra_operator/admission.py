"""Which spec counts: the one that is there, or the one that a run began with. Pure."""

from typing import Any, NamedTuple

from astra_api import synthesis_run, training_run
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator import synthesis, training
from astra_operator.accepting import Problem, changed_fields, read
from astra_operator.farm import Farm


class Admission(NamedTuple):
    """What becomes of a run's spec."""

    run: SynthesisRun | TrainingRun | None  # as it counts; None: nothing was ever accepted
    problems: list[Problem]  # of the spec as it is now
    begun: bool


def admit(
    model: type[SynthesisRun] | type[TrainingRun],
    body: dict[str, Any],
    begun: SynthesisRun | TrainingRun | None,
    farm: Farm,
) -> Admission:
    """`begun`: the run as it was accepted when it began, if it has. Such a run goes on so, but for the fields that may
    change; where they are changed to what cannot run here, only those of them do that say nothing of pods, as
    `suspend`."""
    current = read(model, body)
    if isinstance(current, list):
        return Admission(begun, current, begun is not None)
    if isinstance(current, TrainingRun):
        here = training.unrunnable(current, farm)
    else:
        here = synthesis.unrunnable(current, farm)
    if begun is None:
        return Admission(None if here else current, here, False)
    free = training_run.FREE if model is TrainingRun else synthesis_run.FREE
    before, after = (run.spec.model_dump(mode="json", by_alias=True) for run in (begun, current))
    taken = [field for field in free if not here or field not in training.PLACE]
    accepted = model.model_validate(
        {
            "apiVersion": begun.api_version,
            "kind": begun.kind,
            "metadata": current.metadata.model_dump(mode="json", by_alias=True, exclude_none=True),
            "spec": {**before, **{key: after[key] for key in taken}},
        }
    )
    return Admission(accepted, [*here, *changed_fields(before, after, free)], True)
