"""Whose turn it is among keys that wait for a worker: namespaces share the workers. Pure."""

from collections import Counter, deque
from typing import Generic, Protocol, TypeVar


class Namespaced(Protocol):
    """A key that belongs to a namespace, and can be told from others."""

    @property
    def namespace(self) -> str: ...

    def __hash__(self) -> int: ...


Key = TypeVar("Key", bound=Namespaced)


class Turns(Generic[Key]):
    """Each key waits at most once, and is with one worker at a time.

    The next key is of a namespace that has fewest keys with workers; of several such, of the one that had its turn
    longest ago. So a namespace that waits and has none with a worker gets one before any other gets two, and one whose
    keys take long holds its share of the workers and no more.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Key]] = {}  # by namespace; the first had its turn longest ago
        self._known: set[Key] = set()  # those that wait
        self._busy: set[Key] = set()
        self._again: set[Key] = set()  # added while a worker had them
        self._held: Counter[str] = Counter()  # keys with workers, by namespace

    def __len__(self) -> int:
        """How many keys wait, or are with a worker."""
        return len(self._known) + len(self._busy)

    def add(self, key: Key) -> None:
        """Has a key wait for its turn; one that a worker has is remembered until it is done."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._known:
            self._known.add(key)
            self._waiting.setdefault(key.namespace, deque()).append(key)

    def take(self) -> Key | None:
        """The key whose turn it is, for a worker to have until it is `done`; None if none waits."""
        if not self._waiting:
            return None
        namespace = min(self._waiting, key=self._held.__getitem__)
        waiting = self._waiting.pop(namespace)
        key = waiting.popleft()
        if waiting:
            self._waiting[namespace] = waiting
        self._known.discard(key)
        self._busy.add(key)
        self._held[namespace] += 1
        return key

    def done(self, key: Key) -> bool:
        """Takes a key back from its worker; whether it was added meanwhile (it does not wait again by itself)."""
        self._busy.discard(key)
        self._held[key.namespace] -= 1
        if not self._held[key.namespace]:
            del self._held[key.namespace]
        added = key in self._again
        self._again.discard(key)
        return added
