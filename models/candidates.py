"""Retrieval: a request's candidates with the features they are judged on."""

from msgspec import Struct

from models.base import Doubles
from models.events import Features


class Candidates(Struct, frozen=True):
    """What may be chosen for one request, in falling order of nothing: sorted by item id.

    `x` is z-scored within the request and rounded to 4 decimals, shape (n, len(names));
    `text` is the projected embedding, shape (n, d), zeros where there is none.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    sources: tuple[str, ...]
    x: Doubles
    tags: tuple[tuple[str, ...], ...]
    text: Doubles

    def features(self, i: int) -> Features:
        """Candidate `i` as it is logged."""
        return Features(tuple(self.x[i].tolist()), self.tags[i], tuple(self.text[i].tolist()))
