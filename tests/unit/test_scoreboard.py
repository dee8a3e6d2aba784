"""Who earns most by the champion's log: never on noise, soon if it is so, the same everywhere."""

from collections.abc import Iterator, Mapping
from itertools import permutations, product
from math import prod

import numpy as np
import pytest
from msgspec.structs import replace

from agents.learner import Learner
from agents.scoreboard import Scoreboard
from models.base import Doubles
from models.events import (
    Champion,
    Click,
    Decision,
    Fold,
    Outcome,
    OutcomeSlot,
    Request,
    Slot,
    Source,
    Tick,
    decode_decision,
    encode,
)
from models.memory import Memory
from policies.evaluation.importance_weights import chances, weights
from policies.exploration import Epsilon
from policies.uniform import Uniform
from stream import build
from stream.cli.champion import score_lines
from stream.kafka.topics import owner
from stream.settings import Settings
from stream.settings_schema import SettingError, steering
from stream.storage.object_store import object_store
from stream.storage.snapshots import LogId, Snapshots
from tests.unit.test_audit import SETTINGS, AuditedHistory, audited, lived, user_of

K, ITEMS = 2, "abcde"
RUNS, RANKINGS = 200, 1_000
JUDGED = replace(SETTINGS, policy="popular", challengers="bandit,uniform", epsilon=0.5)
JUDGED = replace(JUDGED, exploration="epsilon")


class Fixed(Uniform):
    """Prefers items as they stand in `order`, explores with epsilon."""

    def __init__(self, order: str, epsilon: float = 0.3) -> None:
        super().__init__(order)
        self.ranks = np.array([-float(order.index(item)) for item in ITEMS])
        self._explore = Epsilon(epsilon)

    def pmf(self, scores: Doubles) -> Doubles:
        return self._explore(scores)


class SimulatedUsers:
    """Users who read K items from the top and click each with a probability of its own."""

    def __init__(self, clicked: Mapping[str, float], champion: Fixed, **others: Fixed) -> None:
        self.clicked = clicked
        self.champion = champion
        self.others = others
        self.slates = list(permutations(range(len(ITEMS)), K))
        self.chance = self._chances(champion)
        self.policies = ("champion", *others)
        self.outcomes = {
            (slate, clicks): self._outcome(slate, clicks)
            for slate in self.slates
            for clicks in product((False, True), repeat=K)
        }

    def _chances(self, policy: Fixed) -> Doubles:
        """Of each slate."""
        return np.array([prod(chances(policy, policy.ranks, slate)) for slate in self.slates])

    def value(self, policy: Fixed) -> float:
        """Its true share of rankings with a click."""
        missed = [prod(1 - self.clicked[ITEMS[i]] for i in slate) for slate in self.slates]
        return float((self._chances(policy) * (1.0 - np.array(missed))).sum())

    def _outcome(self, slate: tuple[int, ...], clicks: tuple[bool, ...]) -> Outcome:
        shown = chances(self.champion, self.champion.ranks, slate)
        slots = [Slot(item=ITEMS[i], propensity=p) for i, p in zip(slate, shown, strict=True)]
        return Outcome(
            id="r",
            user="u",
            at=1,
            status="complete",
            policy="champion",
            model=0,
            slots=tuple(
                OutcomeSlot(
                    item=slot.item, position=n, propensity=slot.propensity, reward=float(click)
                )
                for n, (slot, click) in enumerate(zip(slots, clicks, strict=True))
            ),
            source=Source(0, 0, 0),
            weights={
                name: weights(chances(policy, policy.ranks, slate), slots)
                for name, policy in self.others.items()
            },
        )

    def rankings(self, n: int, seed: int) -> Iterator[Outcome]:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(self.slates), n, p=self.chance)
        luck = rng.random((n, K))
        for slate, lucky in zip([self.slates[i] for i in drawn], luck.tolist(), strict=True):
            clicks = [x < self.clicked[ITEMS[i]] for x, i in zip(lucky, slate, strict=True)]
            yield self.outcomes[slate, tuple(clicks)]


def ahead(outcome: Outcome, name: str) -> float:
    """What a challenger earned more than the champion, by its weights, not cut."""
    first = next((i for i, slot in enumerate(outcome.slots) if slot.reward), None)
    return 0.0 if first is None else outcome.weights[name][first] - 1.0


