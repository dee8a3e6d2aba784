"""A click becomes a reward of its slot: what attribution promises, one promise a test."""

from collections.abc import Sequence
from typing import Any

import pytest

from agents.attribution import Attribution, AttributionRules, Effects, RankingTask
from agents.pending import MAX_EARNING, PendingDecision
from models.events import (
    Click,
    Decision,
    Event,
    Impression,
    Interaction,
    Outcome,
    Request,
    Reward,
    Slot,
    Source,
    Tick,
    chain,
    decode_record,
    encode,
)

HORIZON, EARLY, LATENESS = 100, 20, 50


class World:
    """An attribution whose requests are decided at once, as a ranking of a, b and c."""

    def __init__(self, items: Sequence[str] = "abc", decide: bool = True, **rules: Any) -> None:
        defaults = {"horizon": HORIZON, "early": EARLY, "lateness": LATENESS, "future": 10}
        self.fold = Attribution(0, AttributionRules(**{"refresh": False, **defaults, **rules}))
        self.items, self.decide = items, decide
        self.records: list[Interaction | Outcome] = []
        self.asks: list[RankingTask] = []
        self.taken = 0

    def __call__(self, event: Event, appended: int | None = None) -> Effects:
        caused = self.fold(self.taken, event.at if appended is None else appended, event)
        self.taken += 1
        self.records += [decode_record(record.data) for record in caused.records]
        self.asks += caused.tasks
        if self.decide:
            for ask in caused.tasks:
                assert self.fold.decided(decision(ask.request, ask.source, self.items))
        return caused

    @property
    def outcomes(self) -> list[Outcome]:
        return [record for record in self.records if isinstance(record, Outcome)]

    @property
    def interactions(self) -> list[Interaction]:
        return [record for record in self.records if isinstance(record, Interaction)]

    def closed(self, at: int = 10_000) -> Outcome:
        """The only outcome once time has passed."""
        self(Tick(at=at))
        [outcome] = self.outcomes
        return outcome


def decision(request: Request, source: int = 0, items: Sequence[str] = "abc") -> Decision:
    return Decision(
        id=request.id,
        user=request.user,
        at=request.at,
        k=request.k,
        policy="p",
        model=7,
        items=0,
        embeddings=0,
        source=source,
        slots=tuple(Slot(item=item, propensity=0.25) for item in items),
        context=request.context,
    )


def request(id: str = "r", at: int = 1000, user: str = "ann") -> Request:
    return Request(id=id, user=user, at=at, k=3, context={"page": "home"})


def click(
    item: str = "b",
    at: int = 1010,
    id: str = "c",
    user: str = "ann",
    request: str | None = "r",
) -> Click:
    return Click(id=id, user=user, item=item, at=at, request=request)


def reward(value: float, item: str | None = None, at: int = 1010, id: str = "w") -> Reward:
    return Reward(id=id, user="ann", at=at, value=value, request="r", item=item)


def impression(shown: str, at: int = 1010, id: str = "i", request: str = "r") -> Impression:
    return Impression(id=id, request=request, user="ann", at=at, shown=tuple(shown))


def rewards(outcome: Outcome) -> dict[str, float]:
    return {slot.item: slot.reward for slot in outcome.slots}


def test_a_click_becomes_a_reward_of_its_slot() -> None:
    world = World()
    world(request())
    assert world(click("b")).fate == "attributed"
    outcome = world.closed()
    assert outcome.status == "complete"
    assert rewards(outcome) == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert outcome.reward == 1.0


def test_an_outcome_says_what_was_logged_when_it_was_decided() -> None:
    world = World()
    world(request())
    outcome = world.closed()
    assert (outcome.id, outcome.user, outcome.policy, outcome.model) == ("r", "ann", "p", 7)
    assert outcome.context == {"page": "home"}
    assert [(slot.position, slot.propensity) for slot in outcome.slots] == [
        (0, 0.25),
        (1, 0.25),
        (2, 0.25),
    ]


