"""What a window of a log holds: ids seen, events before their request, decisions before theirs."""

from collections.abc import Iterable, Mapping
from heapq import heappop, heappush

from msgspec import Struct

from agents.attribution_state import AttributionState, EarlyEventState
from agents.pending import Joined, PendingDecision
from models.events import Decision


class SeenIds:
    """Ids and the latest time each was seen at; whoever reads on from a window ago knows them all.

    A duplicate counts as seen, too: else whether an id is known would depend on all of the log.

    >>> seen = SeenIds()
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


class EarlyEvent:
    """One event that waits, or is part of the decision it waited for."""

    def __init__(self, event: Joined | None, source: int, until: int) -> None:
        self.event = event  # while it waits
        self.source = source
        self.until = until
        self.joined: PendingDecision | None = None

    @property
    def waiting(self) -> bool:
        return self.event is not None

    def live(self, now: int) -> bool:
        """True while it waits, or its decision is needed."""
        return self.waiting or (self.joined is not None and self.joined.live(now))

    def join(self, pending: PendingDecision) -> None:
        """Its request has come."""
        event, self.event = self.event, None
        if event is not None:
            pending.add(event)
            self.joined = pending

    def state(self) -> EarlyEventState:
        """The event while it waits, then whose part it is."""
        joined = None if self.joined is None else self.joined.source
        return EarlyEventState(self.source, self.until, self.event, joined)


class EarlyEventBuffer:
    """Who waits for which request, and until when.

    >>> from models.events import Click
    >>> early = EarlyEvent(Click(id="c", user="u", item="i", at=1, request="r"), 7, until=5)
    >>> waiting = EarlyEventBuffer([early])
    >>> waiting.expire(5), waiting.expire(6), early.live(6)
    (0, 1, False)
    """

    def __init__(self, waiting: Iterable[EarlyEvent] = ()) -> None:
        # (user, request) -> offset -> event
        self._early: dict[tuple[str, str], dict[int, EarlyEvent]] = {}
        # A heap: until when, offset, (user, request).
        self._until: list[tuple[int, int, tuple[str, str]]] = []
        for early in waiting:
            self.add(early)

    def __len__(self) -> int:
        return sum(map(len, self._early.values()))

    def add(self, early: EarlyEvent) -> EarlyEvent:
        """Let an event wait, in the order of their offsets."""
        assert early.event is not None and early.event.request is not None
        key = early.event.user, early.event.request
        self._early.setdefault(key, {})[early.source] = early
        heappush(self._until, (early.until, early.source, key))
        return early

    def take(self, user: str, request: str) -> list[EarlyEvent]:
        """Those that waited for a request of their user, which has come."""
        return list(self._early.pop((user, request), {}).values())

    def expire(self, now: int) -> int:
        """How many have waited too long, and wait no more."""
        gone = 0
        while self._until and self._until[0][0] < now:
            _, source, key = heappop(self._until)
            held = self._early.get(key, {})
            early = held.pop(source, None)
            if early is not None:
                early.event = None
                gone += 1
            if not held:
                self._early.pop(key, None)
        return gone


class DecisionJoin:
    """Brings each request together with its first decision by rankings offset (rule L2).

    >>> from models.events import Request
    >>> answers = DecisionJoin()
    >>> request = Request(id="r", user="u", at=0)
    >>> answers.add_request(PendingDecision(request, 7, deadline=10, explicit=False))
    >>> answers.blocks(10), answers.blocks(11), 7 in answers
    (False, True, True)
    """

    def __init__(
        self, undecided: Iterable[PendingDecision] = (), ahead: Iterable[tuple[int, Decision]] = ()
    ) -> None:
        self._undecided: dict[int, PendingDecision] = {}  # by the offset that asked
        self._due: list[tuple[int, int]] = []  # heap of deadlines, its first one not decided
        self._ahead: dict[int, dict[str, tuple[Decision, int]]] = {}  # by the offset to come
        for offset, decision in ahead:
            self.ahead(decision, offset)
        for pending in undecided:
            self.add_request(pending)

    def state(self) -> tuple[tuple[int, Decision], ...]:
        """The decisions that came before their request, by rankings offset."""
        ahead = [(at, one) for soon in self._ahead.values() for one, at in soon.values()]
        return tuple(sorted(ahead, key=lambda each: (each[0], each[1].source, each[1].id)))

    def __len__(self) -> int:
        """How many decisions came before their request."""
        return sum(map(len, self._ahead.values()))

    def __contains__(self, source: int) -> bool:
        return source in self._undecided

    @property
    def undecided(self) -> list[int]:
        """The offsets of the requests that wait."""
        return list(self._undecided)

    @property
    def ahead_from(self) -> int | None:
        """The lowest rankings offset of a decision that came before its request."""
        ahead = (one for soon in self._ahead.values() for one in soon.values())
        return min((offset for _, offset in ahead), default=None)

    def blocks(self, watermark: int) -> bool:
        """True if a request that is not decided yet would close by then."""
        return bool(self._due) and self._due[0][0] < watermark

    def add_request(self, pending: PendingDecision) -> tuple[Decision, int] | None:
        """The decision and its rankings offset, if it came before; else the request waits."""
        source = pending.source
        ahead = self._ahead.pop(source, {}).get(pending.request.id)
        if ahead is None:
            self._undecided[source] = pending
            heappush(self._due, (pending.deadline, source))
        return ahead

    def ahead(self, decision: Decision, offset: int) -> bool:
        """Keep a decision until its request comes; False if another was first."""
        soon = self._ahead.setdefault(decision.source, {})
        return soon.setdefault(decision.id, (decision, offset))[0] is decision

    def skip(self, source: int) -> None:
        """The event at that offset asked for nothing: whoever decided for it is not heard."""
        self._ahead.pop(source, None)

    def take(self, decision: Decision) -> PendingDecision | None:
        """The request that waited for this decision."""
        pending = self._undecided.get(decision.source)
        if pending is None or pending.request.id != decision.id:
            return None
        del self._undecided[decision.source]
        while self._due and self._due[0][1] not in self._undecided:
            heappop(self._due)
        return pending

    def drop_dead(self) -> None:
        """Wait no more for the decisions of requests that have closed and are forgotten."""
        self._undecided = {source: one for source, one in self._undecided.items() if not one.done}
        self._due = sorted((one.deadline, source) for source, one in self._undecided.items())


class WindowSizes(Struct, frozen=True):
    """How much an attribution remembers."""

    pending: int  # decisions that take events: `open` ones, and those that may be corrected
    open: int
    seen: int  # ids
    waiting: int  # events that came before their request
    ahead: int  # decisions that came before their request


def revived(state: AttributionState) -> tuple[list[PendingDecision], list[EarlyEvent]]:
    """The decisions and the early events of a state; ValueError where they do not fit together."""
    held = {one.source: PendingDecision.of(one) for one in state.held}
    early: list[EarlyEvent] = []
    for one in state.early:
        early.append(EarlyEvent(one.event, one.source, one.until))
        if one.event is None:
            if one.joined not in held:
                raise ValueError(f"the event at {one.source} is part of nothing")
            early[-1].joined = held[one.joined]
    return list(held.values()), early
