"""What a sample says of all others: intervals by users drawn again."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles

AT_ONCE = 4_000_000  # users drawn at once, to bound memory: 32 MB


class Interval(Struct, frozen=True):
    """A mean with the range that holds the mean over all such users, 19 times in 20.

    >>> str(Interval(0.5, 0.25, 0.75))
    '0.5000 [0.2500, 0.7500]'
    """

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """False if there is a mean and no range: of one user, say."""
        return self.low <= self.high

    def __str__(self) -> str:
        if not self.known:
            return f"{brief(self.mean)} [-, -]"
        return f"{brief(self.mean)} [{brief(self.low)}, {brief(self.high)}]"


def brief(value: float, decimals: int = 4) -> str:
    """A number with so many decimals; huge ones with their power of ten.

    >>> brief(0.25), brief(-1e99), brief(math.nan)
    ('0.2500', '-1.0e+99', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:.{decimals}f}"


def student(values: Sequence[float] | Doubles, level: float = 0.95) -> Interval:
    """The mean of few independent values, with Student's interval.

    >>> student([1.0, 2.0, 3.0, 4.0, 5.0])
    Interval(mean=3.0, low=1.03..., high=4.96...)
    """
    x, n = np.asarray(values, np.float64), len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    # As scipy.stats.t.ppf, which takes half a second more to import; and no start waits for this.
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    t = float(stdtrit(n - 1, 0.5 + level / 2.0))
    mean, half = float(x.mean()), t * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def numbered(users: Sequence[str]) -> NDArray[np.intp]:
    """Each user's number, in the order of appearance.

    >>> numbered(["bob", "ann", "bob"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(user, len(numbers)) for user in users], np.intp)


def resampled(sums: Doubles, draws: int, seed: int) -> Doubles:
    """Sums over as many users as there are, drawn with replacement: (users, m) -> (draws, m).

    NaN of one user: drawn again it is the same, which says nothing of others.
    """
    rng, users = np.random.default_rng(seed), len(sums)
    if users == 1:
        return np.full((draws, sums.shape[1]), np.nan)
    totals = np.empty((draws, sums.shape[1]))
    step = max(1, AT_ONCE // users)
    for first in range(0, draws, step):
        count = min(step, draws - first)
        drawn = rng.integers(0, users, (count, users)) + users * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users)
        totals[first : first + count] = times.astype(np.float64) @ sums
    return totals


def between(means: Doubles, level: float) -> tuple[float, float]:
    """The middle `level` of what was drawn: Efron's percentile interval; NaN if nothing was."""
    if not len(means):
        return math.nan, math.nan
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(means, [tail, 100.0 - tail]).tolist()
    return low, high


def clustered(
    values: Sequence[float] | Doubles,
    users: Sequence[str],
    *,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `values`, one an event, with a percentile bootstrap interval over users.

    Users are drawn with replacement, each with all their events, since events of one user are
    alike. The difference of two policies on the same events is `clustered(a - b, users)`: paired,
    so what users have in common cancels. Few users (below 30) make the range too narrow; of one
    there is none (NaN).

    >>> clustered([1.0, 3.0, 1.0, 3.0], ["ann", "ann", "bob", "bob"])
    Interval(mean=2.0, low=2.0, high=2.0)
    """
    x = np.asarray(values, np.float64)
    if len(x) != len(users) or not len(x):
        raise ValueError(f"each value needs its user, got {len(x)} values and {len(users)} users")
    if not 0.0 < level < 1.0 or draws < 1:
        raise ValueError(f"level must be in (0, 1), draws at least 1; got {level} and {draws}")
    cluster = numbered(users)
    sums = np.stack([np.bincount(cluster, x), np.bincount(cluster)], axis=1)
    totals = resampled(sums.astype(np.float64), draws, seed)
    return Interval(float(x.mean()), *between(totals[:, 0] / totals[:, 1], level))
