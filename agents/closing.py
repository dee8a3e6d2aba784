"""When decisions close, and when they are forgotten."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from agents.pending import Pending


class Closing:
    """Decisions in the order of their closing: first by deadline, then by the offset that asked.

    `last` is the highest (deadline, offset) that was closed. An event opens one decision at most
    and closes one at least while any is due, so of those that were open before an event, exactly
    the ones up to `last` are closed after it: this pair tells a bookmark all (L3, L8).

    >>> from models.events import Request
    >>> closing = Closing(lateness=10)
    >>> closing.add(Pending(Request(id="r", user="u", at=0), 7, deadline=10, explicit=False))
    >>> [pending.request.id for pending in closing.due(11, most=100)], closing.last
    (['r'], (10, 7))
    """

    def __init__(
        self, lateness: int, last: tuple[int, int] = (-1, -1), held: Iterable[Pending] = ()
    ) -> None:
        self.lateness = lateness
        self.last = last
        self._open: list[tuple[int, int, Pending]] = []  # heap
        self._until: list[tuple[int, int, Pending]] = []  # heap of those that take events
        for pending in held:
            self.add(pending)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, pending: Pending) -> None:
        """A decision that closes after its deadline, and takes events for its lateness then."""
        until = pending.deadline + self.lateness
        if not pending.closed:
            heappush(self._open, (pending.deadline, pending.source, pending))
        if not pending.forgotten:
            heappush(self._until, (until, pending.source, pending))

    def due(self, now: int, most: int) -> Iterator[Pending]:
        """Those that close now, at most so many; the rest follow at the next event."""
        for _ in range(most):
            if not self._open or self._open[0][0] >= now:
                return
            deadline, source, pending = heappop(self._open)
            self.last = max(self.last, (deadline, source))
            yield pending

    def again(self) -> None:
        """Close those that had been closed by the time of the bookmark that `last` is from."""
        while self._open and self._open[0][:2] <= self.last:
            heappop(self._open)[2].closed = True

    def forget(self, now: int) -> Iterator[Pending]:
        """Those that take no events any more."""
        while self._until and self._until[0][0] < now:
            pending = heappop(self._until)[2]
            pending.forgotten = True
            yield pending
