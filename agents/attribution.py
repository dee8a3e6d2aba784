"""The first fold: events -> what to learn, what to answer. Here a click becomes a reward.

Rules of the logs kept here (DESIGN section 8): records are a function of the log (L1), a decision
is used only as read back, lowest offset first (L2), an event older than the window is too late and
expiry is by watermark, never by size (L3), one future timestamp closes nothing (L5).
"""

from collections import Counter
from heapq import heappop, heappush

from msgspec import Struct

from agents.pending import Joined, Pending
from models.events import (
    Click,
    Decision,
    Event,
    Impression,
    Interaction,
    Outcome,
    Request,
    Source,
    Tick,
    chain,
    encode,
)


class Rules(Struct, frozen=True, kw_only=True):
    """How rewards find their decisions; times in milliseconds of event time."""

    horizon: int = 600_000  # a decision closes this long after its request
    early: int = 120_000  # a reward may precede its request by this
    lateness: int = 600_000  # after closing, a reward still corrects for this long
    future: int = 60_000  # the watermark runs at most this far ahead of the append time
    implied: bool = True  # without an Impression a decision counts as shown as it stands
    refresh: bool = True  # a click asks for a fresh ranking
    refresh_k: int = 10
    most_closings: int = 100  # at one event; the rest follow at the next ones

    @property
    def window(self) -> int:
        """An event older than the watermark less this is too late."""
        return self.horizon + self.lateness + self.early


class Ask(Struct, frozen=True):
    """A request to answer, and the offset of the event that asked."""

    request: Request
    source: int


class Lesson(Struct, frozen=True):
    """An encoded learning record and where it came from."""

    source: Source
    data: bytes


class Yield(Struct, frozen=True):
    """What one event causes: learning records in their order, and what to answer.

    `fate` is the counter the event ended in, or "waiting" if it came before its request.
    """

    lessons: list[Lesson]
    asks: list[Ask]
    fate: str