def test_a_challengers_value_is_what_it_would_have_earned() -> None:
    clicked = {"a": 0.2, "b": 0.5, "c": 0.1, "d": 0.1, "e": 0.1}
    champion, other = Fixed("adecb", epsilon=0.8), Fixed("bcade", epsilon=0.6)
    users = SimulatedUsers(clicked, champion, other=other)
    board = Scoreboard(users.policies)
    for outcome in users.rankings(6_000, 7):
        board.count(outcome)
    own, score = board.scores()
    assert own.value and score.value and score.ahead
    gain = users.value(other) - users.value(champion)
    assert gain > 0.1
    for found, truth in (
        (own.value, users.value(champion)),
        (score.value, users.value(other)),
        (score.ahead, gain),
    ):
        assert found.low < truth < found.high
        assert found.mean == pytest.approx(truth, abs=0.03)
    assert score.weight == pytest.approx(1.0, abs=0.05)
    assert score.cut == 0.0


def test_promotion_never_happens_on_noise() -> None:
    alike = {"a": 0.3, "b": 0.3, "c": 0.1, "d": 0.1, "e": 0.1}
    champion, mirror = Fixed("abcde", epsilon=0.6), Fixed("bacde", epsilon=0.6)
    users = SimulatedUsers(alike, champion, twin=Fixed("abcde", epsilon=0.6), mirror=mirror)
    assert users.value(champion) == pytest.approx(users.value(mirror))
    promoted = fooled = 0
    for seed in range(RUNS):
        board, gains = Scoreboard(users.policies), list[float]()
        for outcome in users.rankings(RANKINGS, seed):
            board.count(outcome)
            gains.append(ahead(outcome, "mirror"))
            if board.better() is not None:
                promoted += 1
                break
        n = np.arange(1, len(gains) + 1)
        means = np.cumsum(gains) / n
        errors = np.sqrt((np.cumsum(np.square(gains)) / n - means**2) / n)
        fooled += bool((means > 1.96 * errors)[30:].any())
    assert promoted <= 0.05 * RUNS
    # Who looks after every ranking at a plain interval of 95% is fooled again and again.
    assert fooled > 0.1 * RUNS


def test_a_better_challenger_is_promoted() -> None:
    clicked = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1, "e": 0.6}
    champion, better = Fixed("abcde", epsilon=0.5), Fixed("eabcd")
    users = SimulatedUsers(clicked, champion, worse=Fixed("dcbae"), better=better)
    assert users.value(better) - users.value(champion) > 0.3
    named = [_first(users, seed) for seed in range(40)]
    assert named.count("better") >= 39


def _first(users: SimulatedUsers, seed: int) -> str | None:
    board = Scoreboard(users.policies)
    for outcome in users.rankings(RANKINGS, 1_000 + seed):
        board.count(outcome)
        if name := board.better(margin=0.02, effective=20):
            return name
    return None


def switch(policy: str, expects: str) -> bytes:
    return encode(Champion(policy=policy, expects=expects))


def learner() -> Learner:
    return Learner(Memory(None, {}), Fixed("abcde"), challengers=[Fixed("bacde"), Uniform()])


def test_a_challenger_that_fails_would_have_earned_nothing() -> None:
    class Failing(Uniform):
        def pmf(self, scores: Doubles) -> Doubles:
            raise ValueError("not today")

    owned = lived(replace(SETTINGS, policy="popular"), rounds=3)
    parts = owned.workers[0].parts
    parts.learner.policies["failing"] = Failing("failing")
    decision = owned.workers[0](Request(id="r", user=user_of(0, 1), at=9_000, k=3))[0]
    assert decision.refused is None
    assert decision.weights == {"failing": (0.0,) * len(decision.slots)}


def test_weights_are_the_challengers_probabilities_by_the_propensities() -> None:
    owned = lived(JUDGED, rounds=6)
    decisions = [d for d in ranked(owned) if d.policy == "popular" and d.slots]
    assert decisions
    for decision in decisions:
        assert list(decision.weights) == ["bandit", "uniform"]
        assert len(decision.weights["uniform"]) == len(decision.slots)
    last = replace(decisions[-1], candidates=None)
    worker = owned.workers[int(last.id.endswith("-1"))]
    found = worker.parts.recommender.retrieval(Request(id=last.id, user=last.user, at=last.at))
    even = 1 / (len(found.items) * last.slots[0].propensity)
    assert last.weights["uniform"][0] == pytest.approx(even, rel=0.3)


