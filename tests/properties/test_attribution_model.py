"""Attribution against brute force, which keeps every event and recomputes all at each step."""

from collections import Counter
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents.attribution import Attribution, AttributionRules
from models.events import (
    Click,
    Decision,
    Event,
    Features,
    Impression,
    Interaction,
    Outcome,
    Request,
    Reward,
    Slot,
    Source,
    Tick,
    decode_record,
    encode,
)

ITEMS = ("a", "b", "c", "d")
Joined = Click | Reward | Impression
LoggedEvent = tuple[int, Event]  # when it was appended, and what; its place is its offset


def decided(request: Request, offset: int) -> Decision:
    """A decision that is a function of its request: `k` says what; an odd `k` is refused."""
    shown = () if request.k % 2 else ITEMS[: request.k]
    slots = (
        Slot(item=item, propensity=0.5, score=1.0, features=Features(x=(float(n),)))
        for n, item in enumerate(shown)
    )
    return Decision(
        id=request.id,
        user=request.user,
        at=request.at,
        k=request.k,
        policy="p",
        model=offset,
        items=0,
        embeddings=0,
        source=offset,
        slots=tuple(slots),
        features=("x",),
        context=request.context,
    )


class Ranking:
    """The model's notes on one request."""

    def __init__(self, request: Request, offset: int, at: int, quiet: bool) -> None:
        self.request, self.offset, self.at, self.quiet = request, offset, at, quiet
        self.events: list[Joined] = []
        self.closed = False

    def changes(self, event: Joined) -> bool:
        """Whether the event says anything that those before it did not."""
        if isinstance(event, Impression):
            displayed = [e.shown for e in self.events if isinstance(e, Impression)]
            return not displayed or displayed[-1] != event.shown
        earned = [e for e in self.events if not isinstance(e, Impression)]
        if isinstance(event, Reward):
            return not earned or event.value != 0
        return not any(isinstance(e, Click) and e.item == event.item for e in earned) or not earned

    def result(self, at: int, source: Source, corrected: bool) -> Outcome | str:
        decision = decided(self.request, self.offset)
        if not decision.slots:
            return "refused"
        earned = [e for e in self.events if not isinstance(e, Impression)]
        displayed = [e for e in self.events if isinstance(e, Impression)]
        if self.quiet and not earned and not displayed:
            return "unshown"
        proposed = {slot.item: slot for slot in decision.slots}
        shown = list(displayed[-1].shown) if displayed else list(proposed)
        shown = [item for n, item in enumerate(shown) if item not in shown[:n]]
        ours = [item for item in shown if item in proposed]
        whole = sum(e.value for e in earned if isinstance(e, Reward) and e.item is None)

        def earns(item: str) -> float:
            clicked = any(isinstance(e, Click) and e.item == item for e in earned)
            return clicked + sum(
                e.value for e in earned if isinstance(e, Reward) and e.item == item
            )

        slots: list[dict[str, Any]] = [
            {
                "item": item,
                "position": shown.index(item),
                "propensity": 0.5,
                "reward": earns(item) + whole / len(ours),
                "features": proposed[item].features,
            }
            for item in ours
        ]
        status = "corrected" if corrected else "complete" if earned else "expired"
        return msgspec.convert(
            {
                "type": "outcome",
                "id": decision.id,
                "user": decision.user,
                "at": at,
                "status": status,
                "policy": "p",
                "model": decision.model,
                "slots": slots,
                "source": (source.partition, source.offset, source.index),
                "features": ("x",),
                "context": decision.context,
                "reward": sum(map(earns, shown)) + whole,
                "foreign": [item for item in shown if item not in proposed],
            },
            Outcome,
        )


