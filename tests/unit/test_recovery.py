"""What a worker does where it must not go on, or has no room: nothing wrong is kept."""

import asyncio
import os
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from agents.learner import Learner
from models.events import Interaction, Mark, Source, chain, encode
from models.hash_encoder import HashEncoder
from models.memory import Memory
from policies import vowpal
from policies.uniform import Uniform
from policies.vowpal import Vowpal
from stream.settings import Settings
from stream.storage.latest_rankings import MemoryRankings
from stream.storage.snapshots import open_snapshots
from stream.worker.engine import DigestMismatchError, Engine

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


class Homeless(Uniform):
    """A policy that finds no room for the file it needs."""

    def save(self) -> bytes:
        raise OSError(28, "No space left on device")


def test_a_mark_that_cannot_be_made_does_not_end_learning() -> None:
    learner = Learner(Memory(None, {}), Homeless(), marked=40)
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