def test_a_list_without_a_click_closes_as_expired_with_zeros() -> None:
    world = World()
    world(request())
    outcome = world.closed()
    assert outcome.status == "expired"
    assert rewards(outcome) == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_a_click_is_taught_at_once_and_the_outcome_at_the_horizon() -> None:
    world = World()
    world(request())
    world(click(at=1010))
    assert [record.value for record in world.interactions] == [1.0]
    world(Tick(at=1000 + HORIZON))
    assert not world.outcomes
    world(Tick(at=1000 + HORIZON + 1))
    assert len(world.outcomes) == 1


def test_a_second_click_on_an_item_earns_nothing_more() -> None:
    world = World()
    world(request())
    world(click("b", id="c1"))
    world(click("b", id="c2"))
    assert world.closed().reward == 1.0
    assert len(world.interactions) == 2


def test_rewards_of_an_item_add_up_and_may_be_negative() -> None:
    world = World()
    world(request())
    world(reward(-2.5, "a", id="w1"))
    world(reward(0.5, "a", id="w2"))
    outcome = world.closed()
    assert rewards(outcome)["a"] == outcome.reward == -2.0
    assert [record.value for record in world.interactions] == [-2.5, 0.5]


def test_a_reward_without_an_item_is_shared_by_what_was_shown() -> None:
    world = World()
    world(request())
    world(reward(6.0))
    outcome = world.closed()
    assert rewards(outcome) == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert outcome.reward == 6.0
    assert not world.interactions


def test_many_large_rewards_still_make_an_outcome_that_can_be_read() -> None:
    world = World()
    world(request())
    for n in range(3):
        world(reward(1e6, "a", id=f"w{n}"))
    assert rewards(world.closed())["a"] == 1e6


def test_an_early_reward_within_the_window_waits_and_counts() -> None:
    world = World()
    assert world(click("a", at=1000 - EARLY)).fate == "waiting"
    assert world.fold.counts == {"waiting": 1}
    world(request(at=1000))
    assert +world.fold.counts == {"attributed": 1, "asked": 1}
    assert rewards(world.closed())["a"] == 1.0


def test_an_early_reward_beyond_the_window_is_an_orphan() -> None:
    world = World()
    world(click("a", at=1000 - EARLY - 1))
    world(request(at=1000))
    assert +world.fold.counts == {"orphan": 1, "asked": 1}
    assert world.closed().status == "expired"


def test_several_early_events_of_a_request_expire_one_by_one() -> None:
    world = World()
    world(click("a", at=1000, id="c1"))
    world(click("b", at=1010, id="c2"))
    world(request(at=1000 + EARLY + 1))
    assert +world.fold.counts == {"orphan": 1, "attributed": 1, "asked": 1}


def test_a_late_click_corrects_its_outcome() -> None:
    world = World()
    world(request())
    late = 1000 + HORIZON + LATENESS
    assert world(click("b", at=late)).fate == "late"
    expired, corrected = world.outcomes
    assert (expired.status, expired.reward) == ("expired", 0.0)
    assert (corrected.status, rewards(corrected)["b"]) == ("corrected", 1.0)


def test_a_click_after_its_decision_is_forgotten_is_an_orphan_in_the_end() -> None:
    world = World()
    world(request())
    late = 1000 + HORIZON + LATENESS + 1
    assert world(click("b", at=late)).fate == "waiting"
    world(Tick(at=late + EARLY + 1))
    assert world.fold.counts["orphan"] == 1
    assert [outcome.status for outcome in world.outcomes] == ["expired"]


def test_what_is_too_late_is_counted_and_does_nothing_else() -> None:
    world = World(refresh=True)
    world(Tick(at=5000))
    oldest = 5000 - world.fold.rules.window
    caused = world(click(at=oldest - 1, id="old"))
    assert (caused.fate, caused.records, caused.tasks) == ("too_late", [], [])
    assert world(click(at=oldest, id="just")).fate == "waiting"


