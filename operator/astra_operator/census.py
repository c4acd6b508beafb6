"""Which Environments there are, as far as runs need to know. Kept in memory, a few words an Environment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from astra_api.environment import settled_phase
from astra_api.resource import Selector
from astra_operator.conditions import holds


class Entry(NamedTuple):
    """One Environment."""

    labels: Mapping[str, str]
    phase: str  # Verified | Rejected | Pending
    source: str | None  # the ConfigMap of its sourceRef
    own_pods: bool = False  # rollouts go to pods of its own
    ready: bool = True  # those that it needs are there


class Counts(NamedTuple):
    verified: int
    rejected: int
    unfinished: int


@dataclass
class Census:
    """All Environments of the watched namespaces."""

    _entries: dict[str, dict[str, Entry]] = field(default_factory=dict)  # namespace -> name -> entry

    def note(self, body: Mapping[str, Any]) -> bool:
        """Takes in an Environment as it is now; whether it is new, or another phase than before."""
        metadata = body["metadata"]
        reference = (body.get("spec") or {}).get("sourceRef") or {}
        own_pods = ((body.get("spec") or {}).get("sandbox") or {}).get("isolation") == "pod"
        ready = not own_pods or holds((body.get("status") or {}).get("conditions") or [], "Ready")
        labels = metadata.get("labels") or {}
        entry = Entry(labels, settled_phase(body), reference.get("configMap"), own_pods, ready)
        there = self._entries.setdefault(metadata["namespace"], {})
        changed = there.get(metadata["name"]) != entry
        there[metadata["name"]] = entry
        return changed

    def forget(self, namespace: str, name: str) -> None:
        self._entries.get(namespace, {}).pop(name, None)

    def count(self, namespace: str, selectors: Sequence[Selector]) -> Counts:
        """How many of a namespace any of the selectors selects."""
        entries = [entry for _, entry in self._selected(namespace, selectors)]
        verified = sum(entry.phase == "Verified" and entry.ready for entry in entries)
        rejected = sum(entry.phase == "Rejected" for entry in entries)
        return Counts(verified, rejected, len(entries) - verified - rejected)

    def sources(self, namespace: str, selectors: Sequence[Selector]) -> list[str]:
        """The ConfigMaps with the sources of those selected."""
        return sorted({entry.source for _, entry in self._selected(namespace, selectors) if entry.source})

    def with_own_pods(self, namespace: str, selectors: Sequence[Selector]) -> list[str]:
        """The verified ones of those selected whose rollouts go to pods of their own."""
        selected = self._selected(namespace, selectors)
        return sorted(name for name, entry in selected if entry.own_pods and entry.phase == "Verified")

    def phases(self) -> dict[str, int]:
        """How many there are of each phase."""
        phases = {"Verified": 0, "Rejected": 0, "Pending": 0}
        for entries in self._entries.values():
            for entry in entries.values():
                phases[entry.phase] += 1
        return phases

    def _selected(self, namespace: str, selectors: Sequence[Selector]) -> Iterator[tuple[str, Entry]]:
        for name, entry in self._entries.get(namespace, {}).items():
            if any(selector.matches(dict(entry.labels)) for selector in selectors):
                yield name, entry
