"""What a snapshot of many users costs: memory, the copy that holds up learning, file, restart.

`python tests/benchmarks/snapshots.py` fills a memory with a million users (`filled.py`), writes a
snapshot of it, loads that in fresh processes, and at last starts a real worker on it, on Kafka.
"""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TypeVar

import click
import uvloop
from filled import fill, likes
from machine import disturbed, machine
from measure import Row, Stopwatch, processor, watch
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from stand import PATIENCE, Answer, BenchClient, Stand, publish

from agents.attribution import RankingTask
from models.arrays.lru_index import part
from models.events import (
    Begin,
    Features,
    Item,
    Outcome,
    OutcomeSlot,
    Request,
    Source,
    chain,
    encode,
)
from models.hash_encoder import HashEncoder
from models.memory import Memory
from stream import build
from stream.kafka.identity import current_identity
from stream.kafka.producer import Producer, ProducerRecord
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.storage.snapshots import open_snapshots, trim_malloc
from tests.support.kafka_worker import eventually

T = TypeVar("T")
console = Console(width=120)


class Size(Struct, frozen=True):
    """How much there is of everything."""

    users: int
    items: int
    likes: int
    outcomes: int

    def __str__(self) -> str:
        return (
            f"{self.users:,} users, {self.items:,} items, {self.likes} likes a user, "
            f"{self.outcomes:,} outcomes"
        )


def records(size: Size, first: Begin) -> Iterator[bytes]:
    """A feedback log: how it began, then what was shown to some of the users."""
    yield encode(first)
    names, prev, rng = tuple(f"x{n}" for n in range(12)), "", Random(0)
    for n in range(size.outcomes):
        features = Features(x=tuple(rng.gauss(0, 1) for _ in names), text=(0.1,) * 16)
        shown = [f"item:{int(size.items * rng.random() ** 3)}" for _ in range(10)]
        slots = tuple(
            OutcomeSlot(
                item=item, position=k, propensity=0.1, reward=float(k == 3), features=features
            )
            for k, item in enumerate(shown)
        )
        outcome = Outcome(
            id="r",
            user=f"user:{rng.randrange(size.users)}",
            at=n,
            status="complete",
            policy="bandit",
            model=0,
            slots=slots,
            source=Source(0, n, 0),
            features=names,
            prev=prev,
        )
        data = encode(outcome)
        yield data
        prev = chain(data)


def resident() -> float:
    """MB of memory that this process has now."""
    gc.collect()
    return megabytes(os.getpid())


def megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def busy(spent: Stopwatch) -> str:
    return f"{spent.busy:.1f} s of one core"


class Stalled(Thread):
    """Does something in a thread, and says how long and the longest that others waited for it."""

    def __init__(self, what: Callable[[], Any]) -> None:
        super().__init__()
        self.what, self.found = what, None

    def run(self) -> None:
        self.found = self.what()

    def measured(self) -> tuple[float, float]:
        began = last = time.perf_counter()
        longest = 0.0
        self.start()
        while self.is_alive():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return last - began, longest


def written(settings: Settings, size: Size, first: Begin) -> list[Row]:
    """Fill a learner, copy and write what it knows, as a worker does."""
    learner = build.learner(settings)
    trim_malloc()
    before = resident()
    with watch() as spent:
        fill(learner.memory, *likes(size.users, size.items, size.likes))
        for offset, data in enumerate(records(size, first)):
            learner(offset, data)
    rows = [
        Row("filled", spent.wall, "s", f"{size}; vectors drawn, all else learned; {busy(spent)}"),
        Row("memory, filled", resident() - before, "MB", "resident, more than before"),
    ]
    with watch() as spent:
        copying = Stalled(learner.state)
        seconds, longest = copying.measured()
    how = "learning waits for it, nothing else does; longest time that other threads stood still "
    rows.append(Row("copied", seconds, "s", f"{how}{longest:.2f} s; {busy(spent)}"))
    state: Any = copying.found
    kept = open_snapshots(settings)
    with watch() as spent:
        seconds, longest = Stalled(partial(kept.write, state)).measured()
    how = f"digest, checksum, fsync; others stood still {longest:.2f} s; {busy(spent)}"
    rows.append(Row("written", seconds, "s", how))
    [size_now] = [entry.size for entry in kept.entries() if entry.version == state.version]
    return [*rows, Row("file", size_now / 1e6, "MB", f"version {state.version:,}")]


def loaded(settings: Settings, size: Size) -> list[Row]:
    """Restore as a worker does, and rank for a user who is known."""
    learner = build.learner(settings)
    trim_malloc()
    before = resident()
    began = time.perf_counter()
    with watch() as spent:
        header = open_snapshots(settings).restore(learner)
    assert header is not None and header.version == size.outcomes + 1
    memory, peak = resident() - before, getrusage(RUSAGE_SELF).ru_maxrss / 1e3 - before
    rows = [
        Row("read, checked, loaded", spent.wall, "s", f"checksum, digest, rules; {busy(spent)}"),
        Row("memory, loaded", memory, "MB", f"resident, more than before; at most {peak:,.0f} MB"),
        Row("memory a million users", memory / size.users * 1e12 / 2**30, "GiB", "with all items"),
    ]
    items, waited = build.catalogue(settings, HashEncoder()), time.perf_counter()
    for n in range(size.items):
        items.fold_item(n, Item(id=f"item:{n}", at=0))
    waited = time.perf_counter() - waited
    _, recommend = build.deciding(settings, learner, items)
    assert recommend(RankingTask(Request(id="r", user="user:1", at=1), source=0)).slots
    seconds = time.perf_counter() - began - waited
    return [*rows, Row("loaded and ranked", seconds, "s", "the first ranking of a known user")]


