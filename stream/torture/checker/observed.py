"""What the topics say: the first ranking of each id, what was learned, which dead letters."""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from sys import intern

from msgspec import Struct

from models.codec import InvalidMessageError, chain
from models.events import Begin, Control, decode_decision, decode_feedback
from stream.torture.checker.expected import ExpectedRecord, Key, expected_record


class ObservedRanking(Struct, frozen=True):
    """The decision that counts, in short."""

    source: int
    model: int
    items: tuple[str, ...]


class ObservedRankings:
    """Takes the rankings, each partition in order; `first` has the answers by user and id.

    >>> answers = ObservedRankings(forged="x")
    >>> answers(0, b"garbage"), answers.unreadable
    (None, 1)
    """

    def __init__(self, forged: str) -> None:
        self.forged = forged  # the policy of those that are no worker's
        self.first: dict[int, dict[Key, ObservedRanking]] = {}
        self.proposed: dict[Key, tuple[str, ...]] = {}
        self.again = 0
        self.unreadable = 0
        self.forgeries = 0

    def __call__(self, partition: int, data: bytes) -> None:
        """Take a message of the rankings."""
        try:
            decision = decode_decision(data)
        except InvalidMessageError:
            self.unreadable += 1
            return
        known, key = self.first.setdefault(partition, {}), (decision.user, decision.id)
        if decision.policy == self.forged:
            self.forgeries += 1
        elif key in known:
            self.again += 1
        if key not in known:
            items = tuple(intern(slot.item) for slot in decision.slots)
            known[key] = ObservedRanking(decision.source, decision.model, items)
            self.proposed[key] = items


class ObservedRecords:
    """Takes feedback in order and counts a verdict each; `facts` are what was learned.

    A record counts iff its source is above its partition's last one and its `prev` is the chain
    value of that one.

    >>> learned = ObservedRecords()
    >>> learned(0, b"garbage"), learned.verdicts["invalid"]
    (None, 1)
    """

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.facts: dict[int, dict[tuple[int, int], ExpectedRecord]] = {}
        self._begun = False
        self._places: dict[int, tuple[tuple[int, int], str]] = {}
        self._sources: dict[int, array[int]] = {}
        self._versions: dict[int, array[int]] = {}

    def __call__(self, offset: int, data: bytes) -> int | None:
        """Take the message at `offset`; the partition of its record, whatever became of it."""
        try:
            record = decode_feedback(data)
        except InvalidMessageError:
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
            self.facts.setdefault(source.partition, {})[where] = expected_record(record)
            self._sources.setdefault(source.partition, array("q")).append(source.offset)
            self._versions.setdefault(source.partition, array("q")).append(offset + 1)
        return source.partition

    def version(self, partition: int, offset: int) -> int:
        """The version of the model that has learned all of a partition's events up to `offset`."""
        i = bisect_right(self._sources.get(partition, array("q")), offset)
        return self._versions[partition][i - 1] if i else 0


class DeadLetter(Struct, frozen=True):
    """A dead letter in short."""

    reason: str
    digest: bytes


class ObservedDeadLetters:
    """Takes the dead letters; `first` has those of one topic by partition and offset.

    >>> letters = ObservedDeadLetters("events")
    >>> headers = (("topic", b"events"), ("partition", b"0"), ("offset", b"7"), ("reason", b"bad"))
    >>> letters(headers, b"x"), letters.says(0, 7, "ba", b"x"), letters.says(0, 8, "bad", b"x")
    (None, True, False)
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.first: dict[tuple[int, int], DeadLetter] = {}
        self.again = 0

    def __call__(self, headers: Sequence[tuple[str, bytes]], value: bytes) -> None:
        """Take a dead letter."""
        says = {name: text.decode() for name, text in headers}
        if says["topic"] != self.topic:
            return
        place = int(says["partition"]), int(says["offset"])
        if place in self.first:
            self.again += 1
        else:
            self.first[place] = DeadLetter(says["reason"], _digest(value))

    def says(self, partition: int, offset: int, reason: str, value: bytes) -> bool:
        """Whether the message lies there, whole, for that reason; it is then accounted for."""
        letter = self.first.pop((partition, offset), None)
        return (
            letter is not None
            and letter.reason.startswith(reason)
            and letter.digest == _digest(value)
        )


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=8).digest()
