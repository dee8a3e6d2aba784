"""Rule L3: an attribution loaded from its state behaves as the one that never moved.

Random logs with small windows; RANKLOOP_TEST_STATES sets how many. After each step, be it an event
or a decision read back, a state is taken, packed, and goes on elsewhere to the end of the log.
"""

import os
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from msgspec import Struct, structs

from agents.attribution import Attribution, AttributionRules, Effects, RankingTask
from agents.attribution_state import CHUNK, FORMAT, AttributionState, decode_state, encode_state
from agents.bookmark import Bookmark
from models.events import Click, Decision, Event, Request, Tick
from tests.support.attribution_logs import decided, rules, some_event

LOGS = int(os.environ.get("RANKLOOP_TEST_STATES", "60"))
SIZE = 30
Spoil = Callable[[AttributionState], AttributionState]


class Step(Struct, frozen=True):
    """An event (`offset`, `appended`) or a decision (`offset` in the rankings)."""

    offset: int
    appended: int
    what: Event | Decision


class After(Struct, frozen=True):
    """What can be seen of an attribution after a step."""

    caused: Effects | bool
    counts: dict[str, int]
    bookmark: Bookmark
    open: int
    watermark: int
    idle: bool
    undecided: bool


def take(fold: Attribution, step: Step) -> After:
    if isinstance(step.what, Decision):
        caused = fold.decided(step.what, step.offset)
    else:
        assert not fold.blocked(step.appended, step.what)
        caused = fold(step.offset, step.appended, step.what)
    return After(
        caused,
        dict(fold.counts),
        fold.bookmark(),
        fold.open,
        fold.watermark,
        fold.idle,
        fold.undecided(step.offset),
    )


class Story:
    """A log and the decisions read back between its events: ahead, at once, late, or twice."""

    def __init__(self, seed: int, size: int = SIZE) -> None:
        self.rng = rng = Random(seed)
        self.rules = rules(rng)
        self.fold = Attribution(0, self.rules)
        self.steps: list[Step] = []
        self.after: list[After] = []
        self.states: list[AttributionState] = []  # after each step
        self.rankings = 0
        now, ids = 100, rng.choice(["r", "rs", "rstuv"])
        waiting: list[Decision] = []
        for offset in range(size):
            now += rng.choice([0, 0, 1, 1, 2, 7, 30 if rng.random() < 0.2 else 0])
            one = some_event(rng, now, offset, ids)
            if isinstance(one, Request) and rng.random() < 0.2:
                self.publish(decided(RankingTask(one, offset)))
                if rng.random() < 0.5:
                    strange = structs.replace(decided(RankingTask(one, offset)), id="strange")
                    self.publish(strange)
            while waiting and (rng.random() < 0.5 or self.fold.blocked(now, one)):
                self.publish(waiting.pop(0))
            caused = self.step(Step(offset, now, one)).caused
            assert isinstance(caused, Effects)
            waiting += [decided(ask) for ask in caused.tasks if self.fold.undecided(ask.source)]
            rng.shuffle(waiting)
            if caused.tasks and rng.random() < 0.2:
                waiting.append(structs.replace(decided(caused.tasks[0]), slots=()))

    def publish(self, decision: Decision) -> None:
        self.step(Step(self.rankings, 0, decision))
        self.rankings += self.rng.choice([1, 1, 2])

    def step(self, step: Step) -> After:
        after = take(self.fold, step)
        self.steps.append(step)
        self.after.append(after)
        self.states.append(self.fold.state())
        return after


def moved(state: AttributionState, terms: AttributionRules) -> Attribution:
    """An attribution in another process."""
    found = decode_state([(name, bytes(data)) for name, data in encode_state(state)], terms.digest)
    assert found is not None and found == state
    fold = Attribution(0, terms)
    fold.load(found)
    return fold


def check(seed: int, spoil: Spoil = lambda state: state) -> None:
    story = Story(seed)
    for cut, state in enumerate(story.states):
        fold = moved(spoil(state), story.rules)
        again = story.rng.randint(cut, len(story.steps))
        for n in range(cut + 1, len(story.steps)):
            try:
                after = take(fold, story.steps[n])
            except (AssertionError, RuntimeError, KeyError) as error:
                raise AssertionError(f"log {seed}, moved after {cut}, at {n}: {error}") from error
            assert after == story.after[n], f"log {seed}, moved after {cut}, differs at {n}"
            assert fold.state() == story.states[n], f"log {seed}, moved after {cut}, rests at {n}"
            if n == again:
                fold = moved(fold.state(), story.rules)


def test_what_is_loaded_goes_on_as_what_never_moved() -> None:
    for seed in range(LOGS):
        check(seed)


