"""A partition's life, command by command; test_schedules has it through random schedules."""

import pytest
from msgspec import structs

from agents.attribution import Attribution, AttributionRules, RankingTask
from agents.bookmark import Bookmark
from agents.errors import DivergedError, RestartNeededError
from agents.ledger import Ledger
from agents.partition import (
    ANSWERED,
    DAY,
    AwaitLearner,
    Command,
    Commit,
    Partition,
    PublishDeadLetters,
    PublishFeedback,
    PublishRankings,
    ReadRankings,
    ReceivedMessage,
)
from models.events import (
    Click,
    Decision,
    Event,
    Request,
    Source,
    Tick,
    encode,
)
from tests.support.attribution_logs import decided


def owner(user: str) -> int:
    return 1 if user == "elsewhere" else 0


def partition(*, ledger: Ledger | None = None, **rules: int) -> Partition:
    """A partition of a worker that proposes item a to everybody."""

    def decide(ask: RankingTask) -> Decision:
        return decided(ask, "a")

    rules_ = AttributionRules(
        **{"horizon": 100, "early": 10, "lateness": 100, "refresh": False, **rules}
    )
    return Partition(Attribution(0, rules_), ledger or Ledger(), decide, owner)


def received(*events: Event | bytes, start: int = 0) -> list[ReceivedMessage]:
    """Messages that were appended at 1000, 1001, ..."""
    return [
        ReceivedMessage(start + n, 1000 + n, event if isinstance(event, bytes) else encode(event))
        for n, event in enumerate(events)
    ]


def commands(whose: Partition, messages: list[ReceivedMessage]) -> tuple[list[Command], int]:
    """What a batch commands when each is performed at once, and how many messages it used."""
    made: list[Command] = []
    running, answer = whose.batch(messages), None
    while True:
        try:
            made.append(command := running.send(answer))
        except StopIteration as end:
            return made, end.value
        answer = None
        if isinstance(command, PublishFeedback):
            for record in command.records:
                whose.ledger(whose.ledger.version, record.data)
            answer = whose.ledger.version
        elif isinstance(command, PublishRankings):
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
    assert [type(command) for command in made] == [
        PublishFeedback,
        AwaitLearner,
        PublishRankings,
        Commit,
    ]
    assert made[1] == AwaitLearner(1)
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
    assert isinstance(made[0], PublishDeadLetters)
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
    assert [type(command) for command in made] == [PublishRankings, Commit]
    third = partition(ledger=first.ledger)
    other = Click(id="other", user="ann", item="b", at=1001)
    made, _ = commands(third, received(CLICK, other))
    assert isinstance(made[0], PublishFeedback)
    assert [record.source.offset for record in made[0].records] == [1]


def test_a_request_that_was_answered_before_is_not_answered_again() -> None:
    one = partition()
    answer = one.decide(RankingTask(REQUEST, 0))
    one.attribution.decided(answer)
    made, _ = commands(one, received(REQUEST))
    assert made == [Commit(1, None, bookmark(made))]


def test_a_batch_too_long_for_its_lease_is_answered_piece_by_piece() -> None:
    """All at once, a worker that is too slow for the batch would start again with it for ever."""
    messages = received(*[Request(id=f"r{n}", user="ann", at=1000, k=1) for n in range(60)])
    first = partition().batch(messages).send(None)
    assert isinstance(first, PublishRankings)
    assert len(first.decisions) == ANSWERED == 25
    second = partition()  # the lease of the first one ran out
    for decision in first.decisions:
        second.attribution.decided(decision)
    made, used = commands(second, messages)
    answered = [len(one.decisions) for one in made if isinstance(one, PublishRankings)]
    assert (answered, used) == ([25, 10], 60)


def test_a_worker_that_derives_another_record_than_the_one_learned_stops() -> None:
    first = partition()
    commands(first, received(CLICK))
    second = partition(ledger=first.ledger)
    with pytest.raises(DivergedError, match="another release or other settings wrote this log"):
        commands(second, received(Click(id="c", user="ann", item="z", at=1001)))


def test_restoring_a_log_that_says_otherwise_than_what_was_learned_stops() -> None:
    first = partition()
    commands(first, received(CLICK))
    changed = Click(id="c", user="ann", item="z", at=1001)
    with pytest.raises(DivergedError, match="differs from the one learned"):
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
    assert next(running) == ReadRankings()
    with pytest.raises(DivergedError, match="that offset 1 closes are not in the rankings"):
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


def resumed(one: Partition, bookmark: Bookmark, *messages: ReceivedMessage) -> Partition:
    """Another owner, who begins at the bookmark."""
    two = partition(ledger=one.ledger)
    two.attribution.resume(bookmark)
    assert list(two.restore(messages)) == []
    return two


def test_who_begins_at_a_bookmark_needs_the_decisions_that_are_still_open() -> None:
    one = partition()
    made, _ = commands(one, received(REQUEST, b"{", CLICK))
    two = resumed(one, bookmark(made), *received(REQUEST, b"{", CLICK))
    with pytest.raises(RestartNeededError, match="the request at offset 0 is not in the rankings"):
        two.restored(3)


def test_who_begins_at_a_bookmark_goes_on_where_the_other_left_off() -> None:
    one = partition()
    messages = received(REQUEST, CLICK, b"{")
    made, _ = commands(one, messages)
    two = resumed(one, bookmark(made), *messages)
    two.attribution.decided(one.decide(RankingTask(REQUEST, 0)), 0)
    two.restored(3)
    assert two.attribution.next == 3
    closing = received(Tick(at=1200), start=3)
    records = [next(p.batch(closing)) for p in (one, two)]
    assert isinstance(records[0], PublishFeedback)
    assert records[0] == records[1]


def test_a_bookmark_that_differs_from_what_was_learned_stops() -> None:
    one = partition()
    made, _ = commands(one, received(CLICK))
    other = structs.replace(bookmark(made), chain="another")
    two = resumed(one, other, *received(CLICK))
    with pytest.raises(DivergedError, match="differs from the one learned"):
        two.restored(1)
