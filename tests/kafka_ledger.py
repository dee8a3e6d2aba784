"""What must become of each event: counted afresh from the log, by none of the agents' code."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from msgspec import Struct

from models.events import Click, Event, Impression, Request, Reward, Tick


class Entry(Struct, frozen=True):
    """An event as it lies in the log; None for what is no event, with the reason expected."""

    offset: int
    appended: int
    event: Event | None
    reason: str = ""


class Asked(Struct):
    """A request, or a click's refresh, and all that came for it."""

    user: str
    at: int
    refresh: bool
    opened: int
    joined: list[Event] = []
    ends: list[str] = []  # the statuses of its outcomes, in order

    def rewards(self) -> list[Click | Reward]:
        return [event for event in self.joined if isinstance(event, Click | Reward)]

    def impressions(self) -> list[Impression]:
        return [event for event in self.joined if isinstance(event, Impression)]

    def outcome(self, corrected: bool, implied: bool) -> None:
        """What closing, or correcting, now must give."""
        rewards = self.rewards()
        if self.impressions() or rewards or (implied and not self.refresh):
            self.ends.append("corrected" if corrected else "complete" if rewards else "expired")

    def tells(self, event: Event) -> bool:
        """Whether the event says anything new: only that is a correction."""
        rewards, impressions = self.rewards(), self.impressions()
        if isinstance(event, Impression):
            return not impressions or impressions[-1].shown != event.shown
        if isinstance(event, Reward):
            return not rewards or event.value != 0
        clicked = {one.item for one in rewards if isinstance(one, Click)}
        return not rewards or (isinstance(event, Click) and event.item not in clicked)

    def earned(self, proposed: Iterable[str]) -> float:
        """What its last outcome must say, if the decision proposed these items."""
        impressions, rewards = self.impressions(), self.rewards()
        shown = set(impressions[-1].shown if impressions else proposed)
        clicked = {event.item for event in rewards if isinstance(event, Click)}
        values = [e for e in rewards if isinstance(e, Reward) and (not e.item or e.item in shown)]
        return len(clicked & shown) + sum(event.value for event in values)


class Ledger:
    """One partition's account. Times are milliseconds; `fates` has one word an offset."""

    def __init__(
        self, horizon: int, early: int, lateness: int, future: int = 60_000, implied: bool = True
    ) -> None:
        self.horizon, self.early, self.lateness, self.future = horizon, early, lateness, future
        self.implied = implied
        self.watermark = 0
        self.fates: dict[int, str] = {}
        self.letters: dict[int, str] = {}
        self.liked: list[tuple[str, str, str, float]] = []
        self.asked: dict[str, Asked] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._early: dict[str, list[tuple[int, int, Event]]] = defaultdict(list)

    def __call__(self, entries: Iterable[Entry]) -> "Ledger":
        for entry in entries:
            if entry.event is None:
                self.fates[entry.offset], self.letters[entry.offset] = "letter", entry.reason
                continue
            self._pass(min(entry.event.at, entry.appended + self.future))
            fate = self._fate(entry.offset, entry.event)
            self.fates[entry.offset] = fate
            if fate == "too_late":
                self.letters[entry.offset] = "too_late"
        return self

    def counts(self) -> Counter[str]:
        """How many events met each fate, dead letters aside."""
        return Counter(fate for fate in self.fates.values() if fate != "letter")

    def _pass(self, at: int) -> None:
        self.watermark = now = max(self.watermark, at)
        for asked in self.asked.values():
            if asked.opened >= 0 and asked.at + self.horizon < now:
                asked.opened = -1
                asked.outcome(corrected=False, implied=self.implied)
        for waiting in self._early.values():
            for one in [one for one in waiting if one[1] + self.early < now]:
                waiting.remove(one)
                self.fates[one[0]] = "orphan"

    def _fate(self, offset: int, event: Event) -> str:
        if isinstance(event, Tick):
            return "tick"
        at = min(event.at, self.watermark)
        if at < self.watermark - self.horizon - self.lateness - self.early:
            return "too_late"
        new = self._new(type(event).__name__, event.id, at)
        refreshes = isinstance(event, Click) and self._new("Request", f"refresh:{event.id}", at)
        if not new:
            return "duplicate"
        if isinstance(event, Request):
            self._ask(event.id, event.user, at, offset, refresh=False)
            return "asked"
        if isinstance(event, Click):
            self.liked.append((event.id, event.user, event.item, 1.0))
        elif isinstance(event, Reward) and event.item is not None:
            self.liked.append((event.id, event.user, event.item, event.value))
        fate = self._joined(offset, at, event)
        if refreshes:
            self._ask(f"refresh:{event.id}", event.user, at, offset, refresh=True)
        return fate

    def _new(self, kind: str, id: str, at: int) -> bool:
        before = self._known.get((kind, id), -1)
        self._known[kind, id] = max(before, at)
        return before < max(0, self.watermark - self.horizon - self.lateness - self.early)

    def _ask(self, id: str, user: str, at: int, offset: int, refresh: bool) -> None:
        asked = self.asked[id] = Asked(user, at, refresh, offset)
        for early_offset, _, event in self._early.pop(id, []):
            self.fates[early_offset] = self._add(asked, event)

    def _joined(self, offset: int, at: int, event: Click | Reward | Impression) -> str:
        if event.request is None:
            return "organic"
        asked = self.asked.get(event.request)
        if asked is None or asked.at + self.horizon + self.lateness < self.watermark:
            self._early[event.request].append((offset, at, event))
            return "waiting"
        return self._add(asked, event)

    def _add(self, asked: Asked, event: Event) -> str:
        if isinstance(event, Tick) or event.user != asked.user:
            return "orphan"
        tells = asked.tells(event)
        asked.joined.append(event)
        if asked.opened >= 0:
            return "attributed"
        if tells:
            asked.outcome(corrected=True, implied=self.implied)
        return "late"
