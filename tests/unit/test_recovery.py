"""What a worker does where it must not go on, or has no room: nothing wrong is kept."""

import asyncio
import os
import tempfile
from collections import namedtuple
from pathlib import Path

import msgspec
import pytest
from aiokafka import OffsetAndMetadata, TopicPartition

from agents.attribution import Attribution, AttributionRules
from agents.bookmark import Bookmark, encode_bookmark
from agents.errors import DivergedError, RestartNeededError
from agents.learner import Learner
from agents.ledger import Ledger, LedgerState
from agents.partition import Partition, ReceivedMessage
from models.events import (
    Begin,
    Click,
    Decision,
    Interaction,
    Mark,
    Restart,
    Source,
    chain,
    encode,
)
from models.hash_encoder import HashEncoder
from models.memory import Memory
from policies import vowpal
from policies.uniform import Uniform
from policies.vowpal import Vowpal
from stream.settings import Settings
from stream.storage.latest_rankings import MemoryRankings
from stream.storage.snapshots import open_snapshots
from stream.worker.engine import DigestMismatchError, Engine
from stream.worker.restore import Span, begin, commit_that_counts

Usage = namedtuple("Usage", "total used free")


def clicks(count: int) -> list[bytes]:
    made: list[bytes] = []
    for n in range(count):
        prev = chain(made[-1]) if made else ""
        made.append(encode(Interaction(f"c{n}", f"u{n}", "i", n, 1.0, Source(0, n, 0), prev)))
    return made


def test_a_model_is_saved_and_loaded_without_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bandit, again = Vowpal(prior={"knn": 0.1}), Vowpal()
    whole = bandit.save()
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert bandit.save() == whole
    again.load(whole)
    assert again.save() == whole


def test_without_files_in_memory_a_model_that_may_be_cut_short_is_no_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bandit = Vowpal(prior={"knn": 0.1})
    whole = bandit.save()
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert bandit.save() == whole
    monkeypatch.setattr(vowpal, "disk_usage", lambda _: Usage(10, 10, 0))
    with pytest.raises(OSError, match="no room for all of Vowpal Wabbit's model"):
        bandit.save()


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing:
        def save(self, path: Path) -> None:
            raise RuntimeError("can't open: model.writing")

    with pytest.raises(OSError, match="cannot write its model"):
        vowpal._written(Refusing())  # pyright: ignore


class UnsavablePolicy(Uniform):
    """A policy that finds no room for the file it needs."""

    def save(self) -> bytes:
        raise OSError(28, "No space left on device")


def test_a_mark_that_cannot_be_made_does_not_end_learning() -> None:
    learner = Learner(Memory(None, {}), UnsavablePolicy(), marked=40)
    for offset, data in enumerate(clicks(50)):
        assert learner(offset, data) == "learned"
    assert learner.probes == {}
    assert "No space left" in learner.unprobed


def diverged(folder: Path) -> Engine:
    """A worker that learned something, and reads a mark that says otherwise."""
    settings = Settings(data_dir=str(folder), policy="uniform")
    engine = Engine(settings, HashEncoder(8), MemoryRankings())
    for offset, data in enumerate(clicks(5)):
        engine.parts.learner(offset, data)
    engine.caught_up = True
    engine.parts.learner.differs = Mark(fold=engine.fold, version=5, digest="other")
    return engine


def test_l7_what_a_mark_calls_wrong_is_not_written_on_the_way_out(tmp_path: Path) -> None:
    engine = diverged(tmp_path)
    with pytest.raises(DigestMismatchError, match="set aside: start it again"):
        engine._marked()
    asyncio.run(engine.snapshotter.write())
    assert open_snapshots(engine.settings).versions() == []


def test_l7_a_snapshot_under_way_is_set_aside_once_it_is_there(tmp_path: Path) -> None:
    engine = diverged(tmp_path)
    store = engine.snapshotter.snapshots
    write = store.write

    def slow(state: object) -> object:
        with pytest.raises(DigestMismatchError):
            engine._marked()
        return write(state)  # pyright: ignore

    store.write = slow  # pyright: ignore
    asyncio.run(engine.snapshotter.write())
    assert open_snapshots(engine.settings).versions() == []
    assert len(store.store.names()) == 1


