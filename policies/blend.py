"""A fixed blend of z-scored columns, mostly exploited: the baselines that a bandit has to beat.

One column is a blend too: popular, collaborative and content are rows of `stream/build.py`.
"""

from collections.abc import Mapping

import numpy as np

from models.base import Doubles
from models.candidates import Candidates
from models.events import Outcome
from policies.exploration import Epsilon, Exploration


class Blend:
    """Scores are the weighted sum of the named columns.

    >>> popular = Blend("popular", weights={"popularity": 1.0})
    >>> popular.pmf(np.array([0.2, 0.9])).round(3).tolist()
    [0.025, 0.975]
    """

    def __init__(
        self,
        name: str = "blend",
        *,
        weights: Mapping[str, float],
        exploration: Exploration | None = None,
    ) -> None:
        if not weights or not np.isfinite(list(weights.values())).all():
            raise ValueError(f"{name}: weights must be finite and not empty, got {dict(weights)}")
        self.name = name
        self._weights = tuple(sorted(weights.items()))
        self._explore = exploration or Epsilon()

    def scores(
        self, user: str, context: Mapping[str, str | float | bool], candidates: Candidates
    ) -> Doubles:
        total = np.zeros(len(candidates.items))
        for column, weight in self._weights:
            if column not in candidates.names:
                raise ValueError(
                    f"{self.name}: column must be one of {candidates.names}, got {column!r}"
                )
            total += weight * candidates.x[:, candidates.names.index(column)]
        return total

    def pmf(self, scores: Doubles) -> Doubles:
        return self._explore(scores)

    def learn(self, outcome: Outcome, seed: int) -> None:
        pass

    def save(self) -> bytes:
        return b""

    def load(self, data: bytes) -> None:
        if data:
            raise ValueError(f"{self.name} learns nothing, so its state is empty, not {data[:20]}")
