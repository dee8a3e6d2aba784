"""Workers on a real Kafka: killed, restarted, asleep, and they keep their promises."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agents.bookmark import Bookmark, decode_bookmark
from models.events import (
    Click,
    Event,
    Item,
    Request,
    decode_decision,
    decode_event,
    encode,
)
from stream.local.stack import Stack
from stream.torture.checker.expected import ExpectedOutcomes, ExpectedRecord, expected_record
from stream.worker.restore import last_commit
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import Worker, eventually

pytestmark = pytest.mark.kafka

Make = Callable[..., Deployment]


@pytest.fixture
def deployment(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Makes a rankloop of its own on the broker; its workers are stopped in the end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Deployment(kafka.brokers, topic_prefix, tmp_path, **settings)
        )


def traffic(seed: int, count: int, begin: int) -> list[Event]:
    """Requests, and clicks on what an earlier one of the same user may have shown."""
    rng, asked, events = Random(seed), list[Request](), list[Event]()
    for n in range(count):
        at = begin + n
        if not asked or rng.random() < 0.5:
            user = f"user:{rng.randrange(30)}"
            asked.append(Request(id=f"{seed}:r{n}", user=user, at=at, k=3))
            events.append(asked[-1])
        else:
            of = rng.choice(asked[-100:])
            item = f"item:{rng.randrange(40)}"
            events.append(Click(id=f"{seed}:c{n}", user=of.user, item=item, at=at, request=of.id))
    return events


def accounts_of(deployment: Deployment) -> dict[int, tuple[ExpectedOutcomes, list[ExpectedRecord]]]:
    """The account of each partition, and what must be learned: all of its events are good ones."""
    settings = deployment.settings
    seconds = (
        settings.horizon_seconds,
        settings.early_reward_seconds,
        settings.allowed_lateness_seconds,
    )
    horizon, early, lateness = (round(1000 * each) for each in seconds)
    decisions = deployment.decisions().values()
    proposed = {(one.user, one.id): [slot.item for slot in one.slots] for one in decisions}
    made: dict[int, tuple[ExpectedOutcomes, list[ExpectedRecord]]] = {}
    for p in range(settings.partitions):
        made[p] = (
            ExpectedOutcomes(horizon=horizon, early=early, lateness=lateness, proposed=proposed),
            [],
        )
    for message in deployment.read(deployment.topics.events):
        account, facts = made[message.partition]
        event = decode_event(message.value or b"")
        facts += account(message.offset, message.timestamp, event)
    return made


def assert_kept(deployment: Deployment) -> None:
    """All answered, nothing lost or learned twice; call it once horizons have closed all."""
    deployment.settled(closed=True)
    version, digest = deployment.agreed()
    fresh = deployment.folded(version)
    assert fresh.digest() == digest
    accounts = accounts_of(deployment)
    asked = {id for account, _ in accounts.values() for _, id in account.asked}
    assert set(deployment.decisions()) == asked
    count = 0
    for partition, (_, facts) in accounts.items():
        learned = {
            r.source: expected_record(r)
            for r in deployment.records()
            if r.source.partition == partition
        }
        ordered = [learned[source] for source in sorted(learned)]
        assert [fact.id for fact in facts] == [fact.id for fact in ordered]
        assert all(a.like(b) for a, b in zip(facts, ordered, strict=True))
        count += len(facts)
    assert fresh.ledger.counts["learned"] == count
    assert fresh.ledger.counts["refused"] == 0


def answers(deployment: Deployment) -> list[str]:
    """The ids of all rankings published, however often."""
    rankings = deployment.read(deployment.topics.rankings)
    return [decode_decision(message.value or b"").id for message in rankings]


def test_a_restarted_worker_answers_nothing_twice_and_closes_what_was_open(
    deployment: Make,
) -> None:
    loop = deployment(
        partitions=2, horizon_seconds=3, allowed_lateness_seconds=5, idle_tick_seconds=0.2
    )
    [first] = loop.ready()
    loop.stock()
    loop.publish(*traffic(1, 200, now() - 200))
    loop.settled()
    assert first.stop() == 0
    loop.publish(*traffic(2, 100, now() - 100))
    loop.ready()
    assert_kept(loop)
    assert len(answers(loop)) == len(set(answers(loop)))


def group_commit(deployment: Deployment) -> tuple[int, Bookmark]:
    """Where the group goes on in partition 0, and its bookmark."""
    commit = asyncio.run(last_commit(deployment.settings, 0))
    bookmark = decode_bookmark(commit.metadata, deployment.settings.attribution_rules().digest)
    assert bookmark is not None
    return commit.offset, bookmark


def delete_below(deployment: Deployment, below: dict[str, int]) -> None:
    """What retention does to partition 0 of these topics."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(**deployment.settings.aiokafka_options())
        await admin.start()
        try:
            await admin.delete_records(
                {TopicPartition(t, 0): RecordsToDelete(offset) for t, offset in below.items()}
            )
        finally:
            await admin.close()

    for topic in below:
        deployment.read(topic)  # while it is there
    asyncio.run(delete())


