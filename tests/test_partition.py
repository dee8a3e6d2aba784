"""A partition's life through random schedules: crashes, sleepers, torn writes, any batches.

Each schedule ends with one owner who finishes in peace; then the logs must say what one event at a
time, never interrupted, would have said with the same decisions. RANKLOOP_SCHEDULES sets how many.
"""

import os
from collections.abc import Generator, Iterator
from random import Random
from typing import Literal

import pytest
from msgspec import structs

from agents.attribution import Ask, Attribution, Rules
from agents.bookmark import Bookmark, decode_bookmark, encode_bookmark
from agents.ledger import Ledger, Place, Verdict
from agents.partition import (
    ANSWERED,
    DAY,
    Answer,
    Await,
    Command,
    Commit,
    Discard,
    Diverged,
    Partition,
    ReadBack,
    Received,
    Teach,
)
from agents.pending import Pending
from models.events import (
    Click,
    Control,
    Decision,
    Event,
    Impression,
    Interaction,
    Outcome,
    Record,
    Request,
    Reward,
    Slot,
    Source,
    Tick,
    chain,
    decode_decision,
    decode_event,
    encode,
)

SCHEDULES = int(os.environ.get("RANKLOOP_SCHEDULES", "500"))
FIRST = int(os.environ.get("RANKLOOP_FIRST_SCHEDULE", "0"))


Bookmarks = Literal["used", "lost", "spoiled"]


def owner(user: str) -> int:
    return 1 if user == "elsewhere" else 0


class Torn(Exception):
    """Not all records of a batch were written."""


class World:
    """The logs, which outlive every worker, and the classes that workers are made of."""

    def __init__(
        self,
        seed: int,
        attribution: type[Attribution],
        ledger: type[Ledger],
        bookmarks: Bookmarks = "used",
    ) -> None:
        self.rng = Random(seed)
        self.make_attribution, self.make_ledger = attribution, ledger
        self.bookmarks: Bookmarks = bookmarks
        rng = self.rng
        self.rules = Rules(
            horizon=rng.choice([2, 5, 20]),
            early=rng.choice([0, 3]),
            lateness=rng.choice([0, 4, 20]),
            future=rng.choice([0, 3]),
            implied=rng.random() < 0.7,
            refresh=rng.random() < 0.5,
            refresh_k=2,
            most_closings=rng.choice([1, 2, 100]),
        )
        self.events = list(log(rng, rng.randint(5, 40)))
        self.come = 0  # how many of the events are there yet
        self.rankings: list[bytes] = []
        self.feedback: list[bytes] = []
        self.letters: set[int] = set()
        self.committed = 0
        self.metadata = ""
        self.generation = 0
        self.workers = 0

    def worker(self) -> "Worker":
        self.workers += 1
        return Worker(self, self.workers)


def log(rng: Random, size: int) -> Iterator[Received]:
    now = 100
    for offset in range(size):
        now += rng.choice([0, 0, 1, 1, 2, 7])
        at = max(0, now + rng.choice([0, 0, 0, -1, -3, -9, -40, 2, 9]))
        id, user = rng.choice("rstuvw"), rng.choice(["ann", "ann", "bob", "elsewhere"])
        request = rng.choice("rstuvw")
        event = rng.choice(
            [
                Request(id=id, user=user, at=at, k=rng.randint(1, 3)),
                Request(id=f"{id}{offset}", user="ann", at=at, k=2),
                Click(id=id, user=user, item=rng.choice("abc"), at=at, request=request),
                Click(id=f"{id}{offset}", user=user, item="a", at=at, request=request),
                Reward(id=id, user=user, at=at, value=-0.5, request=request),
                Impression(id=id, user=user, at=at, request=request, shown=("b", "z")),
                Click(id=id, user="ann", item="a", at=at + 2 * DAY),
                Tick(at=at),
            ]
        )
        yield Received(offset, now, b"{" if rng.random() < 0.05 else encode(event))


def usable(message: Received) -> Event | None:
    """What is not a dead letter, told without the code under test."""
    if message.data == b"{":
        return None
    event = decode_event(message.data)
    if event.at > message.appended + DAY:
        return None
    return None if not isinstance(event, Tick) and owner(event.user) else event


