"""What feedback says was learned: each record once, in its partition's order, by rule L4."""

from array import array
from bisect import bisect_right
from collections import Counter

from models.codec import Invalid, chain
from models.events import Begin, Control, decode_feedback
from stream.torture.checker.expected import Fact, fact


class Learned:
    """Takes feedback in order and counts a verdict each; `facts` are what was learned.

    A record counts iff its source is above its partition's last one and its `prev` is the chain
    value of that one.

    >>> learned = Learned()
    >>> learned(0, b"garbage"), learned.verdicts["invalid"]
    (None, 1)
    """

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.facts: dict[int, dict[tuple[int, int], Fact]] = {}
        self._begun = False
        self._places: dict[int, tuple[tuple[int, int], str]] = {}
        self._sources: dict[int, array[int]] = {}
        self._versions: dict[int, array[int]] = {}

    def __call__(self, offset: int, data: bytes) -> int | None:
        """Take the message at `offset`; the partition of its record, whatever became of it."""
        try:
            record = decode_feedback(data)
        except Invalid:
            self.verdicts["invalid"] += 1
            return None
        if isinstance(record, Control):  # about the log itself: no event caused it
            again = isinstance(record, Begin) and self._begun
            self._begun = self._begun or isinstance(record, Begin)
            self.verdicts["duplicate" if again else "noted"] += 1
            return None
        source = record.source
        last, value = self._places.get(source.partition, ((-1, -1), ""))
        where = source.offset, source.index
        if where <= last:
            self.verdicts["duplicate"] += 1
        elif record.prev != value:
            self.verdicts["refused"] += 1
        else:
            self.verdicts["learned"] += 1
            self._places[source.partition] = where, chain(data)
            self.facts.setdefault(source.partition, {})[where] = fact(record)
            self._sources.setdefault(source.partition, array("q")).append(source.offset)
            self._versions.setdefault(source.partition, array("q")).append(offset + 1)
        return source.partition

    def version(self, partition: int, offset: int) -> int:
        """The version of the model that has learned all of a partition's events up to `offset`."""
        i = bisect_right(self._sources.get(partition, array("q")), offset)
        return self._versions[partition][i - 1] if i else 0