def ranked(owned: AuditedHistory) -> list[Decision]:
    return [decode_decision(m.data) for log in owned.logs.topics["rankings"] for m in log]


def test_without_challengers_nothing_is_written_learned_or_hashed_otherwise() -> None:
    owned = lived(rounds=6)
    assert all(b"weights" not in m.data for log in owned.logs.topics["rankings"] for m in log)
    assert all(b"weights" not in m.data for m in owned.logs.topics["feedback"][0])
    state = owned.workers[0].parts.learner.state()
    assert (state.challengers, state.board) == ({}, b"")
    assert Settings(challengers="").fold_hash() == Settings().fold_hash()
    assert Settings(challengers="knn").fold_hash() != Settings().fold_hash()
    assert not {"challengers", "scoreboard_max_reward"} & steering(Settings(), "learning").keys()


def test_challengers_are_others_and_not_too_many() -> None:
    for wrong in ("bandit", "knn,knn", ",".join("abcdefghi")):
        with pytest.raises(SettingError, match="challengers are at most 8"):
            Settings(policy="bandit", challengers=wrong)
    with pytest.raises(ValueError, match="policy must be one of"):
        build.learner(Settings(challengers="nobody"))


def test_two_workers_have_one_scoreboard_and_a_switch_reproduces() -> None:
    owned = lived(JUDGED, rounds=12)
    owned.logs.append("feedback", switch("bandit", expects="popular"))
    owned.logs.append("feedback", switch("bandit", expects="popular"))  # a repeat
    owned.logs.append("feedback", switch("uniform", expects="popular"))  # too late
    owned.logs.append("feedback", switch("nobody", expects="bandit"))
    for worker in owned.workers:
        for n in range(20):
            user, at = user_of(worker.number, n), 13_000 + 100 * n
            [decision] = worker(Request(id=f"s{n}-{worker.number}", user=user, at=at, k=3))
            assert decision.policy == "bandit"
            assert list(decision.weights) == ["popular", "uniform"]
            click = Click(id=f"d{n}-{worker.number}", user=user, item=decision.slots[0].item, at=at)
            worker(replace(click, request=decision.id))
        worker(Tick(at=20_000))
    one, other = [worker.parts.learner for worker in owned.workers]
    one_version = len(owned.logs.topics["feedback"][0])
    for worker in owned.workers:
        worker.learn()
    assert one.version == other.version == one_version
    assert one.digest() == other.digest()
    assert one.scores() == other.scores()
    assert one.scores()[0].policy == "bandit"
    assert one.scores()[0].outcomes > 30
    report = audited(owned.logs, JUDGED)
    assert report.ok, report
    assert report.digest == one.digest()


