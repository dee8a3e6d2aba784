"""The faults of a torture: one kind after the other, by a seeded script, each with its time."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

import redis
from aiokafka import TopicPartition
from msgspec import Struct
from msgspec.structs import replace

from models.events import (
    Decision,
    Interaction,
    Outcome,
    Source,
    decode_decision,
    decode_feedback,
    encode,
)
from stream.kafka.topics import Topics
from stream.local.process import Server, StackError
from stream.local.stack import Stack
from stream.settings import Settings
from stream.torture.kafka_tools import publish_raw, raw_consumer, tail
from stream.torture.workers import Worker

KINDS = {
    "kill": "kill -9 under load",
    "kill-sending": "kill -9 while rankings go out",
    "kill-writing": "kill -9 while a snapshot is written",
    "snapshot-lost": "kill -9, newest snapshot deleted",
    "snapshot-cut": "kill -9, newest snapshot cut short",
    "pause": "SIGSTOP, shorter than the session",
    "long-pause": "SIGSTOP, longer than the session",
    "stop": "SIGTERM, started again",
    "join-leave": "a worker leaves, or joins",
    "broker": "broker killed, started again",
    "broker-down": "broker killed, down for a while",
    "redis-flush": "Redis flushed",
    "redis-down": "Redis stopped for a while",
    "record-again": "a learned record published again",
    "record-astray": "a record that follows none",
    "decision-again": "second rankings for ten requests",
}
FORGED = "torture"  # the policy of a second ranking: ours can be told from a worker's
MOST_WORKERS = 4


class InjectedFault(Struct, frozen=True):
    """A fault that was done, and when (milliseconds)."""

    kind: str
    at: int
    says: str = ""


def kinds_of(names: str) -> tuple[str, ...]:
    """The kinds of fault by name, comma-separated, or all of them.

    >>> kinds_of("kill,pause"), len(kinds_of("all")) == len(KINDS)
    (('kill', 'pause'), True)
    """
    chosen = tuple(KINDS) if names == "all" else tuple(names.split(","))
    if unknown := [name for name in chosen if name not in KINDS]:
        raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(KINDS)}")
    return chosen


def script(seed: int, count: int, kinds: Sequence[str]) -> list[str]:
    """Which faults, in which order: each kind as often as any other, or once more.

    >>> script(1, 3, ["kill", "pause"]).count("kill") in (1, 2)
    True
    """
    rng = Random(f"faults {seed}")
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(list(kinds), len(kinds))
    return found[:count]


class Faults:
    """Does faults to the workers, the broker and Redis; `done` says what was done."""

    def __init__(
        self, settings: Settings, stack: Stack, workers: Sequence[Worker], seed: int
    ) -> None:
        self.settings = settings
        self.topics = Topics(settings.topic_prefix)
        self.stack = stack
        self.workers = workers
        self.rng = Random(f"targets {seed}")
        self.done: list[InjectedFault] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def inject(self, kind: str) -> None:
        """Do one; returns once it is done, while a pause or a restart may still be under way."""
        match kind:
            case "kill" | "kill-sending" | "kill-writing" | "snapshot-lost" | "snapshot-cut":
                await self._kill(kind)
            case "pause" | "long-pause":
                worker = await self._victim()
                session = self.settings.session_timeout_seconds
                low, high = (0.15, 0.6) if kind == "pause" else (1.2, 1.6)
                worker.pause()
                self._note(kind, f"worker {worker.number}")
                self._later(self.rng.uniform(low, high) * session, worker.resume)
            case "stop":
                worker = await self._victim()
                worker.stop()
                self._note(kind, f"worker {worker.number}")
                self._task(self._start_again(worker))
            case "join-leave":
                await self._join_or_leave(kind)
            case "broker" | "broker-down":
                self.stack.kafka.kill()
                self._note(kind)
                await asyncio.sleep(self.rng.uniform(*((0, 1) if kind == "broker" else (5, 10))))
                self._start(self.stack.kafka)
            case "redis-flush" | "redis-down":
                await self._redis(kind)
            case "record-again" | "record-astray":
                await self._record(kind)
            case _:
                await self._decision(kind)

    async def settle(self) -> None:
        """Let pauses and restarts under way come to their end."""
        if self.tasks:
            await asyncio.wait(self.tasks)

    def _start(self, server: Server) -> None:
        """Start a server again; on a busy machine it may take more than one try."""
        for left in range(4, -1, -1):
            try:
                return server.start()
            except StackError:
                if not left:
                    raise

    def _note(self, kind: str, says: str = "") -> None:
        self.done.append(InjectedFault(kind, time.time_ns() // 1_000_000, says))

    def _task(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            what()

        self._task(wait())

    async def _start_again(self, worker: Worker) -> None:
        while not worker.reap():
            await asyncio.sleep(0.1)
        worker.start()

    async def _victim(self) -> Worker:
        """A worker that has partitions; after a while, any that runs."""
        deadline = time.monotonic() + 20
        while True:
            order = self.rng.sample(self.workers, len(self.workers))
            for worker in order:
                late = time.monotonic() > deadline
                if worker.busy and (late or await asyncio.to_thread(worker.partitions)):
                    return worker
            await asyncio.sleep(0.2)

    async def _kill(self, kind: str) -> None:
        worker = await self._victim()
        says = f"worker {worker.number}"
        if kind == "kill-sending":
            await self._sends(worker)
        elif kind == "kill-writing":
            await self._writes(worker)
        else:
            await asyncio.sleep(self.rng.uniform(0, 0.5))
        worker.kill()
        if worker.parts():
            says += ", half of a snapshot left"
        if kind.startswith("snapshot") and (found := worker.snapshots()):
            newest = found[-1]
            says += f", {newest.name}"
            if kind == "snapshot-lost":
                newest.unlink()
            else:
                with newest.open("r+b") as file:
                    file.truncate(self.rng.randrange(newest.stat().st_size))
        self._note(kind, says)
        self._later(self.rng.uniform(0, 2), worker.start)

    async def _sends(self, worker: Worker) -> None:
        """Wait, three seconds at most, until a ranking of the worker's was just published."""
        numbers = await asyncio.to_thread(worker.partitions)
        partitions = [TopicPartition(self.topics.rankings, n) for n in numbers]
        if not partitions:  # it has just lost them: it publishes nothing
            return
        deadline = time.monotonic() + 3
        async with raw_consumer(self.settings) as reader:
            before = await reader.end_offsets(partitions)
            while time.monotonic() < deadline:
                if await reader.end_offsets(partitions) != before:
                    return

    async def _writes(self, worker: Worker) -> None:
        """Wait until the worker writes a snapshot, or has just done so."""
        before = worker.snapshots()
        deadline = time.monotonic() + self.settings.snapshot_seconds + 3
        old = set(worker.parts())
        while time.monotonic() < deadline:
            if set(worker.parts()) - old or worker.snapshots() != before:
                return
            await asyncio.sleep(0.002)

    async def _join_or_leave(self, kind: str) -> None:
        away = [worker for worker in self.workers if not worker.wanted and worker.reap()]
        busy = [worker for worker in self.workers if worker.busy]
        if len(busy) > 1 and (not away or self.rng.random() < 0.5):
            worker = self.rng.choice(busy)
            worker.stop()
            self._note(kind, f"worker {worker.number} leaves")
        elif away:
            worker = self.rng.choice(away)
            worker.start()
            self._note(kind, f"worker {worker.number} joins")

    async def _redis(self, kind: str) -> None:
        if self.stack.redis is None:
            return
        if kind == "redis-flush":
            with redis.from_url(self.stack.redis_url) as client:
                client.flushall()
            self._note(kind)
            return
        self.stack.redis.kill()
        self._note(kind)
        await asyncio.sleep(self.rng.uniform(1, 4))
        self._start(self.stack.redis)

    async def _record(self, kind: str) -> None:
        found = await tail(self.settings, TopicPartition(self.topics.feedback, 0))
        records = [decode_feedback(message.value or b"") for message in found]
        learned = [one for one in records if isinstance(one, Interaction | Outcome)]
        if not learned:
            return
        record = self.rng.choice(learned)
        if kind == "record-astray":
            where = record.source
            source = Source(where.partition, where.offset + 1000, 0)
            record = replace(record, id=f"astray:{record.id}", source=source, prev="0" * 16)
        value = encode(record)
        await publish_raw(self.settings, [(self.topics.feedback, value, None, 0)])
        self._note(kind)

    async def _decision(self, kind: str) -> None:
        numbers = list(range(self.settings.partitions))
        for number in self.rng.sample(numbers, len(numbers)):
            rankings = TopicPartition(self.topics.rankings, number)
            decisions = [
                decode_decision(m.value or b"") for m in await tail(self.settings, rankings)
            ]
            whole = [d for d in decisions if len(d.slots) > 1 and d.policy != FORGED]
            if whole:
                forged = [
                    (rankings.topic, encode(_second(one)), one.user.encode(), number)
                    for one in whole[-10:]
                ]
                await publish_raw(self.settings, forged)
                self._note(kind, f"{len(forged)} in partition {number}")
                return


def _second(decision: Decision) -> Decision:
    """Another answer, as a worker that slept would give it: other items, in another order."""
    return replace(decision, policy=FORGED, slots=decision.slots[:0:-1])
