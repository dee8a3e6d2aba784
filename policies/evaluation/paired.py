"""Many comparisons on the same users at once: intervals, tests, and a correction for many looks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.base import Doubles
from policies.evaluation.intervals import Interval, between, numbered, resampled

DRAWS = 2_000
FLIPS = 20_000
AT_ONCE = 2_000_000  # signs at once, to bound memory: 16 MB


class PairedColumns:
    """Values with weights, one row a request, gathered by user: column after column.

    A weighted mean is sum(value * weight) / sum(weight); a weight of 0 leaves a request out.

    >>> columns = PairedColumns(["ann", "ann", "bob"])
    >>> columns.add([1.0, 0.0, 2.0])
    >>> columns.add([1.0, 0.0, 2.0], [1, 1, 0])
    >>> [interval.mean for interval in columns.intervals()]
    [1.0, 0.5]
    """

    def __init__(self, users: Sequence[str]) -> None:
        if not users:
            raise ValueError("there is no request, so there is nothing to compare")
        self._users = numbered(users)
        self._sums: list[Doubles] = []
        self._weights: list[Doubles] = []

    def add(
        self, values: Sequence[float] | Doubles, weights: Sequence[float] | NDArray[np.bool_] = ()
    ) -> None:
        """One more column."""
        x = np.asarray(values, np.float64)
        w = np.asarray(weights, np.float64) if len(weights) else np.ones(len(x))
        if not len(x) == len(w) == len(self._users):
            raise ValueError(f"{len(self._users)} requests, {len(x)} values, {len(w)} weights")
        self._sums.append(np.bincount(self._users, x * w).astype(np.float64))
        self._weights.append(np.bincount(self._users, w).astype(np.float64))

    def intervals(self, level: float = 0.95, seed: int = 0) -> list[Interval]:
        """The weighted mean of each column; percentile bootstrap over users, the same draws for
        all columns. NaN for a column without weight."""
        m = len(self._sums)
        sums = np.stack([*self._sums, *self._weights], axis=1)
        totals = resampled(sums, DRAWS, seed)
        found: list[Interval] = []
        for i in range(m):
            of, weight = totals[:, i], totals[:, m + i]
            some = weight > 0
            whole = float(self._weights[i].sum())
            mean = float(self._sums[i].sum()) / whole if whole else float("nan")
            found.append(Interval(mean, *between(of[some] / weight[some], level)))
        return found

    def p_values(self, seed: int = 0) -> Doubles:
        """For each column of differences: how likely a mean at least as far from 0 is by chance.

        Fisher's randomisation test with users as pairs: if neither is better, each user's sum of
        differences might as well have the other sign. At least 1 / (FLIPS + 1).
        """
        sums = np.stack(self._sums, axis=1)
        seen = np.abs(sums.sum(axis=0)) - 1e-9
        rng, users = np.random.default_rng(seed), len(sums)
        beyond = np.zeros(sums.shape[1])
        step = max(1, AT_ONCE // users)
        for first in range(0, FLIPS, step):
            count = min(step, FLIPS - first)
            signs = 2.0 * rng.integers(0, 2, (count, users)) - 1.0
            beyond += (np.abs(signs @ sums) >= seen).sum(axis=0)
        return (beyond + 1.0) / (FLIPS + 1.0)


def holm(
    p_values: Sequence[float] | Doubles, weights: Sequence[float] | Doubles | None = None
) -> Doubles:
    """Corrected for having looked so often: Holm 1979, "A simple sequentially rejective ...".

    What is below 0.05 after it may be claimed, all together, with 1 in 20 for any wrong claim.
    What matters most may have more `weight` (section 4 there), at the cost of the others.

    >>> holm([0.01, 0.04, 0.02]).tolist()
    [0.03, 0.04, 0.04]
    >>> holm([0.01, 0.04, 0.02], weights=[1, 1, 2]).tolist()
    [0.04, 0.04, 0.04]
    """
    p = np.asarray(p_values, np.float64)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(p / w, kind="stable")
    left = np.cumsum(w[order][::-1])[::-1]  # weight of what is not rejected yet
    stepped = (p / w)[order] * left
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected
