"""Reads an object of the API as a resource, and repeats every check that an old API server does not make. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from astra_api.differences import differences
from astra_api.environment import Environment
from astra_api.manifests import check
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun

Run = TypeVar("Run", bound=Environment | SynthesisRun | TrainingRun)
_KEPT = ("name", "namespace", "labels", "annotations")


class Problem(NamedTuple):
    """What is wrong with one field; the message says how to mend it."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def read(model: type[Run], body: Mapping[str, Any]) -> Run | list[Problem]:
    """The resource in `body` without its status, or what is wrong with it."""
    metadata = {key: body["metadata"][key] for key in _KEPT if body["metadata"].get(key)}
    value = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": body.get("spec")}
    found = check(model, value)
    return [Problem(*problem) for problem in found] if isinstance(found, list) else found


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any], free: tuple[str, ...]) -> list[Problem]:
    """The fields of a spec that differ, `free` ones aside: those of a run that has begun may not."""
    bound = sorted((before.keys() | after.keys()) - set(free))
    return [
        Problem(field, "cannot change once the run has begun; restore it, or make another run")
        for key in bound
        for field, _, _ in differences(before.get(key), after.get(key), f"spec.{key}")
    ]


def summary(problems: list[Problem]) -> str:
    """The first few, for a condition and an event."""
    shown = "; ".join(map(str, problems[:3]))
    return shown + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
