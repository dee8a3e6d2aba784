"""The rules of the logs, each by its name (docs/design.md): one example of what it is for, or more.

All of them together are in test_schedules, which finds what goes wrong without L1, L2, L3, L4, L12.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from agents.attribution import Attribution, AttributionRules, RankingTask
from agents.learner import Learner
from agents.ledger import Ledger
from agents.partition import Commit, Partition, PublishFeedback, PublishRankings, ReceivedMessage
from models.events import (
    MAX_MESSAGE_BYTES,
    Begin,
    Click,
    Event,
    Fold,
    Interaction,
    Item,
    Mark,
    Request,
    Source,
    Tick,
    chain,
    encode,
)
from models.hash_encoder import HashEncoder
from models.memory import Memory
from policies.uniform import Uniform
from stream import build
from stream.kafka.producer import dead_letter
from stream.kafka.topics import APPENDED, Topics, create
from stream.settings import Settings
from stream.storage.latest_rankings import MemoryRankings
from stream.storage.snapshots import open_snapshots
from stream.worker.assignment import AssignedPartition, PartitionLostError
from stream.worker.counters import PartitionCounters
from stream.worker.engine import Engine
from tests.conftest import Kafka
from tests.support.attribution_logs import decided
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import ROOT, Worker, eventually

Make = Callable[..., Deployment]
BEGIN = Begin(fold="old", rules="r", partitions=1)


RULES = AttributionRules(
    horizon=100, early=10, lateness=100, future=50, refresh=False, most_closings=2
)


def received(*events: Event) -> list[ReceivedMessage]:
    """Messages appended when they say."""
    return [ReceivedMessage(n, event.at, encode(event)) for n, event in enumerate(events)]


REQUESTS = [Request(id=f"r{n}", user="ann", at=1000 + n, k=1) for n in range(5)]


def taught(messages: list[ReceivedMessage], size: int) -> list[bytes]:
    """What an owner teaches whose batches are cut so."""
    ledger, made, waiting = Ledger(), list[bytes](), messages[:size]
    partition = Partition(Attribution(0, RULES), ledger, decided, lambda _: 0)
    while waiting:
        running, answer = partition.batch(waiting), None
        while True:
            try:
                command = running.send(answer)
            except StopIteration as end:
                start = waiting[0].offset + end.value
                waiting = messages[start : start + size]
                break
            answer = None
            if isinstance(command, PublishFeedback):
                made += [record.data for record in command.records]
                for record in command.records:
                    ledger(ledger.version, record.data)
                answer = ledger.version
            elif isinstance(command, PublishRankings):
                for decision in command.decisions:
                    partition.attribution.decided(decision)
    return made


def test_l1_what_is_learned_does_not_depend_on_how_batches_are_cut() -> None:
    click = Click(id="c", user="ann", item="a", at=1090, request="r1")
    log = received(*REQUESTS, click, Tick(at=1102), Tick(at=1300), REQUESTS[0], Tick(at=1400))
    one = taught(log, 1)
    assert len(one) == 6
    assert one == taught(log, 3) == taught(log, 100)


def test_l2_the_decision_at_the_lowest_offset_counts_whoever_made_it() -> None:
    fold = Attribution(0, RULES)
    [ask] = fold(0, 1000, REQUESTS[0]).tasks
    assert fold.decided(decided(ask, ["a sleeper's"]), 0)
    assert not fold.decided(decided(ask, ["its own"]), 1)
    assert b"a sleeper's" in fold(1, 1200, Tick(at=1200)).records[0].data


def test_l3_a_bookmark_begins_at_what_is_open_however_long_ago_that_was() -> None:
    fold, log = Attribution(0, RULES), received(REQUESTS[0], *(Tick(at=1001) for _ in range(50)))
    for message, event in zip(log, [REQUESTS[0], *(Tick(at=1001) for _ in range(50))], strict=True):
        for ask in fold(message.offset, message.appended, event).tasks:
            fold.decided(decided(ask, "a"), 7)
    mark = fold.bookmark()
    assert (mark.open_from, mark.rankings_from) == (0, 7)
    fold(51, 1101, Tick(at=1101))
    fold(52, 1300, Tick(at=1300))
    assert fold.bookmark().open_from == 53


def test_l4_a_hole_is_refused_and_nothing_beyond_what_was_learned_is_committed() -> None:
    ledger, records = Ledger(), interactions(4)
    verdicts = [ledger(n, records[which])[0] for n, which in enumerate([0, 2, 0, 1, 2])]
    assert verdicts == ["learned", "refused", "duplicate", "learned", "learned"]
    partition = Partition(Attribution(0, RULES), ledger, decided, lambda _: 0)
    owned, mark = (
        AssignedPartition(0, partition, PartitionCounters()),
        partition.attribution.bookmark(),
    )
    for offset in (3, 4):
        owned.commit = Commit(offset, Source(0, offset - 1, 0), mark)
        owned.processed(1)
    commit = owned.committable()
    assert commit is not None and commit.offset == 3
    owned.commit_accepted()
    assert owned.committable() is None


def test_l5_one_time_far_ahead_closes_nobodys_decisions() -> None:
    fold = Attribution(0, RULES)
    [ask] = fold(0, 1000, REQUESTS[0]).tasks
    fold.decided(decided(ask, "a"))
    assert fold(1, 1001, Tick(at=9_000_000)).records == []
    assert (fold.watermark, fold.open) == (1051, 1)


def test_l8_closings_at_one_event_are_bounded_and_the_rest_follow() -> None:
    fold = Attribution(0, RULES)
    for message, request in zip(received(*REQUESTS), REQUESTS, strict=True):
        for ask in fold(message.offset, message.appended, request).tasks:
            fold.decided(decided(ask, "a"))
    closed = [len(fold(n, 1150, Tick(at=1150)).records) for n in range(5, 9)]
    assert closed == [2, 2, 1, 0]


def test_l9_what_is_too_large_for_us_fits_into_the_dead_letters() -> None:
    topics, bytes_ = Topics("here"), b"x" * (10 * MAX_MESSAGE_BYTES)
    letter = dead_letter(topics, topics.events, 0, 7, bytes_, "why")
    around = sum(len(name) + len(value) for name, value in letter.headers)
    _, config = topics.shapes(4)[topics.deadletters]
    assert (
        2 * MAX_MESSAGE_BYTES
        <= len(letter.value or b"") + around
        < int(config["max.message.bytes"])
    )
    assert Ledger()(0, bytes_) == ("invalid", None)


def test_l10_items_keep_every_version_that_an_audit_needs_and_deletions_are_values() -> None:
    topics = Topics("here")
    shapes = topics.shapes(4)
    for topic in (topics.items, topics.embeddings):
        _, config = shapes[topic]
        assert config["cleanup.policy"] == "compact"
        assert APPENDED.items() <= config.items()
        _, rankings = shapes[topics.rankings]
        assert int(config["min.compaction.lag.ms"]) >= int(rankings["retention.ms"])
    assert encode(Item(id="i", at=0, deleted=True))


FOLDED = """
from stream import build
from stream.settings import Settings
from tests.unit.test_log_rules import interactions
learner = build.learner(Settings())
for offset, data in enumerate(interactions(300)):
    learner(offset, data)
