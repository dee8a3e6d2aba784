"""What of the feedback log counts: each record once, without a hole, and what governs the log.

Rule L4: a record is taken iff its source is above its partition's last one and its `prev` equals
that partition's chain. A lower source was taken before; anything else is a hole and refused. Who
writes the log is told by its first `Begin` (L6), who folds it by that and each `Fold` after (L12),
which policy decides by each `Champion`. A `Restart` is taken as a record before all records of its
offset would be: those that follow have its chain.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agents.errors import UnknownRecordTypeError
from models.codec import InvalidMessageError, NewerVersionError, chain, too_deep
from models.events import (
    Begin,
    Champion,
    Control,
    Fold,
    Mark,
    Record,
    Restart,
    Source,
    decode_feedback,
)

Verdict = Literal["learned", "duplicate", "refused", "invalid", "noted"]


class PartitionHead(Struct, frozen=True):
    """How far one partition has been learned."""

    source: Source
    chain: str


FIRST = -1  # the index of a Restart: before all records of its event


class RecordType(Struct):
    type: str = ""


class LedgerState(Struct, frozen=True, kw_only=True):
    """A ledger at a version.

    `last` is the chain value of the record before the version, to know the log again by (L6);
    `fold` the one in force; `champion` the policy that decides, `former` the one before it, empty
    where no record says so; `folds` are the settings of each fold that was ever in force, where a
    record tells them; `restarts` the last Restart of each partition that had one.
    """

    version: int = 0
    last: str = ""
    places: dict[int, PartitionHead] = {}
    counts: dict[Verdict, int] = {}
    begin: Begin | None = None
    fold: str = ""
    champion: str = ""
    former: str = ""
    folds: dict[str, dict[str, Any]] = {}
    restarts: dict[int, PartitionHead] = {}


class Ledger:
    """Tells which records of feedback count. `version` is the offset to read next.

    `policies` may be champion; the first one is, until a record says otherwise.

    >>> ledger = Ledger()
    >>> ledger(0, b"no record"), ledger.version
    (('invalid', None), 1)
    >>> ledger(1, msgspec.json.encode(Fold(fold="new", expects=""))), ledger.fold
    (('noted', Fold(fold='new', expects='', learning={}, v=1)), 'new')
    """

    def __init__(self, standing: LedgerState | None = None, policies: Sequence[str] = ()) -> None:
        self.policies = tuple(policies)
        self.load(standing or LedgerState())

    def load(self, standing: LedgerState) -> None:
        """Go on from there."""
        self.version, self.last = standing.version, standing.last
        self.places: dict[int, PartitionHead] = dict(standing.places)
        self.counts: Counter[Verdict] = Counter(standing.counts)
        self.begin, self.fold = standing.begin, standing.fold
        self.champion = standing.champion or next(iter(self.policies), "")
        self.former = standing.former
        self.folds: dict[str, dict[str, Any]] = dict(standing.folds)  # one a switch
        self.restarts: dict[int, PartitionHead] = dict(standing.restarts)

    def state(self) -> LedgerState:
        """A copy of where it stands."""
        return LedgerState(
            version=self.version,
            last=self.last,
            places=dict(self.places),
            counts=dict(self.counts),
            begin=self.begin,
            fold=self.fold,
            champion=self.champion if self.former else "",
            former=self.former,
            folds=dict(self.folds),
            restarts=dict(self.restarts),
        )

    def has(self, source: Source) -> bool:
        """True if the record from this source was taken."""
        place = self.places.get(source.partition)
        return place is not None and source <= place.source

    def __call__(self, offset: int, data: bytes) -> tuple[Verdict, Record | Control | None]:
        """Take the record at `offset`: the verdict, and the record unless it is unusable.

        Raises UnknownRecordTypeError for a type, or a schema version, of another release.
        """
        try:
            record = decode_feedback(data)
        except InvalidMessageError as invalid:
            verdict, record = _unusable(data, invalid), None
        else:
            verdict = self._judge(record, data)
        self.version = offset + 1
        self.last = chain(data)
        self.counts[verdict] += 1
        return verdict, record

    def _judge(self, record: Record | Control, data: bytes) -> Verdict:
        match record:
            case Begin():  # every worker that finds none writes one: the first counts
                if self.begin is not None:
                    return "duplicate"
                self.begin = record
                self._in_force(record)
                return "noted"
            case Fold():
                if record.expects != self.fold or record.fold == self.fold:
                    return "duplicate"
                self._in_force(record)
                return "noted"
            case Champion():
                if record.policy not in self.policies:  # of workers with other settings
                    return "noted"
                if record.expects != self.champion or record.policy == self.champion:
                    return "duplicate"
                self.former, self.champion = self.champion, record.policy
                return "noted"
            case Mark():
                return "noted"
            case Restart():
                return self._restart(record, data)
            case _:
                place = self.places.get(record.source.partition)
                if place is not None and record.source <= place.source:
                    return "duplicate"
                if record.prev != (place.chain if place else ""):
                    return "refused"
                self.places[record.source.partition] = PartitionHead(record.source, chain(data))
                return "learned"

    def _in_force(self, record: Begin | Fold) -> None:
        self.fold = record.fold
        if record.learning:
            self.folds[record.fold] = record.learning

    def _restart(self, record: Restart, data: bytes) -> Verdict:
        """Only from where its writer saw the partition, and never back: nothing is learned twice.

        Of two at one offset each counts: what the first needed may be gone meanwhile.
        """
        partition = record.partition
        place, source = self.places.get(partition), Source(partition, record.offset, FIRST)
        if self.begin is None or partition >= self.begin.partitions:
            return "duplicate"
        if record.prev != (place.chain if place else "") or (place and source < place.source):
            return "duplicate"
        self.places[partition] = self.restarts[partition] = PartitionHead(source, chain(data))
        topics = self.begin.topics | record.topics
        self.begin = msgspec.structs.replace(self.begin, topics=topics)
        return "noted"


def _unusable(data: bytes, invalid: InvalidMessageError) -> Verdict:
    """Bytes that are no record are skipped, by all alike; a record of another kind is not."""
    if too_deep(data):
        return "invalid"
    try:
        kind = msgspec.json.decode(data, type=RecordType).type
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "invalid"
    newer = isinstance(invalid, NewerVersionError)
    if kind in ("", "interaction", "outcome") and not newer:
        return "invalid"
    raise UnknownRecordTypeError(
        f"feedback holds a record of type {kind!r}, which this release cannot fold "
        f"({invalid}); run the release that wrote it, or a newer one"
    )
