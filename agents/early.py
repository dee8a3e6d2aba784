"""Events that came before their request: they wait for it, for a while."""

from heapq import heappop, heappush

from agents.pending import Joined, Pending


class Early:
    """One event that waits, or is part of the decision it waited for."""

    def __init__(self, event: Joined, source: int) -> None:
        self.event = event
        self.source = source
        self.waiting = True
        self.joined: Pending | None = None

    @property
    def live(self) -> bool:
        """True while it may be joined, or its decision may close or be corrected."""
        return self.waiting or (self.joined is not None and self.joined.live)

    def join(self, pending: Pending) -> bool:
        """Its request has come; False if that is another user's."""
        self.waiting = False
        if not pending.add(self.event):
            return False
        self.joined = pending
        return True


class Waiting:
    """Who waits for which request, and until when.

    >>> from models.events import Click
    >>> waiting = Waiting()
    >>> early = waiting.add("r", Click(id="c", user="u", item="i", at=1, request="r"), 7, until=5)
    >>> waiting.expire(5), waiting.expire(6), early.live
    (0, 1, False)
    """

    def __init__(self) -> None:
        self._early: dict[str, dict[int, Early]] = {}  # request -> offset -> event
        self._until: list[tuple[int, int, str]] = []  # heap: until when, offset, request

    def __len__(self) -> int:
        return sum(map(len, self._early.values()))

    def add(self, request: str, event: Joined, source: int, until: int) -> Early:
        """Let the event from that offset wait."""
        early = self._early.setdefault(request, {})[source] = Early(event, source)
        heappush(self._until, (until, source, request))
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
                early.waiting = False
                gone += 1
            if not held:
                self._early.pop(request, None)
        return gone