def test_the_logs_hold_what_the_promise_is_about() -> None:
    stories = [Story(seed) for seed in range(LOGS)]
    states = [state for story in stories for state in story.states]
    fates = {fate for story in stories for fate in story.fold.counts}
    assert fates >= {"duplicate", "late", "orphan", "organic", "too_late", "attributed", "tick"}
    assert fates >= {"complete", "expired", "corrected", "unshown", "refused"}
    assert any(one.decision is None for state in states for one in state.held)
    assert any(one.explicit and one.shown for state in states for one in state.held)
    assert any(one.closed and not one.forgotten for state in states for one in state.held)
    assert any(one.forgotten and not one.closed for state in states for one in state.held)
    assert any(state.ahead for state in states)
    assert {one.event is None for state in states for one in state.early} == {True, False}
    assert any(len(state.reach.lows) > 1 for state in states)


def without(*names: str) -> Spoil:
    """Lose a part."""
    empty: dict[str, object] = {"held": (), "early": (), "ahead": (), "seen": {}}
    lost = empty | {"chain": "", "last": None, "closed": (-1, -1), "watermark": 0, "counts": {}}
    return lambda state: structs.replace(state, **{name: lost[name] for name in names})


def held(**changes: object) -> Spoil:
    """Every decision otherwise."""

    def spoil(state: AttributionState) -> AttributionState:
        return structs.replace(
            state, held=tuple(structs.replace(one, **changes) for one in state.held)
        )

    return spoil


def reached(**changes: object) -> Spoil:
    """Other places in the logs."""
    return lambda state: structs.replace(state, reach=structs.replace(state.reach, **changes))


@pytest.mark.parametrize(
    "spoil",
    [
        *map(without, ("seen", "ahead", "chain", "last", "closed", "watermark", "counts")),
        without("held", "early"),
        without("early"),
        held(decision=None),
        held(shown=None),
        held(clicked=()),
        held(rewards={}),
        held(rewarded=True),
        held(whole=9.0),
        held(explicit=False),
        held(closed=False),
        held(forgotten=False),
        held(deadline=1 << 40),
        reached(first=0),
        reached(read=0),
        reached(lows=()),
        reached(offsets=(0,), watermarks=(0,)),
    ],
)
def test_a_state_that_says_otherwise_is_found_out(spoil: Spoil) -> None:
    for seed in range(LOGS):
        try:
            check(seed, spoil)
        except (AssertionError, ValueError):
            return
    raise AssertionError(f"{LOGS} logs do not show it")


def test_a_state_is_left_alone_by_what_comes_after_it() -> None:
    story = Story(3)
    fold = Attribution(0, story.rules)
    for step, before in zip(story.steps, story.states, strict=True):
        take(fold, step)
        assert before == fold.state()


def test_other_rules_another_partition_or_another_format_have_no_use_for_a_state() -> None:
    fold = Attribution(3, AttributionRules())
    fold(0, 5, Click(id="c", user="ann", item="a", at=5))
    state = fold.state()
    assert decode_state(encode_state(state), AttributionRules(horizon=1).digest) is None
    later = structs.replace(state, format=FORMAT + 1)
    assert decode_state(encode_state(later), AttributionRules().digest) is None
    other = msgspec.msgpack.encode(
        {"format": FORMAT + 1, "rules": AttributionRules().digest, "what": "else"}
    )
    assert decode_state([("head", other)], AttributionRules().digest) is None
    for partition, terms in ((0, AttributionRules()), (3, AttributionRules(horizon=1))):
        with pytest.raises(ValueError, match="a state of partition 3"):
            Attribution(partition, terms).load(state)


def test_what_is_no_state_is_refused() -> None:
    fold = Attribution(0, AttributionRules())
    for n in range(3):
        fold(n, 5, Request(id=f"r{n}", user="ann", at=5))
    pieces = list(encode_state(fold.state()))
    for n, (name, data) in enumerate(pieces):
        for end in range(len(data)):
            broken = [*pieces[:n], (name, data[:end]), *pieces[n + 1 :]]
            with pytest.raises(ValueError, match="cannot be read"):
                decode_state(broken, AttributionRules().digest)
    with pytest.raises(ValueError, match="cannot be read"):
        decode_state([], AttributionRules().digest)


def test_what_is_in_pieces_is_whole_again() -> None:
    fold = Attribution(0, AttributionRules(refresh=False))
    for n in range(2 * CHUNK + 1):
        fold(n, 5, Click(id=f"c{n}", user="ann", item="a", at=5))
    pieces = list(encode_state(fold.state()))
    assert [name for name, _ in pieces] == ["head", "seen", "seen", "seen"]
    assert decode_state(pieces, fold.rules.digest) == fold.state()


def test_counts_begin_anew_with_a_new_owner() -> None:
    fold = Attribution(0, AttributionRules(refresh=False))
    fold(0, 5, Click(id="c", user="ann", item="a", at=5, request="later"))
    fold(1, 5, Tick(at=5))
    fold = moved(fold.state(), fold.rules)
    assert (fold.counts["tick"], fold.counts["waiting"]) == (1, 1)
    assert fold.resumed(2) == []
    assert +fold.counts == {"waiting": 1}
