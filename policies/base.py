"""A policy scores candidates and says how to explore among what remains; `rank` draws the slate."""

from collections.abc import Mapping
from random import Random
from typing import Protocol

import numpy as np

from models.base import Doubles
from models.candidates import Candidates
from models.events import Outcome, Slot


class Policy(Protocol):
    """How to choose. Reading (`scores`, `pmf`) never writes; all chance comes from outside."""

    name: str

    def scores(
        self, user: str, context: Mapping[str, str | float | bool], candidates: Candidates
    ) -> Doubles:
        """One score a candidate, higher is better, shape (n,)."""
        ...

    def pmf(self, scores: Doubles) -> Doubles:
        """Probabilities over what remains, given its scores: all above 0, sum 1, shape (n,)."""
        ...

    def learn(self, outcome: Outcome, seed: int) -> None:
        """Take in one closed decision, from its logged features and rewards alone."""
        ...

    def save(self) -> bytes:
        """Everything learned; `load` of it continues bit for bit. No pickle."""
        ...

    def load(self, data: bytes) -> None:
        """Replace what is learned by what `save` returned."""
        ...


def rank(
    policy: Policy,
    user: str,
    context: Mapping[str, str | float | bool],
    candidates: Candidates,
    k: int,
    rng: Random,
) -> tuple[Slot, ...]:
    """Draw min(k, n) slots one after another, each from the policy's pmf over what remains.

    A slot's propensity is conditional on the slots above it; the product of all of them is the
    probability of the ranking. Takes one number from `rng` a slot.
    """
    left = len(candidates.items)
    if left == 0:
        return ()
    all_scores = scored(policy, user, context, candidates)
    index, scores = np.arange(left), all_scores.copy()
    slots: list[Slot] = []
    for _ in range(min(k, left)):
        drawn, propensity = draw(policy.pmf(scores[:left]), rng)
        i = int(index[drawn])
        slots.append(
            Slot(
                item=candidates.items[i],
                propensity=propensity,
                score=float(all_scores[i]),
                source=candidates.sources[i],
                features=candidates.features(i),
            )
        )
        left -= 1
        index[drawn:left] = index[drawn + 1 : left + 1]
        scores[drawn:left] = scores[drawn + 1 : left + 1]
    return tuple(slots)


def scored(
    policy: Policy,
    user: str,
    context: Mapping[str, str | float | bool],
    candidates: Candidates,
) -> Doubles:
    """A policy's scores, shape (n,). Raises ValueError if they are not n finite numbers."""
    scores, n = policy.scores(user, context, candidates), len(candidates.items)
    if scores.shape != (n,) or not np.isfinite(scores).all():
        raise ValueError(
            f"{policy.name}: scores must be {n} finite numbers, got {scores}; "
            "look at the features of this request"
        )
    return scores


def draw(pmf: Doubles, rng: Random) -> tuple[int, float]:
    """An index drawn from `pmf`, and its probability, in (0, 1] whatever the rounding.

    >>> draw(np.array([0.25, 0.75]), Random(1))
    (0, 0.25)
    """
    if not pmf.min() > 0.0:
        raise ValueError(f"every probability must be above 0, got {pmf.min()}; give it a floor")
    upto = pmf.cumsum()
    total = float(upto[-1])
    if not abs(total - 1.0) < 1e-6:
        raise ValueError(f"probabilities must sum to 1, got {total}; normalise them")
    i = min(int(upto.searchsorted(rng.random() * total, side="right")), len(pmf) - 1)
    return i, min(float(pmf[i]) / total, 1.0)
