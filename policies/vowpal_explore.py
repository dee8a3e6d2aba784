"""Vowpal Wabbit's own exploration (`--cb_explore_adf`), for rankings of one item."""

from models.base import Doubles
from models.candidates import Candidates
from models.events import Outcome
from policies.exploration import mixed
from policies.vowpal import INTERACTIONS, Workspace, teach
from policies.vowpal_text import Context, example

EXPLORERS = {
    "squarecb": "--squarecb --gamma_scale {}",
    "epsilon": "--epsilon {}",
    "softmax": "--softmax --lambda {}",
}


class VowpalExplore:
    """Vowpal Wabbit's own exploration, where one item is asked for (k = 1).

    Scores are its probabilities. A policy sees candidates, not how many are asked for, so it cannot
    refuse more: longer slates are valid but poor, being drawn from what is left of a one-slot pmf,
    most of them its tail. Use `Vowpal` there.

    >>> import numpy as np
    >>> bandit = VowpalExplore(explore="epsilon", amount=0.2, floor=0.01)
    >>> bandit.pmf(np.array([0.1, 0.9])).round(3).tolist()
    [0.1, 0.9]
    >>> bandit.close()
    """

    def __init__(
        self,
        name: str = "explore",
        *,
        explore: str = "squarecb",
        amount: float = 100.0,
        floor: float = 0.01,
        rate: float = 0.01,
        bits: int = 18,
        interactions: tuple[str, ...] = INTERACTIONS,
    ) -> None:
        if explore not in EXPLORERS:
            raise ValueError(f"explore must be one of {sorted(EXPLORERS)}, got {explore!r}")
        if not 0.0 < amount < (1.0 if explore == "epsilon" else 1e9):
            raise ValueError(f"amount must be positive (epsilon: below 1), got {amount}")
        if not 0.0 < floor <= 1.0:
            raise ValueError(f"floor must be in (0, 1], got {floor}; 0.01 costs 1% of the draws")
        self.name = name
        self._floor = floor
        base = "--cb_explore_adf " + EXPLORERS[explore].format(amount)
        self._model = Workspace(base, rate=rate, bits=bits, interactions=interactions)

    def scores(self, user: str, context: Context, candidates: Candidates) -> Doubles:
        pmf = self._model.predict(example(user, context, candidates))
        return mixed(pmf / pmf.sum(), self._floor)

    def pmf(self, scores: Doubles) -> Doubles:
        return scores / scores.sum()

    def learn(self, outcome: Outcome, seed: int) -> None:
        teach(self._model, outcome, weigh=False)

    def save(self) -> bytes:
        return self._model.save()

    def load(self, data: bytes) -> None:
        self._model.load(data)

    def close(self) -> None:
        self._model.close()