class Recomputed:
    """All that the log implies, from its first event on, by loops over lists."""

    def __init__(self, log: list[LoggedEvent], rules: AttributionRules) -> None:
        self.rules = rules
        self.records: list[Interaction | Outcome] = []
        self.asked: list[tuple[str, int]] = []
        self.rankings: list[Ranking] = []  # those that take events
        self.open: list[Ranking] = []
        self.fates: list[str] = []
        self.closings: Counter[str] = Counter()
        # kind, user, id, at: duplicates are found by it
        self.noted: list[tuple[str, str, str, int]] = []
        self.waiting: list[tuple[int, int, Joined]] = []  # offset, at, event
        self.now = 0
        for offset, (appended, event) in enumerate(log):
            self.offset, self.index = offset, 0
            self.now = max(self.now, min(event.at, appended + rules.future))
            self.let_time_pass()
            self.fates.append("")
            self.fates[offset] = self.fate(event, min(event.at, self.now))

    def let_time_pass(self) -> None:
        rules, now = self.rules, self.now
        overdue = [r for r in self.open if r.at + rules.horizon < now]
        overdue.sort(key=lambda r: (r.at, r.offset))
        for ranking in overdue[: rules.most_closings]:
            ranking.closed = True
            self.open.remove(ranking)
            self.close(ranking, corrected=False)
        kept = rules.horizon + rules.lateness
        self.rankings = [r for r in self.rankings if r.at + kept >= now]
        for offset, at, _ in self.waiting:
            if at + rules.early < now:
                self.fates[offset] = "orphan"
        self.waiting = [w for w in self.waiting if w[1] + rules.early >= now]
        self.noted = [n for n in self.noted if n[3] >= now - rules.window]

    def fate(self, event: Event, at: int) -> str:
        if isinstance(event, Tick):
            return "tick"
        if at < self.now - self.rules.window:
            return "too_late"
        known = self.known(type(event).__name__, event.user, event.id, at)
        refreshes = isinstance(event, Click) and self.rules.refresh
        refreshed = refreshes and not self.known("Request", event.user, f"refresh:{event.id}", at)
        if known:
            return "duplicate"
        if isinstance(event, Request):
            self.ask(event, at, quiet=not self.rules.implied)
            return "asked"
        if not isinstance(event, Impression) and event.item is not None:
            value = 1.0 if isinstance(event, Click) else event.value
            self.records.append(
                Interaction(
                    id=event.id,
                    user=event.user,
                    item=event.item,
                    at=at,
                    value=value,
                    source=self.source(),
                )
            )
        theirs = [r for r in self.rankings if r.request.user == event.user]
        found = [r for r in theirs if r.request.id == event.request]
        self.fates[self.offset] = self.joined(event, at, found)
        if isinstance(event, Click) and refreshed:
            self.refresh(event, at, found)
        return self.fates[self.offset]

    def joined(self, event: Joined, at: int, found: list[Ranking]) -> str:
        if event.request is None:
            return "organic"
        if not found:
            self.waiting.append((self.offset, at, event))
            return "waiting"
        changed = found[0].changes(event)
        found[0].events.append(event)
        if not found[0].closed:
            return "attributed"
        if changed:
            self.close(found[0], corrected=True)
        return "late"

    def refresh(self, click: Click, at: int, found: list[Ranking]) -> None:
        id = f"refresh:{click.id}"
        k = found[0].request.k if found else self.rules.refresh_k
        context = found[0].request.context if found else {}
        request = Request(id=id, user=click.user, at=click.at, k=k, context=context)
        self.ask(request, at, quiet=True)

    def known(self, kind: str, user: str, id: str, at: int) -> bool:
        """Whether the user's id came within the window; that it came again counts as well."""
        known = any(n[:3] == (kind, user, id) for n in self.noted)
        self.noted.append((kind, user, id, at))
        return known

    def ask(self, request: Request, at: int, quiet: bool) -> None:
        ranking = Ranking(request, self.offset, at, quiet)
        self.rankings.append(ranking)
        self.open.append(ranking)
        self.asked.append((request.id, self.offset))
        still: list[tuple[int, int, Joined]] = []
        for offset, at, event in self.waiting:
            if (event.user, event.request) == (request.user, request.id):
                self.fates[offset] = "attributed"
                ranking.events.append(event)
            else:
                still.append((offset, at, event))
        self.waiting = still

    def source(self) -> Source:
        self.index += 1
        return Source(0, self.offset, self.index - 1)

    def close(self, ranking: Ranking, corrected: bool) -> None:
        result = ranking.result(self.now, Source(0, self.offset, self.index), corrected)
        if isinstance(result, Outcome):
            self.source()
            self.records.append(result)
            self.closings[result.status] += 1
        elif not corrected:
            self.closings[result] += 1


