"""Off-policy evaluation of rankings: how far a user reads decides what weighs a slot's reward.

Letters as in the papers: w(k) weighs slot k. The value is the sum of a ranking's rewards.
"""

from collections.abc import Callable

import numpy as np
from msgspec import Struct

from models.base import Doubles
from policies.evaluation.estimators import MOST_WEIGHT, EstimatorTerms, bounded, plain


class Slates(Struct, frozen=True, kw_only=True):
    """One row a ranking, one column a slot; all arrays of shape (n, k).

    `propensities` and `chances` are the logging policy's and the target's probabilities of each
    slot's item, conditional on the slots above it, as rankloop logs them. A shorter ranking ends
    with reward 0 and probabilities 1. `shown` and `chosen` are a model's rewards of a slot and all
    below it, as cascade_dr needs them: of the slot's item, and the mean over what the target would
    put there under the same slots above.

    >>> half = np.array([[0.5, 1.0]])
    >>> log = Slates(rewards=np.array([[0.0, 1.0]]), propensities=half, chances=1 - half / 2,
    ...     users=("ann",))
    >>> log.upto.tolist(), reward_interaction(log).value
    ([[1.5, 0.75]], 0.75)
    """

    rewards: Doubles
    propensities: Doubles
    chances: Doubles
    users: tuple[str, ...]
    shown: Doubles | None = None
    chosen: Doubles | None = None

    def __post_init__(self) -> None:
        n = len(self.users)
        arrays = (self.rewards, self.propensities, self.chances, self.shown, self.chosen)
        given = [a for a in arrays if a is not None]
        if not n or any(a.shape != self.rewards.shape or len(a) != n for a in given):
            raise ValueError(f"all arrays of slates must have one shape ({n}, k)")
        if not all(np.isfinite(a).all() for a in given):
            raise ValueError("rewards, propensities, chances and models must be finite numbers")
        if not (self.propensities.min() > 0.0 and self.propensities.max() <= 1.0):
            raise ValueError("propensities must be in (0, 1]; leave out what was not drawn")

    @property
    def each(self) -> Doubles:
        """w of each slot alone."""
        return bounded(self.chances, self.propensities)

    @property
    def upto(self) -> Doubles:
        """w of each slot and those above it: the product."""
        each, found = self.each, np.ones_like(self.rewards)
        above = np.ones(len(each))
        for place in range(each.shape[1]):
            above = found[:, place] = np.minimum(above * each[:, place], MOST_WEIGHT)
        return found


SlateEstimator = Callable[[Slates], EstimatorTerms]


def standard(log: Slates) -> EstimatorTerms:
    """IPS of the ranking as one choice: unbiased whatever users do, and useless for long ones.

    As IPS, with the product over all slots: Li et al. 2018 (KDD, arXiv:1804.10488), the list
    estimator of section 4.
    """
    return plain(log.upto[:, -1] * log.rewards.sum(axis=1))


def independent(log: Slates) -> EstimatorTerms:
    """IIPS: each slot by its own w; right if a slot's reward depends on its item and place alone.

    Li et al. 2018, the item-position estimator of section 4. It wants probabilities of an item at
    a place, whatever is above; with conditional ones, the slots above stay the logging policy's.
    """
    return plain((log.each * log.rewards).sum(axis=1))


def reward_interaction(log: Slates) -> EstimatorTerms:
    """RIPS: each slot by the w of it and all above; right if users read from the top.

    McInerney et al. 2020 (KDD, arXiv:2007.12986), section 3.2, without its normalisation.
    """
    return plain((log.upto * log.rewards).sum(axis=1))


def normalised_interaction(log: Slates) -> EstimatorTerms:
    """RIPS with each slot's weights divided by their mean, as McInerney et al. 2020 have it."""
    return EstimatorTerms(np.zeros(len(log.users)), log.upto * log.rewards, log.upto)


def cascade_dr(log: Slates) -> EstimatorTerms:
    """Cascade-DR: sum over k of w(1:k) (r - Q) + w(1:k-1) E[Q]: RIPS with a model to lean on.

    Kiyohara et al. 2022 (WSDM, arXiv:2202.01562), section 3.1.
    """
    if log.shown is None or log.chosen is None:
        raise ValueError(
            "cascade_dr needs a model of rewards; make one with policies.evaluation.reward_model"
        )
    upto = log.upto
    above = np.concatenate([np.ones((len(upto), 1)), upto[:, :-1]], axis=1)
    return plain((upto * (log.rewards - log.shown) + above * log.chosen).sum(axis=1))


# By the names they have in tables.
SLATE_ESTIMATORS: dict[str, SlateEstimator] = {
    "standard IPS": standard,
    "independent IPS": independent,
    "RIPS": reward_interaction,
    "SNRIPS": normalised_interaction,
    "cascade-DR": cascade_dr,
}
