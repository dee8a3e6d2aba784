"""Files of partitions' attributions: good ones save reading, and no bad one is ever loaded."""

import asyncio
import logging
from pathlib import Path
from random import Random

import pytest

from agents.attribution import Attribution, AttributionRules
from agents.attribution_state import AttributionState
from agents.partition import Partition
from models.events import Click, Decision, Event, Request, decode_event
from models.hash_encoder import HashEncoder
from stream import build
from stream.settings import Settings
from stream.storage.attribution_snapshots import AttributionSnapshots, attribution_file
from stream.storage.object_store import LocalStore
from stream.storage.snapshots import open_attribution_snapshots, open_snapshots
from stream.storage.tensor_file import CorruptFileError, SnapshotMismatchError
from stream.worker.assignment import AssignedPartition
from stream.worker.counters import PartitionCounters
from stream.worker.snapshotter import AttributionSnapshotter
from tests.conftest import Kafka
from tests.support.attribution_logs import decided
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import Worker, eventually

RULES = AttributionRules()
RECORDS = (b'{"type":"interaction"', b'{"type":"outcome"')


def folded(count: int, partition: int = 0) -> Attribution:
    """Requests and clicks, the requests decided."""
    fold = Attribution(partition, RULES)
    for n in range(0, count, 2):
        request = Request(id=f"r{n}", user="ünn", at=n, k=1)
        for ask in fold(n, n, request).tasks:
            fold.decided(decided(ask, "a"), ask.source)
        for ask in fold(
            n + 1, n, Click(id=f"c{n}", user="ünn", item="a", at=n, request=request.id)
        ).tasks:
            fold.decided(decided(ask, "a"), ask.source)
    return fold


def kept(
    folder: Path, prefix: str = "rankloop", rules: AttributionRules = RULES
) -> AttributionSnapshots:
    return AttributionSnapshots(LocalStore(folder), prefix, rules.digest)


def two(folder: Path) -> list[AttributionState]:
    """Partition 0 at 10 and at 20."""
    states = [folded(count).state() for count in (10, 20)]
    for state in states:
        kept(folder).write(state)
    return states


def test_the_newest_good_one_within_reach_is_found(tmp_path: Path) -> None:
    older, newer = two(tmp_path)
    found = kept(tmp_path).newest
    assert found(0, 0, 100) == newer == found(0, 20, 20)
    assert found(0, 0, 19) == older == found(0, 10, 10)
    assert found(0, 11, 19) is found(0, 0, 9) is found(0, 21, 99) is found(1, 0, 100) is None


def test_two_are_kept_of_each_partition_and_none_of_whoever_is_ahead(tmp_path: Path) -> None:
    files = kept(tmp_path)
    files.write(folded(40).state())
    for partition in (0, 11, 1):
        for count in (10, 20, 30):
            files.write(folded(count, partition).state())
    assert files.offsets(0) == [40, 30, 20]
    assert files.offsets(1) == files.offsets(11) == [30, 20]


