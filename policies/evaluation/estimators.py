"""Off-policy evaluation: what another policy would have earned, from a log with propensities.

Letters as in the papers: w = pi_e / pi_b is a row's weight, r its reward, q a model of rewards.
"""

from collections.abc import Callable

import numpy as np
from msgspec import Struct

from models.base import Doubles


class BanditLog(Struct, frozen=True, kw_only=True):
    """One row a decision of one slot; all arrays of shape (n,).

    `propensities` are the logging policy's probabilities of what was shown, `chances` the
    target's. `shown` and `chosen` are a model's rewards (`reward_model`): of what was shown,
    and the mean over what the target would choose. `beyond` is the target's probability of what
    the logging policy could never show, where that is known.

    >>> log = BanditLog(rewards=np.array([1.0, 0.0]), propensities=np.array([0.5, 0.5]),
    ...     chances=np.array([0.9, 0.1]), users=("ann", "bob"))
    >>> log.weights.tolist(), ips(log).value
    ([1.8, 0.2], 0.9)
    """

    rewards: Doubles
    propensities: Doubles
    chances: Doubles
    users: tuple[str, ...]
    shown: Doubles | None = None
    chosen: Doubles | None = None
    beyond: Doubles | None = None

    def __post_init__(self) -> None:
        n = len(self.users)
        arrays = (self.rewards, self.propensities, self.chances, self.shown, self.chosen)
        if not n or any(a is not None and a.shape != (n,) for a in (*arrays, self.beyond)):
            raise ValueError(f"a log needs a value of each kind for each of its {n} users' rows")
        if not all(a is None or np.isfinite(a).all() for a in arrays):
            raise ValueError("rewards, propensities, chances and models must be finite numbers")
        low, high = float(self.propensities.min()), float(self.propensities.max())
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(
                f"propensities must be in (0, 1], got {low} to {high}; what is shown with 0 "
                "cannot be weighed: leave out what was not drawn by the policy"
            )
        if not (self.chances.min() >= 0.0 and self.chances.max() <= 1.0 + 1e-9):
            raise ValueError("chances must be in [0, 1]; they are probabilities")

    @property
    def weights(self) -> Doubles:
        """w, shape (n,), at most `MOST_WEIGHT`."""
        return bounded(self.chances, self.propensities)

    @property
    def model(self) -> tuple[Doubles, Doubles]:
        """q of what was shown, and of what the target would choose."""
        if self.shown is None or self.chosen is None:
            raise ValueError(
                "this estimator needs a model of rewards; make one with "
                "policies.evaluation.reward_model"
            )
        return self.shown, self.chosen


def bounded(chances: Doubles, propensities: Doubles) -> Doubles:
    """w = pi_e / pi_b, at most `MOST_WEIGHT`.

    >>> bounded(np.array([0.5, 0.5]), np.array([0.25, 1e-320])).tolist()
    [2.0, 1e+100]
    """
    with np.errstate(over="ignore"):
        return np.minimum(chances / propensities, MOST_WEIGHT)


class EstimatorTerms(Struct, frozen=True):
    """What every estimate comes down to: mean(sure) + sum over m of mean(weighed) / mean(by).

    So one interval serves all, whether an estimator normalises its weights or not. Shapes (n,) and
    (n, m); m is 1 but where a ranking's slots are normalised each on its own.

    >>> EstimatorTerms(np.zeros(2), np.array([[1.0], [0.0]]), np.array([[1.0], [3.0]])).value
    0.25
    """

    sure: Doubles
    weighed: Doubles
    by: Doubles

    @property
    def value(self) -> float:
        """The estimate; NaN if no row says anything."""
        columns = np.concatenate([self.sure[:, None], self.weighed, self.by], axis=1)
        return float(valued(columns.mean(axis=0)[None])[0])


def valued(means: Doubles) -> Doubles:
    """Estimates from means of (sure, weighed, by), shape (draws, 1 + 2 m), as sums serve as well
    once they are divided by the number of rows."""
    m = (means.shape[1] - 1) // 2
    weighed, by = means[:, 1 : 1 + m], means[:, 1 + m :]
    ratio = np.divide(weighed, by, out=np.full(by.shape, np.nan), where=by > 0.0)
    return means[:, 0] + ratio.sum(axis=1)


MOST_WEIGHT = 1e100  # so that squares and sums stay finite, however small a propensity
Estimator = Callable[[BanditLog], EstimatorTerms]


