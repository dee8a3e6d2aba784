"""Off-policy estimators against a known truth, and against another's implementation."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from msgspec import Struct
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.base import Doubles
from policies.evaluation.confidence_sequences import BettingSequence, RunningInterval, betting
from policies.evaluation.diagnostics import Estimate, cautions, estimate, intervals, support
from policies.evaluation.estimators import (
    ESTIMATORS,
    BanditLog,
    EstimatorTerms,
    clipped_ips,
    direct,
    doubly_robust,
    ips,
    plain,
    replay,
    shrunk_dr,
    snips,
    switch_dr,
)
from policies.evaluation.intervals import Interval, clustered, resampled, student
from policies.evaluation.reward_model import REGRESSORS, cross_fitted, fitted, predicted
from policies.evaluation.slates import (
    SLATE_ESTIMATORS,
    Slates,
    independent,
    reward_interaction,
    standard,
)

OBP = json.loads((Path(__file__).parent / "fixtures" / "obp_figures.json").read_text())

KINDS, ACTIONS = 6, 5  # of contexts and of what can be shown
RNG = np.random.default_rng(5)
VALUES = RNG.uniform(0.2, 0.8, (KINDS, ACTIONS))  # chance of a click, give or take a user's mood
MOODS = np.array([-0.15, 0.0, 0.15])


def softmax(scores: Doubles) -> Doubles:
    odds = np.exp(scores)
    return odds / odds.sum(axis=-1, keepdims=True)


LOGGING = softmax(RNG.normal(0, 0.5, (KINDS, ACTIONS)))
TARGET = softmax(4 * VALUES + RNG.normal(0, 0.3, (KINDS, ACTIONS)))
TRUTH = float((TARGET * VALUES).sum(axis=1).mean())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take a hundred times as long."""
    if find_spec("sklearn"):
        import_module("sklearn.ensemble")
    with threadpool_limits(1):
        yield


class Made(Struct, frozen=True):
    """A simulated log of one-slot decisions: contexts, actions and rewards of users with moods."""

    kinds: NDArray[np.intp]
    actions: NDArray[np.intp]
    log: BanditLog


