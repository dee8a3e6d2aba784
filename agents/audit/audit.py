"""Every ranking made again from the logs at its own versions, and compared bit for bit."""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct

from agents.attribution import AttributionRules, RankingTask
from agents.audit.catalogues import CatalogueHistory
from agents.audit.differences import (
    ENCODER,
    REQUEST,
    Cause,
    Difference,
    difference_of,
    likely,
    short_json,
)
from agents.audit.expected import ExpectedRecords
from agents.catalogue_records import EmbeddingRecord, ItemRecord
from agents.learner import Learner
from agents.ledger import PartitionHead
from agents.partition import ReceivedMessage
from agents.recommender import DecisionMetadata, Recommender
from models.events import (
    Decision,
    InvalidMessageError,
    Source,
    decode_decision,
    decode_record,
    encode,
)

END = 2**63
NOTED = 10  # differences and ids that a report spells out


class AuditReport(Struct, frozen=True, kw_only=True):
    """What an audit found. `same + different + apart + unchecked_rankings`: all but repeats."""

    rankings: int
    same: int
    refused: int  # of the same: refusals, made again alike
    different: int
    apart: dict[str, int]  # decided by another build or other settings: not made again
    unchecked_rankings: int  # the event that asked was cut: not made again
    repeated: int  # for an event that was answered before: the first counts, these are not made
    unlike: tuple[str, ...]  # ids of repeats that answer something else than the first
    reused: tuple[str, ...]  # ids that their user asked again by: made again as any other
    asked: int
    unanswered: int
    unanswered_ids: tuple[str, ...]
    unsure: int  # and those where events are cut: a copy before may have been answered
    skipped: int  # requests, and records, that a Restart left out
    unlearned_skipped: int
    unasked: int  # rankings without an event that asks for them
    unasked_ids: tuple[str, ...]
    discarded: dict[str, int]  # requests and clicks that rightly got no ranking
    feedback: dict[str, int]
    feedback_missing: tuple[int, int] | None  # first missing offset, and how many
    implied: int  # learned records that are what the events and rankings imply
    strange: int  # and those that are not
    strange_first: tuple[Source, ...]  # the first of each partition
    unlearned: int  # implied, and not in feedback
    unchecked: int  # from a partition whose events do not begin at 0
    cut: dict[int, int]  # those partitions, and where they begin
    unreadable: dict[str, int]
    catalogues: int  # how many had to be made
    version: int
    digest: str
    causes: dict[str, int]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether there are rankings, all came out the same, and all that is implied is there."""
        wrong = self.different or self.apart or self.unreadable["rankings"]
        wrong = wrong or self.unanswered or self.unasked or self.strange or self.unlearned
        return self.same > 0 and not wrong


class _PublishedDecision(Struct, frozen=True, order=True):
    """A decision to make again, as its bytes; in the order of learning."""

    model: int
    encoder: str
    items: int
    embeddings: int
    partition: int
    offset: int
    source: int
    data: bytes


class Audit:
    """Takes logs in: all rankings, then all events, items and embeddings, then feedback in order.

    Decisions are made again when feedback has come to their model's version. Memory: the rankings'
    bytes, the events that asked, the items and their vectors.

    `learner` has learned nothing yet; `make` gives what decides from it with an empty catalogue,
    for an encoder's version and the size of its vectors; `owner(user)` is a user's partition.
    `restarts` are those in feedback that count, in order.
    """

    def __init__(
        self,
        learner: Learner,
        make: Callable[[str, int], Recommender],
        rules: AttributionRules,
        terms: DecisionMetadata,
        owner: Callable[[str], int],
        restarts: Sequence[PartitionHead] = (),
    ) -> None:
        self.learner = learner
        self.catalogues = CatalogueHistory(make)
        self.asked = ExpectedRecords(rules, owner, restarts)
        self.terms = terms
        self.counts: Counter[str] = Counter()
        self._first: dict[tuple[int, str, int], _PublishedDecision] = {}
        self._due: list[_PublishedDecision] | None = None
        self._apart: Counter[str] = Counter()
        self._unlike: list[str] = []
        self._reused: list[str] = []
        self._ids: set[tuple[str, str]] = set()  # (user, id)
        self._causes: Counter[str] = Counter()
        self._differences: list[Difference] = []
        self._missing: tuple[int, int] | None = None

    def ranking(self, partition: int, message: ReceivedMessage) -> None:
        """Take a message of the rankings."""
        self.counts["rankings"] += 1
        try:
            decision = decode_decision(message.data)
        except InvalidMessageError:
            self.counts["unreadable"] += 1
            return
        taken = _PublishedDecision(
            decision.model,
            decision.encoder,
            decision.items,
            decision.embeddings,
            partition,
            message.offset,
            decision.source,
            message.data,
        )
        first = self._first.setdefault((partition, decision.id, decision.source), taken)
        if first is not taken:
            self.counts["repeated"] += 1
            if not _alike(decode_decision(first.data), decision):
                self._unlike.append(decision.id)
            return
        self.asked.decided(partition, decision, message.data)
        key = decision.user, decision.id
        if key in self._ids:
            self._reused.append(decision.id)
        self._ids.add(key)

    def event(self, partition: int, message: ReceivedMessage) -> None:
        """Take a message of the events."""
        self.asked.event(partition, message)

    def item(self, message: ReceivedMessage) -> None:
        """Take a message of the items."""
        record = ItemRecord.of(message.key, message.data or None, message.appended)
        self.catalogues.add_item(message.offset, record)

    def embedding(self, message: ReceivedMessage) -> None:
        """Take a message of the embeddings."""
        record = EmbeddingRecord.of(message.key, message.data or None)
        self.catalogues.add_embedding(message.offset, record)

    def feedback(self, message: ReceivedMessage) -> None:
        """Decide what was decided before this record, then learn it."""
        self._decide_upto(message.offset)
        if message.offset > self.learner.version:
            first, count = self._missing or (self.learner.version, 0)
            self._missing = first, count + message.offset - self.learner.version
        if self.learner(message.offset, message.data) == "learned":
            partition = decode_record(message.data).source.partition
            self.asked.learned(self.learner.ledger.places[partition])

    def report(self) -> AuditReport:
        """Decide the rest, and say what was found."""
        self._decide_upto(END)
        counts = self.counts
        asked = self.asked
        unreadable = {
            "rankings": counts["unreadable"],
            "events": asked.unreadable,
            "items": self.catalogues.items.unreadable,
            "embeddings": self.catalogues.embeddings.unreadable,
            "feedback": self.learner.ledger.counts["invalid"],
        }
        return AuditReport(
            rankings=counts["rankings"],
            same=counts["same"],
            refused=counts["refused"],
            different=counts["different"],
            apart=dict(self._apart),
            unchecked_rankings=counts["unchecked"],
            repeated=counts["repeated"],
            unlike=tuple(self._unlike[:NOTED]),
            reused=tuple(self._reused[:NOTED]),
            asked=asked.count,
            unanswered=len(asked.unanswered),
            unanswered_ids=tuple(asked.unanswered[:NOTED]),
            unsure=asked.unsure,
            skipped=asked.skipped,
            unlearned_skipped=asked.unlearned_skipped,
            unasked=len(asked.unasked),
            unasked_ids=tuple(asked.unasked[:NOTED]),
            discarded=dict(asked.discarded),
            feedback={str(verdict): n for verdict, n in self.learner.ledger.counts.items()},
            feedback_missing=self._missing,
            implied=asked.records["implied"],
            strange=asked.records["strange"],
            strange_first=tuple(asked.strange),
            unlearned=asked.unlearned,
            unchecked=asked.records["unchecked"],
            cut=asked.cut,
            unreadable=unreadable,
            catalogues=self.catalogues.made,
            version=self.learner.version,
            digest=self.learner.digest(),
            causes=dict(self._causes),
            differences=tuple(self._differences),
        )

    def _decide_upto(self, offset: int) -> None:
        if self._due is None:
            self._due = sorted(self._first.values(), reverse=True)
            self._first.clear()
        while self._due and self._due[-1].model <= offset:
            self._decide(self._due.pop())

    def _decide(self, taken: _PublishedDecision) -> None:
        if taken.source < self.asked.cut.get(taken.partition, 0):
            self.counts["unchecked"] += 1
            return
        decision = decode_decision(taken.data)
        terms = self.terms
        if decision.build != terms.build:
            self._apart[f"build {decision.build or 'unnamed'}, not {terms.build}"] += 1
            return
        if decision.settings != terms.settings:
            self._apart[f"settings {decision.settings or 'unnamed'}, not {terms.settings}"] += 1
            return
        request = self.asked.request(taken.partition, decision)
        if isinstance(request, str):
            self._differs(taken, decision, ("source", taken.source, request), REQUEST)
            return
        recommender = self.catalogues.at(taken.encoder, taken.items, taken.embeddings)
        made = recommender(RankingTask(request, taken.source))
        if encode(made) == taken.data:
            self.counts["same"] += 1
            self.counts["refused"] += made.refused is not None
            return
        found = difference_of(decision, made)
        if taken.embeddings and not self.catalogues.knows(taken.encoder):
            why = ENCODER
        else:
            why = likely(found[0], decision, made, self._holes(taken))
        self._differs(taken, decision, found, why)

    def _differs(
        self,
        taken: _PublishedDecision,
        decision: Decision,
        found: tuple[str, object, object],
        why: Cause,
    ) -> None:
        self.counts["different"] += 1
        self._causes[why.cause] += 1
        if len(self._differences) < NOTED:
            field, logged, made = found
            self._differences.append(
                Difference(
                    partition=taken.partition,
                    offset=taken.offset,
                    id=decision.id,
                    model=taken.model,
                    items=taken.items,
                    embeddings=taken.embeddings,
                    field=field,
                    logged=short_json(logged),
                    made=short_json(made),
                    cause=why.cause,
                    because=why.because,
                )
            )

    def _holes(self, taken: _PublishedDecision) -> dict[str, int]:
        """The first missing offset below the decision's version, of each log that misses one."""
        feedback = self._missing[0] if self._missing else self.learner.version
        holes = {
            "feedback": feedback if feedback < taken.model else None,
            "items": self.catalogues.items.missing(taken.items),
            "embeddings": self.catalogues.embeddings.missing(taken.embeddings),
        }
        return {log: offset for log, offset in holes.items() if offset is not None}


def _alike(first: Decision, again: Decision) -> bool:
    """Whether both answer the same request: then the later one harms nobody."""
    one, other = ((d.user, d.at, d.k, d.context, d.source) for d in (first, again))
    return one == other
