"""A policy scores candidates and says how to explore among what remains; `rank` draws the slate."""

from collections.abc import Mapping
from typing import Protocol

from models.base import Doubles
from models.candidates import Candidates
from models.events import Outcome


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