class Worker:
    """A process: what it has learned outlives its lives as the owner of the partition."""

    def __init__(self, world: World, name: int) -> None:
        self.world, self.name = world, name
        self.ledger = world.make_ledger()
        self.follow(len(world.feedback))

    def follow(self, upto: int) -> None:
        while self.ledger.version < min(upto, len(self.world.feedback)):
            self.ledger(self.ledger.version, self.world.feedback[self.ledger.version])

    def decide(self, ask: Ask) -> Decision:
        """A function of the request and the model that differs between workers."""
        request, version = ask.request, self.ledger.version
        rng = Random(f"{request.id} {version} {self.name}")
        items = rng.sample("abcdef", request.k) if rng.random() < 0.9 else []
        return Decision(
            id=request.id,
            user=request.user,
            at=request.at,
            k=request.k,
            policy=f"worker {self.name}",
            model=version,
            items=0,
            embeddings=0,
            source=ask.source,
            slots=tuple(Slot(item=item, propensity=0.5) for item in items),
        )

    def live(self) -> Generator[None, None, None]:
        """Own the partition until killed; pauses wherever something else may happen."""
        self.world.generation += 1
        generation = self.world.generation
        while True:
            try:
                yield from Life(self, generation).run()
            except Torn:
                if generation != self.world.generation:
                    return  # no longer assigned


class Life:
    """From one restore to the next."""

    def __init__(self, worker: Worker, generation: int) -> None:
        self.worker, self.world, self.generation = worker, worker.world, generation
        self.rng = self.world.rng
        self.attribution = self.world.make_attribution(0, self.world.rules)
        self.partition = Partition(self.attribution, worker.ledger, worker.decide, owner)
        self.read = 0
        self.commits: list[Commit] = []

    def run(self) -> Generator[None, None, None]:
        yield from self.restore(self.world.committed)
        while True:
            yield
            self.worker.follow(self.rng.randint(0, len(self.world.feedback)))
            self.read_rankings(self.rng.randint(0, len(self.world.rankings)))
            start = self.attribution.next
            waiting = self.world.events[
                start : min(self.world.come, start + self.rng.randint(0, 9))
            ]
            while waiting:
                commands = self.partition.batch(waiting)
                used = yield from self.drive(commands)
                assert used, "a request before this batch was never decided"
                waiting = waiting[used:]
            self.commit()

    def restore(self, committed: int) -> Generator[None, None, None]:
        """From the commit's bookmark; where it is lost, from the start of the log."""
        begin, end = 0, len(self.world.rankings)
        bookmark = decode_bookmark(self.world.metadata, self.world.rules.digest)
        if bookmark is not None:
            self.attribution.resume(bookmark)
            begin, self.read = bookmark.ids_from, bookmark.rankings_from
        events = self.world.events[begin:committed]
        while events:
            size = self.rng.randint(1, 10)
            commands, events = self.partition.restore(events[:size]), events[size:]
            answer = None
            while True:
                yield
                self.worker.follow(self.rng.randint(0, len(self.world.feedback)))
                try:
                    command = commands.send(answer)
                except StopIteration:
                    break
                assert isinstance(command, ReadBack)
                answer = self.read < end
                self.read_rankings(min(end, self.read + self.rng.randint(1, 3)))
        self.read_rankings(end)
        self.partition.restored(committed)

    def drive(self, commands: Generator[Command, int | None, int]) -> Generator[None, None, int]:
        answer: int | None = None
        while True:
            yield
            try:
                command = commands.send(answer)
            except StopIteration as end:
                return end.value
            answer = yield from self.perform(command)

    def perform(self, command: Command) -> Generator[None, None, int | None]:
        match command:
            case Teach(lessons):
                return (yield from self.publish(self.world.feedback, [x.data for x in lessons]))
            case Await(version):
                self.worker.follow(version if self.rng.random() < 0.7 else 0)
            case Answer(decisions):
                data = [encode(decision) for decision in decisions]
                self.read_rankings((yield from self.publish(self.world.rankings, data)))
            case Discard(letters):
                self.world.letters |= {message.offset for message, _ in letters}
            case Commit():
                self.commits.append(command)
            case _:
                raise AssertionError(f"a batch does not {command}")
        return None

    def publish(self, topic: list[bytes], data: list[bytes]) -> Generator[None, None, int]:
        """Others may write in between; now and then a record fails though later ones do not."""
        torn = False
        for record in data:
            if self.rng.random() < 0.03:
                torn = True
            else:
                topic.append(record)
            if self.rng.random() < 0.3:
                yield
        if torn:
            raise Torn
        return len(topic)

    def read_rankings(self, upto: int) -> None:
        while self.read < upto:
            decision = decode_decision(self.world.rankings[self.read])
            self.attribution.decided(decision, self.read)
            self.read += 1

    def commit(self) -> None:
        """As the worker does: never more than its learner has, and only as the present owner."""
        ready = [c for c in self.commits if c.needs is None or self.worker.ledger.has(c.needs)]
        self.commits = self.commits[len(ready) :]
        if ready and self.generation == self.world.generation:
            self.world.committed = ready[-1].offset
            self.world.metadata = self.metadata(ready[-1].bookmark)

    def metadata(self, bookmark: Bookmark) -> str:
        """What the commit says beside its offset, if it says that."""
        if self.world.bookmarks == "lost":
            return ""
        if self.world.bookmarks == "spoiled":
            later = min(bookmark.open_from + 1, self.world.committed)
            bookmark = structs.replace(bookmark, open_from=max(bookmark.ids_from, later))
        return encode_bookmark(bookmark)


