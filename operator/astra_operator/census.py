"""Which Environments there are, as far as runs need to know. Kept in memory, a few words an Environment.

`environment_watch` fills it. Not kopf's index: that holds every body until the first list is through, and keeps what
was deleted while a watch was broken.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from astra_api.environment import settled_phase
from astra_api.resource import Selector
from astra_operator.conditions import holds


class Entry(NamedTuple):
    """One Environment."""

    labels: Mapping[str, str]
    generation: int
    phase: str  # Verified | Rejected | Pending
    source: str | None  # the ConfigMap of its sourceRef
    own_pods: bool = False  # rollouts go to pods of its own
    ready: bool = True  # those that it needs are there

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Entry":
        """An Environment as an API server gives it."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        own_pods = (spec.get("sandbox") or {}).get("isolation") == "pod"
        return cls(
            labels=metadata.get("labels") or {},
            generation=metadata["generation"],
            phase=settled_phase(body),
            source=(spec.get("sourceRef") or {}).get("configMap"),
            own_pods=own_pods,
            ready=not own_pods or holds(status.get("conditions") or [], "Ready"),
        )


class Counts(NamedTuple):
    verified: int
    rejected: int
    unfinished: int


@dataclass
class Census:
    """All Environments of the watched namespaces. May be used from several threads."""

    _entries: dict[str, dict[str, Entry]] = field(default_factory=dict)  # namespace -> name -> entry
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, body: Mapping[str, Any]) -> bool:
        """Takes in an Environment as it is now; whether anything that counts is new."""
        namespace, name, entry = body["metadata"]["namespace"], body["metadata"]["name"], Entry.of(body)
        with self._lock:
            there = self._entries.setdefault(namespace, {})
            changed = there.get(name) != entry
            there[name] = entry
        return changed

    def forget(self, namespace: str, name: str) -> None:
        with self._lock:
            self._entries.get(namespace, {}).pop(name, None)

    def names(self, namespace: str | None) -> set[tuple[str, str]]:
        """(namespace, name) of all in a namespace, or of all there are."""
        with self._lock:
            within = self._entries if namespace is None else {namespace: self._entries.get(namespace, {})}
            return {(space, name) for space, entries in within.items() for name in entries}

    def agrees(self, namespace: str, selectors: Sequence[Selector], listed: Iterable[Mapping[str, Any]]) -> bool:
        """Whether it knows just those selected that a list of metadata holds, and each as of the same spec."""
        there = {
            metadata["name"]: (metadata["generation"], labels)
            for metadata in listed
            if _selected(labels := metadata.get("labels") or {}, selectors)
        }
        known = {name: (entry.generation, entry.labels) for name, entry in self._those(namespace, selectors)}
        return there == known

    def count(self, namespace: str, selectors: Sequence[Selector]) -> Counts:
        """How many of a namespace any of the selectors selects."""
        entries = [entry for _, entry in self._those(namespace, selectors)]
        verified = sum(entry.phase == "Verified" and entry.ready for entry in entries)
        rejected = sum(entry.phase == "Rejected" for entry in entries)
        return Counts(verified, rejected, len(entries) - verified - rejected)

    def sources(self, namespace: str, selectors: Sequence[Selector]) -> list[str]:
        """The ConfigMaps with the sources of those selected."""
        return sorted({entry.source for _, entry in self._those(namespace, selectors) if entry.source})

    def with_own_pods(self, namespace: str, selectors: Sequence[Selector]) -> list[str]:
        """The verified ones of those selected whose rollouts go to pods of their own."""
        selected = self._those(namespace, selectors)
        return sorted(name for name, entry in selected if entry.own_pods and entry.phase == "Verified")

    def phases(self) -> dict[str, int]:
        """How many there are of each phase."""
        phases = {"Verified": 0, "Rejected": 0, "Pending": 0}
        with self._lock:
            for entries in self._entries.values():
                for entry in entries.values():
                    phases[entry.phase] += 1
        return phases

    def _those(self, namespace: str, selectors: Sequence[Selector]) -> list[tuple[str, Entry]]:
        with self._lock:
            entries = list(self._entries.get(namespace, {}).items())
        return [(name, entry) for name, entry in entries if _selected(entry.labels, selectors)]


def _selected(labels: Mapping[str, str], selectors: Sequence[Selector]) -> bool:
    return any(selector.matches(dict(labels)) for selector in selectors)