def test_a_duplicate_does_nothing() -> None:
    world = World(refresh=True)
    for event in (request(), click(), reward(1.0), impression("ab")):
        world(event)
        again = world(event)
        assert (again.fate, again.records, again.tasks) == ("duplicate", [], [])
    assert world.fold.counts["duplicate"] == 4


def test_a_duplicate_is_known_by_its_id_alone() -> None:
    world = World()
    world(request())
    world(click("a"))
    assert world(click("c", at=1050)).fate == "duplicate"


def test_a_click_and_a_reward_may_have_the_same_id() -> None:
    world = World()
    world(request())
    world(click("a", id="x"))
    assert world(reward(1.0, "a", id="x")).fate == "attributed"


def test_an_id_may_come_again_after_the_window() -> None:
    world = World()
    world(request(at=1000))
    again = 1001 + world.fold.rules.window
    assert world(request(at=again)).fate == "asked"
    world(Tick(at=again + HORIZON + 1))
    assert [outcome.source.offset for outcome in world.outcomes] == [1, 2]


def test_an_id_may_come_again_while_its_first_decision_still_waits_for_its_closing() -> None:
    world = World(most_closings=1)
    for n in range(4):
        world(request(f"r{n}"))
    late = 2000 + world.fold.rules.window
    assert world(request("r3", at=late)).fate == "asked"
    for n in range(5):
        world(Tick(at=late + n))
    assert [outcome.id for outcome in world.outcomes] == ["r0", "r1", "r2", "r3"]
    world(click("a", at=late + 5, request="r3"))
    world(Tick(at=late + HORIZON + 1))
    assert [outcome.status for outcome in world.outcomes[3:]] == ["expired", "complete"]


def test_what_waits_for_its_closing_takes_no_events_once_its_lateness_is_over() -> None:
    world = World(most_closings=1)
    for n in range(3):
        world(request(f"r{n}"))
    late = 1000 + HORIZON + LATENESS
    assert world(click("a", at=late, request="r2", id="in time")).fate == "attributed"
    assert world(click("a", at=late + 1, request="r2", id="too late")).fate == "waiting"
    world(Tick(at=late + 1))
    assert [outcome.status for outcome in world.outcomes] == ["expired", "expired", "complete"]


def test_an_id_that_comes_again_and_again_stays_known() -> None:
    world = World(refresh=True)
    window = world.fold.rules.window
    world(click("a", at=1000, request=None))
    for n in range(1, 4):
        assert world(click("a", at=1000 + n * window, request=None)).fate == "duplicate"
    assert world(request("refresh:c", at=1000 + 4 * window)).fate == "duplicate"
    assert world(click("a", at=1001 + 4 * window, request=None)).fate == "organic"


def test_another_users_click_is_an_orphan_but_still_an_interaction() -> None:
    world = World()
    world(request(user="ann"))
    assert world(click("b", user="bob")).fate == "waiting"
    assert [record.user for record in world.interactions] == ["bob"]
    assert world.closed().status == "expired"
    assert +world.fold.counts == {"orphan": 1, "asked": 1, "tick": 1, "expired": 1}


def test_another_users_early_click_is_an_orphan_too() -> None:
    world = World()
    world(click("b", at=990, user="bob"))
    world(request(user="ann", at=1000))
    assert world.closed().status == "expired"
    assert +world.fold.counts == {"orphan": 1, "asked": 1, "tick": 1, "expired": 1}


