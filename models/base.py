"""The protocols of what learns and what reads: Scorer and Encoder."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


class Scorer(Protocol):
    """Learns which user likes which item, and scores items for a user.

    Reading never writes; an unknown user or item scores a default. `learn` is a fold: it reads
    nothing but its arguments and its own state, so equal calls in equal order give equal bits.
    """

    name: str

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        """One score an item, higher is better, shape (len(items),)."""
        ...

    def top(self, user: str, n: int) -> list[str]:
        """At most `n` items in falling score, ties broken by item id; [] if none is known."""
        ...

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        """Take in one interaction (`value` > 0: liked); all chance comes from `seed`."""
        ...

    def state(self) -> Arrays:
        """Everything learned, as arrays; `load` of it continues bit for bit."""
        ...

    def load(self, state: Arrays) -> None:
        """Replace what is learned by what `state` returned."""
        ...


class Encoder(Protocol):
    """Turns texts into unit vectors."""

    version: str
    dimensions: int

    def encode(self, texts: Sequence[str]) -> Floats:
        """One vector a text, shape (len(texts), dimensions), each of length 1."""
        ...


@runtime_checkable
class Vocabulary(Protocol):
    """What an encoder with a vocabulary knows of its limits."""

    def unknown(self, texts: Sequence[str]) -> Sequence[float]:
        """Of each text the share of its pieces that the encoder does not know, 1 without any."""
        ...
