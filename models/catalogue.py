"""The catalogue: items and their embeddings, each folded from its own log.

What it says depends on the two versions alone. How the logs interleaved may show in row numbers, so
nothing read from here may depend on a row's number. Compaction changes nothing either: the last
record of an id alone says what it is, and what is forgotten is as if it had never been there. Of
each log the last `limit` ids written to it are kept; items with `deleted` count. (Beyond `limit`
ids, what was forgotten may have pushed out what a compacted log still has: see `evicted`.)
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import shake_256
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.base import Doubles, Floats
from models.events import Embedding, Item

# A vector is kept as whole numbers with a length of at most 4,096. Every partial sum of a product
# of two is then a whole number up to 2**24, which float32 holds: dot products come out the same in
# any order, on any CPU, in any batch. At 384 dimensions it moves a cosine by 0.0001.
GRID = 4_094
GRID_LIMIT = 4_096
NEVER = 1 << 62
TAG_BUCKETS = 8_192  # bucket 0 is "no tag"
TAGS_AN_ITEM = 16


def projection(dimensions: int, text_dims: int) -> Doubles:
    """Orthogonal directions, shape (text_dims, dimensions), that keep lengths on average.

    Drawn from a hash, so that they are the same wherever and whenever they are made.
    """
    name = f"projection-1:{dimensions}:{text_dims}".encode()
    drawn = np.frombuffer(shake_256(name).digest(4 * dimensions * text_dims), "<u4")
    rows = drawn.astype(np.float64).reshape(text_dims, dimensions) / 2.0**31 - 1.0
    for i, row in enumerate(rows):
        for before in rows[:i]:
            row -= (row * before).sum() * before
        row /= np.sqrt((row * row).sum())
    return rows * np.sqrt(dimensions / text_dims)


def on_grid(vector: Doubles) -> Floats:
    """A vector in whole numbers: its direction, with a length of about `GRID`."""
    unit = vector / np.sqrt((vector * vector).sum())
    grid = np.rint(unit * GRID)
    if (grid * grid).sum() > GRID_LIMIT**2:
        grid = np.trunc(unit * GRID)
    return grid.astype(np.float32)


class Catalogue:
    """Items by id and by row; row 0 stands for every unknown item and holds zeros.

    >>> films = Catalogue(encoder="hash-2", dimensions=2)
    >>> films.fold_embedding(0, Embedding(id="a", encoder="hash-2", text_hash="0" * 16,
    ...     vector=np.array([0, 3], "<f2").tobytes()))
    >>> films.fold_item(0, Item(id="a", at=5))
    >>> films.vector("a"), films.available("a", at=5), films.available("b", at=5)
    (array([0., 1.], dtype=float32), True, False)
    """

    def __init__(
        self, encoder: str, dimensions: int, limit: int = 100_000, text_dims: int = 16
    ) -> None:
        if dimensions < 1 or limit < 1 or text_dims < 1:
            raise ValueError(
                "dimensions, limit and text_dims must be at least 1, "
                f"got {dimensions}, {limit} and {text_dims}; leave out what has a default"
            )
        self.encoder = encoder
        self.dimensions = dimensions
        self.limit = limit
        self.text_dims = min(text_dims, dimensions)
        self.items_version = 0
        self.embeddings_version = 0
        self.ignored = {"encoder": 0, "size": 0, "vector": 0}  # embeddings that were of no use
        self.evicted = 0  # ids for which there was no room
        self.changes = 0  # grows when a vector can be proposed, no longer can, or differs
        self.ids: list[str] = [""]
        self.ends: list[int] = [NEVER]  # when the item of a row expires
        self.tags: list[tuple[str, ...]] = [()]
        self.live: dict[str, int] = {}  # id -> row of what is not deleted
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._items: OrderedDict[str, Item] = OrderedDict()  # at most `limit`
        self._embedded: OrderedDict[str, None] = OrderedDict()  # at most `limit`
        self._newest: list[tuple[int, str]] = []
        self._projection = projection(dimensions, self.text_dims)
        self.at = np.zeros(1, np.float64)
        self.tag_buckets = np.zeros((1, TAGS_AN_ITEM), np.int32)
        self.vectors = np.zeros((1, dimensions), np.float32)
        self.lengths = np.zeros(1, np.float64)  # 0: no vector
        self.text = np.zeros((1, self.text_dims), np.float64)
        self.active = np.zeros(1, np.bool_)  # has a vector and is not deleted
        self.changed = np.zeros(1, np.int64)

    def fold_item(self, offset: int, item: Item) -> None:
        """Take in the record at `offset` of the items log."""
        self.items_version = _next("items", self.items_version, offset)
        if item.id not in self._items and len(self._items) == self.limit:
            self._drop_item(next(iter(self._items)))
            self.evicted += 1
        self._forget(item.id)
        self._items[item.id] = item
        self._items.move_to_end(item.id)
        row = self._row(item.id)
        if not item.deleted:
            self.live[item.id] = row
            self.ends[row] = NEVER if item.expires_at is None else item.expires_at
            self.tags[row] = item.tags
            self.at[row] = item.at
            buckets = [1 + crc32(tag.encode()) % (TAG_BUCKETS - 1) for tag in item.tags]
            self.tag_buckets[row] = 0
            self.tag_buckets[row, : len(buckets)] = buckets[:TAGS_AN_ITEM]
            insort(self._newest, (-item.at, item.id))
        self._refresh(row, item.id)

    def forget_item(self, offset: int, id: str | None) -> None:
        """Take in that from `offset` of the items log on there is no such item, nor ever was.

        None: the record is about none.
        """
        self.items_version = _next("items", self.items_version, offset)
        if id in self._items:
            self._drop_item(id)

    def fold_embedding(self, offset: int, embedding: Embedding) -> None:
        """Take in the record at `offset` of the embeddings log.

        One of no use leaves its item without a vector: compaction removes the one before it.
        """
        self.embeddings_version = _next("embeddings", self.embeddings_version, offset)
        if embedding.encoder != self.encoder:
            self.ignored["encoder"] += 1
            return
        vector = self._usable(embedding)
        if vector is None:
            if embedding.id in self._embedded:
                self._drop_embedding(embedding.id)
            return
        if embedding.id not in self._embedded and len(self._embedded) == self.limit:
            self._drop_embedding(next(iter(self._embedded)))
        self._embedded[embedding.id] = None
        self._embedded.move_to_end(embedding.id)
        row = self._row(embedding.id)
        self._set_vector(row, on_grid(vector))
        self._refresh(row, embedding.id)

    def forget_embedding(self, offset: int, id: str | None) -> None:
        """Take in that from `offset` of the embeddings log on the item has no vector.

        None: the record is about no item's vector of this encoder.
        """
        self.embeddings_version = _next("embeddings", self.embeddings_version, offset)
        if id in self._embedded:
            self._drop_embedding(id)

    def read_up_to(self, items: int, embeddings: int) -> None:
        """Nothing more is below these versions: compaction may have removed the last records."""
        self.items_version = max(self.items_version, items)
        self.embeddings_version = max(self.embeddings_version, embeddings)

    def item(self, id: str) -> Item | None:
        """The item, unless it is unknown or deleted."""
        return self._items[id] if id in self.live else None

    def available(self, id: str, at: int) -> bool:
        """Whether the item can be recommended at a time: known, not deleted, not expired."""
        row = self.live.get(id)
        return row is not None and self.ends[row] > at

    def withdrawn(self, id: str, at: int) -> bool:
        """Whether the item is known to be deleted or expired; unknown items are not."""
        return id in self._items and not self.available(id, at)

    def vector(self, id: str) -> Floats | None:
        """The item's text as a vector of length 1, if it has been embedded."""
        row = self._rows.get(id, 0)
        return self.vectors[row] / np.float32(self.lengths[row]) if self.lengths[row] else None

    def embedded(self, id: str) -> int:
        """The row of an id's vector, deleted or not; 0 without one."""
        return self._rows.get(id, 0) if id in self._embedded else 0

    def find(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """The row of each id; 0 for what is unknown or deleted."""
        live = self.live
        return np.array([live.get(id, 0) for id in ids], np.intp)

    def newest(self, at: int) -> Iterator[str]:
        """The items available at a time, from the newest on; ties by id."""
        return (id for _, id in self._newest if self.ends[self.live[id]] > at)

    @property
    def size(self) -> int:
        """How many items are not deleted."""
        return len(self._newest)

    def aged(self, i: int) -> str:
        """The `i`-th newest of the items not deleted."""
        return self._newest[i][1]

    def _usable(self, embedding: Embedding) -> Doubles | None:
        if len(embedding.vector) != 2 * self.dimensions:
            self.ignored["size"] += 1
            return None
        vector = np.frombuffer(embedding.vector, "<f2").astype(np.float64)
        if not np.isfinite(vector).all() or not vector.any():
            self.ignored["vector"] += 1
            return None
        return vector

    def _drop_item(self, id: str) -> None:
        del self._items[id]
        self._forget(id)
        self._refresh(self._rows[id], id)
        self._release(id)

    def _drop_embedding(self, id: str) -> None:
        del self._embedded[id]
        self._set_vector(self._rows[id], np.zeros(self.dimensions, np.float32))
        self._refresh(self._rows[id], id)
        self._release(id)

    def _forget(self, id: str) -> None:
        """Undo what the item's last record did to its row."""
        row = self.live.pop(id, 0)
        if row:
            del self._newest[bisect_left(self._newest, (-int(self.at[row]), id))]
            self.tags[row] = ()

    def _refresh(self, row: int, id: str) -> None:
        active = id in self.live and self.lengths[row] > 0
        if active != self.active[row]:
            self.active[row] = active
            self._touch(row)

    def _set_vector(self, row: int, vector: Floats) -> None:
        if np.array_equal(vector, self.vectors[row]):
            return
        self.vectors[row] = vector
        exact = vector.astype(np.float64)
        self.lengths[row] = np.sqrt((exact * exact).sum())
        length = self.lengths[row] or 1.0
        self.text[row] = np.round((self._projection * exact).sum(axis=1) / length, 4) + 0.0
        self._touch(row)

    def _touch(self, row: int) -> None:
        self.changes += 1
        self.changed[row] = self.changes

    def _row(self, id: str) -> int:
        row = self._rows.get(id)
        if row is None:
            if self._free:
                row = self._free.pop()
                self.ids[row] = id
            else:
                row = len(self.ids)
                self.ids.append(id)
                self.ends.append(NEVER)
                self.tags.append(())
                if row == len(self.at):
                    self._grow()
            self._rows[id] = row
        return row

    def _release(self, id: str) -> None:
        """Give a row back that neither log needs any more."""
        if id not in self._items and id not in self._embedded:
            self._free.append(self._rows.pop(id))

    def _grow(self) -> None:
        names = ("at", "tag_buckets", "vectors", "lengths", "text", "active", "changed")
        for name in names:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))


def _next(log: str, version: int, offset: int) -> int:
    if offset < version:
        raise ValueError(
            f"the {log} log is folded in rising offsets; {offset} came after {version - 1}; "
            "start again with an empty catalogue"
        )
    return offset + 1
