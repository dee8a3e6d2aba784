"""What every policy promises, over the table of all of them."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.candidates import Candidates
from models.events import Outcome, OutcomeSlot, Source
from policies.base import draw, rank
from policies.baseline import Baseline
from policies.blend import Blend
from policies.exploration import Epsilon, InverseGap, Softmax
from policies.uniform import Uniform
from policies.vowpal import Vowpal
from policies.vowpal_explore import VowpalExplore

NAMES = ("popularity", "knn", "content")
CONTEXT = {"device": "mobile", "hour": 21.0, "logged in": True}
RULES = {
    "epsilon": Epsilon(0.5),
    "softmax": Softmax(1.0, floor=0.1),
    "gap": InverseGap(5.0, floor=0.1),
}
FIXED = {
    "uniform": Uniform,
    "baseline": Baseline,
    "popular": lambda: Blend("popular", weights={"popularity": 1.0}, exploration=RULES["epsilon"]),
    "collaborative": lambda: Blend("knn", weights={"knn": 1.0}, exploration=RULES["softmax"]),
    "content": lambda: Blend("content", weights={"content": 1.0}, exploration=RULES["gap"]),
    "blend": lambda: Blend(weights={"knn": 1.0, "popularity": 0.3}),
}
LEARNING = {
    "bandit": Vowpal,
    "bandit, epsilon": lambda: Vowpal(exploration=RULES["epsilon"]),
    "bandit, softmax": lambda: Vowpal(exploration=RULES["softmax"], interactions=()),
    "bandit, gap": lambda: Vowpal(exploration=RULES["gap"], interactions=("Ux", "Ue", "Ct")),
    "bandit, prior": lambda: Vowpal(prior={"knn": 0.02, "popularity": 0.01}),
    "bandit, logged": lambda: Vowpal(logged_propensity=True),
    "explore, squarecb": lambda: VowpalExplore(amount=5.0, floor=0.1),
    "explore, epsilon": lambda: VowpalExplore(explore="epsilon", amount=0.5),
    "explore, softmax": lambda: VowpalExplore(explore="softmax", amount=2.0, floor=0.1),
}
POLICIES = FIXED | LEARNING
every_policy = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
every_learner = pytest.mark.parametrize("make", LEARNING.values(), ids=LEARNING)


def candidates(n=5, seed=0, tags=("drama", "war", "comedy")):
    chance = np.random.default_rng(seed)
    return Candidates(
        names=NAMES,
        items=tuple(f"item-{i:03}" for i in range(n)),
        sources=("knn",) * n,
        x=chance.normal(size=(n, len(NAMES))).round(4),
        tags=tuple(tuple(tags[: i % (len(tags) + 1)]) for i in range(n)),
        text=chance.normal(size=(n, 4)).round(4),
    )


def outcome(of, rewards, user="ann", context=CONTEXT, propensity=0.5):
    """The first candidates, shown, with these rewards."""
    judged = tuple(
        OutcomeSlot(
            item=of.items[i],
            position=i,
            propensity=propensity,
            reward=reward,
            features=of.features(i),
        )
        for i, reward in enumerate(rewards)
    )
    return Outcome(
        id="r",
        user=user,
        at=0,
        status="complete",
        policy="p",
        model=0,
        slots=judged,
        source=Source(0, 0, 0),
        features=of.names,
        context=context,
    )


def teach(policy, begin, end):
    """A reproducible life: users who like what knn likes."""
    for i in range(begin, end):
        seen = candidates(4, seed=i)
        rewards = [float(x > 0.3) for x in seen.x[:, 1]]
        policy.learn(outcome(seen, rewards, user=f"user-{i % 7}"), seed=i)


def scores_of(policy, n=30):
    found = candidates(n, seed=99)
    return [policy.scores(user, CONTEXT, found).tolist() for user in ("user-1", "user-2", "new")]


@every_policy
@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_a_pmf_is_a_distribution_over_what_remains_with_full_support(make, scores):
    if isinstance(policy := make(), VowpalExplore):
        scores = [abs(score) + 1e-3 for score in scores]  # its scores are probabilities
    pmf = policy.pmf(np.array(scores))
    assert pmf.shape == (len(scores),)
    assert (pmf > 0).all()
    assert pmf.sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_prefers_the_better_and_breaks_ties_by_the_lowest_index(rule):
    pmf = rule(np.array([0.1, 0.7, 0.7, 0.3]))
    assert pmf.argmax() == 1
    assert pmf[1] >= pmf[2] >= pmf[3] >= pmf[0]


@every_policy
def test_scoring_ranking_and_saving_write_nothing(make):
    policy, untouched = make(), make()
    teach(policy, 0, 50)
    teach(untouched, 0, 50)
    before = policy.save()
    for seed in range(20):
        strange = candidates(8, seed=seed, tags=(f"tag {seed}",))
        rank(policy, f"stranger {seed}", {f"key {seed}": "v"}, strange, 5, Random(seed))
    assert policy.save() == before
    teach(policy, 50, 60)
    teach(untouched, 50, 60)
    assert scores_of(policy) == scores_of(untouched)


@every_policy
def test_a_slate_holds_min_k_n_different_items_with_propensities_in_0_1(make):
    policy = make()
    teach(policy, 0, 20)
    for n, k in [(0, 5), (1, 1), (1, 10), (7, 3), (7, 7), (5, 100)]:
        slots = rank(policy, "ann", CONTEXT, candidates(n), k, Random(n))
        assert len({slot.item for slot in slots}) == len(slots) == min(n, k)
        assert all(0.0 < slot.propensity <= 1.0 for slot in slots)
        if k >= n > 0:
            assert slots[-1].propensity == 1.0


@every_policy
def test_a_slot_carries_the_score_source_and_features_it_was_judged_on(make):
    policy, found = make(), candidates(9)
    teach(policy, 0, 20)
    scores = policy.scores("ann", CONTEXT, found)
    for slot in rank(policy, "ann", CONTEXT, found, 4, Random(3)):
        i = found.items.index(slot.item)
        assert (slot.score, slot.source) == (scores[i], "knn")
        assert slot.features == found.features(i)


@every_policy
def test_the_same_seed_draws_the_same_slate(make):
    policy = make()
    teach(policy, 0, 20)
    slates = [rank(policy, "ann", CONTEXT, candidates(20), 10, Random(5)) for _ in range(2)]
    assert slates[0] == slates[1]


def pairs_drawn(policy, found, stated, draws=3000):
    """Chi-square of the first two items drawn, and its 99.9% quantile (Wilson and Hilferty)."""
    rng = Random(7)
    seen = Counter(
        tuple(slot.item for slot in rank(policy, "ann", CONTEXT, found, 2, rng))
        for _ in range(draws)
    )
    observed, expected = [0.0], [0.0]  # the first cell pools the rare pairs
    for pair, probability in stated.items():
        rare = draws * probability < 5
        observed = [observed[0] + seen[pair] * rare, *observed[1:]]
        expected = [expected[0] + draws * probability * rare, *expected[1:]]
        if not rare:
            observed.append(seen[pair])
            expected.append(draws * probability)
    cells = [(o, e) for o, e in zip(observed, expected, strict=True) if e > 0]
    df = len(cells) - 1
    quantile = df * (1 - 2 / (9 * df) + 3.0902 * (2 / (9 * df)) ** 0.5) ** 3
    return sum((o - e) ** 2 / e for o, e in cells), quantile


def stated_pairs(policy, found):
    """The probability of each ordered pair of items, by the policy's own pmf."""
    scores = policy.scores("ann", CONTEXT, found)
    stated = {}
    for i, first in enumerate(policy.pmf(scores)):
        rest = np.delete(scores, i)
        others = found.items[:i] + found.items[i + 1 :]
        for item, second in zip(others, policy.pmf(rest), strict=True):
            stated[found.items[i], item] = first * second
    return stated