def test_a_damaged_one_is_said_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, _ = two(tmp_path)
    path = tmp_path / attribution_file(0, 20)
    data, rng = path.read_bytes(), Random(5)
    head = 8 + int.from_bytes(data[:8], "little")
    ends = {0, 1, 7, 8, 9, head - 1, head, head + 1, len(data) - 33, len(data) - 32, len(data) - 1}
    spoilt = [data[:end] for end in ends] + [data + b"\0", b"\0" * len(data), data[::-1]]
    for _ in range(300):
        at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        spoilt.append(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
    for one in spoilt:
        path.write_bytes(one)
        caplog.clear()
        with pytest.raises((CorruptFileError, SnapshotMismatchError)):
            kept(tmp_path).read(0, 20)
        assert kept(tmp_path).newest(0, 0, 100) == older
        assert [r.levelno >= logging.WARNING for r in caplog.records] == [True]
    path.unlink()
    path.symlink_to(tmp_path / attribution_file(0, 10))
    assert kept(tmp_path).newest(0, 0, 100) == older
    path.unlink()
    (tmp_path / attribution_file(0, 10)).rename(path)
    with pytest.raises(CorruptFileError, match="it is of partition 0 at 10"):
        kept(tmp_path).read(0, 20)


def test_one_of_another_log_or_other_rules_is_of_no_use(tmp_path: Path) -> None:
    two(tmp_path)
    again = kept(tmp_path)
    again.topic = "the id of a topic made again"
    films, sooner = (
        kept(tmp_path, prefix="films"),
        kept(tmp_path, rules=AttributionRules(horizon=1)),
    )
    for other in (films, sooner, again):
        with pytest.raises(SnapshotMismatchError, match="it is of the log 'rankloop'  under rules"):
            other.read(0, 20)
        assert other.newest(0, 0, 100) is None


def test_what_a_store_raises_leads_to_the_bookmark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(tmp_path)

    def fail(*_: object) -> None:
        raise RuntimeError("the store is away")

    monkeypatch.setattr(LocalStore, "open", fail)
    assert kept(tmp_path).newest(0, 0, 100) is None
    monkeypatch.setattr(LocalStore, "names", fail)
    assert kept(tmp_path).newest(0, 0, 100) is None
    assert caplog.text.count("attribution") >= 3


def test_they_are_no_snapshots_of_what_was_learned(tmp_path: Path) -> None:
    two(tmp_path)
    settings = Settings(snapshot_url=str(tmp_path), encoder="hash")
    assert open_snapshots(settings).versions() == []
    assert open_snapshots(settings).rollback(0) == []
    assert open_attribution_snapshots(settings).offsets(0) == [20, 10]


# When it is written


def owned(fold: Attribution, committed: int) -> AssignedPartition:
    def decide(_: object) -> Decision:
        raise AssertionError("nothing is decided here")

    ledger = build.parts(Settings(encoder="hash"), HashEncoder()).learner.ledger
    partition = Partition(fold, ledger, decide, lambda _: fold.partition)
    one = AssignedPartition(fold.partition, partition, PartitionCounters())
    one.ready, one.committed = True, committed
    return one


def written(
    attribution_snapshotter: AttributionSnapshotter, one: AssignedPartition, times: int = 1
) -> list[int]:
    """The files there are once the attribution snapshotter was called so often."""

    async def call() -> None:
        for _ in range(times):
            attribution_snapshotter([one])
            await attribution_snapshotter.settled()

    asyncio.run(call())
    return attribution_snapshotter.kept.offsets(one.number)


def test_it_is_written_once_reading_again_would_take_long(tmp_path: Path) -> None:
    attribution_snapshotter = AttributionSnapshotter(kept(tmp_path), every=30)
    assert written(attribution_snapshotter, owned(folded(30), committed=30)) == []
    one = owned(folded(40), committed=40)
    assert written(attribution_snapshotter, one, times=3) == [40]
    assert (attribution_snapshotter.status(), one.kept) == ({"written": 1, "failed": 0}, 40)
    one.partition.attribution = folded(70)
    one.committed = 70
    assert written(attribution_snapshotter, one) == [40]
    one.partition.attribution = folded(72)
    one.committed = 72
    assert written(attribution_snapshotter, one) == [72, 40]
    assert written(AttributionSnapshotter(kept(tmp_path), every=0), owned(folded(40), 40)) == [
        72,
        40,
    ]


def test_only_what_was_committed_is_written(tmp_path: Path) -> None:
    attribution_snapshotter = AttributionSnapshotter(kept(tmp_path), every=10)
    one = owned(folded(40), committed=39)
    assert written(attribution_snapshotter, one) == []
    one.partition.attribution = folded(60)
    one.committed = 40
    assert written(attribution_snapshotter, one) == [40]
    assert kept(tmp_path).read(0, 40) == folded(40).state()


def test_a_store_that_fails_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(LocalStore, "put", fail)
    attribution_snapshotter = AttributionSnapshotter(kept(tmp_path), every=10)
    assert written(attribution_snapshotter, owned(folded(40), committed=40), times=3) == []
    assert attribution_snapshotter.status() == {"written": 0, "failed": 1}


def test_the_last_one_is_written_at_a_clean_stop(tmp_path: Path) -> None:
    attribution_snapshotter = AttributionSnapshotter(kept(tmp_path), every=10)
    asyncio.run(
        attribution_snapshotter.finish([owned(folded(40), 40), owned(folded(40, partition=1), 39)])
    )
    assert kept(tmp_path).names() == [(0, 40)]


# On Kafka


@pytest.mark.kafka
def test_a_killed_workers_partition_is_restored_from_its_file_or_else_from_the_bookmark(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    files = tmp_path / "shared"
    settings: dict[str, object] = {
        "partitions": 1,
        "snapshot_url": files,
        "snapshot_seconds": 0,
        "restore_events": 50,
        "idle_tick_seconds": 3600,
        "max_clock_skew_seconds": 36_000,
    }
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **settings) as deployment:
        [first] = deployment.ready()
        deployment.stock(10)
        begin = now()
        deployment.publish(*some("r", begin, 120))
        eventually(lambda: first.status()["attributions"]["written"], "a file is written")
        deployment.publish(*some("s", begin, 20))
        deployment.settled()
        first.kill()

        [second] = deployment.ready()
        total, how = len(deployment.read(deployment.topics.events)), restored(second)
        assert how["kept"] > 0
        assert how["events"] + how["kept"] <= total
        deployment.settled()
        second.kill()

        for path in files.glob("attribution-*"):
            path.write_bytes(path.read_bytes()[:-1])
        [third] = deployment.ready()
        how = restored(third)
        assert (how["kept"], how["events"] >= 140) == (0, True)
        assert "attribution not used" in third.log.read_text()

        late = Click(id="late", user="ann", item="item:2", at=begin + 50, request="r100")
        deployment.publish(late, *some("closing", begin + 700_000, 12))
        deployment.settled()
        made = implied(deployment)
        assert [data for data in learned(deployment) if data.startswith(RECORDS)] == made
        assert sum(b'"type":"outcome"' in data for data in made) >= 70


def some(name: str, begin: int, count: int) -> list[Event]:
    """Requests, each followed by a click on one some time before."""
    events: list[Event] = []
    for n in range(0, count, 2):
        events.append(Request(id=f"{name}{n}", user="ann", at=begin + n, k=3))
        about = f"{name}{max(0, n - 20)}"
        click = Click(id=f"c-{name}{n}", user="ann", item="item:1", at=begin + n, request=about)
        events.append(click)
    return events


def restored(worker: Worker) -> dict[str, int]:
    return worker.status()["partitions"]["0"]["restored"]


def learned(deployment: Deployment) -> list[bytes]:
    return [message.value or b"" for message in deployment.read(deployment.topics.feedback)]


def committed(worker: Worker) -> int:
    return worker.status()["partitions"]["0"]["committed"]


def implied(deployment: Deployment) -> list[bytes]:
    """What a fold of partition 0 that never stopped makes of its events."""
    fold = Attribution(0, deployment.settings.attribution_rules())
    decisions, made = deployment.decisions(), list[bytes]()
    for message in deployment.read(deployment.topics.events):
        caused = fold(message.offset, message.timestamp, decode_event(message.value or b""))
        made += [record.data for record in caused.records]
        for ask in caused.tasks:
            assert fold.decided(decisions[ask.request.id])
    return made
