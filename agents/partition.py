"""One partition without I/O: what to publish, wait for and commit, in which order.

`batch` and `restore` are generators of commands; whoever drives them performs each and sends the
answer back. The worker drives them against Kafka, the tests through random schedules.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

from msgspec import Struct

from agents.attribution import Attribution, LearningRecord, RankingTask
from agents.bookmark import Bookmark
from agents.errors import DivergedError, RestartNeededError
from agents.ledger import Ledger
from models.events import (
    DAY,
    Decision,
    Event,
    InvalidMessageError,
    Source,
    Tick,
    chain,
    decode_record,
    encode,
    read_event,
)

# Rankings decided and published at a time: who is too slow to finish a batch within its lease
# publishes some of it, and finds those answered when it starts again. All at once, it never would.
ANSWERED = 25
MAX_RECORDS_PER_BATCH = (
    2_000  # of a batch, and those of one event: one tick alone may close a hundred
)
OTHERWISE = (
    "differs from the one learned: another release or other settings wrote this log, or a log it "
    "was made from has changed; run that release, or go on without what is open: "
    "`rankloop restart-from earliest`"
)


class ReceivedMessage(Struct, frozen=True):
    """A message as the broker gave it; `key`: b"" for none, None where it is not known."""

    offset: int
    appended: int
    data: bytes
    key: bytes | None = None


class PublishFeedback(Struct, frozen=True):
    """Publish these records to feedback, in order; answer: the offset after the last one."""

    records: list[LearningRecord]


class AwaitLearner(Struct, frozen=True):
    """Wait, bounded, until this worker's learner has reached that version; no answer."""

    version: int


class PublishRankings(Struct, frozen=True):
    """Publish these decisions to the rankings; they come back through `Attribution.decided`.

    Performed once all of them were read back: the next batch may close what they opened.
    """

    decisions: list[Decision]


class PublishDeadLetters(Struct, frozen=True):
    """Publish messages that cannot be used to the dead letters, each with its reason."""

    letters: list[tuple[ReceivedMessage, str]]


class ReadRankings(Struct, frozen=True):
    """Read more of the rankings into `Attribution.decided`; answer: False at the end."""


class Commit(Struct, frozen=True):
    """Everything below `offset` is done, once the learner `has` the source `needs` (L4).

    Who goes on from there begins at the bookmark (L3).
    """

    offset: int
    needs: Source | None
    bookmark: Bookmark


Command = (
    PublishFeedback | AwaitLearner | PublishRankings | PublishDeadLetters | ReadRankings | Commit
)
Commands = Generator[Command, Any, int]