@every_policy
def test_draws_match_the_stated_propensities_in_the_second_slot_too(make):
    """Chi-square over ordered pairs; a right policy fails for 1 seed in 1,000, this one is set."""
    policy, found = make(), candidates(5)
    teach(policy, 0, 200)
    stated = stated_pairs(policy, found)
    statistic, quantile = pairs_drawn(policy, found, stated)
    assert statistic < quantile
    for seed in range(20):
        first, second = rank(policy, "ann", CONTEXT, found, 2, Random(seed))
        product = first.propensity * second.propensity
        assert product == pytest.approx(stated[first.item, second.item], rel=1e-9)


def test_the_chi_square_catches_a_policy_that_states_the_wrong_second_slot():
    policy, found = POLICIES["popular"](), candidates(5)
    scores = policy.scores("ann", CONTEXT, found)
    pmf = policy.pmf(scores)
    one_slot = {  # what drawing twice from one pmf would do
        (found.items[i], found.items[j]): pmf[i] * pmf[j] / (1 - pmf[i])
        for i in range(5)
        for j in range(5)
        if i != j
    }
    statistic, quantile = pairs_drawn(policy, found, one_slot)
    assert statistic > quantile


@every_policy
def test_save_load_and_learn_on_equals_uninterrupted_bit_for_bit(make):
    uninterrupted, first, second = make(), make(), make()
    teach(uninterrupted, 0, 120)
    teach(first, 0, 60)
    teach(second, 90, 95)  # what it knew before is replaced
    second.load(first.save())
    assert scores_of(second) == scores_of(first)
    teach(second, 60, 120)
    assert scores_of(second) == scores_of(uninterrupted)
    assert second.save() == uninterrupted.save()