class Log(RuleBasedStateMachine):
    """Grows a log an event at a time, and compares after each."""

    @initialize(
        horizon=st.integers(1, 12),
        early=st.integers(0, 6),
        lateness=st.integers(0, 12),
        future=st.integers(0, 8),
        implied=st.booleans(),
        refresh=st.booleans(),
        most_closings=st.integers(1, 3),
    )
    def begin(self, **rules: Any) -> None:
        self.terms = AttributionRules(**rules, refresh_k=2)
        self.fold = Attribution(0, self.terms)
        self.log: list[LoggedEvent] = []
        self.now = 20
        self.learned: list[Interaction | Outcome] = []
        self.asked: list[tuple[str, int]] = []

    def take(self, event: Event) -> None:
        offset = len(self.log)
        self.log.append((self.now, event))
        assert not self.fold.blocked(self.now, event)
        caused = self.fold(offset, self.now, event)
        for record in caused.records:
            record = decode_record(record.data)
            assert record.source == record.source
            self.learned.append(msgspec.structs.replace(record, prev=""))
        for ask in caused.tasks:
            self.asked.append((ask.request.id, ask.source))
            assert self.fold.decided(decided(ask.request, ask.source))
        self.last = caused

    @rule(by=st.sampled_from([0, 0, 1, 2, 5, 9, 40]))
    def let_time_pass(self, by: int) -> None:
        self.now += by

    ids = st.sampled_from("rstuv")
    requests = st.sampled_from("rrs")
    users = st.sampled_from(["ann", "ann", "ann", "bob"])
    shifts = st.integers(-30, 12) | st.just(0) | st.integers(-4, 0)
    about = requests | st.none() | st.sampled_from("rstuv").map("refresh:{}".format)

    @rule(id=requests, user=users, shift=shifts, k=st.integers(1, 4), where=st.sampled_from("xy"))
    def request(self, id: str, user: str, shift: int, k: int, where: str) -> None:
        at = max(0, self.now + shift)
        self.take(Request(id=id, user=user, at=at, k=k, context={"where": where}))

    @rule(id=ids, user=users, shift=shifts, item=st.sampled_from("abz"), request=about)
    def click(self, id: str, user: str, shift: int, item: str, request: str | None) -> None:
        at = max(0, self.now + shift)
        self.take(Click(id=id, user=user, item=item, at=at, request=request))

    @rule(
        id=ids,
        user=users,
        shift=shifts,
        item=st.none() | st.sampled_from("abz"),
        request=about,
        value=st.sampled_from([-2.0, 0.0, 0.5, 3.0]),
    )
    def reward(
        self, id: str, user: str, shift: int, item: str | None, request: str | None, value: float
    ) -> None:
        at = max(0, self.now + shift)
        item = item if request else item or "a"
        self.take(Reward(id=id, user=user, at=at, value=value, request=request, item=item))

    @rule(id=ids, user=users, shift=shifts, shown=st.text("abz", max_size=4), request=requests)
    def impression(self, id: str, user: str, shift: int, shown: str, request: str) -> None:
        at = max(0, self.now + shift)
        self.take(Impression(id=id, request=request, user=user, at=at, shown=tuple(shown)))

    @rule(shift=shifts)
    def tick(self, shift: int) -> None:
        self.take(Tick(at=max(0, self.now + shift)))

    @precondition(lambda self: self.log)
    @rule(data=st.data())
    def the_same_again(self, data: st.DataObject) -> None:
        _, event = data.draw(st.sampled_from(self.log))
        self.take(event)

    @invariant()
    def both_agree(self) -> None:
        if not self.log:
            return
        model = Recomputed(self.log, self.terms)
        assert self.learned == model.records
        assert self.asked == model.asked
        fates = Counter(model.fates)
        assert +self.fold.counts == fates + model.closings
        assert sum(fates.values()) == len(self.log)
        assert self.fold.open == len(model.open)
        held = {one.source: one for one in self.fold.state().held if not one.forgotten}
        assert set(held) == {ranking.offset for ranking in model.rankings}
        for ranking in model.rankings:
            one = held[ranking.offset]
            assert one.request == ranking.request
            assert one.decision == encode(decided(ranking.request, ranking.offset))


def test_attribution_does_what_brute_force_does() -> None:
    run_state_machine_as_test(
        Log, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )
