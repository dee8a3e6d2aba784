"""Logs, offsets and disks that are not as they were: the true cause in one line, and a way on."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from models.events import Click, Mark, Request, encode
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import ROOT, eventually

pytestmark = pytest.mark.kafka
Make = Callable[..., Deployment]


@pytest.fixture
def deployment(apache_kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Starts a small rankloop; workers stop with the test."""
    with ExitStack() as stack:

        def make(**settings: object) -> Deployment:
            chosen = {"partitions": 1, "refresh_on_click": "false"} | settings
            made = Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **chosen)
            return stack.enter_context(made)

        yield make


def clicks(begin: int, count: int) -> list[Click]:
    return [
        Click(id=f"c{n}", user=f"u{n % 97}", item=f"item:{n % 20}", at=now())
        for n in range(begin, begin + count)
    ]


def learned(loop: Deployment) -> int:
    return loop.workers[-1].status().get("learned", {}).get("learned", 0)


def test_l7_a_worker_called_wrong_by_a_mark_folds_anew_when_it_starts_again(
    deployment: Make,
) -> None:
    loop = deployment(policy="uniform", snapshot_seconds=0)
    [worker] = loop.ready()
    loop.publish(*clicks(0, 10_100))
    eventually(lambda: learned(loop) >= 10_100, "all is learned")
    sound = worker.status(digest=True)
    wrong = Mark(fold=sound["fold"], version=10_000, digest="f" * 16)
    loop.send_all([(encode(wrong), "", loop.topics.feedback, 0)])
    assert worker.ended() != 0
    assert "set aside: start it again, to fold anew" in worker.words()
    assert not list(worker.data.rglob("0*.safetensors"))
    again = loop.worker(data=worker.data)
    eventually(lambda: again.owns(1), "it runs again")
    assert "snapshot loaded" not in again.words()
    loop.publish(*clicks(20_000, 10))
    eventually(lambda: learned(loop) >= 10_110, "it learns on")
    fresh = loop.worker()
    eventually(lambda: fresh.status().get("learned", {}).get("learned", 0) >= 10_110, "folded")
    digests = {json.dumps(w.status(digest=True)["digest"]) for w in (again, fresh)}
    assert len(digests) == 1


