"""Events that came before their request: they wait for it, for a while."""

from collections.abc import Iterable
from heapq import heappop, heappush

from agents.attribution_state import Awaiting, Remembered
from agents.pending import Joined, Pending


class Early:
    """One event that waits, or is part of the decision it waited for."""

    def __init__(self, event: Joined | None, source: int, until: int) -> None:
        self.event = event  # while it waits
        self.source = source
        self.until = until
        self.joined: Pending | None = None

    @property
    def waiting(self) -> bool:
        return self.event is not None

    def live(self, now: int) -> bool:
        """True while it waits, or its decision is needed."""
        return self.waiting or (self.joined is not None and self.joined.live(now))

    def join(self, pending: Pending) -> bool:
        """Its request has come; False if that is another user's."""
        event, self.event = self.event, None
        if event is None or not pending.add(event):
            return False
        self.joined = pending
        return True

    def state(self) -> Awaiting:
        """The event while it waits, then whose part it is."""
        joined = None if self.joined is None else self.joined.source
        return Awaiting(self.source, self.until, self.event, joined)


def revived(state: Remembered) -> tuple[list[Pending], list[Early]]:
    """The decisions and the early events of a state; ValueError where they do not fit together."""
    held = {one.source: Pending.of(one) for one in state.held}
    early: list[Early] = []
    for one in state.early:
        early.append(Early(one.event, one.source, one.until))
        if one.event is None:
            if one.joined not in held:
                raise ValueError(f"the event at {one.source} is part of nothing")
            early[-1].joined = held[one.joined]
    return list(held.values()), early


class Waiting:
    """Who waits for which request, and until when.

    >>> from models.events import Click
    >>> early = Early(Click(id="c", user="u", item="i", at=1, request="r"), 7, until=5)
    >>> waiting = Waiting([early])
    >>> waiting.expire(5), waiting.expire(6), early.live(6)
    (0, 1, False)
    """

    def __init__(self, waiting: Iterable[Early] = ()) -> None:
        self._early: dict[str, dict[int, Early]] = {}  # request -> offset -> event
        self._until: list[tuple[int, int, str]] = []  # heap: until when, offset, request
        for early in waiting:
            self.add(early)

    def __len__(self) -> int:
        return sum(map(len, self._early.values()))

    def add(self, early: Early) -> Early:
        """Let an event wait, in the order of their offsets."""
        request = (early.event and early.event.request) or ""
        self._early.setdefault(request, {})[early.source] = early
        heappush(self._until, (early.until, early.source, request))
        return early

    def take(self, request: str) -> list[Early]:
        """Those that waited for a request, which has come."""
        return list(self._early.pop(request, {}).values())

    def expire(self, now: int) -> int:
        """How many have waited too long, and wait no more."""
        gone = 0
        while self._until and self._until[0][0] < now:
            _, source, request = heappop(self._until)
            held = self._early.get(request, {})
            early = held.pop(source, None)
            if early is not None:
                early.event = None
                gone += 1
            if not held:
                self._early.pop(request, None)
        return gone
