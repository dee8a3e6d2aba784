"""What must become of each event: counted afresh from the log, by none of the agents' code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from msgspec import Struct

from models.events import Click, Event, Impression, Interaction, Outcome, Request, Reward, Tick

Joined = Click | Reward | Impression
Key = tuple[str, str]  # user and id: an id is its user's own
LARGEST = 1e6  # what an outcome's reward is cut to
MOST = 100  # decisions that close at one event; the rest follow at the next ones


class ExpectedRecord(Struct, frozen=True):
    """A learning record in short: where it is from, and all of it that events imply.

    `kind` is interaction, complete, expired or corrected; `items` what was liked, or what was
    judged, then what was shown though nobody had proposed it.
    """

    offset: int
    index: int
    kind: str
    id: str
    user: str
    value: float
    items: tuple[str, ...]

    def like(self, other: "ExpectedRecord") -> bool:
        """The same, but for the last digits of a sum."""
        one = (self.offset, self.index, self.kind, self.id, self.user, self.items)
        two = (other.offset, other.index, other.kind, other.id, other.user, other.items)
        return one == two and abs(self.value - other.value) < 1e-6 * max(1.0, abs(self.value))


def expected_record(record: Interaction | Outcome) -> ExpectedRecord:
    """A record as it was learned."""
    source = record.source.offset, record.source.index
    if isinstance(record, Interaction):
        return ExpectedRecord(
            *source, "interaction", record.id, record.user, record.value, (record.item,)
        )
    items = tuple(slot.item for slot in record.slots) + record.foreign
    return ExpectedRecord(*source, record.status, record.id, record.user, record.reward, items)


class ExpectedDecision:
    """A request, or a click's refresh, and all that came for it."""

    def __init__(self, id: str, user: str, at: int, refresh: bool) -> None:
        self.id, self.user, self.at, self.refresh = id, user, at, refresh
        self.closed = False
        self.joined: list[Joined] = []

    def rewards(self) -> list[Click | Reward]:
        return [event for event in self.joined if isinstance(event, Click | Reward)]

    def impressions(self) -> list[Impression]:
        return [event for event in self.joined if isinstance(event, Impression)]

    def tells(self, event: Joined) -> bool:
        """Whether the event says anything new: only that is a correction."""
        rewards, impressions = self.rewards(), self.impressions()
        if isinstance(event, Impression):
            return not impressions or impressions[-1].shown != event.shown
        if isinstance(event, Reward):
            return not rewards or event.value != 0
        clicked = {one.item for one in rewards if isinstance(one, Click)}
        return not rewards or event.item not in clicked

    def shown(self, implied: bool) -> bool:
        """Whether it counts as shown, by what was said so far."""
        return bool(self.impressions() or self.rewards() or (implied and not self.refresh))

    def judged(self, proposed: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        """What it has earned so far, if these items were proposed, and with which."""
        impressions, rewards = self.impressions(), self.rewards()
        shown = tuple(dict.fromkeys(impressions[-1].shown if impressions else proposed))
        clicked = {event.item for event in rewards if isinstance(event, Click)}
        values = [e for e in rewards if isinstance(e, Reward) and (not e.item or e.item in shown)]
        earned = len(clicked & set(shown)) + sum(event.value for event in values)
        known = tuple(item for item in shown if item in proposed)
        foreign = tuple(item for item in shown if item not in proposed)
        return max(-LARGEST, min(LARGEST, earned)), known + foreign


class ExpectedOutcomes:
    """One partition's account, event by event; times are milliseconds.

    `proposed` has the items of each decision by user and id. `fates` has one word an offset, and
    `letters` those of them that must be dead letters, with how the reason begins.

    >>> account = ExpectedOutcomes(horizon=9, early=1, lateness=9, proposed={("u", "r"): ("i",)})
    >>> account(0, 5, Request(id="r", user="u", at=5)), account.fates
    ([], {0: 'asked'})
    >>> [(one.kind, one.value) for one in account(1, 15, Tick(at=15))]
    [('expired', 0)]
    """

    def __init__(
        self,
        *,
        horizon: int,
        early: int,
        lateness: int,
        proposed: Mapping[Key, Sequence[str]],
        future: int = 60_000,
        implied: bool = True,
        refresh: bool = True,
    ) -> None:
        self.horizon, self.early, self.lateness, self.future = horizon, early, lateness, future
        self.implied, self.refresh = implied, refresh
        self.proposed = proposed
        self.watermark = 0
        self.fates: dict[int, str] = {}
        self.letters: dict[int, str] = {}
        self.asked: dict[Key, int] = {}  # decision -> the offset that asked, all of them
        self._live: dict[Key, ExpectedDecision] = {}  # those that take events
        self._closing: list[tuple[int, int, ExpectedDecision]] = []  # heap
        self._until: list[tuple[int, int, Key]] = []  # heap
        self._known: dict[tuple[str, Key], int] = {}
        self._early: dict[Key, dict[int, Joined]] = {}
        self._waits: list[tuple[int, int, Key]] = []  # heap

    def __call__(self, offset: int, appended: int, event: Event) -> list[ExpectedRecord]:
        """Take the event at `offset`; the records that it must cause, in order."""
        self._offset, self._facts = offset, list[ExpectedRecord]()
        self.watermark = max(self.watermark, min(event.at, appended + self.future))
        self._pass()
        fate = self.fates[offset] = self._fate(event)
        if fate == "too_late":
            self.letters[offset] = "too_late: "
        return self._facts

    def bad(self, offset: int, reason: str) -> None:
        """Take a message that is no event, or not one for this partition."""
        self.fates[offset], self.letters[offset] = "letter", reason

    def counts(self) -> Counter[str]:
        """How many events met each fate, dead letters aside."""
        return Counter(fate for fate in self.fates.values() if fate != "letter")

    @property
    def open(self) -> int:
        """Decisions that have not closed."""
        return len(self._closing)

    def _pass(self) -> None:
        now = self.watermark
        for _ in range(MOST):
            if not self._closing or self._closing[0][0] >= now:
                break
            asked = heappop(self._closing)[2]
            asked.closed = True
            self._outcome(asked, "complete" if asked.rewards() else "expired")
        while self._until and self._until[0][0] < now:
            del self._live[heappop(self._until)[2]]
        while self._waits and self._waits[0][0] < now:
            _, offset, key = heappop(self._waits)
            if self._early.get(key, {}).pop(offset, None) is not None:
                self.fates[offset] = "orphan"

    def _outcome(self, asked: ExpectedDecision, status: str) -> None:
        proposed = self.proposed.get((asked.user, asked.id), ())
        if proposed and asked.shown(self.implied):
            value, items = asked.judged(proposed)
            self._says(status, asked.id, asked.user, value, items)

    def _says(self, kind: str, id: str, user: str, value: float, items: tuple[str, ...]) -> None:
        self._facts.append(
            ExpectedRecord(self._offset, len(self._facts), kind, id, user, value, items)
        )

    def _fate(self, event: Event) -> str:
        if isinstance(event, Tick):
            return "tick"
        at = min(event.at, self.watermark)
        if at < self.watermark - self.horizon - self.lateness - self.early:
            return "too_late"
        new = self._new(type(event).__name__, (event.user, event.id), at)
        refreshes = isinstance(event, Click) and self.refresh
        refreshes = refreshes and self._new("Request", (event.user, f"refresh:{event.id}"), at)
        if not new:
            return "duplicate"
        if isinstance(event, Request):
            self._ask(event.id, event.user, at, refresh=False)
            return "asked"
        if not isinstance(event, Impression) and event.item is not None:
            value = 1.0 if isinstance(event, Click) else event.value
            self._says("interaction", event.id, event.user, value, (event.item,))
        fate = self._join(at, event)
        if refreshes:
            self._ask(f"refresh:{event.id}", event.user, at, refresh=True)
        return fate

    def _new(self, kind: str, key: Key, at: int) -> bool:
        before = self._known.get((kind, key), -1)
        self._known[kind, key] = max(before, at)
        return before < max(0, self.watermark - self.horizon - self.lateness - self.early)

    def _ask(self, id: str, user: str, at: int, refresh: bool) -> None:
        key = user, id
        asked = self._live[key] = ExpectedDecision(id, user, at, refresh)
        self.asked[key] = self._offset
        heappush(self._closing, (at + self.horizon, self._offset, asked))
        heappush(self._until, (at + self.horizon + self.lateness, self._offset, key))
        for offset, event in self._early.pop(key, {}).items():
            self.fates[offset] = self._add(asked, event)

    def _join(self, at: int, event: Joined) -> str:
        if event.request is None:
            return "organic"
        key = event.user, event.request
        asked = self._live.get(key)
        if asked is None:
            self._early.setdefault(key, {})[self._offset] = event
            heappush(self._waits, (at + self.early, self._offset, key))
            return "waiting"
        return self._add(asked, event)

    def _add(self, asked: ExpectedDecision, event: Joined) -> str:
        tells = asked.tells(event)
        asked.joined.append(event)
        if not asked.closed:
            return "attributed"
        if tells:
            self._outcome(asked, "corrected")
        return "late"