def simulated(seed: int, users: int = 200, each: int = 3, logging: Doubles = LOGGING) -> Made:
    rng = np.random.default_rng(seed)
    n = users * each
    kinds = rng.integers(0, KINDS, n)
    upto = logging.cumsum(axis=1)[kinds]
    actions = (rng.random((n, 1)) > upto).sum(axis=1).clip(max=ACTIONS - 1)
    moods = np.repeat(rng.choice(MOODS, users), each)
    rewards = (rng.random(n) < VALUES[kinds, actions] + moods).astype(float)
    log = BanditLog(
        rewards=rewards,
        propensities=logging[kinds, actions],
        chances=TARGET[kinds, actions],
        users=tuple(str(i // each) for i in range(n)),
    )
    return Made(kinds, actions, log)


def features(kinds: NDArray[np.intp], actions: NDArray[np.intp] | int) -> Doubles:
    return np.eye(KINDS * ACTIONS)[kinds * ACTIONS + actions]


def with_model(made: Made, model: str = "linear") -> BanditLog:
    """The log with rewards by a cross-fitted model."""
    shown, every = cross_fitted(
        features(made.kinds, made.actions),
        made.log.rewards,
        made.log.users,
        ACTIONS,
        lambda action: features(made.kinds, action),
        model=model,
    )
    return with_rewards(made, shown, every)


def with_rewards(made: Made, shown: Doubles, every: Doubles) -> BanditLog:
    log = made.log
    return BanditLog(
        rewards=log.rewards,
        propensities=log.propensities,
        chances=log.chances,
        users=log.users,
        shown=shown,
        chosen=(TARGET[made.kinds] * every).sum(axis=1),
    )


def as_log(inputs: dict[str, Any], certain: bool = False) -> BanditLog:
    """The log that Open Bandit Pipeline was given."""
    pi_b, pi_e, model = (np.array(inputs[name]) for name in ("pi_b", "pi_e", "model"))
    action = np.array(inputs["action"])
    rows = np.arange(len(action))
    if certain:
        pi_e = np.eye(pi_e.shape[1])[pi_e.argmax(axis=1)]
    return BanditLog(
        rewards=np.array(inputs["reward"]),
        propensities=pi_b[rows, action],
        chances=pi_e[rows, action],
        users=tuple(map(str, rows)),
        shown=model[rows, action],
        chosen=(pi_e * model).sum(axis=1),
    )


WITH_TWO: dict[str, Callable[[BanditLog], EstimatorTerms]] = {
    "clipped IPS": lambda log: clipped_ips(log, 2.0),
    "Switch-DR": lambda log: switch_dr(log, 2.0),
    "DRos": lambda log: shrunk_dr(log, 2.0),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_equal_those_of_open_bandit_pipeline(name: str) -> None:
    """Figures of sb-obp 0.5.10, made by tests/unit/fixtures/obp_figures.py."""
    log = as_log(OBP["single"]["inputs"], certain=name == "replay")
    made = WITH_TWO.get(name, ESTIMATORS[name])(log).value
    assert made == pytest.approx(OBP["single"]["figures"][name], rel=1e-12)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_estimates_of_rankings_equal_those_of_open_bandit_pipeline(name: str) -> None:
    """Figures of sb-obp 0.5.10, made by tests/unit/fixtures/obp_figures.py."""
    inputs = {key: np.array(value) for key, value in OBP["slates"]["inputs"].items()}
    model = inputs["model"]
    log = Slates(
        rewards=inputs["reward"],
        propensities=inputs["pi_b"],
        chances=inputs["pi_e"],
        users=tuple(map(str, range(len(model)))),
        shown=np.take_along_axis(model, inputs["action"][:, :, None], axis=2)[:, :, 0],
        chosen=(inputs["dist"] * model).sum(axis=2),
    )
    made = SLATE_ESTIMATORS[name](log).value
    assert made == pytest.approx(OBP["slates"]["figures"][name], rel=1e-12)


LOGS = 600


@cache
def runs() -> dict[str, list[Interval]]:
    """Intervals of three estimators on simulated logs of 600 decisions by 200 users."""
    found: dict[str, list[Interval]] = {"IPS": [], "SNIPS": [], "DR": []}
    for seed in range(LOGS):
        log = with_model(simulated(seed))
        terms = {name: ESTIMATORS[name](log) for name in found}
        for name, interval in intervals(terms, log.users, draws=1_000, seed=seed).items():
            found[name].append(interval)
    return found


@pytest.mark.parametrize("name", ["IPS", "SNIPS", "DR"])
def test_intervals_hold_the_truth_19_times_in_20(name: str) -> None:
    """Over 600 logs the share is known to a standard error of 0.9%; over 200 it were 1.5%.

    Users differ, so rows are not independent: the interval is clustered by user.
    """
    held = sum(one.low <= TRUTH <= one.high for one in runs()[name])
    assert 0.93 <= held / LOGS <= 0.97, f"{name} held the truth in {held} of {LOGS}"


def test_estimates_are_right_on_average_and_a_fair_model_lessens_their_error() -> None:
    means = {name: np.array([one.mean for one in made]) for name, made in runs().items()}
    for name, made in means.items():
        error = made.std() / np.sqrt(LOGS)
        assert abs(made.mean() - TRUTH) < 4 * error, name
    rmse = {name: np.sqrt(((made - TRUTH) ** 2).mean()) for name, made in means.items()}
    assert rmse["DR"] < 0.95 * rmse["IPS"]
    assert rmse["SNIPS"] < rmse["IPS"]


def test_a_model_that_is_wrong_misleads_the_direct_method_but_not_dr() -> None:
    dm, dr = list[float](), list[float]()
    for seed in range(200):
        made = simulated(seed)
        nonsense = np.broadcast_to(1.0 - VALUES[0], (len(made.kinds), ACTIONS))
        log = with_rewards(made, nonsense[0][made.actions], nonsense)
        dm.append(direct(log).value)
        dr.append(doubly_robust(log).value)
    error = np.std(dr) / np.sqrt(len(dr))
    assert abs(np.mean(dr) - TRUTH) < 4 * error
    assert abs(np.mean(dm) - TRUTH) > 0.1


def test_clipping_and_shrinking_trade_bias_for_variance() -> None:
    full, clipped = list[float](), list[float]()
    for seed in range(200):
        log = simulated(seed).log
        full.append(ips(log).value)
        clipped.append(clipped_ips(log, 1.5).value)
    assert np.std(clipped) < np.std(full)
    assert np.mean(clipped) < TRUTH - 0.02


def test_limits_of_the_estimators_are_each_other() -> None:
    log = as_log(OBP["single"]["inputs"])
    assert switch_dr(log, 0.0).value == shrunk_dr(log, 0.0).value == direct(log).value
    assert switch_dr(log, 1e9).value == doubly_robust(log).value
    assert shrunk_dr(log, 1e15).value == pytest.approx(doubly_robust(log).value)
    assert clipped_ips(log, 1e9).value == ips(log).value


def test_a_policy_evaluated_on_its_own_log_earned_what_it_earned() -> None:
    log = simulated(1).log
    own = BanditLog(
        rewards=log.rewards, propensities=log.chances, chances=log.chances, users=log.users
    )
    measured = clustered(log.rewards, log.users, draws=1_000)
    found = intervals({"IPS": ips(own), "SNIPS": snips(own)}, own.users)
    assert found == {"IPS": measured, "SNIPS": measured}


@pytest.mark.parametrize("model", REGRESSORS)
def test_each_reward_model_is_fair_and_predicts_no_user_it_saw(model: str) -> None:
    if model != "linear":
        pytest.importorskip("sklearn", reason="needs scikit-learn: pip install -e '.[evaluate]'")
    made = simulated(3, users=100)
    log = with_model(made, model)
    assert log.shown is not None
    error = np.abs(log.shown - VALUES[made.kinds, made.actions]).mean()
    assert error < 0.2
    assert abs(doubly_robust(log).value - TRUTH) < 0.15
    changed = made.log.rewards.copy()
    changed[:3] = 1.0 - changed[:3]  # the first user's
    again = with_model(Made(made.kinds, made.actions, replaced(made.log, changed)), model)
    assert again.shown is not None
    assert (again.shown[:3] == log.shown[:3]).all()
    assert (again.shown != log.shown).any()


def replaced(log: BanditLog, rewards: Doubles) -> BanditLog:
    return BanditLog(
        rewards=rewards, propensities=log.propensities, chances=log.chances, users=log.users
    )


def test_rewards_that_are_all_alike_need_no_model() -> None:
    model = fitted("logistic", np.eye(3), np.zeros(3))
    assert predicted(model, np.eye(2)).tolist() == [0.0, 0.0]


def test_a_model_that_does_not_fit_its_rewards_is_refused() -> None:
    with pytest.raises(ValueError, match="rewards of 0 and 1 alone; take linear"):
        fitted("logistic", np.eye(3), np.array([0.0, 1.0, 2.5]))
    with pytest.raises(ValueError, match=r"one of linear, ridge, .*, got 'magic'"):
        fitted("magic", np.eye(3), np.arange(3.0))


def test_a_missing_scikit_learn_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[evaluate\]' in .*, or take linear"):
        fitted("forest", np.eye(3), np.arange(3.0))


def cascade(seed: int, n: int = 4_000) -> tuple[Slates, float]:
    """Rankings of two slots out of three items; the second is read only if the first is poor."""
    rng = np.random.default_rng(seed)
    b, e = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    clicks = np.array([0.2, 0.4, 0.7])

    def second(p: Doubles, first: int) -> Doubles:
        rest = np.where(np.arange(3) == first, 0.0, p)
        return rest / rest.sum()

    first = rng.choice(3, n, p=b)
    pick = np.array([rng.choice(3, p=second(b, one)) for one in first])
    rewards = np.zeros((n, 2))
    rewards[:, 0] = rng.random(n) < clicks[first]
    rewards[:, 1] = rng.random(n) < clicks[pick] * (1 - clicks[first])

    def probabilities(p: Doubles) -> Doubles:
        below = [second(p, f)[s] for f, s in zip(first, pick, strict=True)]
        return np.stack([p[first], np.array(below)], axis=1)

    rest = {f: (1 - clicks[f]) * float(second(e, f) @ clicks) for f in range(3)}
    truth = sum(e[f] * (clicks[f] + rest[f]) for f in range(3))
    q1 = clicks + np.array([rest[f] for f in range(3)])
    shown = np.stack([q1[first], clicks[pick] * (1 - clicks[first])], axis=1)
    chosen = np.stack([np.full(n, e @ q1), np.array([rest[f] for f in first])], axis=1)
    log = Slates(
        rewards=rewards,
        propensities=probabilities(b),
        chances=probabilities(e),
        users=tuple(map(str, range(n))),
        shown=shown,
        chosen=chosen,
    )
    return log, float(truth)


def test_rankings_read_from_the_top_are_weighed_by_all_that_is_above() -> None:
    """RIPS and cascade-DR are right over 40 logs; slots weighed alone are not."""
    found: dict[str, list[float]] = {name: [] for name in SLATE_ESTIMATORS}
    truth = 0.0
    for seed in range(40):
        log, truth = cascade(seed, n=1_000)
        for name, make in SLATE_ESTIMATORS.items():
            found[name].append(make(log).value)
    off = {name: (np.mean(v) - truth) / (np.std(v) / np.sqrt(40)) for name, v in found.items()}
    assert all(abs(off[name]) < 4 for name in ("standard IPS", "RIPS", "SNRIPS", "cascade-DR"))
    assert abs(off["independent IPS"]) > 6
    spread = {name: np.std(v) for name, v in found.items()}
    assert spread["cascade-DR"] < spread["RIPS"] < spread["standard IPS"]


def test_a_ranking_of_one_slot_is_a_decision_of_one_slot() -> None:
    log = as_log(OBP["single"]["inputs"])
    assert log.shown is not None and log.chosen is not None
    ranked = Slates(
        rewards=log.rewards[:, None],
        propensities=log.propensities[:, None],
        chances=log.chances[:, None],
        users=log.users,
        shown=log.shown[:, None],
        chosen=log.chosen[:, None],
    )
    values = [standard, independent, reward_interaction]
    assert [make(ranked).value for make in values] == pytest.approx([ips(log).value] * 3)
    assert SLATE_ESTIMATORS["SNRIPS"](ranked).value == pytest.approx(snips(log).value)
    assert SLATE_ESTIMATORS["cascade-DR"](ranked).value == pytest.approx(doubly_robust(log).value)


SKEWED = [lambda rng: rng.binomial(1, 0.05, 500), lambda rng: rng.beta(0.5, 2.0, 500)]


@pytest.mark.parametrize(("draw", "mean"), list(zip(SKEWED, (0.05, 0.2), strict=True)))
def test_a_confidence_sequence_holds_at_all_times_at_once(
    draw: Callable[[np.random.Generator], Doubles], mean: float
) -> None:
    """At level 0.8, so that a wrong one shows: at most 20% may ever miss, give or take 4%."""
    always = last = 0
    for seed in range(100):
        x = draw(np.random.default_rng(seed)).astype(float)
        running, held = RunningInterval(bets=BettingSequence(level=0.8)), True
        for value in x.tolist():
            running.add(value)
            held &= running.interval.low <= mean <= running.interval.high
        always += held
        end = betting(x, level=0.8)
        last += end.low <= mean <= end.high
    assert always >= 76 and last >= 76


def test_a_confidence_sequence_narrows_to_the_mean_and_scales() -> None:
    x = np.random.default_rng(2).binomial(1, 0.3, 20_000).astype(float)
    one = betting(x)
    assert one.low < 0.3 < one.high and one.high - one.low < 0.04
    ten = betting(10 * x, most=10.0)
    assert (ten.low, ten.high) == pytest.approx((10 * one.low, 10 * one.high))
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1.0\].*known beforehand"):
        betting(np.array([0.5, 1.5]))


@pytest.mark.parametrize(("n", "table"), [(2, 12.706), (3, 4.303), (11, 2.228), (31, 2.042)])
def test_few_values_have_students_interval(n: int, table: float) -> None:
    values = [i + 0.5 for i in range(n)]
    half = table * stdev(values) / n**0.5
    found = student(values)
    assert found.mean == pytest.approx(n / 2)
    assert (found.high - found.mean, found.mean - found.low) == pytest.approx(
        (half, half), rel=2e-4
    )


def test_users_are_drawn_in_pieces_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((50, 2))
    whole = resampled(sums, 20, seed=4)
    monkeypatch.setattr("policies.evaluation.intervals.AT_ONCE", 100)
    assert resampled(sums, 20, seed=4) == pytest.approx(whole)


def made(log: BanditLog) -> Estimate:
    bears = {"IPS": support(log.weights, log.rewards, log.users, log.beyond)}
    return estimate({"IPS": ips(log)}, log.users, bears, what="clicks")[0]


def test_what_bears_an_estimate_is_said() -> None:
    one = made(simulated(0).log)
    assert one.support.control.low < 1 < one.support.control.high
    assert one.support.rows == 600 and one.support.users == 200
    assert 300 < one.support.effective < 600
    assert one.warnings == ()


def test_few_clicks_and_heavy_weights_are_warned_of() -> None:
    n = 300
    rewards = np.zeros(n)
    rewards[0] = 1.0
    log = BanditLog(
        rewards=rewards,
        propensities=np.full(n, 0.01),
        chances=np.where(np.arange(n) < 3, 1.0, 0.0),
        users=tuple(map(str, range(n))),
        beyond=np.full(n, 0.25),
    )
    said = made(log).warnings
    assert said[0] == "1 clicks: the interval spans zero"
    assert "25.0% of what the target would show the log did not" in said[1]
    assert "weights leave 3 effective decisions of 300" in said[2]
    assert said[3] == "one decision has 33% of all weight (100.0)"
    assert "only 1 clicks" in said[4] and "no user comes twice" in said[5]


def test_wrong_propensities_fail_the_control() -> None:
    log = simulated(0).log
    wrong = BanditLog(
        rewards=log.rewards,
        propensities=np.minimum(1.5 * log.propensities, 1.0),
        chances=log.chances,
        users=log.users,
    )
    said = cautions(support(wrong.weights, wrong.rewards, wrong.users))
    assert said[0].startswith("weights average 0.6") and "not 1: propensities" in said[0]


def test_no_row_that_agrees_is_no_estimate() -> None:
    log = BanditLog(
        rewards=np.ones(40),
        propensities=np.full(40, 0.5),
        chances=np.zeros(40),
        users=tuple(map(str, range(40))),
    )
    assert np.isnan(replay(log).value) and np.isnan(snips(log).value)
    bears = {"SNIPS": support(log.weights, log.rewards, log.users)}
    one = estimate({"SNIPS": snips(log)}, log.users, bears)[0]
    assert one.warnings[0].startswith("no row of the log says anything")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"propensities": np.array([0.0, 0.5])}, "propensities must be in"),
        ({"chances": np.array([0.5, 1.5])}, "chances must be in"),
        ({"rewards": np.array([np.nan, 1.0])}, "finite"),
        ({"rewards": np.array([1.0])}, "a value of each kind"),
        ({"users": ()}, "a value of each kind"),
    ],
)
def test_a_log_that_cannot_be_weighed_is_refused(changed: dict[str, Any], says: str) -> None:
    half = np.array([0.5, 0.5])
    usual = {"rewards": half, "propensities": half, "chances": half, "users": ("ann", "bob")}
    with pytest.raises(ValueError, match=says):
        BanditLog(**(usual | changed))
    assert plain(half).value == 0.5


def test_a_model_is_asked_for_by_those_that_need_one() -> None:
    half = np.array([0.5, 0.5])
    log = BanditLog(rewards=half, propensities=half, chances=half, users=("ann", "bob"))
    for name in ("DM", "DR", "SNDR", "Switch-DR", "DRos"):
        with pytest.raises(ValueError, match="needs a model of rewards"):
            ESTIMATORS[name](log)
