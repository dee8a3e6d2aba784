"""A user's taste from the texts of the last items they liked, computed when ranking."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles, Floats
from models.catalogue import Catalogue
from models.history import Histories


class NeighbourList(Struct, frozen=True):
    """An item's nearest by text, as of `changes` of the catalogue."""

    changes: int
    rows: NDArray[np.intp]
    ids: tuple[str, ...]


class Content:
    """Scores items by the cosine of their text with the mean of the user's last `recent` likes.

    Each item's `neighbours` nearest are kept for the `limit` items asked for last, and brought up
    to date by what has changed since. Vectors are whole numbers (see the catalogue), so this gives
    exactly what computing anew gives: reading fills the lists, and cannot change a result.
    """

    name = "content"

    def __init__(
        self,
        catalogue: Catalogue,
        histories: Histories,
        recent: int = 5,
        neighbours: int = 50,
        limit: int = 20_000,
    ) -> None:
        self.catalogue = catalogue
        self.histories = histories
        self.recent = recent
        self.neighbours = neighbours
        self.limit = limit
        self._lists: OrderedDict[str, NeighbourList] = OrderedDict()

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        """One cosine an item, in [-1, 1]; 0 without text or taste."""
        mean, _, _ = self.cosines(user, self.catalogue.find(items))
        return mean.astype(np.float32)

    def top(self, user: str, n: int) -> list[str]:
        """At most `n` items from the neighbourhoods of the last likes, in falling score."""
        found = sorted(self.nearest(user))
        scores = self.scores(user, found).tolist()
        return [item for _, item in sorted(zip((-s for s in scores), found, strict=True))[:n]]

    def anchors(self, user: str) -> list[str]:
        """The user's last likes that have a text, the latest first."""
        likes = self.histories.positives(user, self.recent)
        return [item for item in likes if self.catalogue.embedded(item)]

    def nearest(self, user: str) -> Iterator[str]:
        """The nearest of each of the last likes, then the second nearest of each, and so on."""
        lists = [self.near(item).ids for item in self.anchors(user)]
        given: dict[str, None] = {}
        for rank in range(max(map(len, lists), default=0)):
            for ids in lists:
                if rank < len(ids) and ids[rank] not in given:
                    given[ids[rank]] = None
                    yield ids[rank]

    def cosines(self, user: str, rows: NDArray[np.intp]) -> tuple[Doubles, Doubles, Doubles]:
        """Cosine of each row with the mean of the last likes, the nearest, and the latest."""
        catalogue = self.catalogue
        likes = [catalogue.embedded(item) for item in self.anchors(user)]
        if not likes or not len(rows):
            return np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
        taste = catalogue.vectors[likes]
        lengths = catalogue.lengths[rows]
        lengths[lengths == 0] = 1.0
        dots = (catalogue.vectors[rows] @ taste.T).astype(np.float64)  # exact
        together = np.sqrt((taste @ taste.T).astype(np.float64).sum()) or 1.0
        cosines = dots / catalogue.lengths[likes] / lengths[:, None]
        return dots.sum(axis=1) / together / lengths, cosines.max(axis=1), cosines[:, 0]

    def near(self, item: str) -> NeighbourList:
        """The items nearest to an item, itself left out; ties by id. None if it has no vector."""
        if not self.catalogue.embedded(item):
            return NeighbourList(self.catalogue.changes, np.zeros(0, np.intp), ())
        found = self._lists.get(item)
        if found is None or found.changes != self.catalogue.changes:
            found = self._extended(item, found) if found else self._computed(item)
            self._lists[item] = found
            if len(self._lists) > self.limit:
                self._lists.popitem(last=False)
        self._lists.move_to_end(item)
        return found

    def _computed(self, item: str) -> NeighbourList:
        return self._nearest(item, np.flatnonzero(self.catalogue.active))

    def _extended(self, item: str, old: NeighbourList) -> NeighbourList:
        catalogue = self.catalogue
        changed = catalogue.changed > old.changes
        if changed[catalogue.embedded(item)] or changed[old.rows].any():
            return self._computed(item)
        arrived = np.flatnonzero(changed & catalogue.active)
        return self._nearest(item, np.concatenate([old.rows, arrived]))

    def _nearest(self, item: str, rows: NDArray[np.intp]) -> NeighbourList:
        catalogue = self.catalogue
        row = catalogue.embedded(item)
        rows = rows[rows != row]
        anchor = catalogue.vectors[row]
        # Gathering rows costs more than a product with all of them, unless they are few.
        few = 4 * len(rows) < len(catalogue.vectors)
        # Not `@`: BLAS's threads wait for each other, up to 16 ms where cores are shared.
        vectors = catalogue.vectors[rows] if few else catalogue.vectors
        dots = np.einsum("ij,j->i", vectors, anchor)
        dots = dots if few else dots[rows]
        cosines = dots / catalogue.lengths[rows]  # float64; the anchor's length changes no order
        if len(rows) > self.neighbours:
            kept = cosines >= np.partition(cosines, -self.neighbours)[-self.neighbours]
            rows, cosines = rows[kept], cosines[kept]
        ids = map(catalogue.ids.__getitem__, rows.tolist())
        order = sorted(zip((-cosines).tolist(), ids, rows.tolist(), strict=True))
        order = order[: self.neighbours]
        return NeighbourList(
            changes=catalogue.changes,
            rows=np.array([row for _, _, row in order], np.intp),
            ids=tuple(id for _, id, _ in order),
        )