def test_l7_snapshots_that_cannot_be_set_aside_are_named(tmp_path: Path) -> None:
    engine = diverged(tmp_path)
    asyncio.run(engine.snapshotter.write())

    def refused(name: str, new: str) -> None:
        raise PermissionError("read-only")

    engine.snapshotter.snapshots.store.move = refused
    with pytest.raises(DigestMismatchError, match=r"cannot be set aside .*remove those in"):
        engine._marked()


BEGIN = Begin(fold="f", rules="r", partitions=2, topics={"rankings": "1"})


def ledger(count: int = 5) -> Ledger:
    """Of a log that begins, and of clicks from offsets 0 ... of partition 0."""
    made = Ledger()
    for offset, data in enumerate([encode(BEGIN), *clicks(count)]):
        made(offset, data)
    return made


def take(ledger: Ledger, record: Restart | Interaction) -> str:
    return ledger(ledger.version, encode(record))[0]


def after(ledger: Ledger, offset: int, index: int = 0) -> Interaction:
    """A click that follows what is learned of partition 0."""
    source = Source(0, offset, index)
    return Interaction(f"d{offset}", "ann", "i", offset, 1.0, source, ledger.places[0].chain)


def test_l4_records_follow_a_restart_and_those_skipped_are_never_learned() -> None:
    known = ledger()
    old = known.places[0].chain
    assert take(known, Restart(partition=0, offset=9, prev=old)) == "noted"
    skipped = Interaction("late", "ann", "i", 7, 1.0, Source(0, 7, 0), old)
    assert take(known, skipped) == "duplicate"
    of_before = Interaction("old", "ann", "i", 9, 1.0, Source(0, 9, 0), old)
    assert take(known, of_before) == "refused"  # by who has not read the restart
    assert take(known, after(known, 9)) == "learned"
    assert take(known, after(known, 9, 1)) == "learned"


@pytest.mark.parametrize(("offset", "verdict"), [(3, "duplicate"), (4, "duplicate"), (5, "noted")])
def test_a_restart_goes_back_over_nothing_that_was_learned(offset: int, verdict: str) -> None:
    known = ledger()
    assert take(known, Restart(partition=0, offset=offset, prev=known.places[0].chain)) == verdict


def test_a_restart_counts_once_and_only_from_where_its_writer_saw_the_log() -> None:
    known = ledger()
    record = Restart(partition=0, offset=9, prev=known.places[0].chain)
    assert [take(known, record) for _ in range(2)] == ["noted", "duplicate"]
    again = Restart(partition=0, offset=9, prev=known.places[0].chain)
    assert take(known, again) == "noted"  # what the first one needed is gone meanwhile
    assert take(known, Restart(partition=0, offset=9, prev="other")) == "duplicate"
    assert take(known, Restart(partition=2, offset=9)) == "duplicate"
    assert take(known, Restart(partition=1, offset=9)) == "noted"


def test_a_restart_is_kept_in_snapshots_and_accepts_topics_made_again() -> None:
    known = ledger()
    accepted = Restart(partition=0, offset=9, prev=known.places[0].chain, topics={"rankings": "2"})
    take(known, accepted)
    again = Ledger(msgspec.json.decode(msgspec.json.encode(known.state()), type=LedgerState))
    assert again.restarts == known.restarts == {0: known.places[0]}
    assert again.begin is not None and again.begin.topics == {"rankings": "2"}
    old = {k: v for k, v in msgspec.to_builtins(known.state()).items() if k != "restarts"}
    assert msgspec.convert(old, LedgerState, str_keys=True).restarts == {}


def partition(known: Ledger, number: int = 0) -> Partition:
    def decide(task: object) -> Decision:
        raise AssertionError(f"nobody asks: {task}")

    return Partition(Attribution(number, AttributionRules(refresh=False)), known, decide, int)


