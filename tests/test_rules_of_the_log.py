"""The rules of the logs, by their names: L6 identity, L7 marks, L12 the fold changes in the log.

L1 to L5, L8 and L9 are in test_partition, test_attribution, test_bookmark and test_publisher.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from agents.learner import Learner
from agents.ledger import Ledger
from models.events import (
    Begin,
    Click,
    Fold,
    Interaction,
    Item,
    Mark,
    Request,
    Source,
    chain,
    encode,
)
from models.memory import Memory
from policies.uniform import Uniform
from stream.topics import create
from tests.conftest import Kafka
from tests.kafka_helpers import World, now
from tests.kafka_worker import ROOT, Worker, eventually

Make = Callable[..., World]
BEGIN = Begin(fold="old", rules="r", partitions=1)


def test_l6_the_first_begin_of_a_log_counts() -> None:
    ledger = Ledger()
    assert ledger(0, encode(BEGIN))[0] == "noted"
    assert ledger(1, encode(msgspec.structs.replace(BEGIN, fold="other")))[0] == "duplicate"
    assert (ledger.begin, ledger.fold) == (BEGIN, "old")


def test_l12_a_switch_counts_only_from_the_fold_that_it_expects() -> None:
    ledger = Ledger()
    records = [BEGIN, Fold(fold="new", expects="wrong"), Fold(fold="new", expects="old")]
    records += [Fold(fold="new", expects="old"), Fold(fold="old", expects="new")]
    assert [ledger(n, encode(record))[0] for n, record in enumerate(records)] == [
        "noted",
        "duplicate",
        "noted",
        "duplicate",
        "noted",
    ]
    assert ledger.fold == "old"


def interactions(n: int) -> list[bytes]:
    made: list[bytes] = []
    for offset in range(n):
        prev = chain(made[-1]) if made else ""
        user, source = f"user:{offset}", Source(0, offset, 0)
        made.append(encode(Interaction(f"c{offset}", user, "i", offset, 1.0, source, prev)))
    return made


def learner(fold: str = "f", records: int = 50) -> Learner:
    made = Learner(Memory(None, {}), Uniform(), fold=fold, marked=40)
    for offset, data in enumerate(interactions(records)):
        made(offset, data)
    return made


def mark(version: int, digest: str, fold: str = "f") -> bytes:
    return encode(Mark(fold=fold, version=version, digest=digest))


def test_l7_two_that_learned_the_same_agree_and_another_does_not() -> None:
    one, two = learner(), learner()
    assert one.probes == two.probes
    assert list(one.probes) == [40]
    two(50, mark(40, one.probes[40]))
    assert two.differs is None
    other = Learner(Memory(None, {}), Uniform(), fold="f", marked=40)
    for offset, data in enumerate(interactions(50)):
        if offset == 20:
            other.memory.histories.learn(Interaction("x", "user:9", "y", 1, 1.0, Source(0, 0, 0)))
        other(offset, data)
    other(50, mark(40, one.probes[40]))
    assert other.differs is not None


def test_l7_marks_of_another_fold_or_of_versions_not_at_hand_say_nothing() -> None:
    one = learner()
    for data in (mark(40, "0", fold="g"), mark(80, "0"), mark(39, "0")):
        one(50, data)
    assert one.differs is None


@pytest.fixture
def world(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Makes a rankloop of its own on the broker; its workers are stopped in the end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            World(kafka.brokers, topic_prefix, tmp_path, **settings)
        )


def run(loop: World, *arguments: str, **settings: object) -> str:
    """What a command with the world's settings says."""
    changed = {f"RANKLOOP_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "stream", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=loop.environ | changed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def asked(loop: World, name: str) -> str:
    """The settings hash in the answer to a new request."""
    loop.publish(Request(id=name, user="ann", at=now(), k=2))
    return loop.decision(name).settings


@pytest.mark.kafka
def test_l12_workers_of_two_folds_run_side_by_side_and_switch_at_one_record(world: Make) -> None:
    loop = world(partitions=1)
    [old] = loop.ready()
    loop.stock(5)
    loop.publish(Click(id="c", user="ann", item="item:1", at=now()))
    first = asked(loop, "r0")
    kept = dict(loop.environ)
    loop.environ["RANKLOOP_LEARNING_RATE"] = "0.5"
    new = loop.worker()
    eventually(lambda: new.status().get("in_force") == old.status()["fold"], "it stands by")
    assert not new.partitions()
    assert asked(loop, "r1") == first
    assert "decides; before" in run(loop, "fold", "switch")
    eventually(lambda: new.owns(1) and not old.partitions(), "the new one has taken over")
    second = asked(loop, "r2")
    assert second != first
    assert old.runs
    said = run(loop, "fold", "switch")
    assert "is in force already" in said
    loop.environ = kept
    assert "decides; before" in run(loop, "fold", "switch")
    eventually(lambda: old.owns(1) and not new.partitions(), "and back")
    assert asked(loop, "r3") == first
    version, digest = old.status()["model"], old.status(digest=True)["digest"]
    assert loop.folded(version).digest() == digest
    assert len(loop.decisions()) == len(loop.read(loop.topics.rankings))


async def remade(loop: World, *topics: str) -> None:
    admin = AIOKafkaAdminClient(**loop.settings.aiokafka_options())
    await admin.start()
    try:
        await admin.delete_topics(list(topics))
        for _ in range(100):
            await asyncio.sleep(0.1)
            try:
                await create(loop.settings)
                return
            except Exception:  # still being deleted
                continue
    finally:
        await admin.close()


def stopped(worker: Worker, why: str) -> None:
    eventually(lambda: not worker.runs, "the worker has stopped")
    assert why in worker.words()
    assert "Traceback" not in worker.words()


@pytest.mark.kafka
@pytest.mark.parametrize("topic", ["events", "items"])
def test_l6_a_topic_deleted_and_made_again_stops_who_runs_and_who_starts(
    apache_kafka: Kafka, world: Make, topic: str
) -> None:
    loop = world(partitions=1)
    [worker] = loop.ready()
    loop.publish(Request(id="r", user="ann", at=now()))
    loop.decision("r")
    asyncio.run(remade(loop, getattr(loop.topics, topic)))
    stopped(worker, "deleted and made again")
    stopped(loop.worker(), "is not the topic that the log began with")


@pytest.mark.kafka
def test_l6_other_rules_than_the_log_began_with_are_refused(world: Make) -> None:
    loop = world(partitions=1)
    loop.ready()
    loop.environ["RANKLOOP_HORIZON_SECONDS"] = "7"
    stopped(loop.worker(), "fixed for a log's life")


@pytest.mark.kafka
def test_roles_share_the_work_and_a_ranking_names_the_version_of_its_snapshot(
    world: Make, tmp_path: Path
) -> None:
    loop = world(
        partitions=2,
        snapshot_url=tmp_path / "common",
        snapshot_seconds=0.2,
        renew_seconds=0.1,
        policy="popular",
        epsilon=0.01,
    )
    workers: dict[str, Worker] = {}
    for role in ("embed", "learn", "rank"):
        loop.environ["RANKLOOP_ROLE"] = role
        workers[role] = loop.worker()
    rank, learn = workers["rank"], workers["learn"]
    eventually(lambda: rank.owns(2), "the one that ranks owns the partitions")
    loop.publish(*(Item(id=f"item:{n}", title=f"title {n}", at=n) for n in range(20)))
    eventually(lambda: rank.status()["embeddings"] >= 20, "items are embedded")
    assert not learn.partitions()
    loop.publish(*(Click(id=f"c{n}", user=f"u{n}", item="item:7", at=now()) for n in range(30)))
    eventually(lambda: learn.status()["learned"].get("learned", 0) >= 30, "clicks are learned")
    end = len(loop.read(loop.topics.feedback))
    eventually(lambda: rank.status()["model"] >= end, "the snapshot has come to the one that ranks")
    loop.publish(Request(id="r", user="bob", at=now(), k=3))
    decision = loop.decision("r")
    assert decision.slots[0].item == "item:7"
    assert decision.model >= end
    loop.settled()
    assert rank.stop() == 0
    loop.environ["RANKLOOP_ROLE"] = "all"
    other = loop.worker()
    eventually(lambda: other.owns(2), "another takes over where it had committed")
    loop.settled()
    assert len(loop.decisions()) == len(loop.read(loop.topics.rankings))