print(learner.digest())
"""


def test_l11_other_kernels_other_threads_and_another_hash_seed_give_the_same_bits() -> None:
    kernels = {"OPENBLAS_CORETYPE": "Prescott", "ATEN_CPU_CAPABILITY": "default"}
    others = [{"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3", **kernels}]
    digests = {
        subprocess.run(
            [sys.executable, "-c", FOLDED],
            cwd=ROOT,
            env=dict(os.environ) | other,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for other in others
    }
    assert len(digests) == 1 and digests != {""}


def test_the_metrics_of_a_worker_that_ranks_follow_what_it_takes_from_snapshots(
    tmp_path: Path,
) -> None:
    settings = Settings(role="rank", data_dir=str(tmp_path))
    engine = Engine(settings, HashEncoder(8), MemoryRankings())
    page = engine.metrics()
    assert b'rankloop_collection_size{collection="users"} 0.0' in page()
    learner = build.learner(settings)
    learner(0, encode(Interaction("i", "ann", "film", 7, 1.0, Source(0, 0, 0))))
    open_snapshots(settings).write(learner.state())
    asyncio.run(engine.snapshotter._renew())
    assert b'rankloop_collection_size{collection="users"} 1.0' in page()
    assert b'rankloop_version{log="feedback"} 1.0' in page()
    assert b"rankloop_snapshot_version 1.0" in page()


def test_l12_a_batch_under_way_at_the_switch_decides_nothing_any_more() -> None:
    engine = Engine(Settings(), HashEncoder(8), MemoryRankings())
    engine.ledger(0, encode(Begin(fold=engine.fold, rules="r", partitions=1)))
    ask = RankingTask(REQUESTS[0], 0)
    decide = engine._partition(0).decide
    assert decide(ask).id == "r0"
    engine.ledger(1, encode(Fold(fold="another", expects=engine.fold)))
    with pytest.raises(PartitionLostError, match="another fold"):
        decide(ask)


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
        user, source = f"user:{offset % 60}", Source(0, offset, 0)
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
def deployment(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Makes a rankloop of its own on the broker; its workers are stopped in the end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            Deployment(kafka.brokers, topic_prefix, tmp_path, **settings)
        )


def run(loop: Deployment, *arguments: str, **settings: object) -> str:
    """What a command with the deployment's settings says."""
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


