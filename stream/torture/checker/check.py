"""Reads all topics of a rankloop and counts: is each event accounted for, once and rightly?

It shares no code with the workers but the messages and their codec (`models.events`): what must
become of an event is counted afresh in `stream.torture.checker.expected`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from aiokafka import ConsumerRecord
from aiokafka.partitioner import DefaultPartitioner
from msgspec import Struct

from models.events import DAY, Event, InvalidMessageError, Tick, read_event
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.torture.checker.downtime import Downtime, downtimes
from stream.torture.checker.expected import ExpectedOutcomes, ExpectedRecord
from stream.torture.checker.journal import digest, entries
from stream.torture.checker.logs import count, topic_messages
from stream.torture.checker.observed import ObservedDeadLetters, ObservedRankings, ObservedRecords

NOTED = 10  # examples that are spelled out
Told = Callable[[int], None]


class Findings(Struct, frozen=True, kw_only=True):
    """What the topics say. `lost` and what follows it up to `open` must be 0."""

    events: int
    acknowledged: int
    fates: dict[str, int]
    facts: int  # records that events imply
    requests: int  # and clicks that ask
    verdicts: dict[str, int]
    lost: int  # acknowledged and not in the log, or without the record or dead letter it implies
    learned_twice: int  # records of an event that was learned before
    different: int  # records that say something else than their events imply
    strange: int  # records that no event implies
    unanswered: int
    unasked: int  # rankings that no event asked for
    letters_unasked: int  # dead letters of messages that are good
    open: int  # decisions that did not close
    unreadable: int
    unaware: int  # rankings by a model that had not learned their own user's events: a wait ran out
    answered_twice: int  # harmless: the first counts
    forgeries: int  # second rankings that the harness published
    letters_twice: int  # harmless, too
    silence: dict[str, Downtime]
    examples: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost, learned twice, unanswered, or otherwise than implied."""
        wrong = self.lost + self.learned_twice + self.different + self.strange + self.unanswered
        return not wrong + self.unasked + self.letters_unasked + self.open + self.unreadable


