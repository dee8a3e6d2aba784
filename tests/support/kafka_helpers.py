"""A rankloop of its own on the tests' broker: workers as processes, topics as lists."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from msgspec import Struct

from agents.learner import Learner
from models.events import Decision, Interaction, Item, Message, Outcome, decode_decision, encode
from models.events import decode_record as record_of
from stream import build
from stream.datasets.publish import producer_record
from stream.kafka.topics import Topics, create
from stream.settings import Settings
from tests.support.kafka_worker import PATIENCE, ROOT, Worker, eventually

PUBLISHING: dict[str, Any] = {
    "max_request_size": 4 << 20,
    "linger_ms": 2,
    "max_batch_size": 1 << 18,
}


class Letter(Struct, frozen=True):
    """A dead letter: where the message came from, why it was refused, and its bytes."""

    topic: str
    partition: int
    offset: int
    reason: str
    value: bytes


class Deployment:
    """Topics under a prefix of their own, a producer, a reader of everything, and workers.

    Settings are those of a small, quick rankloop; keywords change them. Leaving stops all workers.
    """

    def __init__(self, brokers: str, prefix: str, folder: Path, **settings: object) -> None:
        chosen: dict[str, object] = {
            "group": prefix,
            "topic_prefix": prefix,
            "brokers": brokers,
            "encoder": "hash",
            "session_timeout_seconds": 6,
            "read_your_writes_seconds": 1,
        } | settings
        ours = {f"RANKLOOP_{name.upper()}": str(value) for name, value in chosen.items()}
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("RANKLOOP_")} | ours
        self.settings = Settings.load(ours)
        self.topics = Topics(prefix)
        self.folder = folder
        self.workers: list[Worker] = []
        self._runner = asyncio.Runner()
        self._read: dict[TopicPartition, list[ConsumerRecord]] = {}

    def __enter__(self) -> Self:
        self._runner.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        self._runner.run(self._close())
        self._runner.close()

    async def _open(self) -> None:
        await create(self.settings)
        options = self.settings.aiokafka_options()
        self._producer = AIOKafkaProducer(**options, **PUBLISHING)
        self._consumer = AIOKafkaConsumer(
            **options, auto_offset_reset="none", enable_auto_commit=False, fetch_max_wait_ms=20
        )
        await self._producer.start()
        await self._consumer.start()
        shapes = self.topics.shapes(self.settings.partitions)
        self._read = {TopicPartition(t, p): [] for t in shapes for p in range(shapes[t][0])}
        self._consumer.assign(list(self._read))
        for partition in self._read:
            self._consumer.seek(partition, 0)

    async def _close(self) -> None:
        await self._producer.stop()
        await self._consumer.stop()

    def worker(
        self,
        command: Sequence[str] = (),
        data: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> Worker:
        """Start one more worker; it is not awaited."""
        worker = Worker(
            self.environ | {"PYTHONPATH": str(ROOT)}, self.folder, command, data, arguments
        )
        self.workers.append(worker)
        return worker

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`rankloop ARGUMENTS` with these settings, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "stream", *arguments],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ready(self, count: int = 1) -> list[Worker]:
        """Start workers and wait until they share the partitions evenly."""
        workers = [self.worker() for _ in range(count)]
        share = self.settings.partitions // count
        for worker in workers:
            eventually(lambda w=worker: w.owns(share), f"a worker owns {share} partitions")
        return workers

    def send(
        self, value: bytes | None, user: str = "ann", topic: str = "", partition: int | None = None
    ) -> tuple[int, int]:
        """Publish raw bytes to events, or `topic`; (partition, offset)."""
        return self.send_all([(value, user, topic, partition)])[0]

    def send_all(
        self, raw: Iterable[tuple[bytes | None, str, str, int | None]]
    ) -> list[tuple[int, int]]:
        """Publish (value, user, topic, partition) in order; where each came to lie."""

        async def sent() -> list[tuple[int, int]]:
            acks = [
                await self._producer.send(
                    topic or self.topics.events, value, key=user.encode(), partition=partition
                )
                for value, user, topic, partition in raw
            ]
            done = [await ack for ack in acks]
            return [(ack.partition, ack.offset) for ack in done]

        return self._runner.run(sent())

    def publish(self, *messages: Message) -> list[tuple[int, int]]:
        """Publish as a producer does: items to items, events to events by user."""
        out = [producer_record(self.settings, message) for message in messages]
        return self.send_all((o.value, (o.key or b"").decode(), o.topic, o.partition) for o in out)

    def stock(self, count: int = 40) -> None:
        """Publish items `item:0` ... and wait until the running workers have their vectors."""
        items = [Item(id=f"item:{n}", title=f"title {n}", tags=("t",), at=n) for n in range(count)]
        self.publish(*items)
        for worker in self.workers:
            eventually(
                lambda w=worker: w.status().get("embeddings", 0) >= count, "items are embedded"
            )

    def read(self, topic: str) -> list[ConsumerRecord]:
        """All messages of a topic up to now, in order within each partition."""
        self._runner.run(self._catch_up(topic))
        return [message for tp in self._read if tp.topic == topic for message in self._read[tp]]

    async def _catch_up(self, topic: str) -> None:
        ends = await self._consumer.end_offsets([tp for tp in self._read if tp.topic == topic])
        deadline = time.monotonic() + PATIENCE
        for tp, end in ends.items():
            while await self._consumer.position(tp) < end:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{tp} was not read up to {end}")
                for batch in (await self._consumer.getmany(tp, timeout_ms=200)).values():
                    self._read[tp] += batch

    def decisions(self) -> dict[str, Decision]:
        """The effective decision of each id: the first one in its partition."""
        found: dict[str, Decision] = {}
        for message in self.read(self.topics.rankings):
            try:
                decision = decode_decision(message.value or b"")
            except ValueError:
                continue
            found.setdefault(decision.id, decision)
        return found

    def decision(self, id: str) -> Decision:
        """The decision for an id, awaited."""
        return eventually(lambda: self.decisions().get(id), f"a decision for {id}")

    def records(self) -> list[Interaction | Outcome]:
        """What feedback holds, garbage left out."""
        found: list[Interaction | Outcome] = []
        for message in self.read(self.topics.feedback):
            try:
                found.append(record_of(message.value or b""))
            except ValueError:
                continue
        return found

    def outcomes(self, id: str) -> list[Outcome]:
        return [r for r in self.records() if isinstance(r, Outcome) and r.id == id]

    def letters(self) -> list[Letter]:
        """All dead letters."""
        found: list[Letter] = []
        for message in self.read(self.topics.deadletters):
            says = {name: value.decode() for name, value in message.headers}
            where = says["topic"], int(says["partition"]), int(says["offset"])
            found.append(Letter(*where, says["reason"], message.value or b""))
        return found

    def letter(self, topic: str, partition: int, offset: int) -> Letter:
        """The dead letter for a message, awaited."""

        def found() -> Letter | None:
            where = (topic, partition, offset)
            all_letters = self.letters()
            return next(
                (one for one in all_letters if (one.topic, one.partition, one.offset) == where),
                None,
            )

        return eventually(found, f"a dead letter for {topic}-{partition}@{offset}")

    def folded(self, version: int) -> Learner:
        """All feedback below `version`, folded anew in this process."""
        learner = build.parts(self.settings, build.encoder(self.settings)).learner
        for message in self.read(self.topics.feedback)[:version]:
            learner(message.offset, message.value or b"")
        return learner

    def agreed(self) -> tuple[int, str]:
        """(version, digest), once all running workers are at the end of feedback and agree."""
        workers = [worker for worker in self.workers if worker.runs]

        def same() -> tuple[int, str] | None:
            end = len(self.read(self.topics.feedback))
            says = [worker.status(digest=True) for worker in workers]
            said = {(one.get("model", -1), one.get("digest", "")) for one in says}
            [(version, digest), *others] = said
            return None if others or version != end else (version, digest)

        return eventually(same, "all workers agree at the end of feedback")

    def settled(self, closed: bool = False) -> None:
        """Wait until what is in events now is folded, answered and committed.

        `closed`: and so is what closed the last open decision.
        """
        known = self._committed()
        if closed:

            def done() -> bool:
                assigned = self._lives()
                return assigned.keys() >= known and not any(assigned[n]["open"] for n in known)

            eventually(done, "every decision is closed")
            self._committed()

    def _committed(self) -> set[int]:
        """Waits; the partitions that have events."""
        ends: dict[int, int] = {}
        for message in self.read(self.topics.events):
            ends[message.partition] = message.offset + 1

        def done() -> bool:
            assigned = self._lives()
            return all(n in assigned and assigned[n]["committed"] >= end for n, end in ends.items())

        eventually(done, "every event is committed")
        return set(ends)

    def _lives(self) -> dict[int, dict[str, Any]]:
        """What running workers say of the partitions they own."""
        return {n: owned for w in self.workers if w.runs for n, owned in w.partitions().items()}


def now() -> int:
    """This machine's time in milliseconds."""
    return time.time_ns() // 1_000_000


def body(message: Message, **changes: object) -> bytes:
    """A message as JSON with fields changed, or, with None, left out: for bad input."""
    fields = json.loads(encode(message)) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
