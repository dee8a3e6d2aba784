"""Kafka, Redis and the disk go away and come back: the worker waits, says so, and loses nothing.

RANKLOOP_TEST_AWAY_SECONDS sets for how long Kafka is away (a minute is a good length by hand).
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from models.events import Click, Request, decode_decision
from stream.local.process import Server
from stream.local.servers import noida, redis_server
from stream.local.stack import Stack
from tests.broker.test_worker import answers, assert_kept, traffic
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import PATIENCE, Worker, eventually

pytestmark = pytest.mark.kafka
AWAY = float(os.environ.get("RANKLOOP_TEST_AWAY_SECONDS", "3"))
QUICK: dict[str, object] = {"partitions": 2, "horizon_seconds": 3, "idle_tick_seconds": 0.5}


@pytest.fixture(scope="module")
def stack(kafka_home: Path) -> Iterator[Stack]:
    """A broker of our own, to kill."""
    with Stack(kafka_home=kafka_home, redis=False) as stack:
        yield stack


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Server]:
    """A Redis of our own, to stop."""
    server = redis_server(tmp_path) or noida("redis", tmp_path)
    server.start()
    yield server
    server.stop()


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """A disk of 8 KiB."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8k", "tmpfs", str(path)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here: needs root on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def kafka(worker: Worker) -> dict[str, Any]:
    return worker.status().get("kafka", {})


def asked(loop: Deployment, id: str, user: str = "ann") -> Request:
    request = Request(id=id, user=user, at=now(), k=2)
    loop.publish(request)
    return request


def test_a_broker_killed_and_away_for_a_while_is_waited_for(
    stack: Stack, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(stack.brokers, topic_prefix, tmp_path, **QUICK) as loop:
        [worker] = loop.ready()
        loop.stock()
        loop.publish(*traffic(1, 300, now() - 300))
        eventually(lambda: len(answers(loop)) > 50, "rankings are under way")
        stack.kafka.kill()
        away = AWAY + PATIENCE
        eventually(lambda: kafka(worker).get("away_seconds", 0) > AWAY, "it knows it is away", away)
        late = loop.worker()  # one that starts while there is no Kafka
        eventually(lambda: "waiting for kafka" in late.words(), "it waits for Kafka, too")
        stack.kafka.start()
        loop.publish(*traffic(2, 100, now() - 100))
        assert_kept(loop)
        eventually(lambda: kafka(worker).get("answers"), "it knows that Kafka is back")
        eventually(lambda: late.owns(1), "the other one has its share")
        words = worker.log.read_text()
        assert words.count("kafka lost; waiting until it is back") == 1
        assert words.count("kafka back seconds=") == 1
        assert "Traceback" not in words
        assert [one.stop() for one in (worker, late)] == [0, 0]


def test_rankings_go_on_without_redis_and_reach_it_once_it_is_back(
    stack: Stack, store: Server, topic_prefix: str, tmp_path: Path
) -> None:
    url = f"redis://{store.address}/0"
    with Deployment(stack.brokers, topic_prefix, tmp_path, **QUICK, redis_url=url) as loop:
        [worker] = loop.ready()
        loop.stock(5)

        def kept(user: str, id: str) -> bool:
            with redis.Redis.from_url(url) as client:
                value = client.hget(f"{topic_prefix}:ranking:{user}", "decision")
                return value is not None and decode_decision(value).id == id  # pyright: ignore

        asked(loop, "before")
        eventually(lambda: kept("ann", "before"), "a ranking is in Redis")
        store.kill()
        asked(loop, "without")
        assert loop.decision("without").slots
        eventually(lambda: worker.status()["redis"] == "away", "it says that Redis is away")
        store.start()

        def back() -> bool:
            loop.publish(Request(id=f"more{now()}", user="bob", at=now(), k=2))
            return kept("ann", "without")

        eventually(back, "what was answered meanwhile is in Redis")
        eventually(lambda: worker.status()["redis"] == "answers", "it says that Redis is back")
        with redis.Redis.from_url(url) as client:
            client.flushall()
        asked(loop, "after")
        eventually(lambda: kept("ann", "after"), "after a flush, the next ranking is there")
        assert worker.stop() == 0
        assert "store lost" in worker.words() and "store back" in worker.words()


def test_a_full_disk_costs_snapshots_and_nothing_else(
    stack: Stack, topic_prefix: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with (
        full_disk(disk),
        Deployment(
            stack.brokers,
            topic_prefix,
            tmp_path,
            **QUICK,
            snapshot_url=disk,
            snapshot_seconds=0.5,
        ) as loop,
    ):
        [worker] = loop.ready()
        loop.stock(5)
        shown = loop.decision(asked(loop, "r1").id).slots[0].item
        loop.publish(Click(id="c1", user="ann", item=shown, at=now(), request="r1"))
        failed = eventually(lambda: worker.status()["snapshot"]["failed"], "a snapshot failed")
        assert "No space left on device" in worker.status()["snapshot"]["error"]
        before = worker.status()["snapshot"]["version"] or 0
        eventually(lambda: not list(disk.rglob("*.part")), "nothing half written stays")
        assert loop.decision(asked(loop, "r2").id).slots
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        eventually(
            lambda: (worker.status()["snapshot"]["version"] or 0) > before,
            "with room, it is written",
        )
        eventually(lambda: worker.status()["snapshot"]["error"] is None, "no error is told")
        assert worker.status()["snapshot"]["failed"] >= failed
        assert worker.stop() == 0
