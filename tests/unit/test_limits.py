"""A hot user, a poison message and a slow reader hold up nobody else, and memory stays bounded."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from msgspec import Struct

from agents.attribution import Attribution, AttributionRules
from agents.bookmark import Bookmark
from agents.ledger import Ledger, PartitionHead
from agents.partition import (
    MAX_RECORDS_PER_BATCH,
    Commit,
    Partition,
    PublishFeedback,
    ReceivedMessage,
)
from models.events import Click, Request, Source, decode_decision, encode
from stream.kafka.topics import owner
from stream.worker.assignment import MAX_COMMITS_DUE, AssignedPartition
from stream.worker.batching import poll_fairly
from stream.worker.counters import PartitionCounters
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually


def owned() -> AssignedPartition:
    """A partition whose learner has nothing yet."""
    partition = Partition(
        Attribution(0, AttributionRules(refresh=False)), Ledger(), decide, lambda user: 0
    )
    made = AssignedPartition(0, partition, PartitionCounters())
    made.started()
    return made


def decide(ask: object) -> Any:
    raise AssertionError(f"{ask} in a log without requests")


def test_commits_that_wait_for_a_slow_learner_are_bounded_and_the_last_one_covers_all() -> None:
    one = owned()
    for n in range(1, 10_001):
        needs = Source(0, n, 0)
        mark = Bookmark(ids_from=0, watermark=0, open_from=n, rankings_from=0, rules="")
        one.commit = Commit(n, needs, mark)
        one.processed(3)
        assert one.due <= MAX_COMMITS_DUE
        assert one.committable() is None
    one.partition.ledger.places[0] = PartitionHead(Source(0, 10_000, 0), "")
    commit = one.committable()
    assert commit is not None
    assert commit.offset == 10_000
    assert one.due == 0
    one.commit_accepted()
    assert one.counters.taken == 30_000


def test_a_batch_teaches_a_bounded_number_of_records() -> None:
    clicks = [
        Click(id=f"c{n}", user="ann", item="i", at=n) for n in range(MAX_RECORDS_PER_BATCH + 900)
    ]
    batch = owned().partition.batch([ReceivedMessage(c.at, c.at, encode(c)) for c in clicks])
    command = next(batch)
    assert isinstance(command, PublishFeedback)
    assert len(command.records) == MAX_RECORDS_PER_BATCH


class Message(Struct):
    offset: int


class Busy:
    """A consumer that empties one partition's buffer before it looks at the next, as aiokafka."""

    def __init__(self, **buffers: int) -> None:
        self.buffers = {TopicPartition("e", int(p[1:])): n for p, n in buffers.items()}

    def assignment(self) -> set[TopicPartition]:
        return set(self.buffers)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Message]]:
        found: dict[TopicPartition, list[Message]] = {}
        for tp in partitions or tuple(self.buffers):
            n = min(max_records, self.buffers[tp])
            max_records -= n
            self.buffers[tp] -= n
            if n:
                found[tp] = [Message(0)] * n
        return found


def test_a_busy_partition_leaves_each_other_one_its_share() -> None:
    assigned: dict[int, Any] = {p: owned() for p in range(4)}
    consumer: Any = Busy(p0=30_000, p1=5, p2=0, p3=900)
    found = asyncio.run(poll_fairly(consumer, assigned, most=400))
    assert [len(messages) for _, messages in found] == [400, 5, 100]


@pytest.mark.kafka
def test_a_hot_user_and_poison_do_not_keep_others_waiting(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {"partitions": 4, "batch_events": 100, "candidates": 5, "refresh_on_click": "false"}
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **settings) as deployment:
        hot = "user:hot"
        users = [f"user:{n}" for n in range(60) if owner(f"user:{n}", 4) != owner(hot, 4)]
        assert len(users) > 20
        asked = [Request(id=f"hot:{n}", user=hot, at=now(), k=1) for n in range(1_500)]
        others = [Request(id=f"other:{user}", user=user, at=now(), k=1) for user in users]
        deployment.publish(*asked)  # all of this before there is a worker
        for user in users:
            deployment.send(b"\xff poison", user, partition=owner(user, 4))
        deployment.publish(*others)
        deployment.send(b"{" * 400_000, hot, partition=owner(hot, 4))
        deployment.publish(last := Request(id="last", user=hot, at=now(), k=1))
        deployment.worker()
        eventually(lambda: last.id in deployment.decisions(), "the hot partition is done", 120)
        at: dict[str, int] = {}
        for message in deployment.read(deployment.topics.rankings):
            at.setdefault(decode_decision(message.value or b"").id, when(message))
        assert set(at) == {one.id for one in [*asked, *others, last]}
        times: dict[int, list[int]] = {}  # of the other partitions, which begin one by one
        for one in others:
            times.setdefault(owner(one.user, 4), []).append(at[one.id])
        all_begun, served = max(map(min, times.values())), max(map(max, times.values()))
        between = sum(all_begun <= at[one.id] < served for one in asked)
        assert between <= 5 * 100, f"{between} rankings of one user came between the others'"
        assert len(deployment.letters()) == len(users) + 1


def when(message: ConsumerRecord) -> int:
    """When the broker appended it; a client's word for it on the small broker."""
    return message.timestamp