class Partition:
    """Drives attribution and recommender for one partition, batch by batch.

    `owner(user)` is the partition a user's events belong on. `counts` has the dead letters by
    reason; together with `Attribution.counts` every message is accounted for once.
    """

    def __init__(
        self,
        attribution: Attribution,
        ledger: Ledger,
        decide: Callable[[RankingTask], Decision],
        owner: Callable[[str], int],
    ) -> None:
        self.attribution = attribution
        self.ledger = ledger
        self.decide = decide
        self.owner = owner
        self.counts: Counter[str] = Counter()
        self._agreed = False  # that its records follow what was learned

    def restore(self, messages: Sequence[ReceivedMessage]) -> Commands:
        """Fold committed events again, publishing nothing.

        From the start of the log, or, after `attribution.resume(bookmark)`, from the bookmark: then
        no decision is needed before the end. At the end, call `restored`.
        """
        resuming = self.attribution.resuming
        for message in messages:
            event, _ = self._open(message)
            if event is None:
                self.attribution.skip(message.offset)
                continue
            while not resuming and self.attribution.blocked(message.appended, event):
                if not (yield ReadRankings()):
                    raise DivergedError(
                        f"the decisions that offset {message.offset} closes are not in the "
                        "rankings: that topic was cut or belongs to another log"
                    )
            self._agree(self.attribution(message.offset, message.appended, event).records)
        return len(messages)

    def restored(self, committed: int) -> None:
        """All events below the commit and all rankings were read: it may go on from there."""
        attribution = self.attribution
        place = self.ledger.places.get(attribution.partition)
        if missing := attribution.resumed(committed):
            raise RestartNeededError(
                f"the decision for the request at offset {missing[0]} is not in the rankings: that "
                "topic was cut or belongs to another log; to go on without what is open: "
                f"`rankloop restart-from earliest --partition {attribution.partition}`"
            )
        if attribution.last is not None and not self.ledger.has(attribution.last):
            known = f"only up to {place.source}" if place else "nothing of that partition"
            raise RestartNeededError(
                f"the group committed up to the record from {attribution.last}, and feedback holds "
                f"{known}: feedback was cut, made anew or put back from a copy. To go on with "
                "what it holds, without what is open: `rankloop restart-from earliest --partition "
                f"{attribution.partition}`"
            )
        if place and place.source == attribution.last and place.chain != attribution.chain:
            raise DivergedError(f"the record from {place.source} {OTHERWISE}")

    def batch(self, messages: Sequence[ReceivedMessage]) -> Commands:
        """Handle messages in order; returns how many: it stops before one that must wait (L1)."""
        records: list[LearningRecord] = []
        letters: list[tuple[ReceivedMessage, str]] = []
        tasks: list[RankingTask] = []
        used = 0
        for message in messages:
            if len(records) >= MAX_RECORDS_PER_BATCH:
                break
            event, reason = self._open(message)
            if event is None:
                self.attribution.skip(message.offset)
                self.counts[reason.partition(":")[0]] += 1
                letters.append((message, reason))
            elif self.attribution.blocked(message.appended, event):
                break
            else:
                caused = self.attribution(message.offset, message.appended, event)
                records += caused.records
                tasks += caused.tasks
                if caused.fate == "too_late":
                    letters.append((message, f"too_late: at {event.at} is beyond the window"))
            used += 1
        if letters:
            yield PublishDeadLetters(letters)
        if fresh := self._agree(records):
            self._follow(fresh[0])
            yield AwaitLearner((yield PublishFeedback(fresh)))
        for n in range(0, len(tasks), ANSWERED):
            piece = [a for a in tasks[n : n + ANSWERED] if self.attribution.undecided(a.source)]
            if piece:
                yield PublishRankings([self.decide(task) for task in piece])
        yield Commit(self.attribution.next, self.attribution.last, self.attribution.bookmark())
        return used

    def tick(self, quiet: int) -> bytes | None:
        """A Tick for a partition that was quiet for `quiet` ms, until it has nothing to remember.

        So decisions close, and then the bookmark moves up to the end of the log: what retention
        takes of a quiet log is not missed.
        """
        if self.attribution.idle:
            return None
        return encode(Tick(at=self.attribution.watermark + quiet))

    def _open(self, message: ReceivedMessage) -> tuple[Event | None, str]:
        try:
            event = read_event(message.data, message.appended)
        except InvalidMessageError as invalid:
            return None, f"invalid: {invalid}"
        if event.at > message.appended + DAY:
            return None, f"future: at {event.at} is over a day ahead; is it in milliseconds?"
        if not isinstance(event, Tick):
            owner = self.owner(event.user)
            if owner != self.attribution.partition:
                return None, f"misrouted: the key must be the user, whose partition is {owner}"
        return event, ""

    def _agree(self, records: list[LearningRecord]) -> list[LearningRecord]:
        """The records that are not learned yet; what is learned must be what we derive (L8)."""
        place = self.ledger.places.get(self.attribution.partition)
        for n, record in enumerate(records):
            if place is None or record.source > place.source:
                return records[n:]
            if record.source == place.source and chain(record.data) != place.chain:
                raise DivergedError(f"the record from {record.source} {OTHERWISE}")
        return []

    def _follow(self, record: LearningRecord) -> None:
        """The first new record must follow the last one learned: else all would be refused (L4)."""
        if self._agreed:
            return
        self._agreed = True
        place = self.ledger.places.get(self.attribution.partition)
        if decode_record(record.data).prev != (place.chain if place else ""):
            raise DivergedError(f"the record before the one from {record.source} {OTHERWISE}")
