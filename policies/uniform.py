"""The policy that prefers nothing: the baseline, and the cleanest log for evaluation."""

from collections.abc import Mapping

import numpy as np

from models.base import Doubles
from models.candidates import Candidates
from models.events import Outcome


class Uniform:
    """Every remaining candidate is equally likely.

    >>> Uniform().pmf(np.zeros(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(self, name: str = "uniform") -> None:
        self.name = name

    def scores(
        self, user: str, context: Mapping[str, str | float | bool], candidates: Candidates
    ) -> Doubles:
        return np.zeros(len(candidates.items))

    def pmf(self, scores: Doubles) -> Doubles:
        return np.full(len(scores), 1.0 / len(scores))

    def learn(self, outcome: Outcome, seed: int) -> None:
        pass

    def save(self) -> bytes:
        return b""

    def load(self, data: bytes) -> None:
        if data:
            raise ValueError(f"{self.name} learns nothing, so its state is empty, not {data[:20]}")
