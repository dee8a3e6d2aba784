"""How to explore: from the scores of what remains to probabilities, none of them zero.

A rule is any pure function from scores, shape (n,), to a pmf, shape (n,). A slate asks it again
for every slot over what remains: one pmf for all slots is not a slate policy, because after its
favourite is drawn nothing is left but noise. No BLAS and no SIMD `exp`: equal scores give equal
bits under every kernel set.
"""

import math
from collections.abc import Callable

import numpy as np
from msgspec import Struct

from models.base import Doubles

Exploration = Callable[[Doubles], Doubles]


def _share(rule: str, value: float, remedy: str) -> None:
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{rule} must be in (0, 1], got {value}; {remedy}")


def _positive(rule: str, value: float, remedy: str) -> None:
    if not (value > 0.0 and math.isfinite(value)):
        raise ValueError(f"{rule} must be positive and finite, got {value}; {remedy}")


def mixed(pmf: Doubles, floor: float) -> Doubles:
    """`pmf`, of which the share `floor` is spread evenly; so each has at least `floor / n`."""
    return pmf * (1.0 - floor) + floor / len(pmf)


class Epsilon(Struct, frozen=True):
    """The best with 1 - epsilon, else any; of equally good ones the lowest index (item id) is best.

    >>> Epsilon(0.1)(np.array([0.0, 3.0])).round(3).tolist()
    [0.05, 0.95]
    """

    epsilon: float = 0.05

    def __post_init__(self) -> None:
        _share("epsilon", self.epsilon, "with 0 nothing is explored, nor can it be evaluated")

    def __call__(self, scores: Doubles) -> Doubles:
        pmf = np.full(len(scores), self.epsilon / len(scores))
        pmf[scores.argmax()] += 1.0 - self.epsilon
        return pmf


class Softmax(Struct, frozen=True):
    """In proportion to exp(score / temperature): Gumbel's top-k when asked slot by slot.

    >>> Softmax(1.0, floor=0.01)(np.array([0.0, 3.0])).round(3).tolist()
    [0.052, 0.948]
    """

    temperature: float = 0.1
    floor: float = 0.01

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature, "for the best alone use Epsilon")
        _share("floor", self.floor, "it keeps the unlikely possible; 0.01 costs 1% of the draws")

    def __call__(self, scores: Doubles) -> Doubles:
        odds = (scores - scores.max()) / self.temperature
        pmf = np.array(list(map(math.exp, odds.tolist())))
        return mixed(pmf / pmf.sum(), self.floor)


class InverseGap(Struct, frozen=True):
    """SquareCB's rule: p_a = 1 / (K + gamma (s_b - s_a)) for a != b, the best b has the rest.

    Foster & Rakhlin 2020, "Beyond UCB" (arXiv:2002.04926), algorithm 1; K is the number of
    actions. Scores are in units of reward, so gamma is large where rewards are small: with gaps
    of 0.05 and 100 candidates, 1,000 explores two times in three and 100,000 one in fifty.

    >>> InverseGap(10.0, floor=0.01)(np.array([0.0, 3.0])).round(3).tolist()
    [0.036, 0.964]
    """

    gamma: float = 100_000.0
    floor: float = 0.01

    def __post_init__(self) -> None:
        _positive("gamma", self.gamma, "the larger it is, the less is explored")
        _share("floor", self.floor, "it keeps the unlikely possible; 0.01 costs 1% of the draws")

    def __call__(self, scores: Doubles) -> Doubles:
        best = int(scores.argmax())
        pmf = 1.0 / (len(scores) + self.gamma * (scores[best] - scores))
        pmf[best] = 0.0
        pmf[best] = 1.0 - pmf.sum()
        return mixed(pmf, self.floor)
