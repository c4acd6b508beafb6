"""A run's ConfigMap keeps what the run began with: its spec, the farm's settings and the objects of its pool. Pure.

A run goes on with that, whatever an upgrade of the chart brings: other images, other defaults, or an operator that
renders pods in another way. The digest of what was written stands in the run's status, which only the operator writes:
a ConfigMap that somebody else made or changed counts for nothing, and the run begins anew, as its spec says.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from astra_api.canonical import digest
from astra_api.synthesis_run import SynthesisRun
from astra_api.training_run import TrainingRun
from astra_operator.actions import Apply
from astra_operator.manifests.job import RUN_FILE
from astra_operator.manifests.pool import STATEFUL_SET, Pool, pool_objects
from astra_operator.settings import OWN_SETTINGS, OperatorSettings

Run = TypeVar("Run", SynthesisRun, TrainingRun)
Object = dict[str, Any]
_FARM_FILE, _POOL_FILE = "farm.json", "pool.json"
_SETTINGS = TypeAdapter(OperatorSettings)


@dataclass(frozen=True)
class Begun(Generic[Run]):
    """The beginning of one run: its spec, the farm's settings and its pool, as its ConfigMap holds them."""

    run: Run
    data: Mapping[str, str]  # of the ConfigMap
    settings: Mapping[str, Any]
    pool: Mapping[str, Object]  # manifests by the plural of their kind
    wish: str  # digest of what the pool was made from

    def settings_over(self, current: OperatorSettings) -> OperatorSettings:
        """The operator's settings, with those that the run began with in place of the current ones."""
        now = _SETTINGS.dump_python(current, mode="json")
        known = {key: value for key, value in self.settings.items() if key in now}  # another version may have had more
        return _SETTINGS.validate_python({**now, **known})


def read_begun(model: type[Run], config_map: Object | None, status: Mapping[str, Any]) -> Begun[Run] | None:
    """The beginning that a ConfigMap holds; None unless it is just what the operator wrote last."""
    data: dict[str, str] = (config_map or {}).get("data") or {}
    if not data or status.get("begun") != digest(data):
        return None
    pool = json.loads(data[_POOL_FILE])
    run = model.model_validate_json(data[RUN_FILE])
    return Begun(run, data, json.loads(data[_FARM_FILE]), pool["manifests"], pool["wish"])


def begin(
    manifest: str, settings: OperatorSettings, pool: Pool, wish: str, before: Begun[Any] | None
) -> dict[str, str]:
    """The ConfigMap's data of a run whose Job is made. `manifest`: the run as its Job reads it; `before`: what it began
    with, if this is not its first Job."""
    if before is not None:
        return {**with_pool(before, pool, wish), RUN_FILE: manifest}
    kept = _SETTINGS.dump_python(settings, mode="json", exclude=OWN_SETTINGS)
    return {RUN_FILE: manifest, _FARM_FILE: _json(kept), _POOL_FILE: _rendered(pool, wish)}


def with_pool(before: Begun[Any], pool: Pool, wish: str) -> dict[str, str]:
    """The data of a run that has begun, with its pool as it is wished for now."""
    data = dict(before.data)
    return data if before.wish == wish else {**data, _POOL_FILE: _rendered(pool, wish)}


def objects_of_pool(pool: Pool, begun: Begun[Any] | None, wish: str) -> list[Apply]:
    """The pool's objects, as they were rendered when the run began, if nobody wished for others since."""
    objects = pool_objects(pool)
    if begun is None or begun.wish != wish:
        return objects
    kept = [replace(one, manifest=begun.pool.get(one.kind.plural, one.manifest)) for one in objects]
    return [_sized(one, pool.replicas) if one.kind == STATEFUL_SET else one for one in kept]


def _sized(stateful_set: Apply, replicas: int) -> Apply:
    spec = {**stateful_set.manifest["spec"], "replicas": replicas}
    return replace(stateful_set, manifest={**stateful_set.manifest, "spec": spec})


def _rendered(pool: Pool, wish: str) -> str:
    return _json({"wish": wish, "manifests": {one.kind.plural: one.manifest for one in pool_objects(pool)}})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