def play(
    seed: int,
    attribution: type[Attribution] = Attribution,
    ledger: type[Ledger] = Ledger,
    bookmarks: Bookmarks = "used",
) -> World:
    """One schedule, and then peace until all is done."""
    world = World(seed, attribution, ledger, bookmarks)
    rng, faults = Random(-1 - seed), Random(seed).choice([0.0, 0.02, 0.1])
    lives: list[tuple[Worker, Iterator[None]]] = []

    def own(worker: Worker) -> None:
        lives.append((worker, worker.live()))

    for _ in range(rng.randint(20, 400)):
        world.come = min(len(world.events), world.come + rng.choice([0, 0, 1, 3]))
        if not lives:
            own(world.worker())
        chance = rng.random()
        if chance < faults:  # killed, wherever it is
            lives.pop(rng.randrange(len(lives)))
        elif chance < 1.5 * faults and len(lives) < 3:  # believed dead; it may wake up again
            own(world.worker())
        elif chance < 1.7 * faults:  # the same process owns the partition once more
            own(lives.pop(rng.randrange(len(lives)))[0])
        if not lives:
            continue
        chosen = lives[min(int(rng.expovariate(1)), len(lives) - 1)]
        if next(chosen[1], "ended") == "ended":
            lives.remove(chosen)
    finish(world)
    return world


def finish(world: World) -> None:
    world.come = len(world.events)
    last = world.worker()
    life = last.live()
    for _ in range(100_000):
        next(life)
        last.follow(len(world.feedback))
        if world.committed == len(world.events):
            return
    raise AssertionError("the last owner did not come to an end")


def uninterrupted(world: World) -> list[bytes]:
    """One event at a time, with the first decision of each request: what must be learned."""
    first: dict[tuple[int, str], Decision] = {}
    for data in world.rankings:
        decision = decode_decision(data)
        first.setdefault((decision.source, decision.id), decision)
    fold = Attribution(0, world.rules)
    lessons: list[bytes] = []
    for message in world.events:
        event = usable(message)
        if event is None:
            assert message.offset in world.letters, f"no dead letter for {message}"
            continue
        caused = fold(message.offset, message.appended, event)
        lessons += [lesson.data for lesson in caused.lessons]
        for ask in caused.asks:
            key = ask.source, ask.request.id
            assert key in first, f"{key} was never answered"
            assert fold.decided(first[key])
    return lessons


def learned(world: World) -> list[bytes]:
    """What a fresh ledger takes from the feedback, in its order."""
    ledger = world.make_ledger()
    return [data for n, data in enumerate(world.feedback) if ledger(n, data)[0] == "learned"]


