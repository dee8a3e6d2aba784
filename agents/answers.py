"""Which requests wait for their decision, and which decisions came before their request."""

from collections.abc import Iterable
from heapq import heappop, heappush

from msgspec import Struct

from agents.pending import Pending
from models.events import Decision


class Sizes(Struct, frozen=True):
    """How much an attribution remembers."""

    pending: int  # decisions that take events: `open` ones, and those that may be corrected
    open: int
    seen: int  # ids
    waiting: int  # events that came before their request
    ahead: int  # decisions that came before their request


class Answers:
    """Brings each request together with its first decision by rankings offset (rule L2).

    >>> from models.events import Request
    >>> answers = Answers()
    >>> answers.ask(Pending(Request(id="r", user="u", at=0), 7, deadline=10, explicit=False))
    >>> answers.blocks(10), answers.blocks(11), 7 in answers
    (False, True, True)
    """

    def __init__(
        self, undecided: Iterable[Pending] = (), ahead: Iterable[tuple[int, Decision]] = ()
    ) -> None:
        self._undecided: dict[int, Pending] = {}  # by the offset that asked
        self._due: list[tuple[int, int]] = []  # heap of deadlines, its first one not decided
        self._ahead: dict[int, dict[str, tuple[Decision, int]]] = {}  # by the offset to come
        for offset, decision in ahead:
            self.ahead(decision, offset)
        for pending in undecided:
            self.ask(pending)

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

    def ask(self, pending: Pending) -> tuple[Decision, int] | None:
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

    def take(self, decision: Decision) -> Pending | None:
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
