"""What is looked at to know whether a worker answers requests, and its metrics."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import Metric

from stream.kafka.health import BrokerMonitor
from stream.worker.engine import Engine
from stream.worker.prometheus import gauge
from stream.worker.readiness import LagClock


class WorkerChecks:
    """The checks of one worker, in its `engine.readiness`; look now and then, for the lag.

    `collect` gives the metrics that alarms hang on: all are there from the start.
    """

    def __init__(self, engine: Engine, monitor: BrokerMonitor) -> None:
        self._engine, self._monitor = engine, monitor
        self._clocks: dict[str, LagClock] = {}
        self._behind: dict[str, float] = {}  # seconds, of what is behind
        role, ready = engine.role, engine.readiness
        ready.add("kafka_away", self._kafka)
        if role.folds or role.ranks:
            ready.add("catching_up", self._catching_up)
            ready.add("standing_by", engine.standing_by)
            ready.add("lagging", self._lagging)
        if role.ranks:
            ready.add("joining", self._joining)
            ready.add("restoring", self._restoring)
            ready.add("no_items", self._no_items)
            ready.add_note("idle", self._idle)
            ready.add_note("redis", self._redis)
        if role.embeds:
            ready.add_note("embedder", self._embedder)
        if role.folds:
            ready.add_note("snapshots", self._snapshots)

    def page(self) -> dict[str, Any]:
        """For `/readyz`, and with it for `/status`."""
        reasons = self._engine.readiness.reasons()
        return {"ready": not reasons, "reasons": reasons, "notes": self._engine.readiness.notes()}

    def facts(self) -> dict[str, Any]:
        """What the line says that says ready."""
        engine = self._engine
        return {
            "partitions": sorted(engine.partitions.assigned),
            "items": engine.parts.catalogue.size,
            "version": engine.parts.learner.version,
            "encoder": engine.encoder.version,
        }

    def look(self, now: float) -> None:
        """Sample the ends of logs, to know for how long each is behind; say what is due."""
        ends = self._engine.ends()
        self._clocks = {name: self._clocks.get(name) or LagClock() for name in ends}
        found = {name: self._clocks[name](now, *where) for name, where in ends.items()}
        self._behind = {name: seconds for name, seconds in found.items() if seconds}
        for letters in (self._engine.partitions.dead_letters, self._engine.embedded.letters):
            letters.say(now)

    def describe(self) -> Iterable[Metric]:
        """Nothing: see `MetricsCollector`."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Whether it is ready, and what else an alarm should tell."""
        engine = self._engine
        reasons = engine.readiness.reasons()
        yield gauge("ready", "1 if this worker is ready, else 0.", (), [(int(not reasons),)])
        each = ((name, int(name in reasons)) for name in engine.readiness.names)
        yield gauge("not_ready", "1 for each reason why not.", ("reason",), each)
        answers = int(self._monitor.status()["answers"])
        yield gauge("kafka_up", "1 if Kafka answered when last asked.", (), [(answers,)])
        if engine.role.folds or engine.role.ranks:
            force = int(not engine.stands_by)
            says = "1 if this worker's learning configuration decides; 0: it stands by."
            yield gauge("in_force", says, (), [(force,)])
        if engine.settings.redis_url:
            up = int(engine.rankings.where == "answers")
            yield gauge("redis_up", "1 if Redis answered when last asked.", (), [(up,)])
        if engine.role.ranks:
            held = engine.parts.catalogue
            without = held.size - int(held.active.sum())
            says = "Items that have no vector of this worker's text model, yet or for good."
            yield gauge("items_without_vector", says, (), [(without,)])
        if engine.role.embeds:
            busy = engine.embedded.busy_seconds(time.monotonic())
            says = "Since when the text model has had its present batch; 0: it has none."
            yield gauge("embedder_busy_seconds", says, (), [(busy,)])
        behind = ((name, self._behind.get(name, 0.0)) for name in sorted(engine.ends()))
        yield gauge("log_behind_seconds", "For how long a log was ahead.", ("log",), behind)

    def _kafka(self) -> str | None:
        found = self._monitor.status()
        if found["answers"]:
            return None
        return f"Kafka ({self._engine.settings.brokers}) is away for {found['away_seconds']:.0f} s"

    def _catching_up(self) -> str | None:
        if self._engine.caught_up:
            return None
        logs = self._engine.progress().items()
        left = ", ".join(f"{name} {one.lag:,} records" for name, one in logs)
        return f"reading what is known so far; still to read: {left}"

    def _joining(self) -> str | None:
        engine = self._engine
        if not engine.caught_up or engine.stands_by or engine.partitions.joined:
            return None
        return f"waiting for the group {engine.settings.group}-partitions to share its partitions"

    def _restoring(self) -> str | None:
        now, assigned = time.monotonic(), self._engine.partitions.assigned.values()
        left = [f"{one.number} for {now - one.began:.0f} s" for one in assigned if not one.ready]
        return f"restoring the open decisions of partitions {', '.join(left)}" if left else None

    def _lagging(self) -> str | None:
        most = self._engine.settings.ready_lag_seconds
        late = {name: s for name, s in self._behind.items() if s > most and name != "model"}
        if not late or not self._engine.caught_up:
            return None
        each = ", ".join(f"{name} by {seconds:.0f} s" for name, seconds in sorted(late.items()))
        return (
            f"behind by more than ready_lag_seconds ({most:g}): {each}; of events, add workers; "
            "of one partition or topic alone, a producer may keep a transaction open"
        )

    def _no_items(self) -> str | None:
        if not self._engine.caught_up or self._engine.parts.catalogue.size:
            return None
        return (
            f"{self._engine.topics.items} has no item to recommend; `rankloop publish items.jsonl`"
        )

    def _idle(self) -> str | None:
        partitions, settings = self._engine.partitions, self._engine.settings
        if not partitions.joined or partitions.assigned:
            return None
        return (
            f"no partition is assigned to this worker: there are {settings.partitions}, and other "
            "workers have them; it takes over when one of these stops"
        )

    def _redis(self) -> str | None:
        if self._engine.rankings.where != "away":
            return None
        return "Redis does not answer: readers of latest rankings see old ones; Kafka has them all"

    def _embedder(self) -> str | None:
        busy = self._engine.embedded.busy_seconds(time.monotonic())
        if busy <= self._engine.settings.ready_lag_seconds:
            return None
        return f"one batch of items has been with the text model for {busy:.0f} s; others wait"

    def _snapshots(self) -> str | None:
        error = self._engine.snapshotter.error
        return error and f"the last snapshot was not written ({error}): a restart reads more"