def check(
    seed: int,
    attribution: type[Attribution] = Attribution,
    ledger: type[Ledger] = Ledger,
    bookmarks: Bookmarks = "used",
) -> None:
    """Raises AssertionError, naming the schedule, if the logs are not what they must be."""
    try:
        world = play(seed, attribution, ledger, bookmarks)
        got, wanted = learned(world), uninterrupted(world)
        assert got == wanted, f"learned {len(got)} records, not these {len(wanted)}"
    except (AssertionError, Diverged, RuntimeError) as error:
        raise AssertionError(
            f"schedule {seed} went wrong; RANKLOOP_FIRST_SCHEDULE={seed} RANKLOOP_SCHEDULES=1 "
            f"runs it again: {type(error).__name__}: {error}"
        ) from error


@pytest.mark.parametrize("bookmarks", ["used", "lost"])
def test_whatever_happens_the_logs_say_what_one_event_at_a_time_would(
    bookmarks: Bookmarks,
) -> None:
    for seed in range(FIRST, FIRST + SCHEDULES):
        check(seed, bookmarks=bookmarks)


class Unblocked(Attribution):
    """Without L1: closes what is due, decided or not."""

    def blocked(self, appended: int, event: Event) -> bool:
        return False

    def _close(self, pending: Pending, corrected: bool) -> None:
        if pending.decision is None:
            pending.closed = True
        else:
            super()._close(pending, corrected)


class Hasty(Attribution):
    """Without L2: takes the decision that was read last, not the first."""

    def decided(self, decision: Decision, offset: int = 0) -> bool:
        pending = self._pending.get(decision.id)
        if pending is not None and pending.decision is not None and not pending.closed:
            pending.decision = decision
            return True
        return super().decided(decision, offset)


class Trusting(Ledger):
    """Without L4: takes whatever it is given."""

    def _judge(self, record: Record | Control, data: bytes) -> Verdict:
        assert isinstance(record, (Interaction, Outcome))
        place = self.places.get(record.source.partition)
        if place is None or place.source < record.source:
            self.places[record.source.partition] = Place(record.source, chain(data))
        return "learned"


class Gapped(Trusting):
    """Without half of L4: takes every source above the last one, whatever came between."""

    def _judge(self, record: Record | Control, data: bytes) -> Verdict:
        assert isinstance(record, (Interaction, Outcome))
        return "duplicate" if self.has(record.source) else super()._judge(record, data)


def first_failure(
    attribution: type[Attribution], ledger: type[Ledger], bookmarks: Bookmarks
) -> int | None:
    for seed in range(500):
        try:
            check(seed, attribution, ledger, bookmarks)
        except AssertionError:
            return seed
    return None


@pytest.mark.parametrize(
    ("attribution", "ledger", "bookmarks"),
    [
        (Unblocked, Ledger, "used"),
        (Unblocked, Ledger, "lost"),
        (Hasty, Ledger, "used"),
        (Attribution, Ledger, "spoiled"),
        (Attribution, Trusting, "used"),
        (Attribution, Gapped, "used"),
    ],
)
def test_without_any_one_rule_a_schedule_goes_wrong(
    attribution: type[Attribution], ledger: type[Ledger], bookmarks: Bookmarks
) -> None:
    assert first_failure(attribution, ledger, bookmarks) is not None


def partition(*, ledger: Ledger | None = None, **rules: int) -> Partition:
    """A partition of a worker that proposes item a to everybody."""

    def decide(ask: Ask) -> Decision:
        request = ask.request
        return Decision(
            id=request.id,
            user=request.user,
            at=request.at,
            k=request.k,
            policy="p",
            model=0,
            items=0,
            embeddings=0,
            source=ask.source,
            slots=(Slot(item="a", propensity=0.5),),
        )

    rules_ = Rules(**{"horizon": 100, "early": 10, "lateness": 100, "refresh": False, **rules})
    return Partition(Attribution(0, rules_), ledger or Ledger(), decide, owner)