def test_users_may_count_alike() -> None:
    """Ids that count within a session: another user's event is no duplicate, nor is it joined."""
    world = World(refresh=True)
    for user in ("ann", "bob"):
        early = click("b", at=990, user=user, request="1", id="0")
        assert world(early).fate == "waiting"
    for user in ("ann", "bob"):
        assert world(request("1", user=user, at=1000)).fate == "asked"
        assert world(click("a", user=user, at=1001, request="1", id="1")).fate == "attributed"
        assert world(click("a", user=user, at=1002, request="1", id="1")).fate == "duplicate"
    asked = sorted((ask.request.user, ask.request.id) for ask in world.asks)
    own = ["1", "refresh:0", "refresh:1"]
    assert asked == [(user, id) for user in ("ann", "bob") for id in own]
    world(Tick(at=10_000))
    earned = {outcome.user: outcome.reward for outcome in world.outcomes if outcome.id == "1"}
    assert earned == {"ann": 2.0, "bob": 2.0}


def test_a_user_and_an_id_are_told_apart() -> None:
    """Not by gluing them together: these pairs spell the same."""
    world = World()
    for user, id in [("ann", "1"), ("an", "n1"), ("1:ann", "1"), ("a", "nn1"), ("3:a", "nn1")]:
        assert world(request(id, user=user)).fate == "asked"


def test_a_click_without_a_request_teaches_and_is_organic() -> None:
    world = World()
    assert world(click("z", request=None)).fate == "organic"
    [record] = world.interactions
    assert (record.user, record.item, record.value) == ("ann", "z", 1.0)


def test_a_click_on_what_was_not_shown_earns_nothing() -> None:
    world = World()
    world(request())
    world(click("z"))
    outcome = world.closed()
    assert rewards(outcome) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert (outcome.status, outcome.reward) == ("complete", 0.0)


def test_what_was_shown_overrides_what_was_proposed() -> None:
    world = World()
    world(request())
    world(impression("czac"))
    outcome = world.closed()
    assert [(slot.item, slot.position) for slot in outcome.slots] == [("c", 0), ("a", 2)]
    assert outcome.foreign == ("z",)


def test_the_last_impression_counts() -> None:
    world = World()
    world(request())
    world(impression("a", id="i1"))
    world(impression("b", id="i2"))
    assert list(rewards(world.closed())) == ["b"]


def test_a_reward_is_shared_by_our_own_items_among_those_shown() -> None:
    world = World()
    world(request())
    world(impression("bzc"))
    world(reward(4.0))
    assert rewards(world.closed()) == {"b": 2.0, "c": 2.0}


def test_an_impression_of_foreign_items_alone_leaves_no_slots_to_share() -> None:
    world = World()
    world(request())
    world(impression("xy"))
    world(reward(4.0))
    outcome = world.closed()
    assert (outcome.slots, outcome.foreign, outcome.reward) == ((), ("x", "y"), 4.0)


def test_a_late_impression_corrects_what_was_shown() -> None:
    world = World()
    world(request())
    assert world(impression("b", at=1000 + HORIZON + 1)).fate == "late"
    assert [list(rewards(outcome)) for outcome in world.outcomes] == [["a", "b", "c"], ["b"]]


def test_with_explicit_impressions_a_decision_counts_once_something_says_it_was_shown() -> None:
    world = World(implied=False)
    for id in ("seen", "clicked", "neither"):
        world(request(id))
    world(impression("a", request="seen"))
    world(click("b", request="clicked"))
    world(Tick(at=5000))
    assert [(o.id, list(rewards(o))) for o in world.outcomes] == [
        ("seen", ["a"]),
        ("clicked", ["a", "b", "c"]),
    ]
    assert world.fold.counts["unshown"] == 1


def test_a_click_asks_for_the_next_ranking_as_its_request_did() -> None:
    world = World(refresh=True)
    world(request())
    [ask] = world(click("a", at=1010)).tasks
    assert ask.source == 1
    assert ask.request == Request(
        id="refresh:c", user="ann", at=1010, k=3, context={"page": "home"}
    )


@pytest.mark.parametrize("on", [None, "unknown", "r"])
def test_a_refresh_takes_nothing_from_a_request_that_is_not_the_users(on: str | None) -> None:
    world = World(refresh=True, refresh_k=5)
    world(request(user="ann"))
    [ask] = world(click("a", user="bob", request=on)).tasks
    assert (ask.request.user, ask.request.k, ask.request.context) == ("bob", 5, {})