def spans(events: tuple[int, int], rankings: tuple[int, int] = (0, 0)) -> list[Span]:
    topics = ("x.events", events), ("x.rankings", rankings)
    return [Span(TopicPartition(name, 0), *span) for name, span in topics]


def begun(
    known: Ledger, commit: OffsetAndMetadata, where: list[Span]
) -> tuple[int, dict[str, int]]:
    """Where a partition goes on, and from where its logs are read again."""
    one = partition(known)
    counts = commit_that_counts(one, commit, where)
    begins = begin(one, counts, where)
    return counts.offset, {tp.topic: offset for tp, offset in begins.items()}


def test_offsets_that_no_worker_committed_do_not_count() -> None:
    for offset in (0, 3, 20, 99):
        assert begun(ledger(), OffsetAndMetadata(offset, ""), spans((0, 20))) == (
            0,
            {"x.events": 0, "x.rankings": 0},
        )


@pytest.mark.parametrize(
    ("events", "rankings", "to"),
    [((5, 9), (0, 0), 5), ((9, 9), (3, 3), 9), ((4, 9), (0, 0), None), ((0, 9), (1, 3), None)],
)
def test_it_goes_on_by_itself_only_where_all_that_was_handled_is_gone(
    events: tuple[int, int], rankings: tuple[int, int], to: int | None
) -> None:
    with pytest.raises(RestartNeededError, match="restart-from earliest --partition 0") as needed:
        begun(ledger(), OffsetAndMetadata(0, ""), spans(events, rankings))
    assert needed.value.offset == to


def test_a_partition_of_which_nothing_was_learned_begins_where_its_log_does() -> None:
    assert begun(ledger(0), OffsetAndMetadata(0, ""), spans((7, 9), (2, 3)))[1] == {
        "x.events": 7,
        "x.rankings": 2,
    }


def test_after_a_restart_the_commits_before_do_not_count_and_those_after_do() -> None:
    known = ledger()
    rules = AttributionRules(refresh=False).digest
    before = Bookmark(
        ids_from=0, watermark=0, open_from=5, rankings_from=0, last=Source(0, 4, 0), rules=rules
    )
    commit = OffsetAndMetadata(5, encode_bookmark(before))
    assert begun(known, commit, spans((0, 20)))[0] == 5
    take(known, Restart(partition=0, offset=9, prev=known.places[0].chain))
    assert begun(known, commit, spans((2, 20)))[0] == 9
    assert begun(known, commit, spans((12, 20)))[0] == 12  # retention went on
    later = msgspec.structs.replace(
        before, open_from=10, last=known.places[0].source, chain=known.places[0].chain
    )
    assert begun(known, OffsetAndMetadata(11, encode_bookmark(later)), spans((0, 20)))[0] == 11


@pytest.mark.parametrize(("begins", "to"), [(10, None), (12, None), (13, 13), (20, 20)])
def test_without_the_events_since_a_restart_what_was_learned_after_it_needs_another(
    begins: int, to: int | None
) -> None:
    known = ledger()
    take(known, Restart(partition=0, offset=9, prev=known.places[0].chain))
    take(known, after(known, 12))
    assert begun(known, OffsetAndMetadata(0, ""), spans((9, 20)))[0] == 9
    with pytest.raises(RestartNeededError, match="restart-from earliest --partition 0") as needed:
        begun(known, OffsetAndMetadata(0, ""), spans((begins, 20)))
    assert needed.value.offset == to


def test_a_commit_ahead_of_feedback_waits_instead_of_publishing_what_is_refused() -> None:
    one = partition(ledger(3))
    one.attribution.last, one.attribution.chain = Source(0, 7, 0), "gone"
    with pytest.raises(RestartNeededError, match="feedback was cut, made anew or put back"):
        one.restored(8)


def test_records_that_do_not_follow_what_was_learned_are_not_published() -> None:
    one = partition(ledger(3))
    one.attribution.last, one.attribution.chain = Source(0, 1, 0), "another"
    click = Click(id="c", user="0", item="i", at=9)
    with pytest.raises(DivergedError, match="restart-from"):
        list(one.batch([ReceivedMessage(9, 9, encode(click))]))
