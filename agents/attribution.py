"""The first fold: events -> what to learn, what to answer. Here a click becomes a reward.

Rules of the logs kept here (docs/design.md): records are a function of the log (L1), a decision
is used only as read back, lowest offset first (L2), an event older than the window is too late and
expiry is by watermark, never by size (L3), one future timestamp closes nothing (L5).

That all can be made again from a bookmark (L3) rests on what is not remembered: an id is known by
the events of the last window alone, and a decision takes events until its lateness is over, however
long its closing had to wait. A bookmark moves beyond a decision once no event that it took would
wait for it again. So no state, nor any count, depends on more of the log than the bookmark reads.
"""

from collections import Counter
from hashlib import blake2b

import msgspec
from msgspec import Struct

from agents.attribution_state import AttributionState
from agents.bookmark import Bookmark, RestartTracker
from agents.join_window import (
    DecisionJoin,
    EarlyEvent,
    EarlyEventBuffer,
    SeenIds,
    WindowSizes,
    revived,
)
from agents.pending import DeadlineQueue, Joined, PendingDecision
from models.codec import chain, encode
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
)


class AttributionRules(Struct, frozen=True, kw_only=True):
    """How rewards find their decisions; times in milliseconds of event time."""

    horizon: int = 600_000  # a decision closes this long after its request
    early: int = 120_000  # a reward may precede its request by this
    lateness: int = 600_000  # after closing, a reward still corrects for this long
    future: int = 60_000  # the watermark runs at most this far ahead of the append time
    implied: bool = True  # without an Impression a decision counts as shown as it stands
    refresh: bool = True  # a click asks for a fresh ranking
    refresh_k: int = 10
    most_closings: int = 100  # at one event; the rest follow at the next ones
    version: int = 2  # of how this code joins: to be raised when the same log gives other records

    @property
    def window(self) -> int:
        """An event older than the watermark less this is too late."""
        return self.horizon + self.lateness + self.early

    @property
    def digest(self) -> str:
        """Some characters that differ for other rules."""
        return blake2b(msgspec.json.encode(self), digest_size=4).hexdigest()


class RankingTask(Struct, frozen=True):
    """A request to answer, and the offset of the event that asked."""

    request: Request
    source: int


class LearningRecord(Struct, frozen=True):
    """An encoded learning record and where it came from."""

    source: Source
    data: bytes


class Effects(Struct, frozen=True):
    """What one event causes: learning records in their order, and what to answer.

    `fate` is the counter the event ended in, or "waiting" if it came before its request.
    """

    records: list[LearningRecord]
    tasks: list[RankingTask]
    fate: str


def interaction(event: Joined, at: int, source: Source, prev: str) -> Interaction | None:
    """What an event says of a user and an item, if it does."""
    if isinstance(event, Impression) or event.item is None:
        return None
    value = 1.0 if isinstance(event, Click) else event.value
    return Interaction(
        id=event.id, user=event.user, item=event.item, at=at, value=value, source=source, prev=prev
    )


def refresh(click: Click, before: Request | None, k: int) -> Request:
    """A click asks for its user's next ranking, as the request before it did, else of length `k`.

    It counts as shown once something says so.

    >>> refresh(Click(id="c", user="u", item="i", at=5), None, k=3).id
    'refresh:c'
    """
    id, context = f"refresh:{click.id}", {}
    if before is not None and before.user == click.user:
        k, context = before.k, before.context
    return Request(id=id, user=click.user, at=click.at, k=k, context=context)


def empty_decision(request: Request, source: int) -> Decision:
    """The shortest answer to a request: nothing is shown, so nothing comes of it.

    >>> empty_decision(Request(id="r", user="u", at=5), source=7).slots
    ()
    """
    return Decision(
        id=request.id,
        user=request.user,
        at=request.at,
        k=request.k,
        policy="",
        model=0,
        items=0,
        embeddings=0,
        source=source,
    )