def test_a_refresh_counts_as_shown_only_when_something_says_so() -> None:
    world = World(refresh=True)
    world(click("a", id="one", request=None))
    world(click("b", id="two", request=None))
    world(impression("ca", request="refresh:two"))
    assert list(rewards(world.closed())) == ["c", "a"]
    assert world.fold.counts["unshown"] == 1


def test_the_request_that_a_producer_makes_of_a_refresh_is_a_duplicate() -> None:
    world = World(refresh=True)
    world(click("a"))
    assert world(request("refresh:c")).fate == "duplicate"


def test_a_request_named_like_a_refresh_comes_first_if_it_is_first() -> None:
    world = World(refresh=True)
    world(request("refresh:c"))
    assert world(click("a")).tasks == []


def test_a_refused_decision_has_no_outcome() -> None:
    world = World(items="")
    world(request())
    world(click("b"))
    world(Tick(at=1000 + HORIZON + 1))
    assert world(click("c", id="late", at=1000 + HORIZON + 1)).fate == "late"
    assert not world.outcomes
    assert world.fold.counts["refused"] == 1


def test_a_future_timestamp_closes_nobodys_decisions() -> None:
    world = World()
    world(request())
    world(click("a", at=9_000_000, request=None), appended=1001)
    assert world.fold.watermark == 1001 + world.fold.rules.future
    assert not world.outcomes
    assert world.fold.open == 1


def test_a_request_from_the_future_closes_a_horizon_after_now() -> None:
    world = World()
    world(request(at=9_000_000), appended=1000)
    world(Tick(at=1000 + 10 + HORIZON + 1))
    assert len(world.outcomes) == 1


def test_time_does_not_run_back() -> None:
    world = World()
    world(Tick(at=1100))
    world(request(at=1090))
    assert world.fold.watermark == 1100


def test_closings_at_one_event_are_bounded_and_the_rest_follow() -> None:
    world = World(most_closings=2)
    for n in range(5):
        world(request(f"r{n}", at=1000 + n))
    closed: list[int] = []
    for n in range(3):
        world(Tick(at=5000 + n))
        closed.append(len(world.outcomes))
    assert closed == [2, 4, 5]
    assert [outcome.id for outcome in world.outcomes] == ["r0", "r1", "r2", "r3", "r4"]


def test_an_event_that_would_close_what_is_not_decided_is_blocked() -> None:
    world = World(decide=False)
    world(request())
    assert not world.fold.blocked(1000 + HORIZON, Tick(at=1000 + HORIZON))
    closing = Tick(at=1000 + HORIZON + 1)
    assert world.fold.blocked(closing.at, closing)
    world.fold.decided(decision(request()))
    assert not world.fold.blocked(closing.at, closing)


def test_the_soonest_undecided_request_blocks() -> None:
    world = World(decide=False)
    world(request("r1", at=1000))
    world(request("r0", at=990))
    closing = Tick(at=990 + HORIZON + 1)
    assert world.fold.blocked(closing.at, closing)
    world.fold.decided(decision(request("r0"), source=1))
    assert not world.fold.blocked(closing.at, closing)


def test_whoever_folds_past_the_block_is_stopped() -> None:
    world = World(decide=False)
    world(request())
    with pytest.raises(RuntimeError, match="closes before it was decided"):
        world(Tick(at=5000))


def test_the_first_decision_read_back_counts() -> None:
    world = World(decide=False)
    world(request())
    assert world.fold.decided(decision(request(), items="x"))
    assert not world.fold.decided(decision(request(), items="y"))
    assert list(rewards(world.closed())) == ["x"]