def command(loop: Deployment, *args: str) -> str:
    """What `rankloop ARGS` prints; it must succeed."""
    ran = subprocess.run(
        [sys.executable, "-m", "stream", *args],
        env=loop.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def admin(loop: Deployment, do: Callable[[AIOKafkaAdminClient], Awaitable[object]]) -> None:
    async def done() -> None:
        client = AIOKafkaAdminClient(**loop.settings.aiokafka_options())
        await client.start()
        try:
            await do(client)
        finally:
            await client.close()

    asyncio.run(done())


def cut(loop: Deployment, topic: str, offset: int) -> None:
    """Delete the messages of partition 0 below an offset."""
    loop.read(topic)  # while it is there
    gone = {TopicPartition(topic, 0): RecordsToDelete(before_offset=offset)}
    admin(loop, lambda client: client.delete_records(gone))


def forget_group(loop: Deployment) -> None:
    """Another group of workers finds as many offsets as one whose offsets have expired: none."""
    loop.environ["RANKLOOP_GROUP"] = f"{loop.settings.group}-other"


def move(loop: Deployment, offset: int) -> None:
    """Commit an offset as kafka-consumer-groups.sh --reset-offsets does."""
    where = TopicPartition(loop.topics.events, 0)

    async def moved() -> None:
        group = f"{loop.settings.group}-partitions"
        async with AIOKafkaConsumer(**loop.settings.aiokafka_options(), group_id=group) as consumer:
            consumer.assign([where])
            await consumer.commit({where: offset})

    asyncio.run(moved())


def played(loop: Deployment) -> Path:
    """A worker answered a few, learned a few, was stopped; its data."""
    [worker] = loop.ready()
    loop.stock(20)
    for n in range(4):
        loop.publish(Request(id=f"r{n}", user="ann", at=now(), k=3))
        shown = loop.decision(f"r{n}").slots[0].item
        loop.publish(Click(id=f"k{n}", user="ann", item=shown, at=now(), request=f"r{n}"))
    eventually(lambda: learned(loop) >= 4, "the clicks are learned")
    eventually(lambda: worker.partitions()[0]["committed"] >= 8, "all is committed")
    assert worker.stop() == 0
    return worker.data


def goes_on(loop: Deployment, data: Path, known: int) -> None:
    """The worker takes part again: it answers, and learns each click once."""
    eventually(lambda: loop.workers[-1].owns(1), "it owns its partition")
    loop.publish(Request(id="on", user="bob", at=now(), k=2))
    assert loop.decision("on").slots
    loop.publish(*clicks(100, 3))
    eventually(lambda: learned(loop) >= known + 3, "it learns on")
    sources = [record.source for record in loop.records()]
    assert len(sources) == len(set(sources))
    verdicts = loop.workers[-1].status()["learned"]
    assert not verdicts.get("refused")


@pytest.mark.parametrize("to", [0, 5, 40, 1_000])
def test_offsets_that_were_moved_lose_nothing(deployment: Make, to: int) -> None:
    """To the start, the middle, beyond what was learned, beyond the end: none is a worker's."""
    loop = deployment(snapshot_seconds=0)
    data = played(loop)
    loop.publish(*clicks(0, 32))
    move(loop, to)
    loop.worker(data=data)
    goes_on(loop, data, 36)
    assert "the group's offset is no worker's" in loop.workers[-1].log.read_text() or to == 0


def test_offsets_that_expired_lose_nothing_while_the_log_is_whole(deployment: Make) -> None:
    loop = deployment(snapshot_seconds=0)
    data = played(loop)
    forget_group(loop)
    loop.worker(data=data)
    goes_on(loop, data, 4)


def test_where_all_that_was_handled_is_gone_it_goes_on_by_itself(deployment: Make) -> None:
    loop = deployment(snapshot_seconds=0)
    data = played(loop)
    loop.publish(*clicks(0, 10))
    forget_group(loop)
    cut(loop, loop.topics.events, 12)
    loop.worker(data=data)
    goes_on(loop, data, 10)
    assert "partition 0 goes on at 12" in loop.workers[-1].log.read_text()
    loop.workers[-1].kill()
    loop.worker(data=data)  # and again, from the record or a commit after it
    eventually(lambda: loop.workers[-1].owns(1), "it owns its partition")


def test_where_open_decisions_are_lost_it_waits_until_somebody_accepts_that(
    deployment: Make,
) -> None:
    loop = deployment(snapshot_seconds=0)
    data = played(loop)
    forget_group(loop)
    cut(loop, loop.topics.events, 3)
    worker = loop.worker(data=data)
    eventually(lambda: "partition 0 waits" in worker.words(), "it says what it waits for")
    assert "begins at 3, and is needed from 0 on" in worker.words()
    assert "`rankloop restart-from earliest --partition 0`" in worker.words()
    assert worker.runs and not worker.owns(1)
    said = command(loop, "restart-from", "earliest", "--yes")
    assert "learned up to 8" in said and "partition 0 goes on at" in said
    goes_on(loop, data, 4)


def test_a_backlog_can_be_skipped_while_workers_run(deployment: Make) -> None:
    loop = deployment(snapshot_seconds=0)
    data = played(loop)
    loop.publish(*clicks(0, 30))
    assert "30 events that are there" in command(loop, "restart-from", "latest", "--yes")
    loop.worker(data=data)
    goes_on(loop, data, 4)
    assert all(record.id != "c0" for record in loop.records())


def test_rankings_made_again_are_named_and_accepted(deployment: Make) -> None:
    loop = deployment(snapshot_seconds=0)
    data = played(loop)
    rankings = loop.topics.rankings
    admin(loop, lambda client: client.delete_topics([rankings]))
    time.sleep(2)
    command(loop, "topics")
    worker = loop.worker(data=data)
    assert worker.ended() != 0
    assert f"{rankings} is not the topic that the log began with" in worker.words()
    assert "`rankloop restart-from earliest`" in worker.words()
    assert f"{rankings} was made again" in command(loop, "restart-from", "earliest", "--yes")
    again = loop.worker(data=data)
    eventually(lambda: again.owns(1), "it owns its partition")
    loop.publish(*clicks(100, 3))
    eventually(lambda: learned(loop) >= 7, "it learns on")


def test_feedback_cut_below_the_newest_snapshot_is_no_hindrance(deployment: Make) -> None:
    loop = deployment(snapshot_seconds=1)
    data = played(loop)
    cut(loop, loop.topics.feedback, 3)
    loop.worker(data=data)
    goes_on(loop, data, 4)
