"""One torture, while it lasts: workers under load and faults, until all is quiet again."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from msgspec import Struct

from models.events import encode
from stream.kafka.consumer import committed_consumer
from stream.kafka.topics import Topics, create
from stream.local.process import StackError
from stream.local.stack import Stack
from stream.settings import Settings
from stream.torture.faults import Faults, InjectedFault, script
from stream.torture.kafka_tools import publish_raw
from stream.torture.producer import LoadProducer
from stream.torture.workers import Worker
from stream.torture.workload import SimulatedUsers, closing, load_messages

READY_SECONDS = 120.0
CHANGE_SECONDS = 1.0  # between two changes of the catalogue
Told = Callable[[str, int], None]  # what is done, and how many


class TorturePlan(Struct, frozen=True, kw_only=True):
    """How long and how hard; `interval` is the least time between two faults, in seconds."""

    seed: int
    events: int
    faults: int
    workers: int
    kinds: tuple[str, ...]
    interval: float
    minutes: float
    patience: float = 180.0  # seconds until workers that do not settle are given up


class WorkerReport(Struct, frozen=True):
    """What a worker said of itself at the end."""

    worker: int
    version: int
    digest: str
    learned: dict[str, int]


class RunRecord(Struct, frozen=True, kw_only=True):
    """What was done, and whether the workers came to rest after it."""

    injected: tuple[InjectedFault, ...]
    sent: int
    sent_again: int
    ways: dict[str, int]  # chunks sent in each way
    aborted: int  # messages of aborted transactions: nothing may come of them
    catalogue_changes: int  # items deleted by a null value, and published again
    seconds: float
    over: int  # when the load ended, in milliseconds
    settled: bool
    said: tuple[WorkerReport, ...]


class TortureRun:
    """A plan carried out against a running stack, by its workers."""

    def __init__(
        self,
        plan: TorturePlan,
        settings: Settings,
        stack: Stack,
        workers: Sequence[Worker],
        people: SimulatedUsers,
        producer: LoadProducer,
        told: Told,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.topics = Topics(settings.topic_prefix)
        self.workers = workers
        self.people = people
        self.producer = producer
        self.told = told
        self.faults = Faults(settings, stack, workers, plan.seed)
        self.lag = 0
        self.changes = 0
        self.begun = 0  # faults
        self.since = 0.0  # the last one
        self.until = float("inf")

    async def __call__(self) -> RunRecord:
        """Do it all, and come to rest. Raises what ended it before."""
        try:
            return await self._live()
        except* (KafkaError, OSError, StackError) as errors:
            raise errors.exceptions[0] from None

    async def _live(self) -> RunRecord:
        began = time.monotonic()
        self.until = began + 60 * self.plan.minutes
        await self._prepare()
        try:
            async with asyncio.TaskGroup() as group:  # one that fails ends all
                watch = group.create_task(self._watch())
                changes = group.create_task(self._change_catalogue())
                faults = group.create_task(self._faults())
                await self.producer.send(load_messages(self.people), self._allowed)
                await faults
                over = time.time_ns() // 1_000_000
                changes.cancel()
                await self.faults.settle()
                self._all_run()
                # Not in a transaction: its mark would lie behind all that is ever committed.
                await self.producer.all(closing(self.people, self.plan.events), "plain")
                settled, said = await self._settled()
                watch.cancel()
        finally:
            await self.producer.close()
        return RunRecord(
            injected=tuple(self.faults.done),
            sent=self.producer.sent,
            sent_again=self.producer.again,
            ways=dict(self.producer.ways),
            aborted=self.producer.aborted,
            catalogue_changes=self.changes,
            seconds=time.monotonic() - began,
            over=over,
            settled=settled,
            said=said,
        )

    async def _prepare(self) -> None:
        """Topics, workers, and a catalogue that all of them know."""
        await create(self.settings)
        for worker in self.workers[: self.plan.workers]:
            worker.start()
        items = self.people.stock()
        await publish_raw(
            self.settings, [(self.topics.items, encode(i), i.id.encode(), 0) for i in items]
        )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            says = await self._status()
            known = [one.get("embeddings", 0) >= len(items) for one in says]
            if len(says) == self.plan.workers and all(known) and self._ready(says):
                return
            await asyncio.sleep(0.2)
        words = "\n".join(worker.words() for worker in self.workers[: self.plan.workers])
        raise TimeoutError(f"the workers were not ready in {READY_SECONDS:.0f} s:\n{words}")

    async def _change_catalogue(self) -> None:
        """Delete an item by a null value, and publish the one before it again; now and then."""
        items = self.people.stock()
        for n in count():
            await asyncio.sleep(CHANGE_SECONDS)
            gone, back = items[n % len(items)], items[(n - 1) % len(items)]
            changes = [(gone, None), (back, encode(back))]
            with suppress(KafkaError):
                await publish_raw(
                    self.settings,
                    [(self.topics.items, value, one.id.encode(), 0) for one, value in changes],
                )
                self.changes += len(changes)

    def _allowed(self) -> int:
        """How many events may be sent by now: up to the next fault, if the workers keep up.

        So there is always load around a fault, and never more than the workers can take.
        """
        part = self.plan.events / (self.plan.faults + 1)
        if time.monotonic() > self.until or self.producer.sent >= self.plan.events:
            return -1
        if self.lag > max(2_000, 4 * part):
            return 0
        share = (time.monotonic() - self.since) / self.plan.interval if self.plan.interval else 1
        return min(self.plan.events, int(part * (self.begun + min(1.0, share))) + 1)

    async def _faults(self) -> None:
        plan = self.plan
        self.since = time.monotonic()
        for n, kind in enumerate(script(plan.seed, plan.faults, plan.kinds), 1):
            while self.producer.sent < plan.events * n / (plan.faults + 1):
                if time.monotonic() > self.until:
                    return
                await asyncio.sleep(0.05)
            self.begun, self.since = n, time.monotonic()
            await self.faults.inject(kind)
            self.told("faults", len(self.faults.done))

    async def _watch(self) -> None:
        """Now and then: how far the workers are behind, and whether one ended by itself."""
        while True:
            await asyncio.sleep(0.5)
            self.told("events", self.producer.sent)
            for worker in self.workers:
                if worker.look():
                    worker.start()
            try:
                self.lag = await self._behind(self.producer.ends)
            except KafkaError:
                continue

    async def _behind(self, ends: dict[int, int]) -> int:
        admin = AIOKafkaAdminClient(**self.settings.aiokafka_options())
        try:
            await admin.start()
            done = await admin.list_consumer_group_offsets(f"{self.settings.group}-partitions")
        finally:
            await admin.close()
        events = self.topics.events
        at = {tp.partition: max(0, o.offset) for tp, o in done.items() if tp.topic == events}
        return sum(max(0, end - at.get(partition, 0)) for partition, end in ends.items())

    def _all_run(self) -> None:
        for worker in self.workers:
            worker.resume()
        missing = self.plan.workers - sum(worker.runs for worker in self.workers)
        for worker in [one for one in self.workers if not one.runs and one.reap()][
            : max(0, missing)
        ]:
            worker.start()

    async def _status(self, digest: bool = False) -> list[dict[str, Any]]:
        running = [worker for worker in self.workers if worker.wanted]
        return list(await asyncio.gather(*(asyncio.to_thread(w.status, digest) for w in running)))

    def _ready(self, says: list[dict[str, Any]]) -> bool:
        partitions = [state for one in says for state in one.get("partitions", {}).values()]
        return len(partitions) == self.settings.partitions and all(
            state["ready"] for state in partitions
        )

    async def _settled(self) -> tuple[bool, tuple[WorkerReport, ...]]:
        """Wait until every event is committed and every worker has learned all of feedback."""
        deadline = time.monotonic() + self.plan.patience
        said: tuple[WorkerReport, ...] = ()
        while time.monotonic() < deadline:
            try:
                ends, end = await self._ends()
                behind = await self._behind(ends)
            except KafkaError:
                await asyncio.sleep(0.5)
                continue
            self.told("behind", behind)
            says = await self._status()
            if not behind and self._ready(says) and {one.get("model") for one in says} == {end}:
                said = await self._digests()
                if {one.version for one in said} == {end} and (await self._ends())[0] == ends:
                    return True, said
            await asyncio.sleep(0.3)
        return False, said or await self._digests()

    async def _digests(self) -> tuple[WorkerReport, ...]:
        numbers = [worker.number for worker in self.workers if worker.wanted]
        says = await self._status(digest=True)
        return tuple(
            WorkerReport(
                number, one.get("model", -1), one.get("digest", ""), one.get("learned", {})
            )
            for number, one in zip(numbers, says, strict=True)
        )

    async def _ends(self) -> tuple[dict[int, int], int]:
        """The ends of the events' partitions, and of feedback."""
        events = [TopicPartition(self.topics.events, n) for n in range(self.settings.partitions)]
        feedback = TopicPartition(self.topics.feedback, 0)
        reader = committed_consumer(self.settings, group_id=None)
        await reader.start()
        try:
            ends = await reader.end_offsets([*events, feedback])
        finally:
            await reader.stop()
        return {tp.partition: ends[tp] for tp in events}, ends[feedback]
