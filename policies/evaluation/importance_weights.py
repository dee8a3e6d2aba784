"""How likely a policy would have been to rank as another one did."""

from collections.abc import Iterator, Sequence

from models.base import Doubles
from models.events import Slot
from models.fields import MOST_WEIGHT
from policies.base import Policy

MOST_PRODUCT = 1e100  # of many slots, so that none overflows


def choices(
    policy: Policy, scores: Doubles, order: Sequence[int]
) -> Iterator[tuple[list[int], Doubles]]:
    """Before each candidate of `order`: those left, and the policy's probability of each of them.

    `scores` are of all candidates, `order` of any. The list is changed by the next step.
    """
    left = list(range(len(scores)))
    for i in order:
        pmf = policy.pmf(scores[left])
        yield left, pmf / pmf.sum()
        left.remove(i)


def chances(policy: Policy, scores: Doubles, order: Sequence[int]) -> list[float]:
    """A policy's probability of each candidate of `order`, given those before it.

    >>> import numpy as np
    >>> from policies.uniform import Uniform
    >>> chances(Uniform(), np.zeros(4), [2, 0])
    [0.25, 0.3333333333333333]
    """
    drawn = zip(order, choices(policy, scores, order), strict=True)
    return [min(float(pmf[left.index(i)]), 1.0) for i, (left, pmf) in drawn]


def weights(chances: Sequence[float], slots: Sequence[Slot]) -> tuple[float, ...]:
    """The product of chance / propensity down to each slot, cut and to six decimals.

    >>> weights([0.5, 0.1], [Slot(item="a", propensity=0.25), Slot(item="b", propensity=0.2)])
    (2.0, 1.0)
    """
    found, weight = list[float](), 1.0
    for chance, slot in zip(chances, slots, strict=True):
        weight = min(weight * chance / slot.propensity, MOST_PRODUCT)
        found.append(round(min(weight, MOST_WEIGHT), 6))
    return tuple(found)