class Checker:
    """Takes rankings, feedback and dead letters whole, then events; `findings` at the end."""

    def __init__(self, settings: Settings, forged: str = "") -> None:
        topics = Topics(settings.topic_prefix)
        self.settings = settings
        self.answers = ObservedRankings(forged)
        self.learned = ObservedRecords()
        self.letters = ObservedDeadLetters(topics.events)
        self.progress: dict[int, list[int]] = {}  # when something was answered or learned
        self.accounts = {n: self._account() for n in range(settings.partitions)}
        self.events = 0
        self.facts = 0
        self.lost = 0
        self.different = 0
        self.unanswered = 0
        self.unaware = 0
        self.examples: list[str] = []
        self._every = list(range(settings.partitions))

    def _account(self) -> ExpectedOutcomes:
        s = self.settings
        return ExpectedOutcomes(
            horizon=round(s.horizon_seconds * 1000),
            early=round(s.early_reward_seconds * 1000),
            lateness=round(s.allowed_lateness_seconds * 1000),
            future=round(s.max_clock_skew_seconds * 1000),
            implied=s.impressions == "implied",
            refresh=s.refresh_on_click,
            proposed=self.answers.proposed,
        )

    def ranking(self, message: ConsumerRecord) -> None:
        """Take a message of the rankings."""
        self.answers(message.partition, message.value or b"")
        self.progress.setdefault(message.partition, []).append(message.timestamp)

    def feedback(self, message: ConsumerRecord) -> None:
        """Take a message of the feedback."""
        partition = self.learned(message.offset, message.value or b"")
        if partition is not None:
            self.progress.setdefault(partition, []).append(message.timestamp)

    def letter(self, message: ConsumerRecord) -> None:
        """Take a dead letter."""
        self.letters(message.headers, message.value or b"")

    def event(self, message: ConsumerRecord) -> None:
        """Take a message of the events: what it implies must be there."""
        self.events += 1
        partition, offset, value = message.partition, message.offset, message.value or b""
        account = self.accounts[partition]
        event, reason = self._read(message)
        if event is None:
            account.bad(offset, reason)
        else:
            for fact in account(offset, message.timestamp, event):
                self._implied(partition, fact)
        reason = account.letters.get(offset)
        if reason and not self.letters.says(partition, offset, reason, value):
            self._lose(f"no dead letter for events-{partition}@{offset}: {reason}")

    def _read(self, message: ConsumerRecord) -> tuple[Event | None, str]:
        try:
            event = read_event(message.value or b"", message.timestamp)
        except InvalidMessageError:
            return None, "invalid: "
        if event.at > message.timestamp + DAY:
            return None, "future: "
        if not isinstance(event, Tick):
            owner = DefaultPartitioner()(event.user.encode(), self._every, self._every)
            if owner != message.partition:
                return None, "misrouted: "
        return event, ""

    def _implied(self, partition: int, fact: ExpectedRecord) -> None:
        self.facts += 1
        found = self.learned.facts.get(partition, {}).pop((fact.offset, fact.index), None)
        if found is None:
            self._lose(f"partition {partition}: not learned: {fact}")
        elif not fact.like(found):
            self.different += 1
            self._note(f"partition {partition}: implied {fact}, learned {found}")

    def _lose(self, what: str) -> None:
        self.lost += 1
        self._note(what)

    def _note(self, what: str) -> None:
        if len(self.examples) < NOTED:
            self.examples.append(what)

    def acknowledged(self, book: Path, values: dict[tuple[int, int], bytes]) -> int:
        """Compare the producer's book with the log, whose digests are `values`; how many lines."""
        lines = 0
        for line in entries(book):
            lines += 1
            where = line.partition, line.offset
            if values.get(where) != line.digest:
                self._lose(f"acknowledged, and not in the log: events-{where[0]}@{where[1]}")
            elif line.bad and self.accounts[line.partition].fates[line.offset] != "letter":
                self._lose(f"bad, and taken for an event: events-{where[0]}@{where[1]}")
        return lines

    def findings(self, acknowledged: int, silence: dict[str, Downtime]) -> Findings:
        """What was found, once all was taken."""
        requests = unasked = 0
        for partition, account in self.accounts.items():
            first = self.answers.first.get(partition, {})
            requests += len(account.asked)
            unasked += len(first.keys() - account.asked.keys())
            for key, offset in account.asked.items():
                answer = first.get(key)
                if answer is None or answer.source != offset:
                    self.unanswered += 1
                    self._note(f"partition {partition}: {key} at {offset}: answered by {answer}")
                elif answer.model < self.learned.version(partition, offset):
                    self.unaware += 1
        twice, strange = self._left()
        fates = sum((one.counts() for one in self.accounts.values()), Counter[str]())
        fates["letter"] = sum(len(one.letters) for one in self.accounts.values())
        fates["letter"] -= fates["too_late"]
        return Findings(
            events=self.events,
            acknowledged=acknowledged,
            fates=dict(fates),
            facts=self.facts,
            requests=requests,
            verdicts=dict(self.learned.verdicts),
            lost=self.lost,
            learned_twice=twice,
            different=self.different,
            strange=strange,
            unanswered=self.unanswered,
            unasked=unasked,
            letters_unasked=len(self.letters.first),
            open=sum(one.open for one in self.accounts.values()),
            unreadable=self.answers.unreadable,
            unaware=self.unaware,
            answered_twice=self.answers.again,
            forgeries=self.answers.forgeries,
            letters_twice=self.letters.again,
            silence=silence,
            examples=tuple(self.examples),
        )

    def _left(self) -> tuple[int, int]:
        """Learned records that no event implies: of an event learned before, and others."""
        twice = strange = 0
        for partition, facts in self.learned.facts.items():
            fates = self.accounts[partition].fates if partition in self.accounts else {}
            for fact in facts.values():
                again = fates.get(fact.offset) == "duplicate"
                twice, strange = twice + again, strange + (not again)
                self._note(f"partition {partition}: nothing implies {fact}")
        return twice, strange


def check(
    settings: Settings,
    book: Path,
    faults: Sequence[tuple[str, int]] = (),
    end: int = 0,
    forged: str = "",
    told: Told = lambda done: None,
) -> Findings:
    """Read all topics; `faults` (kind, time) are those whose silence is measured, until `end`."""
    topics, checker = Topics(settings.topic_prefix), Checker(settings, forged)
    digests: dict[tuple[int, int], bytes] = {}
    done = 0

    def event(message: ConsumerRecord) -> None:
        digests[message.partition, message.offset] = digest(message.value or b"")
        checker.event(message)

    takes = {
        topics.rankings: (settings.partitions, checker.ranking),
        topics.feedback: (1, checker.feedback),
        topics.deadletters: (1, checker.letter),
        topics.events: (settings.partitions, event),
    }
    for topic, (partitions, take) in takes.items():
        for message in topic_messages(settings, topic, partitions):
            take(message)
            done += 1
            told(done)
    acknowledged = checker.acknowledged(book, digests)
    return checker.findings(acknowledged, downtimes(faults, checker.progress, end))


def total(settings: Settings) -> int:
    """How many messages `check` will read."""
    topics = Topics(settings.topic_prefix)
    by_user = sum(count(settings, t, settings.partitions) for t in (topics.events, topics.rankings))
    return by_user + sum(count(settings, t, 1) for t in (topics.feedback, topics.deadletters))
