"""Rule L3: an attribution made again from its bookmark behaves as the one that never stopped.

Random logs with small windows; RANKLOOP_TEST_BOOKMARKS sets how many. After each event a bookmark
is taken; what begins there must go on, to the end of the log, as the one that folded all did.
"""

import os
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from msgspec import Struct, structs

from agents.attribution import Attribution, AttributionRules, LearningRecord, RankingTask
from agents.bookmark import MAX_MARKS, Bookmark, WatermarkHistory, decode_bookmark, encode_bookmark
from models.events import Click, Decision, Event, Request, Tick
from tests.support.attribution_logs import decided, rules, some_event

LOGS = int(os.environ.get("RANKLOOP_TEST_BOOKMARKS", "150"))
Spoil = Callable[["Story", Bookmark], Bookmark]


class LoggedEvent(Struct, frozen=True):
    """An event, when it was appended, and what came of it in the fold that never stopped."""

    appended: int
    event: Event
    records: list[LearningRecord]
    asks: list[RankingTask]
    watermark: int  # before it
    bookmark: str  # after it
    rankings: int  # how many there were by then
    open: int
    counts: Counter[str]  # after it


class Story:
    """A log and the rankings of its asks: in batches, some long before, some twice."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = rng = Random(seed)
        self.rules = rules(rng)
        self.logged: list[LoggedEvent] = []
        self.rankings: list[Decision] = []
        self.fold = Attribution(0, self.rules)
        now, ids = 100, rng.choice(["r", "rs", "rstuv"])
        events: list[tuple[int, Event]] = []
        for offset in range(size):
            now += rng.choice([0, 0, 1, 1, 2, 7, 30 if rng.random() < 0.2 else 0])
            events.append((now, some_event(rng, now, offset, ids)))
        self.fold_all(events)

    def fold_all(self, events: list[tuple[int, Event]]) -> None:
        rng, fold = self.rng, self.fold
        first = Attribution(0, self.rules)  # an owner before, who answered some and did not commit
        early: list[Decision] = []
        for offset, (appended, event) in enumerate(events):
            for ask in first(offset, appended, event).tasks:
                early.append(decided(ask))
                first.decided(early[-1])
        waiting: list[RankingTask] = []
        for offset, (appended, event) in enumerate(events):
            if rng.random() < 0.1:
                soon = [one for one in early if offset <= one.source < offset + 5]
                self.publish([one for one in soon if rng.random() < 0.6])
            if fold.blocked(appended, event):
                raise AssertionError("all were answered")
            before = fold.watermark
            caused = fold(offset, appended, event)
            waiting = [ask for ask in caused.tasks if fold.undecided(ask.source)]
            self.publish([decided(ask) for ask in waiting])
            if caused.tasks and rng.random() < 0.2:
                self.publish([structs.replace(decided(ask), slots=()) for ask in caused.tasks])
            mark = encode_bookmark(fold.bookmark())
            self.logged.append(
                LoggedEvent(
                    appended,
                    event,
                    caused.records,
                    caused.tasks,
                    before,
                    mark,
                    len(self.rankings),
                    fold.open,
                    fold.counts.copy(),
                )
            )

    def publish(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            self.rankings.append(decision)
            self.fold.decided(decision, len(self.rankings) - 1)

    def resumed(self, bookmark: Bookmark, committed: int) -> Attribution:
        """Made again from the logs as they were at the commit."""
        fold = Attribution(0, self.rules)
        fold.resume(bookmark)
        have = self.logged[committed - 1].rankings
        asked = bookmark.rankings_from
        soon = self.rng.randint(asked, have) if asked < have else asked
        for n in range(asked, soon):
            fold.decided(self.rankings[n], n)
        for offset in range(bookmark.ids_from, committed):
            one = self.logged[offset]
            assert fold(offset, one.appended, one.event).records == []
        for n in range(soon, have):
            fold.decided(self.rankings[n], n)
        missing = fold.resumed(committed)
        assert not missing, f"without the decisions for {missing}"
        waiting = self.logged[committed - 1].counts["waiting"]
        assert fold.counts["waiting"] == waiting, "lets others wait"
        return fold

    def follow(self, fold: Attribution, start: int, stop: int) -> None:
        """Fold on, and say where it goes another way than the one that never stopped."""
        read = self.logged[start - 1].rankings
        for offset in range(start, stop):
            one, counted = self.logged[offset], fold.counts.copy()
            for n in range(read, one.rankings):
                if self.rankings[n].source >= offset:  # read ahead
                    fold.decided(self.rankings[n], n)
            assert not fold.blocked(one.appended, one.event), f"blocked at {offset}"
            caused = fold(offset, one.appended, one.event)
            assert caused.tasks == one.asks, f"asks otherwise at {offset}"
            assert caused.records == one.records, f"learns otherwise at {offset}"
            for n in range(read, one.rankings):
                fold.decided(self.rankings[n], n)
            read = one.rankings
            assert fold.open == one.open, f"has others open at {offset}"
            due = one.counts.copy()
            due.subtract(self.logged[offset - 1].counts)
            counted.update(due)
            assert fold.counts == counted, f"counts otherwise at {offset}"


def check(seed: int, spoil: Spoil = lambda _, bookmark: bookmark, size: int = 40) -> None:
    story = Story(seed, size)
    for committed in range(1, size):
        bookmark = decode_bookmark(story.logged[committed - 1].bookmark, story.rules.digest)
        assert bookmark is not None
        try:
            fold = story.resumed(spoil(story, bookmark), committed)
            again = story.rng.randint(committed, size)
            story.follow(fold, committed, again)
            second = story.resumed(spoil(story, fold.bookmark()), again)
            story.follow(second, again, size)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"log {seed}, resumed at {committed}: {error}") from error


def test_what_begins_at_a_bookmark_goes_on_as_what_never_stopped() -> None:
    for seed in range(LOGS):
        check(seed)


def ids_too_late(story: Story, bookmark: Bookmark) -> Bookmark:
    if bookmark.ids_from >= bookmark.open_from:
        return bookmark
    later = bookmark.ids_from + 1
    return structs.replace(bookmark, ids_from=later, watermark=story.logged[later].watermark)


def ids_not_at_all(story: Story, bookmark: Bookmark) -> Bookmark:
    if bookmark.open_from >= len(story.logged):
        return bookmark
    before = story.logged[bookmark.open_from].watermark
    return structs.replace(bookmark, ids_from=bookmark.open_from, watermark=before)


def open_too_late(_: Story, bookmark: Bookmark) -> Bookmark:
    return structs.replace(bookmark, open_from=bookmark.open_from + 1)


def rankings_too_late(_: Story, bookmark: Bookmark) -> Bookmark:
    return structs.replace(bookmark, rankings_from=bookmark.rankings_from + 1)


def watermark_lost(_: Story, bookmark: Bookmark) -> Bookmark:
    return structs.replace(bookmark, watermark=0)


def closed_lost(_: Story, bookmark: Bookmark) -> Bookmark:
    return structs.replace(bookmark, closed=(-1, -1))


def all_closed(_: Story, bookmark: Bookmark) -> Bookmark:
    return structs.replace(bookmark, closed=(1 << 60, 0))


def chain_lost(_: Story, bookmark: Bookmark) -> Bookmark:
    return structs.replace(bookmark, chain="")


@pytest.mark.parametrize(
    "spoil",
    [
        ids_too_late,
        ids_not_at_all,
        open_too_late,
        rankings_too_late,
        watermark_lost,
        closed_lost,
        all_closed,
        chain_lost,
    ],
)
def test_a_bookmark_that_says_otherwise_is_found_out(spoil: Spoil) -> None:
    for seed in range(LOGS):
        try:
            check(seed, spoil)
        except AssertionError:
            return
    raise AssertionError(f"{LOGS} logs do not show it")


def test_other_rules_or_another_release_have_no_use_for_a_bookmark() -> None:
    fold = Attribution(0, AttributionRules())
    metadata = encode_bookmark(fold.bookmark())
    assert decode_bookmark(metadata, AttributionRules().digest) == fold.bookmark()
    assert decode_bookmark(metadata, AttributionRules(horizon=1).digest) is None
    for other in ("", "{", "[]", "null", metadata.replace("[1,", "[2,", 1), "[" * 5000, "\ud800"):
        assert decode_bookmark(other, AttributionRules().digest) is None


def test_a_bookmark_reads_from_where_it_matters_and_no_further_back() -> None:
    fold = Attribution(0, AttributionRules(horizon=100, early=10, lateness=50, refresh=False))
    for n in range(1000):
        event = Request(id=f"r{n}", user="ann", at=10_000 + n)
        [ask] = fold(n, event.at, event).tasks
        assert fold.decided(decided(ask), 2 * n)
    bookmark = fold.bookmark()
    assert bookmark.open_from == 999 - 160
    assert bookmark.rankings_from == 2 * bookmark.open_from
    assert bookmark.open_from - 160 - 2 * 3 <= bookmark.ids_from < bookmark.open_from - 160
    assert bookmark.watermark == 10_000 + bookmark.ids_from - 1
    assert len(encode_bookmark(bookmark)) < 200


def test_the_record_of_watermarks_is_bounded() -> None:
    trail = WatermarkHistory(step=1)
    for n in range(100 * MAX_MARKS):
        if trail.full:
            trail.shorten(0)
        trail.mark(n, n)
    sizes = [len(value) for value in vars(trail).values() if isinstance(value, list)]
    assert max(sizes) <= MAX_MARKS + 1
    offset, watermark = trail.before(10_000, 5_000)
    assert offset == watermark < 5_000


def test_a_decision_that_came_before_its_request_is_not_read_past() -> None:
    fold = Attribution(0, AttributionRules())
    ahead = decided(RankingTask(Request(id="soon", user="ann", at=100, k=1), 1))
    fold.decided(ahead, 3)
    [ask] = fold(0, 100, Request(id="r", user="ann", at=100, k=1)).tasks
    fold.decided(decided(ask), 7)
    assert fold.bookmark().rankings_from == 3


def test_after_a_rest_nothing_of_before_is_read() -> None:
    fold = Attribution(0, AttributionRules(refresh=False))
    fold(0, 100, Request(id="r", user="ann", at=100, k=1))
    fold.decided(decided(RankingTask(Request(id="r", user="ann", at=100, k=1), 0)), 0)
    later = 100 + 2 * fold.rules.window
    fold(1, later, Tick(at=later))
    assert (fold.idle, fold.bookmark().ids_from) == (True, 2)
    fold(2, later, Click(id="c", user="ann", item="a", at=later))
    bookmark = fold.bookmark()
    assert (bookmark.ids_from, bookmark.open_from, bookmark.watermark) == (2, 3, later)


@pytest.mark.parametrize("dead", [False, True])
def test_a_decision_that_nobody_asked_for_is_not_waited_for(dead: bool) -> None:
    fold = Attribution(0, AttributionRules())
    fold.decided(decided(RankingTask(Request(id="strange", user="ann", at=100, k=1), 0)), 3)
    assert fold.bookmark().rankings_from == 3
    if dead:
        fold.skip(0)
    else:
        fold(0, 100, Tick(at=100))
    assert fold.bookmark().rankings_from == 4


def test_a_refresh_asks_as_one_did_whose_own_request_is_forgotten() -> None:
    rules = AttributionRules(horizon=10, early=0, lateness=0)
    events = [
        Request(id="r", user="ann", at=100, k=3, context={"where": "x"}),
        Click(id="c", user="ann", item="a", at=110, request="r"),
        Tick(at=111),
    ]
    rankings: list[Decision] = []
    one, two = Attribution(0, rules), Attribution(0, rules)
    for offset, event in enumerate(events):
        for ask in one(offset, event.at, event).tasks:
            rankings.append(decided(ask))
            one.decided(rankings[-1], len(rankings) - 1)
    bookmark = one.bookmark()
    assert (bookmark.open_from, bookmark.rankings_from) == (1, 1)
    two.resume(bookmark)
    for offset in range(bookmark.ids_from, 3):
        two(offset, events[offset].at, events[offset])
    two.decided(rankings[1], 1)
    assert two.resumed(3) == []
    click = Click(id="d", user="ann", item="a", at=112, request="refresh:c")
    [ask] = two(3, 112, click).tasks
    assert [ask] == one(3, 112, click).tasks
    assert (ask.request.k, ask.request.context) == (3, {"where": "x"})