def test_what_is_below_the_bookmark_is_not_missed(apache_kafka: Kafka, deployment: Make) -> None:
    short = {"horizon_seconds": 4, "early_reward_seconds": 1, "allowed_lateness_seconds": 1}
    loop = deployment(partitions=1, idle_tick_seconds=0.2, **short)
    [first] = loop.ready()
    loop.stock()
    loop.publish(*traffic(1, 200, now() - 200))
    loop.settled(closed=True)
    eventually(lambda: group_commit(loop)[1].ids_from > 200, "the first traffic is forgotten")
    loop.publish(*(late := traffic(2, 100, now() - 100)))
    loop.settled()
    assert first.stop() == 0
    committed, bookmark = group_commit(loop)
    assert 200 < bookmark.ids_from <= bookmark.open_from <= committed - len(late)
    assert bookmark.rankings_from > 50
    topics = loop.topics
    delete_below(loop, {topics.events: bookmark.ids_from, topics.rankings: bookmark.rankings_from})
    loop.publish(*late, *traffic(3, 100, now() - 100))  # once more, too
    loop.ready()
    assert_kept(loop)
    assert len(answers(loop)) == len(set(answers(loop)))
    records = [record.source for record in loop.records()]
    assert len(records) == len(set(records))


def test_a_log_cut_above_the_bookmark_is_gone_on_from_there(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment(partitions=1, idle_tick_seconds=60)
    [first] = loop.ready()
    loop.stock()
    loop.publish(*traffic(1, 20, now() - 20))
    loop.settled()
    assert first.stop() == 0
    committed, bookmark = group_commit(loop)
    assert bookmark.ids_from < committed
    delete_below(loop, {loop.topics.events: committed})
    [worker] = loop.ready()
    assert f"is needed from {bookmark.ids_from} on" in worker.words()
    assert f"partition 0 goes on at {committed}" in worker.words()


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment(horizon_seconds=3, allowed_lateness_seconds=5, idle_tick_seconds=0.2)
    doomed, _ = loop.ready(2)
    loop.stock()
    loop.publish(*traffic(1, 500, now() - 500))
    loop.publish(*traffic(2, 500, now() - 500))
    eventually(lambda: len(answers(loop)) > 150, "rankings are under way")
    doomed.kill()
    loop.publish(*traffic(3, 500, now() - 500))
    assert_kept(loop)


def test_a_worker_that_slept_through_its_replacement_does_no_harm(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment(horizon_seconds=3, allowed_lateness_seconds=5, idle_tick_seconds=0.2)
    sleeper, other = loop.ready(2)
    loop.stock()
    loop.publish(*traffic(1, 500, now() - 500))
    eventually(lambda: len(answers(loop)) > 100, "rankings are under way")
    with asleep(sleeper):
        loop.publish(*traffic(2, 500, now() - 500))
        eventually(lambda: other.owns(4), "the other has taken over")
    loop.publish(*traffic(3, 500, now() - 500))
    eventually(lambda: sleeper.owns(2) and other.owns(2), "they share again")
    assert_kept(loop)


def test_what_retention_takes_from_a_sleeper_is_counted(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment(partitions=1, idle_tick_seconds=60)
    [sleeper] = loop.ready()
    loop.stock()
    loop.publish(first := Request(id="first", user="ann", at=now()))
    loop.decision(first.id)
    with asleep(sleeper):
        loop.publish(Request(id="perhaps", user="ann", at=now()))  # ends a fetch under way
        loop.publish(*(Request(id=f"gone:{n}", user="ann", at=now()) for n in range(9)))
        delete_below(loop, {loop.topics.events: 11})
    loop.publish(last := Request(id="last", user="ann", at=now()))
    loop.decision(last.id)
    line = re.compile(r"events lost to retention before they were read.* lost=(\d+) from=(\d+)")
    said = eventually(lambda: line.search(sleeper.words()), "the loss is said")
    lost, begin = map(int, said.groups())
    assert lost >= 9
    assert begin + lost == 11


def in_transactions(
    deployment: Deployment, topic: str, *values: bytes, key: bytes = b"ann"
) -> None:
    """Publish each value in a transaction of its own, whose mark takes the offset after it."""

    async def sent() -> None:
        options = deployment.settings.aiokafka_options()
        async with AIOKafkaProducer(**options, transactional_id=f"{topic}-tests") as producer:
            for value in values:
                async with producer.transaction():
                    await producer.send_and_wait(topic, value, key=key, partition=0)

    asyncio.run(sent())


def test_a_worker_starts_behind_logs_that_end_with_a_mark(
    apache_kafka: Kafka, deployment: Make
) -> None:
    loop = deployment(partitions=1, idle_tick_seconds=60)
    one = encode(Item(id="item:1", title="one", at=1))
    in_transactions(loop, loop.topics.items, one, key=b"item:1")
    in_transactions(loop, loop.topics.feedback, b"rubbish")
    requests = [Request(id=f"r{n}", user="ann", at=now()) for n in range(3)]
    in_transactions(loop, loop.topics.events, *map(encode, requests))
    [worker] = loop.ready()
    for request in requests:
        loop.decision(request.id)
    assert worker.status()["model"] == 3  # rubbish, its mark, and what the log began as
    assert "lost" not in worker.words()


class asleep:  # noqa: N801 - reads as a statement
    """A worker stopped by SIGSTOP, and let go on."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __enter__(self) -> None:
        os.kill(self.worker.pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self.worker.pid, signal.SIGCONT)


def test_a_broker_that_restarts_is_waited_for(
    kafka_home: Path, topic_prefix: str, tmp_path: Path
) -> None:
    with (
        Stack(kafka_home=kafka_home, redis=False) as stack,
        Deployment(stack.brokers, topic_prefix, tmp_path, partitions=2, horizon_seconds=3) as loop,
    ):
        loop.ready()
        loop.stock()
        loop.publish(*traffic(1, 300, now() - 300))
        eventually(lambda: len(answers(loop)) > 50, "rankings are under way")
        stack.kafka.stop()
        stack.kafka.start()
        loop.publish(*traffic(2, 100, now() - 100))
        assert_kept(loop)


@pytest.mark.parametrize(
    ("topic", "data", "says"),
    [
        ("feedback", b'{"type":"promotion"}', "'promotion', which this release cannot fold"),
        (
            "feedback",
            b'{"type":"outcome","v":2}',
            "v is 2, and this release reads messages up to v 1",
        ),
        (
            "rankings",
            b'{"type":"decision","v":2}',
            "v is 2, and this release reads messages up to v 1",
        ),
    ],
)
def test_a_record_of_another_release_stops_the_worker(
    deployment: Make, topic: str, data: bytes, says: str
) -> None:
    loop = deployment(partitions=1)
    [worker] = loop.ready()
    loop.send(data, topic=f"{loop.settings.topic_prefix}.{topic}")
    assert worker.ended() != 0
    assert says in worker.words()


def test_a_commit_beyond_the_log_is_no_workers(deployment: Make) -> None:
    loop = deployment(partitions=1)
    where = TopicPartition(loop.topics.events, 0)

    async def commit() -> None:
        options = loop.settings.aiokafka_options()
        consumer = AIOKafkaConsumer(**options, group_id=f"{loop.settings.group}-partitions")
        async with consumer:
            consumer.assign([where])
            await consumer.commit({where: OffsetAndMetadata(1_000, "")})

    asyncio.run(commit())
    [worker] = loop.ready()
    assert "the group's offset is no worker's" in worker.words()


def test_one_worker_runs_on_the_small_local_broker(topic_prefix: str, tmp_path: Path) -> None:
    pytest.importorskip("noida_db")
    with (
        Stack(redis=False) as stack,
        Deployment(stack.brokers, topic_prefix, tmp_path, partitions=2, horizon_seconds=3) as loop,
    ):
        loop.ready()
        loop.stock()
        loop.publish(*traffic(1, 200, now() - 200))
        assert_kept(loop)