def received(*events: Event | bytes, start: int = 0) -> list[Received]:
    """Messages that were appended at 1000, 1001, ..."""
    return [
        Received(start + n, 1000 + n, event if isinstance(event, bytes) else encode(event))
        for n, event in enumerate(events)
    ]


def commands(whose: Partition, messages: list[Received]) -> tuple[list[Command], int]:
    """What a batch commands when each is performed at once, and how many messages it used."""
    made: list[Command] = []
    running, answer = whose.batch(messages), None
    while True:
        try:
            made.append(command := running.send(answer))
        except StopIteration as end:
            return made, end.value
        answer = None
        if isinstance(command, Teach):
            for lesson in command.lessons:
                whose.ledger(whose.ledger.version, lesson.data)
            answer = whose.ledger.version
        elif isinstance(command, Answer):
            for decision in command.decisions:
                whose.attribution.decided(decision)


def bookmark(made: list[Command]) -> Bookmark:
    """That of the commit, which comes last."""
    assert isinstance(made[-1], Commit)
    return made[-1].bookmark


REQUEST = Request(id="r", user="ann", at=1000, k=1)
CLICK = Click(id="c", user="ann", item="a", at=1001, request="r")


def test_a_batch_teaches_waits_answers_and_then_commits() -> None:
    made, used = commands(partition(), received(REQUEST, CLICK))
    assert [type(command) for command in made] == [Teach, Await, Answer, Commit]
    assert made[1] == Await(1)
    assert made[-1] == Commit(2, Source(0, 1, 0), bookmark(made))
    assert used == 2


def test_what_cannot_be_used_becomes_a_dead_letter_with_its_reason() -> None:
    one = partition()
    messages = received(
        b"{",
        Click(id="c", user="elsewhere", item="a", at=1000),
        Click(id="c", user="ann", item="a", at=1002 + DAY + 1),
        Tick(at=1000),
        Click(id="c", user="ann", item="a", at=10),
    )
    made, used = commands(one, messages)
    assert isinstance(made[0], Discard)
    reasons = [(message.offset, reason) for message, reason in made[0].letters]
    assert [offset for offset, _ in reasons] == [0, 1, 2, 4]
    assert reasons[0][1] == "invalid: Input data was truncated"
    assert reasons[1][1] == "misrouted: the key must be the user, whose partition is 1"
    assert reasons[2][1].startswith("future: at 86401003 is over a day ahead")
    assert reasons[3][1] == "too_late: at 10 is beyond the window"
    assert made[1:] == [Commit(5, None, bookmark(made))]
    assert one.counts == {"invalid": 1, "misrouted": 1, "future": 1}
    assert sum(one.counts.values()) + sum(one.attribution.counts.values()) == used == 5


def test_a_batch_ends_before_an_event_that_would_close_what_it_has_not_answered() -> None:
    one = partition()
    messages = received(REQUEST, Tick(at=1050), Tick(at=1200), CLICK)
    made, used = commands(one, messages)
    assert used == 2
    assert made[-1] == Commit(2, None, bookmark(made))
    assert commands(one, messages[2:])[1] == 2


def test_what_was_learned_before_is_not_sent_again() -> None:
    first = partition()
    commands(first, received(CLICK))
    second = partition(ledger=first.ledger)
    made, _ = commands(second, received(CLICK, REQUEST))
    assert [type(command) for command in made] == [Answer, Commit]
    third = partition(ledger=first.ledger)
    other = Click(id="other", user="ann", item="b", at=1001)
    made, _ = commands(third, received(CLICK, other))
    assert isinstance(made[0], Teach)
    assert [lesson.source.offset for lesson in made[0].lessons] == [1]


def test_a_request_that_was_answered_before_is_not_answered_again() -> None:
    one = partition()
    answer = one.decide(Ask(REQUEST, 0))
    one.attribution.decided(answer)
    made, _ = commands(one, received(REQUEST))
    assert made == [Commit(1, None, bookmark(made))]


