"""A decision between its request and its outcome: what it has earned, and when it closes."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from msgspec import structs

from agents.attribution_state import PendingState
from models.events import (
    Click,
    Decision,
    Impression,
    Outcome,
    OutcomeSlot,
    Request,
    Reward,
    Source,
    decode_decision,
    encode,
)

Joined = Click | Reward | Impression
MAX_EARNING = 1_000  # different items that may earn something for one decision


class PendingDecision:
    """Collects what happens to one decision until it closes, and corrections after that.

    A clicked item earns 1, once; rewards add up; a reward without an item is spread evenly over
    what was shown.

    >>> pending = PendingDecision(Request(id="r", user="u", at=0), 0, deadline=10, explicit=False)
    >>> pending.add(Click(id="c", user="u", item="i", at=1)); pending.rewards
    {'i': 1.0}
    """

    def __init__(
        self, request: Request, source: int, deadline: int, explicit: bool, until: int = 0
    ) -> None:
        self.request = request
        self.source = source  # the offset that asked
        self.deadline = deadline
        self.until = until  # no event that it took would wait for it any longer
        self.explicit = explicit  # counts as shown only once an impression or a reward says so
        self.closed = False
        self.forgotten = False  # too old to be corrected
        self._decision: bytes | None = None  # a fifth of its size as an object, nothing to collect
        self.shown: tuple[str, ...] | None = None
        self.clicked: set[str] = set()
        self.rewards: dict[str, float] = {}
        self.whole = 0.0  # earned by the ranking as a whole
        self.rewarded = False
        self.changed = False  # by the last event

    @property
    def key(self) -> tuple[str, str]:
        """User and id: by these an event names it."""
        return self.request.user, self.request.id

    @property
    def decision(self) -> Decision | None:
        """The decision that counts, once it is known."""
        return None if self._decision is None else decode_decision(self._decision)

    @decision.setter
    def decision(self, decision: Decision) -> None:
        self._decision = encode(decision)

    def state(self) -> PendingState:
        """What was collected so far."""
        return PendingState(
            self.request,
            self.source,
            self.deadline,
            self.explicit,
            self.until,
            self.closed,
            self.forgotten,
            self._decision,
            self.shown,
            tuple(sorted(self.clicked)),
            dict(self.rewards),
            self.whole,
            self.rewarded,
        )

    @classmethod
    def of(cls, state: PendingState) -> "PendingDecision":
        """Go on from a state."""
        self = cls(state.request, state.source, state.deadline, state.explicit, state.until)
        self.closed, self.forgotten = state.closed, state.forgotten
        self._decision, self.shown = state.decision, state.shown
        self.clicked, self.rewards = set(state.clicked), dict(state.rewards)
        self.whole, self.rewarded = state.whole, state.rewarded
        return self

    @property
    def decided(self) -> bool:
        """True once a decision was read back."""
        return self._decision is not None

    def asked(self, decision: Decision) -> None:
        """It asked for what this says, as did a request that is not there any more."""
        self.request = structs.replace(self.request, k=decision.k, context=decision.context)

    @property
    def done(self) -> bool:
        """True once it may neither close nor be corrected."""
        return self.closed and self.forgotten

    def live(self, now: int) -> bool:
        """True while it may close, be corrected, or be missed by an event that it took."""
        return not self.closed or self.until >= now

    def add(self, event: Joined) -> None:
        """Take an event of its user in. `changed`: it made a difference."""
        if isinstance(event, Impression):
            self.changed, self.shown = self.shown != event.shown, event.shown
            return
        first, self.rewarded = not self.rewarded, True
        if isinstance(event, Reward):
            self.changed = first or event.value != 0
            if event.item is None:
                self.whole += event.value
            else:
                self._earn(event.item, event.value)
        else:
            self.changed = first or event.item not in self.clicked
            if event.item not in self.clicked and len(self.clicked) < MAX_EARNING:
                self.clicked.add(event.item)
                self._earn(event.item, 1.0)

    def _earn(self, item: str, value: float) -> None:
        if item in self.rewards or len(self.rewards) < MAX_EARNING:
            self.rewards[item] = self.rewards.get(item, 0.0) + value

    def outcome(self, source: Source, at: int, prev: str, corrected: bool) -> Outcome | str:
        """What to learn, or why there is nothing: "unshown" or "refused".

        Raises RuntimeError if the decision is not known: rule L1 was broken by the caller.
        """
        decision = self.decision
        if decision is None:
            raise RuntimeError(f"request {self.request.id!r} closes before it was decided (L1)")
        if not decision.slots:
            return "refused"
        slots = {slot.item: slot for slot in decision.slots}
        shown = self.shown
        if shown is None:
            if self.explicit and not self.rewarded:
                return "unshown"
            shown = tuple(slots)
        shown = tuple(dict.fromkeys(shown))
        known = [(n, slots[item]) for n, item in enumerate(shown) if item in slots]
        share = self.whole / len(known) if known else 0.0
        where = {slot.item: n for n, slot in enumerate(decision.slots)} if decision.weights else {}
        judged = tuple(
            OutcomeSlot(
                item=slot.item,
                position=position,
                propensity=slot.propensity,
                reward=bounded_reward(self.rewards.get(slot.item, 0.0) + share),
                features=slot.features,
            )
            for position, slot in known
        )
        return Outcome(
            id=decision.id,
            user=decision.user,
            at=at,
            status="corrected" if corrected else "complete" if self.rewarded else "expired",
            policy=decision.policy,
            model=decision.model,
            slots=judged,
            features=decision.features,
            context=decision.context,
            reward=bounded_reward(sum(self.rewards.get(item, 0.0) for item in shown) + self.whole),
            foreign=tuple(item for item in shown if item not in slots),
            source=source,
            prev=prev,
            weights={
                name: tuple(weights[where[slot.item]] for slot in judged)
                for name, weights in decision.weights.items()
            },
        )


def bounded_reward(value: float) -> float:
    """Many large rewards may add up beyond what an Outcome can hold.

    >>> bounded_reward(3e6)
    1000000.0
    """
    return max(-1e6, min(1e6, value))


class DeadlineQueue:
    """Decisions in the order of their closing: first by deadline, then by the offset that asked.

    `last` is the highest (deadline, offset) that was closed. An event opens one decision at most
    and closes one at least while any is due, so of those that were open before an event, exactly
    the ones up to `last` are closed after it: this pair tells a bookmark all (L3, L8).

    >>> from models.events import Request
    >>> closing = DeadlineQueue(lateness=10)
    >>> request = Request(id="r", user="u", at=0)
    >>> closing.add(PendingDecision(request, 7, deadline=10, explicit=False))
    >>> [pending.request.id for pending in closing.due(11, most=100)], closing.last
    (['r'], (10, 7))
    """

    def __init__(
        self, lateness: int, last: tuple[int, int] = (-1, -1), held: Iterable[PendingDecision] = ()
    ) -> None:
        self.lateness = lateness
        self.last = last
        self._open: list[tuple[int, int, PendingDecision]] = []  # heap
        self._until: list[tuple[int, int, PendingDecision]] = []  # heap of those that take events
        for pending in held:
            self.add(pending)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, pending: PendingDecision) -> None:
        """A decision that closes after its deadline, and takes events for its lateness then."""
        until = pending.deadline + self.lateness
        if not pending.closed:
            heappush(self._open, (pending.deadline, pending.source, pending))
        if not pending.forgotten:
            heappush(self._until, (until, pending.source, pending))

    def due(self, now: int, most: int) -> Iterator[PendingDecision]:
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

    def forget(self, now: int) -> Iterator[PendingDecision]:
        """Those that take no events any more."""
        while self._until and self._until[0][0] < now:
            pending = heappop(self._until)[2]
            pending.forgotten = True
            yield pending