class Attribution:
    """Joins events of one partition with its decisions, in event time.

    `counts` puts each event into exactly one of: asked, attributed, organic, late, orphan,
    duplicate, too_late, tick, or, while it waits for its request, waiting. Outcomes are counted as
    complete, expired, corrected, and closings without one as unshown or refused. Memory: all that
    is within `Rules.window` of the watermark.

    >>> fold = Attribution(0, Rules(refresh=False))
    >>> fold(0, 5, Click(id="c", user="u", item="i", at=5)).lessons[0].data[:34]
    b'{"type":"interaction","id":"c","us'
    >>> fold(1, 5, Click(id="c", user="u", item="i", at=5)).lessons, fold.counts["duplicate"]
    ([], 1)
    """

    def __init__(self, partition: int, rules: Rules) -> None:
        self.partition = partition
        self.rules = rules
        self.next = 0  # the offset to fold next
        self.watermark = 0
        self.chain = ""
        self.last: Source | None = None  # of the newest record made
        self.counts: Counter[str] = Counter()
        self._pending: dict[str, Pending] = {}  # open and correctable, by decision id
        self._closing: list[tuple[int, int, str]] = []  # heap: deadline, offset, id
        self._forgetting: list[tuple[int, int, str]] = []
        self._seen: dict[str, int] = {}
        self._ages: list[tuple[int, str]] = []
        self._early: dict[str, dict[int, Joined]] = {}  # decision id -> offset -> event
        self._orphaning: list[tuple[int, int, str]] = []
        self._undecided: dict[str, int] = {}  # id -> deadline
        self._due: list[tuple[int, str]] = []  # heap of those, its first one not decided
        self._ahead: dict[tuple[int, str], Decision] = {}  # read back before their event, by both

    @property
    def open(self) -> int:
        """Decisions that are not closed yet."""
        return len(self._closing)

    def blocked(self, appended: int, event: Event) -> bool:
        """True if folding the event now would close a request that is not decided yet (L1)."""
        return bool(self._due) and self._due[0][0] < self._advanced(appended, event)

    def decision(self, id: str) -> Decision | None:
        """The decision for an open or correctable request as read back, if there is one."""
        pending = self._pending.get(id)
        return None if pending is None else pending.decision

    def decided(self, decision: Decision) -> bool:
        """Take a decision as read back, in offset order; False if another came first (L2).

        It belongs to the event that asked for it: an id may come again after the window.
        """
        if decision.source >= self.next:
            key = decision.source, decision.id
            return self._ahead.setdefault(key, decision) is decision
        pending = self._pending.get(decision.id)
        if pending is None or pending.source != decision.source or pending.decision is not None:
            return False
        pending.decision = decision
        del self._undecided[decision.id]
        while self._due and self._undecided.get(self._due[0][1]) != self._due[0][0]:
            heappop(self._due)
        return True

    def __call__(self, offset: int, appended: int, event: Event) -> Yield:
        """Fold the event at `offset`, which the broker appended at `appended` (milliseconds)."""
        self.next = offset + 1
        self.watermark = self._advanced(appended, event)
        self._offset, self._index, self._lessons = offset, 0, list[Lesson]()
        asks: list[Ask] = []
        self._expire()
        at = min(event.at, self.watermark)
        if isinstance(event, Tick):
            fate = "tick"
        elif at < self.watermark - self.rules.window:
            fate = "too_late"
        elif not self._first(type(event).__name__, event.id, at):
            fate = "duplicate"
        elif isinstance(event, Request):
            fate = "asked"
            asks.append(self._open(event, at))
        else:
            self._interact(event, at)
            fate = self._join(event, at)
            if isinstance(event, Click) and self.rules.refresh:
                asks += self._refreshed(event, at)
        self.counts[fate] += 1
        return Yield(self._lessons, asks, fate)

    def _advanced(self, appended: int, event: Event) -> int:
        return max(self.watermark, min(event.at, appended + self.rules.future))

    def _first(self, kind: str, id: str, at: int) -> bool:
        """False if the id is known; an open request's is, however long its closing takes (L8)."""
        key = kind + id
        if key in self._seen or (kind == "Request" and id in self._pending):
            return False
        self._seen[key] = at
        heappush(self._ages, (at, key))
        return True

    def _open(self, request: Request, at: int, refresh: bool = False) -> Ask:
        deadline = at + self.rules.horizon
        pending = Pending(request, self._offset, deadline, refresh or not self.rules.implied)
        pending.decision = self._ahead.pop((self._offset, request.id), None)
        if pending.decision is None:
            self._undecided[request.id] = deadline
            heappush(self._due, (deadline, request.id))
        self._pending[request.id] = pending
        heappush(self._closing, (deadline, self._offset, request.id))
        for event in self._early.pop(request.id, {}).values():
            self._settle("attributed" if pending.add(event) else "orphan")
        return Ask(request, self._offset)

    def _refreshed(self, click: Click, at: int) -> list[Ask]:
        """A click asks for the user's next ranking; it counts as shown once something says so."""
        id = f"refresh:{click.id}"
        if not self._first("Request", id, at):
            return []
        request = Request(id=id, user=click.user, at=click.at, k=self.rules.refresh_k)
        before = self._pending.get(click.request or "")
        if before is not None and before.request.user == click.user:
            k, context = before.request.k, before.request.context
            request = Request(id=id, user=click.user, at=click.at, k=k, context=context)
        return [self._open(request, at, refresh=True)]

    def _settle(self, fate: str) -> None:
        self.counts["waiting"] -= 1
        self.counts[fate] += 1

    def _interact(self, event: Joined, at: int) -> None:
        if isinstance(event, Impression) or event.item is None:
            return
        value = 1.0 if isinstance(event, Click) else event.value
        self._learn(
            Interaction(
                id=event.id,
                user=event.user,
                item=event.item,
                at=at,
                value=value,
                source=self._source(),
                prev=self.chain,
            )
        )

    def _join(self, event: Joined, at: int) -> str:
        """Add the event to its decision; says in which counter it ends."""
        if event.request is None:
            return "organic"
        pending = self._pending.get(event.request)
        if pending is None:
            self._early.setdefault(event.request, {})[self._offset] = event
            heappush(self._orphaning, (at + self.rules.early, self._offset, event.request))
            return "waiting"
        if not pending.add(event):
            return "orphan"
        if not pending.closed:
            return "attributed"
        self._close(pending, corrected=True)
        return "late"

    def _expire(self) -> None:
        """Let time pass: close, forget and give up what the watermark has left behind."""
        now, rules = self.watermark, self.rules
        for _ in range(rules.most_closings):
            if not self._closing or self._closing[0][0] >= now:
                break
            deadline, offset, id = heappop(self._closing)
            pending = self._pending[id]
            heappush(self._forgetting, (deadline + rules.lateness, offset, id))
            self._close(pending, corrected=False)
        while self._forgetting and self._forgetting[0][0] < now:
            del self._pending[heappop(self._forgetting)[2]]
        while self._orphaning and self._orphaning[0][0] < now:
            _, offset, id = heappop(self._orphaning)
            held = self._early.get(id, {})
            if held.pop(offset, None) is not None:
                self._settle("orphan")
            if not held:
                self._early.pop(id, None)
        while self._ages and self._ages[0][0] < now - rules.window:
            del self._seen[heappop(self._ages)[1]]

    def _source(self) -> Source:
        return Source(self.partition, self._offset, self._index)

    def _close(self, pending: Pending, corrected: bool) -> None:
        pending.closed = True
        result = pending.outcome(self._source(), self.watermark, self.chain, corrected)
        if isinstance(result, Outcome):
            self.counts[result.status] += 1
            self._learn(result)
        elif not corrected:
            self.counts[result] += 1

    def _learn(self, record: Interaction | Outcome) -> None:
        data = encode(record)
        self.chain, self.last = chain(data), record.source
        self._index += 1
        self._lessons.append(Lesson(record.source, data))