class Attribution:
    """Joins events of one partition with its decisions, in event time.

    `counts` puts each event into exactly one of: asked, attributed, organic, late, orphan,
    duplicate, too_late, tick, or, while it waits for its request, waiting. Outcomes are counted as
    complete, expired, corrected; closings without one as unshown or refused. Memory: the window's.

    >>> fold = Attribution(0, AttributionRules(refresh=False))
    >>> fold(0, 5, Click(id="c", user="u", item="i", at=5)).records[0].data[:34]
    b'{"type":"interaction","id":"c","us'
    >>> fold(1, 5, Click(id="c", user="u", item="i", at=5)).records, fold.counts["duplicate"]
    ([], 1)
    """

    def __init__(self, partition: int, rules: AttributionRules) -> None:
        self.partition = partition
        self.rules = rules
        self.next = 0  # the offset to fold next
        self.watermark = 0
        self.chain = ""
        self.last: Source | None = None  # of the newest record made
        self.counts: Counter[str] = Counter()
        self._pending: dict[tuple[str, str], PendingDecision] = {}  # those that take events
        self._closing = DeadlineQueue(rules.lateness)
        self._seen = SeenIds()
        self._early = EarlyEventBuffer()
        self._decision_join = DecisionJoin()
        self._restarts = RestartTracker(rules.window)
        self._from: Bookmark | None = None  # while the state is made again

    @property
    def open(self) -> int:
        """Decisions that are not closed yet."""
        return len(self._closing)

    @property
    def sizes(self) -> WindowSizes:
        """How much is remembered: the log's last window of event time, whatever that holds."""
        ahead = len(self._decision_join)
        return WindowSizes(len(self._pending), self.open, len(self._seen), len(self._early), ahead)

    @property
    def idle(self) -> bool:
        """True if nothing is remembered: no event of the past matters any more."""
        return self._restarts.idle and not self._seen

    def blocked(self, appended: int, event: Event) -> bool:
        """True if folding the event now would close a request that is not decided yet (L1)."""
        return self._decision_join.blocks(self._advanced(appended, event))

    def undecided(self, source: int) -> bool:
        """True if the event at that offset asked, and no decision was read back yet."""
        return source in self._decision_join

    def decided(self, decision: Decision, offset: int = 0) -> bool:
        """Take a decision as read back from the rankings at `offset`; call it in their order.

        False if another came first (L2). It belongs to the event that asked for it: an id may come
        again after the window.
        """
        self._restarts.read = max(self._restarts.read, offset + 1)
        if decision.source >= self.next:
            return self._decision_join.ahead(decision, offset)
        pending = self._decision_join.take(decision)
        if pending is not None:
            self._decide(pending, decision, offset)
        return pending is not None

    def _decide(self, pending: PendingDecision, decision: Decision, offset: int) -> None:
        pending.decision = decision
        if self._from is not None:  # a click asked as a request that is not there any more
            pending.asked(decision)
        self._restarts.decided(pending.source, offset)

    def bookmark(self) -> Bookmark:
        """Where to read on from so that `resume` comes to this state; all must be decided."""
        ids_from, watermark, open_from, rankings_from = self._restarts.places(self.next)
        if self.idle:
            ids_from, watermark = self.next, self.watermark
        ahead = self._decision_join.ahead_from
        return Bookmark(
            ids_from=ids_from,
            watermark=watermark,
            open_from=open_from,
            rankings_from=rankings_from if ahead is None else min(ahead, rankings_from),
            closed=self._closing.last,
            last=self.last,
            chain=self.chain,
            rules=self.rules.digest,
        )

    def state(self) -> AttributionState:
        """All that is remembered, as a copy; not while the state is made again."""
        return AttributionState(
            partition=self.partition,
            rules=self.rules.digest,
            next=self.next,
            watermark=self.watermark,
            chain=self.chain,
            last=self.last,
            counts=dict(self.counts),
            closed=self._closing.last,
            reach=self._restarts.state(),
            ahead=self._decision_join.state(),
            early=self._restarts.early(self.watermark),
            held=self._restarts.pending(self.watermark),
            seen=self._seen.state(),
        )

    def load(self, state: AttributionState) -> None:
        """Go on from a state; ValueError if it is of another partition, other rules, or none."""
        if (state.partition, state.rules) != (self.partition, self.rules.digest):
            raise ValueError(f"a state of partition {state.partition}, rules {state.rules}")
        self.next, self.watermark = state.next, state.watermark
        self.chain, self.last, self.counts = state.chain, state.last, Counter(state.counts)
        held, early = revived(state)
        self._pending = {one.key: one for one in held if not one.forgotten}
        self._restarts = RestartTracker.of(self.rules.window, state.reach, [*held, *early])
        self._early = EarlyEventBuffer(one for one in early if one.waiting)
        waiting = (one for one in held if not one.decided and not one.done)
        self._decision_join = DecisionJoin(waiting, state.ahead)
        self._closing = DeadlineQueue(self.rules.lateness, state.closed, held)
        self._seen = SeenIds(state.seen)

    @property
    def resuming(self) -> bool:
        """True from `resume` to `resumed`."""
        return self._from is not None

    def resume(self, bookmark: Bookmark) -> None:
        """Make the state again: events from `bookmark.ids_from` on teach nothing."""
        self._from = bookmark
        self.next = bookmark.open_from
        self.watermark = bookmark.watermark
        self._closing.last = bookmark.closed
        self._restarts = RestartTracker.at(self.rules.window, bookmark)

    def resumed(self, next: int) -> list[int]:
        """All below `next` and all rankings were read; the requests whose decision is missing.

        Their offsets, that is. `counts` begin anew.
        """
        bookmark, self._from = self._from, None
        self.next = max(self.next, next)
        if bookmark is not None:
            self.chain, self.last = bookmark.chain, bookmark.last
            self._decision_join.drop_dead()
        self.counts = Counter(waiting=len(self._early))
        return self._decision_join.undecided

    def skip(self, offset: int) -> None:
        """Go on behind `offset`: what lies there is folded, or is no event."""
        self.next = max(self.next, offset + 1)
        self._decision_join.skip(offset)

    def __call__(self, offset: int, appended: int, event: Event) -> Effects:
        """Fold the event at `offset`, which the broker appended at `appended` (milliseconds)."""
        before, self.watermark = self.watermark, self._advanced(appended, event)
        self._offset, self._index, self._records = offset, 0, list[LearningRecord]()
        tasks: list[RankingTask] = []
        self._expire()
        self._restarts.mark(offset, before, self.idle)
        at = min(event.at, self.watermark)
        if isinstance(event, Tick):
            fate = "tick"
        elif at < self.watermark - self.rules.window:
            fate = "too_late"
        else:
            first, refreshes = self._note(event, at)
            if not first:
                fate = "duplicate"
            elif self._from is not None and offset < self._from.open_from:
                fate = "noted"
            elif isinstance(event, Request):
                fate = "asked"
                tasks.append(self._open(event, at))
            else:
                if record := interaction(event, at, self._source(), self.chain):
                    self._learn(record)
                fate = self._join(event, at)
                if isinstance(event, Click) and refreshes:
                    about = self._pending.get((event.user, event.request or ""))
                    request = refresh(event, about and about.request, self.rules.refresh_k)
                    tasks.append(self._open(request, at, refresh=True))
        self.skip(offset)
        self.counts[fate] += 1
        return Effects(self._records, tasks, fate)

    def _advanced(self, appended: int, event: Event) -> int:
        return max(self.watermark, min(event.at, appended + self.rules.future))

    def _note(self, event: Request | Joined, at: int) -> tuple[bool, bool]:
        """Whether the event's id is new, and whether, of a click, its refresh's is.

        Both are noted each time, so that they are known by the last window's events alone. An id
        is its user's own: many producers count within a session.
        """
        own = f"{len(event.user)}:{event.user}"
        first = self._seen.first(f"{type(event).__name__}{own}{event.id}", at)
        refreshes = isinstance(event, Click) and self.rules.refresh
        return first, refreshes and self._seen.first(f"Request{own}refresh:{event.id}", at)

    def _open(self, request: Request, at: int, refresh: bool = False) -> RankingTask:
        explicit = refresh or not self.rules.implied
        deadline, until = at + self.rules.horizon, at + self.rules.window
        pending = PendingDecision(request, self._offset, deadline, explicit, until)
        ahead = self._decision_join.add_request(pending)
        if ahead is not None:
            self._decide(pending, *ahead)
        self._pending[pending.key] = pending
        self._restarts.hold(pending)
        self._closing.add(pending)
        for early in self._early.take(*pending.key):
            early.join(pending)
            self._settle("attributed")
        return RankingTask(request, self._offset)

    def _settle(self, fate: str, count: int = 1) -> None:
        self.counts["waiting"] -= count
        self.counts[fate] += count

    def _join(self, event: Joined, at: int) -> str:
        """Add the event to its decision; says in which counter it ends."""
        if event.request is None:
            return "organic"
        pending = self._pending.get((event.user, event.request))
        if pending is None:
            until = at + self.rules.early
            self._restarts.hold(self._early.add(EarlyEvent(event, self._offset, until)))
            return "waiting"
        pending.add(event)
        if not pending.closed:
            return "attributed"
        if pending.changed:
            self._close(pending, corrected=True)
        return "late"

    def _expire(self) -> None:
        """Let time pass: close, forget and give up what the watermark has left behind."""
        now, most = self.watermark, self.rules.most_closings
        if self._from is not None:
            self._closing.again()
        else:
            for pending in self._closing.due(now, most):
                self._close(pending, corrected=False)
        for pending in self._closing.forget(now):
            del self._pending[pending.key]
        if gone := self._early.expire(now):
            self._settle("orphan", gone)
        self._seen.forget(now - self.rules.window)
        self._restarts.expire(self._offset, now)

    def _source(self) -> Source:
        return Source(self.partition, self._offset, self._index)

    def _close(self, pending: PendingDecision, corrected: bool) -> None:
        pending.closed = True
        if self._from is not None:
            return
        result = pending.outcome(self._source(), self.watermark, self.chain, corrected)
        if isinstance(result, Outcome):
            self.counts[result.status] += 1
            self._learn(result)
        elif not corrected:
            self.counts[result] += 1

    def _learn(self, record: Interaction | Outcome) -> None:
        if self._from is not None:
            return
        data = encode(record)
        self.chain, self.last = chain(data), record.source
        self._index += 1
        self._records.append(LearningRecord(record.source, data))
