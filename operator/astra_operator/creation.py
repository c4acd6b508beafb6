"""Why controllers could not create pods: a quota, a webhook or a LimitRange refuses those to them, not to us."""

from collections.abc import Iterable

from astra_api.kube import EVENT, Kube, Object
from astra_operator.ownership import lacking_pods


def not_created(kube: Kube, namespace: str, objects: Iterable[Object], pods: Iterable[Object]) -> tuple[str, ...]:
    """The newest event of each StatefulSet and Job that lacks pods, in words. Blocking; raises KubeError."""
    words = []
    for one in lacking_pods(objects, pods):
        uid, name = one["metadata"]["uid"], f"{one['kind']} {one['metadata']['name']}"
        told = kube.list(EVENT, namespace, fields=f"involvedObject.uid={uid},reason=FailedCreate")
        newest = max(told, key=lambda event: str(event.get("lastTimestamp") or ""), default=None)
        if newest is not None:
            words.append(f"{name}: {newest.get('message')}")
    return tuple(words)
