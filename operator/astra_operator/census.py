"""Which Environments there are, as far as runs need to know. Kept in memory, a few words an Environment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from astra_api.environment import settled_phase
from astra_api.resource import Selector


class Entry(NamedTuple):
    """One Environment."""

    labels: Mapping[str, str]
    phase: str  # Verified | Rejected | Pending
    source: str | None  # the ConfigMap of its sourceRef


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
        entry = Entry(metadata.get("labels") or {}, settled_phase(body), reference.get("configMap"))
        there = self._entries.setdefault(metadata["namespace"], {})
        changed = there.get(metadata["name"]) != entry
        there[metadata["name"]] = entry
        return changed

    def forget(self, namespace: str, name: str) -> None:
        self._entries.get(namespace, {}).pop(name, None)

    def count(self, namespace: str, selectors: Sequence[Selector]) -> Counts:
        """How many of a namespace any of the selectors selects."""
        phases = [entry.phase for entry in self._selected(namespace, selectors)]
        verified, rejected = phases.count("Verified"), phases.count("Rejected")
        return Counts(verified, rejected, len(phases) - verified - rejected)

    def sources(self, namespace: str, selectors: Sequence[Selector]) -> list[str]:
        """The ConfigMaps with the sources of those selected."""
        return sorted({entry.source for entry in self._selected(namespace, selectors) if entry.source})

    def phases(self) -> dict[str, int]:
        """How many there are of each phase."""
        phases = {"Verified": 0, "Rejected": 0, "Pending": 0}
        for entries in self._entries.values():
            for entry in entries.values():
                phases[entry.phase] += 1
        return phases

    def _selected(self, namespace: str, selectors: Sequence[Selector]) -> Iterator[Entry]:
        for entry in self._entries.get(namespace, {}).values():
            if any(selector.matches(dict(entry.labels)) for selector in selectors):
                yield entry