def asked(loop: Deployment, name: str) -> str:
    """The settings hash in the answer to a new request."""
    loop.publish(Request(id=name, user="ann", at=now(), k=2))
    return loop.decision(name).settings


@pytest.mark.kafka
def test_l12_workers_of_two_folds_run_side_by_side_and_switch_at_one_record(
    deployment: Make,
) -> None:
    loop = deployment(partitions=1)
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


async def remade(loop: Deployment, *topics: str) -> None:
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


def stopped(worker: Worker, *whys: str) -> None:
    """It has ended by itself, for one of these reasons, said in one line."""
    eventually(lambda: not worker.runs, "the worker has stopped")
    assert any(why in worker.words() for why in whys), worker.words()
    assert "Traceback" not in worker.words()


@pytest.mark.kafka
@pytest.mark.parametrize("topic", ["events", "items"])
def test_l6_a_topic_deleted_and_made_again_stops_who_runs_and_who_starts(
    apache_kafka: Kafka, deployment: Make, topic: str
) -> None:
    loop = deployment(partitions=1)
    [worker] = loop.ready()
    loop.publish(Request(id="r", user="ann", at=now()))
    loop.decision("r")
    asyncio.run(remade(loop, getattr(loop.topics, topic)))
    stopped(worker, "deleted, and made again", "the log begins again")  # whichever is seen first
    stopped(loop.worker(), "is not the topic that the log began with")


@pytest.mark.kafka
def test_l6_other_rules_than_the_log_began_with_are_refused(deployment: Make) -> None:
    loop = deployment(partitions=1)
    loop.ready()
    loop.environ["RANKLOOP_HORIZON_SECONDS"] = "7"
    stopped(loop.worker(), "fixed for a log's life")


@pytest.mark.kafka
def test_roles_share_the_work_and_a_ranking_names_the_version_of_its_snapshot(
    deployment: Make, tmp_path: Path
) -> None:
    loop = deployment(
        partitions=2,
        snapshot_url=tmp_path / "common",
        snapshot_seconds=0.2,
        snapshot_poll_seconds=0.1,
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
