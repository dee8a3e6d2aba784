"""The catalogue as it was at given versions, made again from its two logs."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from agents.catalogue_records import EmbeddingRecord, ItemRecord
from agents.recommender import Recommender

T = TypeVar("T")
SIZE = 64  # of vectors nobody has seen: as many as a text can be projected to
LARGEST = 8_192  # float16 values that an embedding has room for


class VersionHistory(Generic[T]):
    """A log's records by offset.

    >>> log = VersionHistory[str]()
    >>> log.add(0, "a"), log.add(1, "b"), log.add(3, "c")
    (None, None, None)
    >>> log.between(1, 4), log.missing(2), log.missing(4), log.end
    ([(1, 'b'), (3, 'c')], None, 2, 4)
    """

    def __init__(self) -> None:
        self.unreadable = 0
        self._records: list[tuple[int, T]] = []

    def __len__(self) -> int:
        return len(self._records)

    @property
    def end(self) -> int:
        """The offset after the last record."""
        return self._records[-1][0] + 1 if self._records else 0

    def add(self, offset: int, record: T, unreadable: bool = False) -> None:
        """Take the record at an offset, above all before."""
        self._records.append((offset, record))
        self.unreadable += unreadable

    def between(self, start: int, end: int) -> list[tuple[int, T]]:
        """The records from one offset up to another."""
        first, last = (bisect_left(self._records, x, key=lambda one: one[0]) for x in (start, end))
        return self._records[first:last]

    def missing(self, version: int) -> int | None:
        """The first offset below `version` that the log does not hold, if there is one."""
        known = self._records
        first = bisect_left(range(len(known)), True, key=lambda i: known[i][0] > i)
        return first if first < version else None


class _ItemVersion:
    def __init__(self, encoder: str, recommender: Recommender) -> None:
        self.encoder = encoder
        self.recommender = recommender
        self.items = self.embeddings = 0  # everything below is folded


class CatalogueHistory:
    """Gives what decides at any versions, asked for in an order that mostly rises.

    A catalogue only goes forward, so a few are kept: the most advanced that is not beyond what is
    asked for goes on; where none is, a new one starts from nothing. Several workers that are not
    equally far need as many catalogues as are apart; at most `most` are kept, the latest used.
    """

    def __init__(self, make: Callable[[str, int], Recommender], most: int = 8) -> None:
        self.items = VersionHistory[ItemRecord]()
        self.embeddings = VersionHistory[EmbeddingRecord]()
        self.made = 0
        self._make = make  # from an encoder's version and the size of its vectors
        self._most = most
        self._sizes: dict[str, Counter[int]] = {}  # by encoder: how long its vectors are
        self._kept: list[_ItemVersion] = []

    def add_item(self, offset: int, record: ItemRecord) -> None:
        """Take a record of the items."""
        self.items.add(offset, record, bool(record.invalid))

    def add_embedding(self, offset: int, record: EmbeddingRecord) -> None:
        """Take a record of the embeddings."""
        self.embeddings.add(offset, record, bool(record.invalid))
        if (embedding := record.embedding) is not None:
            sizes = self._sizes.setdefault(embedding.encoder, Counter())
            sizes[len(embedding.vector) // 2] += 1

    def knows(self, encoder: str) -> bool:
        """Whether the log has any vector of an encoder."""
        return encoder in self._sizes

    def at(self, encoder: str, items: int, embeddings: int) -> Recommender:
        """What decides with the catalogue at these versions."""
        fits = [
            kept
            for kept in self._kept
            if kept.encoder == encoder and kept.items <= items and kept.embeddings <= embeddings
        ]
        kept = max(fits, key=lambda one: one.items + one.embeddings, default=None)
        kept = kept or self._new(encoder)
        catalogue = kept.recommender.catalogue
        for offset, item in self.items.between(kept.items, items):
            item.fold(catalogue, offset)
        for offset, embedding in self.embeddings.between(kept.embeddings, embeddings):
            embedding.fold(catalogue, offset)
        # What was last read then may be gone: a tombstone that compaction removed.
        catalogue.read_up_to(min(items, self.items.end), min(embeddings, self.embeddings.end))
        kept.items, kept.embeddings = items, embeddings
        where = encoder, items, embeddings
        others = [k for k in self._kept if (k.encoder, k.items, k.embeddings) != where]
        self._kept = [*others, kept][-self._most :]
        return kept.recommender

    def _new(self, encoder: str) -> _ItemVersion:
        self.made += 1
        return _ItemVersion(encoder, self._make(encoder, self._size(encoder)))

    def _size(self, encoder: str) -> int:
        """How long an encoder's vectors are: its version ends with it, else what most are."""
        last = encoder.rpartition("/")[2]
        if last.isdecimal() and last.isascii() and len(last) < 5 and 0 < int(last) <= LARGEST:
            return int(last)
        most = self._sizes.get(encoder, Counter[int]()).most_common(1)
        return most[0][0] if most else SIZE
