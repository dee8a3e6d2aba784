"""A log of rankings with a model of its rewards: what `rankloop evaluate` makes of one."""

from collections.abc import Sequence

import numpy as np
import pytest

from models.base import Doubles
from models.events import Outcome, OutcomeSlot, Source
from policies.evaluation.estimators import EstimatorTerms
from policies.evaluation.importance_weights import choices
from policies.evaluation.reward_model import cascaded
from policies.evaluation.slates import cascade_dr, reward_interaction
from stream.offline.target_policies import LoggedPolicy, TargetSlot, TargetSlots, slates, uniform

ITEMS, K = 6, 3
FEATURES = np.random.default_rng(7).normal(size=(ITEMS, 2)).round(2)
LOGGING = np.zeros(ITEMS)
TARGET = FEATURES[:, 0] * 1.2
SEEN = np.array([1.0, 0.6, 0.3])  # of each place


class Softmax:
    """A policy of fixed scores, as far as `choices` needs one."""

    def pmf(self, scores: Doubles) -> Doubles:
        return np.exp(scores) / np.exp(scores).sum()


def appeal() -> Doubles:
    """The chance of a click on an item that is seen: linear in its features, and a little not."""
    x = FEATURES
    return np.clip(0.3 + 0.12 * x[:, 0] - 0.05 * x[:, 1] + 0.03 * np.sin(5 * x[:, 0]), 0.02, 0.98)


def drawn(scores: Doubles, rng: np.random.Generator) -> tuple[list[int], list[float]]:
    left, order, chances = list(range(ITEMS)), list[int](), list[float]()
    for _ in range(K):
        pmf = Softmax().pmf(scores[left])
        i = int(rng.choice(len(left), p=pmf))
        chances.append(float(pmf[i]))
        order.append(left.pop(i))
    return order, chances


def log(n: int, seed: int) -> tuple[LoggedPolicy, TargetSlots]:
    """n rankings by the logging policy, three a user, and the target's places in them."""
    rng = np.random.default_rng(seed)
    outcomes, places = list[Outcome](), list[list[TargetSlot | None]]()
    for number in range(n):
        order, propensities = drawn(LOGGING, rng)
        clicks = rng.random(K) < appeal()[order] * SEEN
        outcomes.append(outcome(number, order, propensities, clicks.tolist()))
        steps = choices(Softmax(), TARGET, order)  # pyright: ignore[reportArgumentType]
        places.append(
            [
                TargetSlot(float(pmf[left.index(i)]), FEATURES[i], pmf @ FEATURES[left])
                for i, (left, pmf) in zip(order, steps, strict=True)
            ]
        )
    return LoggedPolicy("logger", tuple(outcomes)), places


def outcome(
    number: int, order: Sequence[int], propensities: Sequence[float], rewards: Sequence[float]
) -> Outcome:
    slots = zip(order, propensities, rewards, strict=True)
    return Outcome(
        id=f"r{number}",
        user=f"u{number // 3}",
        at=number,
        status="complete",
        policy="logger",
        model=0,
        slots=tuple(
            OutcomeSlot(item=f"i{i}", position=at, propensity=p, reward=float(r))
            for at, (i, p, r) in enumerate(slots)
        ),
        source=Source(0, number, 0),
        reward=float(sum(rewards)),
    )


def truth() -> float:
    """The target's value, from every ranking it could show."""

    def below(left: list[int], place: int) -> float:
        if place == K:
            return 0.0
        pmf = Softmax().pmf(TARGET[left])
        return sum(
            p * (appeal()[i] * SEEN[place] + below([j for j in left if j != i], place + 1))
            for i, p in zip(left, pmf.tolist(), strict=True)
        )

    return below(list(range(ITEMS)), 0)


def interval(terms: EstimatorTerms, users: Sequence[str]) -> tuple[float, float]:
    """Mean and standard error over users, three rankings each."""
    assert list(users[:4]) == ["u0", "u0", "u0", "u1"]
    means = terms.sure.reshape(-1, 3).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def test_cascade_dr_is_right_and_nearer_than_rips() -> None:
    value, covered, errors = truth(), 0, {"RIPS": list[float](), "cascade-DR": list[float]()}
    for seed in range(100):
        made = slates(*log(600, seed))
        mean, error = interval(cascade_dr(made), made.users)
        covered += abs(mean - value) < 1.96 * error
        errors["cascade-DR"].append(cascade_dr(made).value - value)
        errors["RIPS"].append(reward_interaction(made).value - value)
    bias, spread = np.mean(errors["cascade-DR"]), np.std(errors["cascade-DR"])
    assert abs(bias) < 3 * spread / 10, "more than chance"
    assert covered >= 89
    root = {name: float(np.sqrt(np.mean(np.square(found)))) for name, found in errors.items()}
    assert root["cascade-DR"] < 0.97 * root["RIPS"], root


def test_where_rewards_are_linear_each_place_expects_what_the_target_earns_there() -> None:
    served, places = log(900, 1)
    weights = np.array([2.0, -1.0])
    certain = []
    for n, one in enumerate(served.outcomes):
        order = [int(slot.item[1:]) for slot in one.slots]
        rewards = (FEATURES[order] @ weights).tolist()
        certain.append(outcome(n, order, [slot.propensity for slot in one.slots], rewards))
    made = slates(LoggedPolicy("logger", tuple(certain)), places)
    assert made.shown is not None and made.chosen is not None
    for row, one in enumerate(certain):
        last = one.slots[-1]
        of = places[row]
        assert of is not None and of[-1] is not None
        chosen = of[-1].chosen
        assert chosen is not None
        assert made.shown[row, -1] == pytest.approx(last.reward, abs=0.1)  # the ridge's pull
        assert made.chosen[row, -1] == pytest.approx(chosen @ weights, abs=0.1)


def test_a_place_that_is_not_there_expects_nothing() -> None:
    rng = np.random.default_rng(1)
    x, given = rng.normal(size=(60, 2, 3)), np.ones((60, 2))
    given[::2, 1] = 0.0
    users = [f"u{n}" for n in range(60)]
    shown, chosen = cascaded(x, x, rng.random((60, 2)) * given, given, users)
    assert not shown[::2, 1].any() and not chosen[::2, 1].any()
    assert shown[1::2, 1].all() and np.array_equal(shown, chosen)


def test_no_row_is_expected_by_a_fit_that_saw_its_user() -> None:
    rng = np.random.default_rng(2)
    x, rewards, given = rng.normal(size=(30, 1, 2)), rng.random((30, 1)), np.ones((30, 1))
    users = [f"u{n // 3}" for n in range(30)]
    before, _ = cascaded(x, x, rewards, given, users)
    rewards[:3] += 100.0
    after, _ = cascaded(x, x, rewards, given, users)
    assert np.array_equal(before[:3], after[:3])
    assert not np.array_equal(before[3:], after[3:])


def test_without_candidates_or_users_enough_there_is_no_model() -> None:
    served, places = log(30, 1)
    assert slates(served, uniform(served, ITEMS)).shown is None
    few = LoggedPolicy("logger", served.outcomes[:6])
    assert slates(few, places[:6]).shown is None
    assert slates(served, places).shown is not None


def test_a_first_item_that_was_no_candidate_leaves_the_others_their_model() -> None:
    served, places = log(30, 1)
    first = places[0]
    assert first is not None
    made = slates(served, [[None, *first[1:]], *places[1:]])
    assert made.shown is not None and made.shown[0, 0] == 0.0 != made.shown[1, 0]
    assert made.chances[0, 0] == 0.0