def test_a_decision_may_be_read_back_before_its_request_is_folded() -> None:
    world = World(decide=False)
    assert world.fold.decided(decision(request(), items="x"))
    assert not world.fold.decided(decision(request(), items="y"))
    assert not world.fold.undecided(0)
    world(request())
    assert not world.fold.undecided(0)
    assert list(rewards(world.closed())) == ["x"]


def test_a_decision_of_an_unknown_request_is_of_no_use() -> None:
    world = World(decide=False)
    world(Tick(at=1000))
    assert not world.fold.decided(decision(request("nobody asked")))


def test_the_decision_of_an_id_that_came_again_is_not_taken_for_the_first() -> None:
    world = World(decide=False)
    world(request(at=1000))
    again = request(at=9000)
    assert world.fold.decided(decision(again, source=1, items="y"))
    assert world.fold.undecided(0)
    assert world.fold.decided(decision(request(), source=0, items="x"))
    world(again)
    assert list(rewards(world.outcomes[0])) == ["x"]
    assert not world.fold.undecided(1)


def test_a_sleepers_decision_for_an_id_of_long_ago_is_not_taken_for_the_present_one() -> None:
    world = World(decide=False)
    world(request(at=1000))
    assert world.fold.decided(decision(request(), source=0, items="x"))
    again = request(at=9000)
    world(again)
    assert not world.fold.decided(decision(request(), source=0, items="y"))
    assert world.fold.decided(decision(again, source=1, items="z"))


def test_every_event_ends_in_one_counter() -> None:
    world = World()
    events: list[Event] = [
        click("a", at=900, id="orphan"),
        request(),
        click("b", id="attributed"),
        click("b", id="attributed"),
        click("z", id="organic", request=None),
        click("b", id="too late", at=10),
        Tick(at=1000 + HORIZON + 1),
        click("c", id="late", at=1000 + HORIZON + 1),
        click("c", id="waiting", at=1000 + HORIZON + 1, request="later"),
    ]
    for event in events:
        world(event)
    assert +world.fold.counts == {
        "orphan": 1,
        "asked": 1,
        "attributed": 1,
        "duplicate": 1,
        "organic": 1,
        "too_late": 1,
        "tick": 1,
        "late": 1,
        "waiting": 1,
        "complete": 1,
        "corrected": 1,
    }
    fates = world.fold.counts
    closings = sum(fates[status] for status in ("complete", "expired", "corrected"))
    assert sum(fates.values()) - closings == len(events)


def test_records_are_chained_and_say_where_they_come_from() -> None:
    world = World()
    world(request())
    world(click("a"))
    records = world(click("b", id="c2", at=1000 + HORIZON + 1)).records
    assert [record.source for record in records] == [Source(0, 2, n) for n in range(3)]
    previous = encode(world.records[0])
    for record in records:
        assert decode_record(record.data).prev == chain(previous)
        previous = record.data
    assert world.fold.chain == chain(previous)
    assert world.fold.last == Source(0, 2, 2)


def test_nothing_is_kept_of_what_the_window_has_left_behind() -> None:
    world = World(refresh=True)
    for n in range(200):
        at = 1000 + 10 * n
        world(request(f"r{n}", at=at))
        world(click("a", id=f"c{n}", at=at, request=f"r{n}"))
        world(click("a", id=f"e{n}", at=at, request=f"never {n}"))
    end = 10_000
    for n in range(8):
        world(Tick(at=end + n))
    kept = {name: len(value) for name, value in vars(world.fold).items() if hasattr(value, "pop")}
    assert set(kept) - {n for n, size in kept.items() if not size} == {"counts"}


def test_what_may_earn_for_one_decision_is_bounded() -> None:
    pending = PendingDecision(request(), 0, deadline=0, explicit=False)
    for n in range(MAX_EARNING + 10):
        pending.add(click(f"i{n}", id=f"c{n}"))
        pending.add(reward(1.0, f"j{n}", id=f"w{n}"))
    assert len(pending.clicked) <= MAX_EARNING
    assert len(pending.rewards) == MAX_EARNING
