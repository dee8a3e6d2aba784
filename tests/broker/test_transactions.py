"""Transactions of producers: what was aborted never happened, what is open holds up the rest."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition

from models.events import Click, Item, Message, Request
from stream.datasets.publish import producer_record
from stream.kafka.topics import owner
from stream.worker.restore import last_commit
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually

pytestmark = pytest.mark.kafka

Make = Callable[..., Deployment]


@pytest.fixture
def deployment(apache_kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **settings)
        )


class Transaction:
    """One that a producer has begun and neither committed nor aborted yet."""

    def __init__(self, loop: Deployment, name: str = "one") -> None:
        self._loop = loop
        self._runner = asyncio.Runner()
        self._runner.run(self._begin(f"{loop.topics.prefix}-{name}"))

    async def _begin(self, name: str) -> None:
        options = self._loop.settings.aiokafka_options()
        self._producer = AIOKafkaProducer(**options, transactional_id=name)
        await self._producer.start()
        await self._producer.begin_transaction()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._producer.stop())
        self._runner.close()

    def publish(self, *messages: Message) -> None:
        async def sent() -> None:
            for message in messages:
                out = producer_record(self._loop.settings, message)
                await self._producer.send_and_wait(
                    out.topic, out.value, key=out.key, partition=out.partition
                )

        self._runner.run(sent())

    def commit(self) -> None:
        self._runner.run(self._producer.commit_transaction())

    def abort(self) -> None:
        self._runner.run(self._producer.abort_transaction())


def aborted(loop: Deployment, *messages: Message) -> None:
    with Transaction(loop) as transaction:
        transaction.publish(*messages)
        transaction.abort()


def committed(loop: Deployment, *messages: Message) -> None:
    with Transaction(loop) as transaction:
        transaction.publish(*messages)
        transaction.commit()


def command(loop: Deployment, *arguments: str) -> str:
    """What a command of the deployment says; it must end well."""
    done = loop.command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_was_aborted_is_not_learned_answered_or_shown(deployment: Make) -> None:
    loop = deployment(partitions=1, refresh_on_click=False)
    [worker] = loop.ready()
    loop.stock(5)
    aborted(loop, Item(id="item:aborted", title="never there", at=now()))
    committed(loop, Item(id="item:good", title="there", at=now()))
    aborted(
        loop,
        Click(id="c-aborted", user="ann", item="item:1", at=now()),
        Request(id="r-aborted", user="ann", at=now()),
    )
    committed(loop, Click(id="c-good", user="ann", item="item:2", at=now()))
    eventually(lambda: worker.status()["embeddings"] >= 6, "the committed item has its vector")
    committed(loop, Request(id="last", user="bob", at=now()))
    shown = {slot.item for slot in loop.decision("last").slots}
    assert "item:good" in shown
    assert "item:aborted" not in shown
    aborted(loop, Request(id="r-at-the-end", user="ann", at=now()))  # the log ends with a marker
    eventually(lambda: [r.id for r in loop.records()] == ["c-good"], "the committed click")
    assert set(loop.decisions()) == {"last"}
    vectors = [m.key for m in loop.read(loop.topics.embeddings)]
    assert not any(key and b"aborted" in key for key in vectors)
    assert loop.letters() == []
    assert worker.stop() == 0
    [worker] = loop.ready()  # restored: nothing waits for a message where only a marker is
    loop.publish(Request(id="again", user="ann", at=now()))
    loop.decision("again")
    assert "2 of 2 requests and clicks that ask were answered" in command(loop, "audit")
    assert "champion at version" in command(loop, "champion", "show")


def test_an_open_transaction_holds_up_what_follows_it_in_its_partition_alone(
    deployment: Make,
) -> None:
    loop = deployment(partitions=2, refresh_on_click=False, idle_tick_seconds=60)
    [worker] = loop.ready()
    loop.stock(5)
    mine, other = "ann", next(u for u in "abcdefgh" if owner(u, 2) != owner("ann", 2))
    number = owner(mine, 2)
    with Transaction(loop) as transaction:
        transaction.publish(Click(id="open", user=mine, item="item:1", at=now()))
        loop.publish(Request(id="held", user=mine, at=now()))
        loop.publish(Request(id="free", user=other, at=now()))
        loop.decision("free")
        for _ in range(3):  # what another partition waits for has passed by
            loop.publish(Request(id=f"free:{_}", user=other, at=now()))
            loop.decision(f"free:{_}")
        assert "held" not in loop.decisions()
        assert worker.stop() == 0
        [worker] = loop.ready()  # a worker starts beside it
        assert "held" not in loop.decisions()
        assert "4 of 4 requests" in command(loop, "audit")
        assert "in force at version" in command(loop, "fold", "show")
        transaction.abort()
    loop.decision("held")
    assert loop.records() == []
    eventually(lambda: worker.partitions()[number]["committed"] >= 2, "it is committed")
    assert "5 of 5 requests" in command(loop, "audit")


def test_what_is_open_in_items_holds_up_items_and_no_worker(deployment: Make) -> None:
    loop = deployment(partitions=1)
    with Transaction(loop) as transaction:
        transaction.publish(Item(id="item:open", title="later", at=now()))
        [worker] = loop.ready()
        loop.publish(Item(id="item:after", title="behind it", at=now()))
        loop.publish(Request(id="early", user="ann", at=now()))
        assert loop.decision("early").slots == ()
        transaction.commit()
    eventually(lambda: worker.status()["embeddings"] >= 2, "both items have vectors")
    loop.publish(Request(id="late", user="ann", at=now()))
    assert {slot.item for slot in loop.decision("late").slots} == {"item:open", "item:after"}


def test_a_commit_behind_what_was_aborted_is_restored(deployment: Make) -> None:
    """Releases before this one read aborted messages, and committed behind them."""
    loop = deployment(partitions=1, refresh_on_click=False)
    [worker] = loop.ready()
    loop.stock(5)
    loop.publish(Request(id="first", user="ann", at=now()))
    loop.decision("first")
    loop.settled()
    assert worker.stop() == 0
    aborted(loop, Request(id="never", user="ann", at=now()))
    where = TopicPartition(loop.topics.events, 0)

    async def commit() -> None:
        options = loop.settings.aiokafka_options()
        before = await last_commit(loop.settings, 0)
        consumer = AIOKafkaConsumer(**options, group_id=f"{loop.settings.group}-partitions")
        async with consumer:
            consumer.assign([where])
            behind = OffsetAndMetadata(before.offset + 1, before.metadata)
            await consumer.commit({where: behind})

    asyncio.run(commit())
    loop.ready()
    loop.publish(Request(id="second", user="ann", at=now()))
    loop.decision("second")
    assert set(loop.decisions()) == {"first", "second"}