def test_a_batch_too_long_for_its_lease_is_answered_piece_by_piece() -> None:
    """All at once, a worker that is too slow for the batch would start again with it for ever."""
    messages = received(*[Request(id=f"r{n}", user="ann", at=1000, k=1) for n in range(60)])
    first = partition().batch(messages).send(None)
    assert isinstance(first, Answer)
    assert len(first.decisions) == ANSWERED == 25
    second = partition()  # the lease of the first one ran out
    for decision in first.decisions:
        second.attribution.decided(decision)
    made, used = commands(second, messages)
    answered = [len(one.decisions) for one in made if isinstance(one, Answer)]
    assert (answered, used) == ([25, 10], 60)


def test_a_worker_that_derives_another_record_than_the_one_learned_stops() -> None:
    first = partition()
    commands(first, received(CLICK))
    second = partition(ledger=first.ledger)
    with pytest.raises(Diverged, match="another release or other settings wrote this log"):
        commands(second, received(Click(id="c", user="ann", item="z", at=1001)))


def test_restoring_a_log_that_says_otherwise_than_what_was_learned_stops() -> None:
    first = partition()
    commands(first, received(CLICK))
    changed = Click(id="c", user="ann", item="z", at=1001)
    with pytest.raises(Diverged, match="differs from the one learned"):
        list(partition(ledger=first.ledger).restore(received(changed)))


def test_restoring_answers_and_publishes_nothing() -> None:
    one = partition()
    assert list(one.restore(received(REQUEST, b"{", CLICK))) == []
    assert one.attribution.next == 3
    assert not one.counts


def test_restoring_past_a_message_that_cannot_be_used_goes_on_behind_it() -> None:
    one = partition()
    assert list(one.restore(received(REQUEST, b"{"))) == []
    assert one.attribution.next == 2


def test_restoring_without_the_rankings_it_needs_stops() -> None:
    running = partition().restore(received(REQUEST, Tick(at=1200)))
    assert next(running) == ReadBack()
    with pytest.raises(Diverged, match="that offset 1 closes are not in the rankings"):
        running.send(False)


def test_a_quiet_partition_is_told_the_time_until_it_has_nothing_to_remember() -> None:
    one = partition()
    assert one.tick(5) is None
    commands(one, received(REQUEST))
    for n in range(1, 4):
        at = one.attribution.watermark + 60
        assert one.tick(60) == encode(Tick(at=at))
        commands(one, received(Tick(at=at), start=n))
    assert one.attribution.watermark == 1180
    made, _ = commands(one, received(Tick(at=1211), start=4))
    assert one.tick(5) is None
    assert (bookmark(made).ids_from, bookmark(made).watermark) == (5, 1211)
    assert bookmark(made).rankings_from == 1


def resumed(one: Partition, bookmark: Bookmark, *messages: Received) -> Partition:
    """Another owner, who begins at the bookmark."""
    two = partition(ledger=one.ledger)
    two.attribution.resume(bookmark)
    assert list(two.restore(messages)) == []
    return two


def test_who_begins_at_a_bookmark_needs_the_decisions_that_are_still_open() -> None:
    one = partition()
    made, _ = commands(one, received(REQUEST, b"{", CLICK))
    two = resumed(one, bookmark(made), *received(REQUEST, b"{", CLICK))
    with pytest.raises(Diverged, match="the request at offset 0 is not in the rankings"):
        two.restored(3)


def test_who_begins_at_a_bookmark_goes_on_where_the_other_left_off() -> None:
    one = partition()
    messages = received(REQUEST, CLICK, b"{")
    made, _ = commands(one, messages)
    two = resumed(one, bookmark(made), *messages)
    two.attribution.decided(one.decide(Ask(REQUEST, 0)), 0)
    two.restored(3)
    assert two.attribution.next == 3
    closing = received(Tick(at=1200), start=3)
    lessons = [next(p.batch(closing)) for p in (one, two)]
    assert isinstance(lessons[0], Teach)
    assert lessons[0] == lessons[1]


def test_a_bookmark_that_differs_from_what_was_learned_stops() -> None:
    one = partition()
    made, _ = commands(one, received(CLICK))
    other = structs.replace(bookmark(made), chain="another")
    two = resumed(one, other, *received(CLICK))
    with pytest.raises(Diverged, match="differs from the one learned"):
        two.restored(1)
