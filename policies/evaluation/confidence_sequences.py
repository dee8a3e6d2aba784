"""Confidence sequences: ranges that hold however often one looks, and whenever one stops."""

import math

import numpy as np
from msgspec import Struct

from models.base import Doubles
from policies.evaluation.intervals import Interval


class BettingSequence(Struct):
    """What to bet on the next value, from those before alone, in [0, 1], and what they averaged.

    lambda_t of (15) in the paper below, section 3.2, with its regularised mean and variance.

    >>> bets = BettingSequence(level=0.95)
    >>> bets.mean, round(bets.next(), 2)
    (0.5, 6.52)
    >>> bets.add(1.0)
    >>> bets.mean, round(bets.next(), 2)
    (0.75, 4.64)
    """

    level: float
    count: int = 0
    total: float = 0.5
    squares: float = 0.25

    @property
    def mean(self) -> float:
        """Of the values so far."""
        return self.total / (self.count + 1)

    def next(self) -> float:
        """lambda of the next value."""
        t = self.count + 1
        spread = self.squares / t
        return math.sqrt(2.0 * math.log(2.0 / (1.0 - self.level)) / (spread * t * math.log1p(t)))

    def add(self, x: float) -> None:
        """Take the next value in."""
        self.count += 1
        self.total += x
        self.squares += (x - self.mean) ** 2


class RunningInterval(Struct):
    """A range for the mean of values in [least, most] that come one by one, in a few numbers.

    All ranges, one after each value, hold the mean at once with probability `level`, so one may
    look as often as one likes, and stop when one likes. The predictable plug-in empirical-Bernstein
    confidence sequence of Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables
    by betting" (JRSS B 86(1), arXiv:2010.09686), theorem 2. Where the mean drifts, given what was
    before, it is that of all values weighed by their bets: early ones weigh more.

    >>> values = RunningInterval(bets=BettingSequence(level=0.95))
    >>> for x in [0.0, 1.0] * 500:
    ...     values.add(x)
    >>> print(values.interval)
    0.4992 [0.4362, 0.5623]
    """

    bets: BettingSequence
    least: float = 0.0
    most: float = 1.0
    weight: float = 0.0
    centre: float = 0.0
    error: float = 0.0

    def add(self, value: float) -> None:
        """Take the next value in. Raises ValueError if it is out of range."""
        x = (value - self.least) / (self.most - self.least)
        if not 0.0 <= x <= 1.0:
            raise ValueError(f"values must lie in [{self.least}, {self.most}], got {value}")
        bet = min(self.bets.next(), 0.5)
        self.weight += bet
        self.centre += bet * x
        self.error += (x - self.bets.mean) ** 2 * (-math.log1p(-bet) - bet)
        self.bets.add(x)

    @property
    def interval(self) -> Interval:
        """The mean so far and its range; all that is possible before the first value."""
        width = self.most - self.least
        if not self.weight:
            return Interval(self.least + 0.5 * width, self.least, self.most)
        centre = self.centre / self.weight
        radius = (math.log(2.0 / (1.0 - self.bets.level)) + self.error) / self.weight
        return Interval(
            self.least + width * centre,
            self.least + width * max(centre - radius, 0.0),
            self.least + width * min(centre + radius, 1.0),
        )


def betting(values: Doubles, *, most: float = 1.0, level: float = 0.95) -> Interval:
    """The same promise by the hedged capital process, for the last time alone.

    Theorem 3 of the same paper: nobody who bets on a mean m that is true grows rich, so every m
    against which the stake grew 1 / (1 - level)-fold is out. Half the stake bets on more, half on
    less, so that each end is found by halving.

    >>> print(betting(np.tile([0.0, 1.0], 500)))
    0.5000 [0.4334, 0.5627]
    """
    x = _within(values, most)
    before = BettingSequence(level=level)
    bets = np.empty(len(x))
    for t, one in enumerate(x.tolist()):
        bets[t] = before.next()
        before.add(one)
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
