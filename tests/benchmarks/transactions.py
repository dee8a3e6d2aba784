"""How much later rankings come where a producer uses transactions.

`python tests/benchmarks/transactions.py [COUNT]` asks a worker with one partition COUNT times, 300
by default, and prints the milliseconds from publishing a request to reading its ranking: without
transactions; each request in a transaction of its own, committed at once; and beside a transaction
that another producer keeps open for so many seconds. On Apache Kafka (KAFKA_HOME).
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaProducer

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.events import Click, Item, Message, Request
from stream.datasets.publish import producer_record
from stream.demo.client import Client
from stream.local.stack import Stack
from stream.settings import Settings
from tests.support.kafka_helpers import Deployment, now

GAP = 0.02  # seconds between two requests


async def send(producer: AIOKafkaProducer, settings: Settings, message: Message) -> None:
    out = producer_record(settings, message)
    await producer.send_and_wait(out.topic, out.value, key=out.key, partition=out.partition)


async def millis(settings: Settings, count: int, transactions: bool) -> list[float]:
    """From before a request is published to when its ranking is read."""
    name = f"{settings.topic_prefix}-{now()}"
    took: list[float] = []
    options = settings.aiokafka_options()
    if transactions:
        options["transactional_id"] = name
    async with AIOKafkaProducer(**options) as producer, Client.reading(settings) as reader:
        for n in range(count):
            id = f"{name}:{n}"
            ranking, began = reader.expect(id), time.perf_counter()
            request = Request(id=id, user="ann", at=now(), k=3)
            if transactions:
                async with producer.transaction():
                    await send(producer, settings, request)
            else:
                await send(producer, settings, request)
            await asyncio.wait_for(ranking, 60)
            took.append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(GAP)
    return took


async def held(settings: Settings, seconds: float) -> float:
    """Seconds that a request waits behind a transaction that began just before it."""
    options = settings.aiokafka_options()
    name = f"{settings.topic_prefix}-open{seconds}"
    async with (
        AIOKafkaProducer(**options) as producer,
        AIOKafkaProducer(**options, transactional_id=name) as other,
        Client.reading(settings) as reader,
    ):
        async with other.transaction():
            await send(other, settings, Click(id=name, user="bob", item="item:1", at=now()))
            ranking, began = reader.expect(f"behind {name}"), time.perf_counter()
            request = Request(id=f"behind {name}", user="ann", at=now(), k=3)
            await send(producer, settings, request)
            await asyncio.sleep(seconds)
        await asyncio.wait_for(ranking, 60)
        return time.perf_counter() - began


def described(took: Sequence[float]) -> str:
    p50, p99 = np.percentile(took, [50, 99])
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def main(count: int = 300) -> None:
    """One line a way to produce."""
    home = os.environ.get("KAFKA_HOME", "")
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(kafka_home=home, redis=False) as stack,
        Deployment(stack.brokers, "bench", Path(folder), partitions=1) as loop,
    ):
        print(f"{stack.describes}; {count} requests, one at a time, one partition")
        loop.ready()
        loop.publish(*(Item(id=f"item:{n}", title=f"title {n}", at=n) for n in range(40)))
        asyncio.run(millis(loop.settings, 50, False))  # warm
        for transactions in (False, True, False, True):
            took = asyncio.run(millis(loop.settings, count, transactions))
            print(f"{'a transaction each' if transactions else 'no transactions'}: ", end="")
            print(described(took))
        for seconds in (1, 3, 10):
            print(f"behind {seconds} s: {asyncio.run(held(loop.settings, seconds)):.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
