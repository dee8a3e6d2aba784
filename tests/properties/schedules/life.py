"""A partition in a worker's hands, as `stream.worker.partitions` drives it, over logs in memory."""

from collections.abc import Generator
from typing import Protocol

from agents.attribution import RankingTask
from agents.attribution_state import AttributionState
from agents.bookmark import Bookmark, decode_bookmark, encode_bookmark
from agents.ledger import Ledger
from agents.partition import (
    AwaitLearner,
    Command,
    Commit,
    Partition,
    PublishDeadLetters,
    PublishFeedback,
    PublishRankings,
    ReadRankings,
)
from models.events import Decision, decode_decision, encode
from tests.properties.schedules.logs import Log, World

Pauses = Generator[None, None, None]  # something else may happen at each
Performed = Generator[None, None, int | None]
NOT_FATES = frozenset(("complete", "expired", "corrected", "unshown", "refused"))


class LostError(Exception):
    """A record was refused by the broker, or the partition is not this life's any more."""


class Owner(Protocol):
    """What a life asks of its worker."""

    name: int
    world: World
    ledger: Ledger

    def follow(self, upto: int) -> None: ...
    def decide(self, ask: RankingTask) -> Decision: ...


class Life:
    """One partition, from one restore to the next."""

    def __init__(self, worker: Owner, log: Log, generation: int) -> None:
        self.worker, self.world, self.log, self.generation = worker, worker.world, log, generation
        self.chance = self.world.chance
        self.attribution = self.world.attribution(log.number, self.world.rules)
        self.read = 0
        self.commits: list[Commit] = []
        self.committed = 0
        self.copy: AttributionState | None = None
        self.ready = self.stopping = self.lost = False
        self.begun = self.waited = 0
        self.partition = self._partition()

    def _partition(self) -> Partition:
        worker = self.worker
        return Partition(self.attribution, worker.ledger, worker.decide, self.world.owner)

    def say(self, words: str, *what: object) -> None:
        if self.world.story is not None:
            where = f"worker {self.worker.name} in {self.log.number}: "
            self.world.say(where + words, *what)

    def run(self) -> Pauses:
        yield from self.restore(self.log.committed, self.log.metadata)
        self.ready = True
        self.begun, self.waited = self.attribution.next, self.attribution.counts["waiting"]
        chance, log = self.chance, self.log
        while not self.stopping:
            yield
            self.worker.follow(self.seen())
            self.read_rankings(chance.some(len(log.rankings)))
            start = self.attribution.next
            size = chance.pick([60, 9, 5, 3, 2, 1])
            waiting = log.events[start : min(log.come, start + size)]
            while waiting:
                used = yield from self.drive(self.partition.batch(waiting))
                if not used:
                    raise AssertionError("a request before this batch was never decided")
                waiting = waiting[used:]
            self.commit()
        self.commit()

    def seen(self) -> int:
        """How much of feedback has come by now."""
        return self.chance.some(len(self.world.feedback))

    def restore(self, committed: int, metadata: str) -> Pauses:
        """From a file of the attribution or from the bookmark, else from the start of the log."""
        log, begin, end = self.log, 0, len(self.log.rankings)
        bookmark = decode_bookmark(metadata, self.world.rules.digest)
        state = self.found(bookmark, committed) if self.chance.odds(0.4) else None
        how = "from the start"
        if state is not None:
            self.attribution.load(state)
            begin, self.read, how = state.next, state.reach.read, "from a file"
        elif bookmark is not None:
            self.attribution.resume(bookmark)
            begin, self.read, how = bookmark.ids_from, bookmark.rankings_from, "from the bookmark"
        self.say("restores up to {} {} at {}", committed, how, begin)
        events = log.events[begin:committed]
        while events:
            size = 10 - self.chance.below(10)
            commands, events = self.partition.restore(events[:size]), events[size:]
            answer = None
            while True:
                yield
                self.worker.follow(self.seen())
                if self.lost or self.stopping:
                    raise LostError("not restored to the end")
                try:
                    command = commands.send(answer)
                except StopIteration:
                    break
                assert isinstance(command, ReadRankings)
                answer = self.read < end
                self.read_rankings(min(end, self.read + 1 + self.chance.below(3)))
        self.read_rankings(end)
        if state is not None and bookmark is not None:
            made = self.attribution.chain, self.attribution.last
            assert made == (bookmark.chain, bookmark.last), "the file leads elsewhere"
        last = self.attribution.last if bookmark is None else bookmark.last
        if last is not None and not self.worker.ledger.has(last):
            self.worker.follow(len(self.world.feedback))  # what was committed is learned
        self.partition.restored(committed)
        self.committed = committed

    def found(self, bookmark: Bookmark | None, committed: int) -> AttributionState | None:
        """The newest file that may be used."""
        first = 0 if bookmark is None else bookmark.ids_from
        usable = [state for state in self.log.kept if first <= state.next <= committed]
        return max(usable, key=lambda state: state.next, default=None)

    def drive(self, commands: Generator[Command, int | None, int]) -> Generator[None, None, int]:
        answer: int | None = None
        while True:
            yield
            try:
                command = commands.send(answer)
            except StopIteration as end:
                return end.value
            if self.lost:
                raise LostError("a record of it was refused")
            answer = yield from self.perform(command)

    def perform(self, command: Command) -> Performed:
        match command:
            case PublishFeedback(records):
                self.say("teaches {}", [f"{x.source.offset}.{x.source.index}" for x in records])
                return (yield from self.publish(self.world.feedback, [x.data for x in records]))
            case AwaitLearner(version):
                self.worker.follow(0 if self.chance.odds(0.3) else version)
            case PublishRankings(decisions):
                data = [encode(decision) for decision in decisions]
                self.say("answers {}", [(x.id, x.source) for x in decisions])
                self.read_rankings((yield from self.publish(self.log.rankings, data)))
            case PublishDeadLetters(letters):
                self.log.letters |= {message.offset for message, _ in letters}
            case Commit():
                self.commits.append(command)
            case _:
                raise AssertionError(f"a batch does not {command}")
        return None

    def publish(self, topic: list[bytes], data: list[bytes]) -> Generator[None, None, int]:
        """Others may write in between; now and then a record fails though later ones do not."""
        torn, odds = False, self.world.terms.torn
        for n, record in enumerate(data):
            if self.chance.odds(odds):
                torn = True
                if self.chance.odds(0.3):  # it is there, but nobody says so
                    topic.append(record)
                self.say("record {} is not acknowledged", n)
            else:
                topic.append(record)
            if self.chance.odds(0.3):
                yield
        if torn:
            raise LostError("a record was not acknowledged")
        return len(topic)

    def read_rankings(self, upto: int) -> None:
        while self.read < upto:
            decision = decode_decision(self.log.rankings[self.read])
            self.attribution.decided(decision, self.read)
            self.read += 1

    def ready_to_commit(self) -> list[Commit]:
        """Never more than its ledger has (L4)."""
        ledger = self.worker.ledger
        return [c for c in self.commits if c.needs is None or ledger.has(c.needs)]

    def commit(self) -> None:
        """Only as the present owner; what is kept beside it holds committed events alone."""
        ready = self.ready_to_commit()
        self.commits = self.commits[len(ready) :]
        if ready and self.generation == self.log.generation:
            self.committed = self.log.committed = ready[-1].offset
            self.log.metadata = self.metadata(ready[-1].bookmark)
            self.say("commits {}", self.committed)
        self.keep()

    def keep(self) -> None:
        """Copy the attribution between two batches, write it once that much is committed."""
        if self.copy is None and self.chance.odds(0.05):
            self.copy = self.attribution.state()
        if self.copy is not None and self.committed >= self.copy.next:
            self.log.kept.append(self.copy)
            self.say("keeps its attribution at {}", self.copy.next)
            self.copy = None

    def metadata(self, bookmark: Bookmark) -> str:
        """What the commit says beside its offset."""
        return encode_bookmark(bookmark) if self.world.terms.bookmarks else ""

    def accounted(self) -> tuple[int, int]:
        """How many events came to this owner, and how many ended in some counter."""
        came = self.attribution.next - self.begun
        counts = self.attribution.counts
        fates = sum(n for fate, n in counts.items() if fate not in NOT_FATES)
        return came, sum(self.partition.counts.values()) + fates - self.waited