def test_what_was_learned_and_counted_goes_on_from_a_snapshot_bit_for_bit() -> None:
    records = [m.data for m in lived(JUDGED, rounds=20).logs.topics["feedback"][0]]
    records.insert(len(records) // 3, switch("bandit", expects="popular"))
    whole, shelved = (
        build.learner(JUDGED),
        Snapshots(object_store("memory://board"), LogId("b", "f", "1"), 5),
    )
    for offset, data in enumerate(records):
        whole(offset, data)
        if offset == len(records) // 2:
            shelved.write(whole.state())
    again = build.learner(JUDGED)
    assert shelved.restore(again) is not None
    assert again.policy.name == "bandit"
    for offset in range(again.version, len(records)):
        again(offset, records[offset])
    assert again.state().board == whole.state().board
    assert again.digest() == whole.digest()
    with pytest.raises(ValueError, match="challengers"):
        build.learner(replace(JUDGED, challengers="bandit")).load(whole.state())


def test_an_apprentice_serves_the_producers_list_and_learns_until_another_is_promoted() -> None:
    owned = lived(replace(SETTINGS, policy="baseline", challengers="popular"), rounds=6)
    worker, liked = owned.workers[0], "item:3"
    listed = ("item:4", liked, "item:1", "item:2")

    def asks(id: str) -> Decision:
        user, at = f"{id}", 10_000
        owned = next(u for u in (f"{user}{n}" for n in range(99)) if owner(u, 2) == 0)
        [decision] = worker(Request(id=id, user=owned, at=at, k=3, candidates=listed))
        click = Click(id=f"c{id}", user=owned, item=liked, at=at, request=id)
        worker(click)
        return decision

    for n in range(5):
        decision = asks(f"a{n}")
        assert decision.policy == "baseline"
        assert tuple(slot.item for slot in decision.slots) == listed[:3]
        assert [slot.propensity for slot in decision.slots] == [1.0, 1.0, 1.0]
        assert max(decision.weights["popular"]) <= 1.0
    owned.logs.append("feedback", switch("popular", expects="baseline"))
    worker.learn()
    decision = asks("b")
    assert decision.policy == "popular"
    assert decision.slots[0].item == liked
    assert decision.weights["baseline"] == (0.0, 0.0, 0.0)
    assert audited(owned.logs, replace(SETTINGS, policy="baseline", challengers="popular")).ok


def test_a_challenger_learns_what_it_would_as_the_champion() -> None:
    records = [m.data for m in lived(JUDGED, rounds=12).logs.topics["feedback"][0]]
    beside, alone = build.learner(JUDGED), build.learner(JUDGED.alone("bandit"))
    nothing = alone.policy.save()
    for offset, data in enumerate(records):
        beside(offset, data)
        alone(offset, data)
    assert beside.challengers["bandit"].save() == alone.policy.save() != nothing


def test_a_record_that_expects_another_champion_does_nothing() -> None:
    fold = learner()
    records = [
        (switch("bacde", "abcde"), "noted", "bacde"),
        (switch("bacde", "abcde"), "duplicate", "bacde"),
        (switch("uniform", "abcde"), "duplicate", "bacde"),
        (switch("nobody", "bacde"), "noted", "bacde"),
        (switch("abcde", "bacde"), "noted", "abcde"),
    ]
    for offset, (data, verdict, champion) in enumerate(records):
        assert fold(offset, data) == verdict
        assert fold.policy.name == fold.ledger.champion == champion
        assert champion not in fold.challengers
    assert fold.ledger.former == "bacde"


def test_a_champion_begins_anew_and_answers_for_its_own_decisions_alone() -> None:
    fold, board = learner(), Scoreboard(["abcde", "bacde", "uniform"])
    assert fold.board is not None
    fold(0, switch("bacde", "abcde"))
    assert fold.board.board.since == 1

    def outcome(**changed: object) -> Outcome:
        made = Outcome(
            id="r",
            user="u",
            at=1,
            status="expired",
            policy="bacde",
            model=1,
            slots=(OutcomeSlot(item="a", position=0, propensity=0.5, reward=1.0),),
            source=Source(0, 0, 0),
            weights={"abcde": (1.0,), "uniform": (0.4,)},
        )
        return replace(made, **changed)

    for passed_over in (
        outcome(policy="abcde"),
        outcome(model=0),
        outcome(status="corrected"),
        outcome(weights={}),
        outcome(slots=(), weights={"abcde": (), "uniform": ()}),
    ):
        fold.board.count(passed_over)
        assert fold.scores()[0].outcomes == 0
    fold.board.count(outcome())
    assert [score.outcomes for score in fold.scores()] == [1, 1, 1]
    fold(1, encode(Fold(fold="other", expects="")))
    assert fold.scores()[0].outcomes == 0
    assert board.scores()[0].outcomes == 0


def test_rewards_and_weights_are_cut_from_the_top_of_a_ranking() -> None:
    board = Scoreboard(["p", "q"], reward=2.0, most=3.0)
    rewards, logged = (-5.0, 1.0, 4.0, 1.0), (1.0, 2.0, 9.0, 0.5)
    board.count(
        Outcome(
            id="r",
            user="u",
            at=1,
            status="complete",
            policy="p",
            model=0,
            slots=tuple(
                OutcomeSlot(item=str(n), position=n, propensity=0.5, reward=reward)
                for n, reward in enumerate(rewards)
            ),
            source=Source(0, 0, 0),
            weights={"q": logged},
        )
    )
    own, other = board.scores()
    assert own.value and other.value
    assert own.value.mean == pytest.approx(2.0)  # 0 + 1 + 1 + 0
    assert other.value.mean == pytest.approx(1 * 2.0 + 1 * 3.0)
    assert (other.cut, other.weight) == (0.25, (1 + 2 + 3 + 0.5) / 4)


def test_who_is_hardly_shown_is_said_to_look_too_poor() -> None:
    [_, score] = Scoreboard(["p", "q"]).scores()
    assert score_lines([score]) == []
    assert score_lines([replace(score, outcomes=9, weight=1.0)]) == []
    assert "shows only 40%" in score_lines([replace(score, outcomes=9, weight=0.4)])[0]
