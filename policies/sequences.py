"""Confidence sequences: ranges that hold however often one looks, and whenever one stops."""

import math

import numpy as np

from models.base import Doubles
from policies.intervals import Interval


def plugged(x: Doubles, level: float) -> tuple[Doubles, Doubles]:
    """Means before each value, and bets, from the values before alone: lambda_t of (15) in the
    paper below, section 3.2, with its regularised mean and variance."""
    t = np.arange(1, len(x) + 1)
    means = (0.5 + np.cumsum(x)) / (t + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (t + 1)
    before = np.concatenate([[0.5], means[:-1]])
    spread = np.concatenate([[0.25], variances[:-1]])
    return before, np.sqrt(2.0 * math.log(2.0 / (1.0 - level)) / (spread * t * np.log1p(t)))


def bernstein(
    values: Doubles, *, most: float = 1.0, level: float = 0.95
) -> tuple[Doubles, Doubles]:
    """For values in [0, most] and each time t, a range for their mean from the first t values.

    All ranges hold the mean at once with probability `level`, so one may look as often as one
    likes, and stop when one likes. The predictable plug-in empirical-Bernstein confidence sequence
    of Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"
    (JRSS B 86(1), arXiv:2010.09686), theorem 2.

    >>> low, high = bernstein(np.tile([0.0, 1.0], 500))
    >>> bool(low[-1] < 0.5 < high[-1]), round(float(high[-1] - low[-1]), 2)
    (True, 0.13)
    """
    x = _within(values, most)
    before, bets = plugged(x, level)
    bets = np.minimum(bets, 0.5)
    weight = np.cumsum(bets)
    psi = (-np.log1p(-bets) - bets) / 4.0
    error = math.log(2.0 / (1.0 - level)) + np.cumsum(4.0 * (x - before) ** 2 * psi)
    centre, radius = np.cumsum(bets * x) / weight, error / weight
    return most * np.maximum(centre - radius, 0.0), most * np.minimum(centre + radius, 1.0)


def betting(values: Doubles, *, most: float = 1.0, level: float = 0.95) -> Interval:
    """The same promise by the hedged capital process, for the last time alone.

    Theorem 3 of the same paper: nobody who bets on a mean m that is true grows rich, so every m
    against which the stake grew 1 / (1 - level)-fold is out. Half the stake bets on more, half on
    less, so that each end is found by halving.

    >>> print(betting(np.tile([0.0, 1.0], 500)))
    0.5000 [0.4334, 0.5627]
    """
    x = _within(values, most)
    _, bets = plugged(x, level)
    rich = math.log(2.0 / (1.0 - level))  # half of the stake has to make up for the whole

    def end(sign: float) -> float:
        out, kept = (0.0, 1.0) if sign > 0 else (1.0, 0.0)
        for _ in range(40):
            m = 0.5 * (out + kept)
            room = 0.5 / (m if sign > 0 else 1.0 - m)
            grown = np.log1p(sign * np.minimum(bets, room) * (x - m)).sum()
            out, kept = (m, kept) if grown >= rich else (out, m)
        return out

    return Interval(most * float(x.mean()), most * end(1.0), most * end(-1.0))


def _within(values: Doubles, most: float) -> Doubles:
    x = np.asarray(values, np.float64) / most
    if not len(x) or not (x.min() >= 0.0 and x.max() <= 1.0):
        raise ValueError(
            f"values must lie in [0, {most}], and be some; got {len(x)} of them"
            + (f" in [{most * x.min()}, {most * x.max()}]" if len(x) else "")
            + "; the range has to be known beforehand, not read from them"
        )
    return x