def parts(settings: Settings) -> list[Row]:
    """What each part of the memory holds, loaded one after the other."""
    kept = open_snapshots(settings)
    _, state = kept.read(kept.versions()[-1])
    memory: Memory = build.memory(settings)
    trim_malloc()
    rows, before = list[Row](), resident()
    for name, one in (memory._names | memory._parts).items():
        one.load(part(state.memory, name))
        trim_malloc()
        now = resident()
        rows.append(Row(f"memory of {name}", now - before, "MB", type(one).__name__))
        before = now
    return [row for row in rows if row.figure > 0.5]


def restarted(stand: Stand, settings: Settings, size: Size) -> list[Row]:
    """Start a worker on the newest snapshot; ask for a known user as soon as it is ready."""
    began = time.perf_counter()
    with stand.worker(settings) as worker:
        ready = time.perf_counter() - began
        answer = uvloop.run(first_answer(settings))
        seconds, spent = answer.read - began, processor(worker.pid)
        status, held = worker.status(), megabytes(worker.pid)
    assert len(answer.items) == 10 and status["model"] == size.outcomes + 1, status
    how = f"from the start of its process, {size.items:,} items read from Kafka; {stand.says}"
    return [
        Row("worker restarted, ready", ready, "s", how),
        Row(
            "worker restarted, first ranking",
            seconds,
            "s",
            f"until read; {spent:.1f} s of one core",
        ),
        Row("memory of the worker", held, "MB", "resident, all of the process"),
    ]


async def first_answer(settings: Settings) -> Answer:
    async with BenchClient.connected(settings) as client:
        at = time.time_ns() // 1_000_000
        return await client.ask(Request(id="first", user="user:1", at=at, k=10), "first")


def stocked(stand: Stand, settings: Settings, size: Size) -> None:
    """Have a worker begin the log and embed all items."""
    publish(settings, (Item(id=f"item:{n}", title=f"title {n}", at=n) for n in range(size.items)))
    with stand.worker(settings) as worker:
        known = lambda: worker.status().get("embeddings", 0) >= size.items  # noqa: E731
        eventually(known, "all items are embedded", 4 * PATIENCE)


async def told(settings: Settings, outcomes: Iterable[bytes]) -> None:
    """Publish records to feedback."""
    feedback, producer = (
        Topics(settings.topic_prefix).feedback,
        Producer(settings.aiokafka_options()),
    )
    try:
        await producer([ProducerRecord(feedback, data) for data in outcomes])
    finally:
        await producer.stop()


def apart(what: Callable[..., T], *given: Any) -> T:
    """The same in a process of its own, whose memory nobody used before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(what, *given).result()


def table(rows: list[Row], title: str) -> Table:
    made = Table(title=title)
    made.add_column("measure")
    made.add_column("figure", justify="right", no_wrap=True)
    made.add_column("how", ratio=1)
    for row in rows:
        digits = 0 if row.figure >= 100 else 2
        made.add_row(row.measure, f"{row.figure:,.{digits}f} {row.unit}", row.how)
    return made


@contextmanager
def log(settings: Settings, kafka: bool) -> Iterator[tuple[Stand | None, Settings, Begin]]:
    """A log on a Kafka of its own, and how it begins; without Kafka, that of none."""
    if not kafka:
        yield (
            None,
            settings,
            Begin(
                fold=settings.fold_hash(), rules=settings.attribution_rules().digest, partitions=1
            ),
        )
        return
    with Stand.running() as stand:
        made = stand.log("bench-snapshots", settings)
        yield stand, made, asyncio.run(current_identity(made))


@click.command(context_settings={"show_default": True})
@click.option("--users", default=1_000_000)
@click.option("--items", default=100_000)
@click.option("--likes", default=5, help="A user, on average.")
@click.option("--outcomes", default=5_000)
@click.option("--kafka/--no-kafka", default=True, help="Restart a worker at the end.")
def main(users: int, items: int, likes: int, outcomes: int, kafka: bool) -> None:
    """Measure snapshots of a synthetic learner, and a restart from one."""
    for name, value in machine().items():
        console.print(f"[bold]{name:12}[/] {value}", highlight=False)
    if disturbed():
        console.print("[yellow]others are using this machine: trust ratios, not figures[/]")
    size, rows, began = Size(users, items, likes, outcomes), list[Row](), time.perf_counter()
    with TemporaryDirectory() as folder:
        settings = Settings(
            encoder="hash",
            max_users=users,
            max_items=items,
            snapshot_url=folder,
            snapshot_seconds=0.0,
        )
        with log(settings, kafka) as (stand, settings, first):
            if stand:
                stocked(stand, settings, size)
                asyncio.run(told(settings, islice(records(size, first), 1, None)))
            rows += apart(written, settings, size, first)
            rows += apart(loaded, settings, size)
            rows += apart(parts, settings)
            if stand:
                rows += restarted(stand, settings, size)
    console.print(table(rows, f"{size}; {time.perf_counter() - began:.0f} s in all"))
    console.print(f"load average after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