def plain(values: Doubles) -> EstimatorTerms:
    """An estimate that is a mean of values."""
    return EstimatorTerms(values, np.zeros((len(values), 0)), np.zeros((len(values), 0)))


def normalised(sure: Doubles, weighed: Doubles, by: Doubles) -> EstimatorTerms:
    """A mean, and a mean divided by the mean of its weights."""
    return EstimatorTerms(sure, weighed[:, None], by[:, None])


def replay(log: BanditLog) -> EstimatorTerms:
    """The mean reward of rows on which both agree; right only where the log is uniform.

    Li, Chu, Langford & Wang 2011 (WSDM, arXiv:1003.5956), the evaluator for a finite log. Where
    the target draws, a row agrees with its probability: the mean over the draws.
    """
    return normalised(np.zeros(len(log.users)), log.chances * log.rewards, log.chances)


def ips(log: BanditLog) -> EstimatorTerms:
    """Inverse propensity scores: mean(w r), unbiased where the log can show all the target can.

    Horvitz & Thompson 1952; for policies Dudik, Erhan, Langford & Li 2014 (Statistical Science
    29(4)), section 2.2.
    """
    return plain(log.weights * log.rewards)


def clipped_ips(log: BanditLog, most: float = 10.0) -> EstimatorTerms:
    """IPS with min(w, most): less variance for a bias towards 0.

    Ionides 2008, "Truncated importance sampling"; Bottou et al. 2013 (JMLR 14), section 4.4.
    """
    return plain(np.minimum(log.weights, most) * log.rewards)


def snips(log: BanditLog) -> EstimatorTerms:
    """Self-normalised IPS: mean(w r) / mean(w), within the range of rewards, equivariant to shifts.

    Swaminathan & Joachims 2015, "The self-normalized estimator for counterfactual learning" (NIPS),
    section 4, the estimator SNIPS.
    """
    return normalised(np.zeros(len(log.users)), log.weights * log.rewards, log.weights)


def direct(log: BanditLog) -> EstimatorTerms:
    """The direct method: mean(q(x, pi_e)), as good as the model, blind to its errors.

    Dudik et al. 2014, section 2.1.
    """
    return plain(log.model[1])


def doubly_robust(log: BanditLog) -> EstimatorTerms:
    """DR: mean(q(x, pi_e) + w (r - q(x, a))), right if either the propensities or the model are.

    Dudik, Langford & Li 2011 (ICML, arXiv:1103.4601), equation (1).
    """
    shown, chosen = log.model
    return plain(chosen + log.weights * (log.rewards - shown))


def self_normalised_dr(log: BanditLog) -> EstimatorTerms:
    """SNDR: mean(q(x, pi_e)) + mean(w (r - q(x, a))) / mean(w).

    Robins et al. 2007; for one step of Thomas & Brunskill 2016's weighted doubly robust estimator
    (ICML, arXiv:1604.00923), section 6.
    """
    shown, chosen = log.model
    return normalised(chosen, log.weights * (log.rewards - shown), log.weights)


def switch_dr(log: BanditLog, most: float = 10.0) -> EstimatorTerms:
    """DR where w <= most, the model alone where it is more.

    Wang, Agarwal & Dudik 2017 (ICML, arXiv:1612.01205), the estimator SWITCH of section 4, with DR
    where it switches not, as its section 5 has it.
    """
    shown, chosen = log.model
    w = log.weights
    return plain(chosen + np.where(w <= most, w, 0.0) * (log.rewards - shown))


def shrunk_dr(log: BanditLog, most: float = 100.0) -> EstimatorTerms:
    """DRos, DR with optimistic shrinkage: weights most w / (w^2 + most), 0 the direct method.

    Su, Dimakopoulou, Krishnamurthy & Dudik 2020 (ICML, arXiv:1907.09623), section 3.2. The largest
    weight that is left is sqrt(most) / 2.
    """
    shown, chosen = log.model
    w = log.weights
    return plain(chosen + most * w / (w * w + most) * (log.rewards - shown))


NO_INTERVAL = ("DM",)  # drawing decisions again tells nothing of its model's error
# By the names they have in tables.
ESTIMATORS: dict[str, Estimator] = {
    "replay": replay,
    "IPS": ips,
    "clipped IPS": clipped_ips,
    "SNIPS": snips,
    "DM": direct,
    "DR": doubly_robust,
    "SNDR": self_normalised_dr,
    "Switch-DR": switch_dr,
    "DRos": shrunk_dr,
}