@every_policy
def test_a_policy_that_was_never_taught_can_be_saved_and_loaded(make):
    fresh, loaded = make(), make()
    loaded.load(fresh.save())
    assert scores_of(loaded) == scores_of(fresh)
    assert loaded.save() == fresh.save()


@every_learner
def test_an_item_that_is_rewarded_rises_and_one_that_is_punished_falls(make):
    policy, found = make(), candidates(5)
    for i in range(300):
        policy.learn(outcome(found, [0.0, 0.0, 1.0, 0.0, -1.0]), seed=i)
    scores = policy.scores("ann", CONTEXT, found)
    assert scores.argmax() == 2
    assert scores.argmin() == 4 or isinstance(policy, VowpalExplore)  # epsilon: all others equal


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_a_policy_that_learns_nothing_accepts_outcomes_and_stays_as_it_was(make):
    policy = make()
    before = scores_of(policy)
    teach(policy, 0, 10)
    assert scores_of(policy) == before
    assert policy.save() == b""
    with pytest.raises(ValueError, match="learns nothing"):
        policy.load(b"something")


@every_policy
def test_odd_strings_are_only_strings(make):
    policy = make()
    odd = (
        "|x 1:9 |U 2",
        "0:-1:1 |",
        "a:b c\n\nshared |U 1",
        "'",
        '"',
        "é" * 50,
        "\ud800",
        "\0",
        " ",
    )
    found = candidates(6, tags=odd)
    for text in odd:
        policy.learn(outcome(found, [1.0, 0.0], user=text, context={text: text, "n": 1.0}), 0)
        assert len(rank(policy, text, {text: text, "flag": False}, found, 6, Random(0))) == 6


def fingerprint():
    """Scores, slates and saved bytes of every policy after equal learning."""
    prints = {}
    for name, make in POLICIES.items():
        teach(policy := make(), 0, 40)
        slots = rank(policy, "user-1", CONTEXT, candidates(20), 10, Random(1))
        prints[name] = [scores_of(policy), [s.item for s in slots], policy.save().hex()]
    return prints


def test_two_processes_with_different_hash_seeds_agree_to_the_bit():
    program = (
        "import json, runpy, sys; sys.path.insert(0, '.');"
        f"print(json.dumps(runpy.run_path({__file__!r})['fingerprint']()))"
    )
    root = Path(__file__).parents[2]
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert json.loads(runs[0]) == json.loads(runs[1]) == json.loads(json.dumps(fingerprint()))


@given(
    weights=st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=40),
    number=st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_draw_is_an_index_with_a_propensity_above_0_and_at_most_1(weights, number):
    class Fixed(Random):
        def random(self):
            return number

    pmf = np.array(weights) / sum(weights)
    i, propensity = draw(pmf, Fixed())
    assert 0 <= i < len(pmf)
    assert 0.0 < propensity <= 1.0


@pytest.mark.parametrize("pmf", [[0.0, 1.0], [0.5, 0.4], [float("nan"), 1.0], [1.5, -0.5]])
def test_what_is_not_a_distribution_is_refused(pmf):
    with pytest.raises(ValueError, match="probabilit"):
        draw(np.array(pmf), Random(0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    found = candidates(3)
    found.x[1, 0] = bad
    with pytest.raises(ValueError, match="popular: scores must be 3 finite numbers"):
        rank(POLICIES["popular"](), "ann", {}, found, 2, Random(0))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: Epsilon(0.0), "epsilon must be in"),
        (lambda: Epsilon(1.1), "epsilon must be in"),
        (lambda: Epsilon(float("nan")), "epsilon must be in"),
        (lambda: Softmax(0.0), "temperature must be positive"),
        (lambda: Softmax(1.0, floor=0.0), "floor must be in"),
        (lambda: InverseGap(-1.0), "gamma must be positive"),
        (lambda: InverseGap(float("inf")), "gamma must be positive"),
        (lambda: Blend(weights={}), "weights must be finite"),
        (lambda: Blend(weights={"knn": float("nan")}), "weights must be finite"),
        (lambda: Vowpal(rate=0.0), "rate must be in"),
        (lambda: Vowpal(prior={"knn": float("nan")}), "prior 'knn' must be finite"),
        (lambda: Vowpal(bits=40), "bits must be in"),
        (lambda: Vowpal(interactions=("xU",)), "interactions must be among"),
        (lambda: Vowpal(interactions=("--quiet",)), "interactions must be among"),
        (lambda: VowpalExplore(explore="bag"), "explore must be one of"),
        (lambda: VowpalExplore(amount=0.0), "amount must be positive"),
        (lambda: VowpalExplore(floor=0.0), "floor must be in"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_at_the_door(build, rule):
    with pytest.raises(ValueError, match=rule):
        build()


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    policy = Blend("text", weights={"bert": 1.0})
    with pytest.raises(ValueError, match=r"text: column must be one of .*'knn'.*, got 'bert'"):
        policy.scores("ann", {}, candidates())
