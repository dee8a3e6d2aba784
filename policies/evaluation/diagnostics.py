"""Estimates with intervals, how much of the log bears them, and what to beware of."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from models.base import Doubles
from policies.evaluation.estimators import NO_INTERVAL, EstimatorTerms, valued
from policies.evaluation.intervals import Interval, between, brief, clustered, numbered, resampled

FEW_REWARDED = 100
FEW_EFFECTIVE = 200
FEW_USERS = 30
HEAVY = 0.05  # share of all weight in one decision
LOST = 0.01  # of the target's probability


class Support(Struct, frozen=True, kw_only=True):
    """How much of a log bears on a target.

    `effective`: Kish's sample size, (sum w)^2 / sum w^2. `unsupported`: the target's probability of
    what the log did not show; if that is not known, what mean(w) clearly lacks to 1. `control`:
    mean(w), which is 1 if propensities and chances are right and the log could show what the target
    would.

    >>> w = np.array([1.5, 0.5, 1.0, 1.0])
    >>> bears = support(w, np.ones(4), ["ann", "bob", "cid", "dan"])
    >>> round(bears.effective, 2), bears.largest, bears.control.mean
    (3.56, 1.5, 1.0)
    """

    rows: int
    users: int
    rewarded: int
    effective: float
    largest: float
    heaviest: float  # the largest weight's share of all
    unsupported: float
    control: Interval


class Estimate(Struct, frozen=True, kw_only=True):
    """What a target would have earned, by one estimator, and why that may be wrong."""

    estimator: str
    value: Interval
    support: Support
    warnings: tuple[str, ...]


def support(
    weights: Doubles,
    rewards: Doubles,
    users: Sequence[str],
    beyond: Doubles | None = None,
    *,
    seed: int = 0,
) -> Support:
    """Judge the weights, shape (n,), of a log."""
    largest = float(weights.max())
    shares = weights / largest if largest else weights
    total, squares = float(shares.sum()), float((shares**2).sum())
    control = clustered(weights, users, draws=1_000, seed=seed)
    lost = 1.0 - control.mean if control.high < 1.0 else 0.0
    return Support(
        rows=len(weights),
        users=len(set(users)),
        rewarded=int((rewards != 0.0).sum()),
        effective=total * total / squares if squares else 0.0,
        largest=largest,
        heaviest=1.0 / total if total else 1.0,
        unsupported=float(beyond.mean()) if beyond is not None else lost,
        control=control,
    )


def intervals(
    terms: Mapping[str, EstimatorTerms],
    users: Sequence[str],
    *,
    draws: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Each estimate with its percentile bootstrap interval, clustered by user, on equal draws."""
    made = [np.concatenate([t.sure[:, None], t.weighed, t.by], axis=1) for t in terms.values()]
    columns = np.concatenate([*made, np.ones((len(users), 1))], axis=1)
    cluster = numbered(users)
    sums = np.stack([np.bincount(cluster, weights=column) for column in columns.T], axis=1)
    totals = resampled(sums.astype(np.float64), draws, seed)
    means = totals / totals[:, -1:]
    found: dict[str, Interval] = {}
    first = 0
    for (name, one), own in zip(terms.items(), made, strict=True):
        drawn = valued(means[:, first : first + own.shape[1]])
        first += own.shape[1]
        found[name] = Interval(one.value, *between(drawn[np.isfinite(drawn)], level))
    return found


def estimate(
    terms: Mapping[str, EstimatorTerms],
    users: Sequence[str],
    bears: Mapping[str, Support],
    *,
    what: str = "rewarded decisions",
    level: float = 0.95,
    draws: int = 1_000,
    seed: int = 0,
) -> list[Estimate]:
    """Estimates by the names of their estimators, with what bears each; `what` is rewarded.

    Those of `NO_INTERVAL` have no range (NaN).
    """
    found = intervals(terms, users, draws=draws, level=level, seed=seed)
    for name in NO_INTERVAL:
        if name in found:
            found[name] = Interval(found[name].mean, math.nan, math.nan)
    return [
        Estimate(
            estimator=name,
            value=value,
            support=bears[name],
            warnings=(
                *doubts(value, bears[name].rewarded, what),
                *cautions(bears[name], what),
            ),
        )
        for name, value in found.items()
    ]


def doubts(value: Interval, rewarded: int, what: str) -> tuple[str, ...]:
    """What is wrong with one interval.

    >>> doubts(Interval(0.1, -0.1, 0.3), 38, "clicks")
    ('38 clicks: the interval spans zero',)
    """
    if math.isnan(value.mean):
        return ("no row of the log says anything of the target: there is no estimate",)
    if value.low <= 0.0 <= value.high:
        return (f"{rewarded:,} {what}: the interval spans zero",)
    return ()


def cautions(bears: Support, what: str = "rewarded decisions") -> tuple[str, ...]:
    """What is wrong with what bears an estimate, the gravest first."""
    control, found = bears.control, list[str]()
    if control.known and not control.low <= 1.0 <= control.high:
        found.append(
            f"weights average {control}, not 1: propensities or the target's probabilities are "
            "wrong, or the target shows what the log could not"
        )
    if bears.unsupported > LOST:
        found.append(
            f"{bears.unsupported:.1%} of what the target would show the log did not: it counts "
            "as worth nothing"
        )
    if bears.effective < max(FEW_EFFECTIVE, 0.1 * bears.rows):
        found.append(
            f"weights leave {bears.effective:,.0f} effective decisions of {bears.rows:,}: "
            "intervals are too narrow"
        )
    if bears.heaviest > HEAVY:
        found.append(
            f"one decision has {bears.heaviest:.0%} of all weight ({brief(bears.largest, 1)})"
        )
    if bears.rewarded < FEW_REWARDED:
        found.append(f"only {bears.rewarded:,} {what}: intervals are wide, and a little too narrow")
    if bears.users == 1:
        found.append("one user: no interval, since users are what is drawn again")
    elif bears.users < FEW_USERS:
        found.append(f"only {bears.users} users: intervals are too narrow")
    if 1 < bears.users == bears.rows:
        found.append("no user comes twice; if ids are missing, intervals are too narrow")
    return tuple(found)
