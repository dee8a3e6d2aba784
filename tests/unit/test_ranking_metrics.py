"""Measures of rankings, and whether their intervals hold what they promise."""

import numpy as np
import pytest

from policies.evaluation.intervals import clustered
from policies.evaluation.ranking_metrics import MovingAverage, ndcg, recall, reciprocal


def test_measures_of_one_right_item_follow_their_formulas():
    ranks = np.array([1, 2, 10, 11, 0])
    assert recall(ranks, 10).tolist() == [1, 1, 1, 0, 0]
    assert ndcg(ranks, 10) == pytest.approx([1, 1 / np.log2(3), 1 / np.log2(11), 0, 0])
    assert reciprocal(ranks) == pytest.approx([1, 1 / 2, 1 / 10, 1 / 11, 0])


def events(rng, users: int, spread: float) -> tuple[list[float], list[str]]:
    """Events of users who differ by `spread`, around a true mean of 0."""
    values: list[float] = []
    names: list[str] = []
    for user in range(users):
        own = rng.normal(0, spread)
        for _ in range(20):
            values.append(own + rng.normal())
            names.append(f"user:{user}")
    return values, names


def test_nineteen_in_twenty_intervals_hold_the_truth_when_users_differ():
    rng = np.random.default_rng(7)
    tries = 400
    held = naive = 0
    for i in range(tries):
        values, users = events(rng, 60, spread=1.0)
        interval = clustered(values, users, draws=300, seed=i)
        held += interval.low <= 0 <= interval.high
        alone = clustered(values, [str(n) for n in range(len(values))], draws=300, seed=i)
        naive += alone.low <= 0 <= alone.high
    assert 0.91 <= held / tries <= 0.98  # 0.95 less what 60 users and 300 draws cost
    assert naive / tries < 0.7  # forgetting that events come in users is not a detail


def test_a_paired_difference_cancels_what_users_have_in_common():
    rng = np.random.default_rng(1)
    values, users = events(rng, 50, spread=5.0)
    a = np.array(values)
    b = a - 0.1 + rng.normal(0, 0.1, len(a))
    paired = clustered(a - b, users)
    assert 0.0 < paired.low < 0.1 < paired.high
    assert clustered(a, users).low < clustered(b, users).mean  # unpaired ranges overlap


def test_the_mean_is_over_events_and_equal_input_gives_an_equal_interval():
    values, users = [1.0, 0.0, 0.0, 0.0], ["ann", "bob", "bob", "bob"]
    first = clustered(values, users, seed=3)
    assert first.mean == 0.25
    assert first == clustered(values, users, seed=3)


@pytest.mark.parametrize(("values", "users"), [([], []), ([1.0], [])])
def test_an_interval_needs_a_user_for_each_value(values, users):
    with pytest.raises(ValueError, match="each value needs its user"):
        clustered(values, users)


def test_a_window_forgets():
    window = MovingAverage(3)
    assert window.mean == 0.0
    for value in (9.0, 1.0, 2.0, 3.0):
        window.add(value)
    assert window.mean == 2.0
