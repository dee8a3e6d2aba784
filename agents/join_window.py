"""Which ids were seen within the window: by these alone is an event known to be a duplicate."""

from collections.abc import Mapping
from heapq import heappop, heappush


class Seen:
    """Ids and the latest time each was seen at; whoever reads on from a window ago knows them all.

    A duplicate counts as seen, too: else whether an id is known would depend on all of the log.

    >>> seen = Seen()
    >>> seen.first("a", 5), seen.first("a", 9), len(seen)
    (True, False, 1)
    >>> seen.forget(9); seen.first("a", 9)
    False
    >>> seen.forget(10); seen.first("a", 10)
    True
    """

    def __init__(self, at: Mapping[str, int] | None = None) -> None:
        self._at = dict(at or {})
        # A heap; an id has one entry, that may be too old.
        self._ages = sorted((at, id) for id, at in self._at.items())

    def state(self) -> dict[str, int]:
        """All ids, and when each was seen last."""
        return dict(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def first(self, id: str, at: int) -> bool:
        """Note an id; False if it was known."""
        before = self._at.get(id)
        if before is None:
            heappush(self._ages, (at, id))
        if before is None or before < at:
            self._at[id] = at
        return before is None

    def forget(self, before: int) -> None:
        """Let go of the ids that were last seen earlier than this."""
        while self._ages and self._ages[0][0] < before:
            _, id = heappop(self._ages)
            if self._at[id] < before:
                del self._at[id]
            else:
                heappush(self._ages, (self._at[id], id))
