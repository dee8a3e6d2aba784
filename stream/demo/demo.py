"""The demo: a local stack, a worker, a customer, a user who clicks; then what was earned."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, structs
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.events import Embedding, Event, Item
from policies.evaluation.intervals import clustered
from stream.datasets.movielens import find_movielens, movielens_messages
from stream.datasets.simulated_news import news
from stream.datasets.topic_logs import KafkaLogs
from stream.demo.client import ClientStatistics, NoAnswerError, embed_through, serve
from stream.local.process import free_port
from stream.local.stack import Stack
from stream.offline.audit import audit_logs, report_lines
from stream.progress import progress
from stream.settings import Settings, others_environ
from stream.simulation.closed_loop import Run, run
from stream.simulation.environment import Environment, LogEnvironment, Messages
from stream.simulation.event_log import EventLog, pairs
from stream.simulation.experiment import POLICIES, label, side_by_side
from stream.simulation.news import NewsEnvironment
from stream.storage.vector_cache import EncoderIdentity

HORIZON = 10.0  # seconds of the log's time: a user clicks within 2.5 s
# Settings of the user's own cluster, of no use on the stack that the demo starts.
LEFT_OUT = ("group", "topic_prefix", "replication", "impressions", "snapshot_url")
LEFT_OUT += ("security_protocol", "sasl_username", "sasl_password", "redis_cafile")
LEFT_OUT += ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password")
console = Console(width=110)
PartitionStates = list[dict[str, Any]]  # what `/status` says of each


class DemoLogEnvironment(LogEnvironment, frozen=True):
    """A log whose whole catalogue is there from the start, as the demo publishes it."""

    def messages(self) -> Messages:
        yield from _stock(self.log.items, self.log.embeddings)
        rest = EventLog((), (), self.log.events, self.log.encoder)
        yield from LogEnvironment(rest, self.requests, self.k).messages()


class DemoNewsEnvironment(NewsEnvironment, frozen=True):
    """Simulated news, all of it there from the start."""

    def messages(self) -> Messages:
        yield from _stock(self.news.items, self.embeddings)
        for message in NewsEnvironment.messages(self):
            if not isinstance(message, Item | Embedding):
                yield message


def _stock(
    items: Sequence[Item], embeddings: Sequence[Embedding]
) -> Iterator[Item | Embedding | Event]:
    for pair in pairs(items, embeddings):
        yield from filter(None, pair)


class Scenario(Struct, frozen=True):
    """What the demo is played with: items, and the environment once their vectors are known."""

    says: str
    items: tuple[Item, ...]
    environment: Callable[[tuple[Embedding, ...], EncoderIdentity], Environment]


def scenario(settings: Settings, data: Path | None, requests: int, events: int) -> Scenario:
    """The film log where it can be found, else simulated news."""
    folder = find_movielens(data)
    if folder is None:
        found = news(n_items=1_000, n_users=200, seed=settings.seed)
        return Scenario(
            f"{len(found.items):,} simulated news: no MovieLens here, --data DIR says where it is",
            found.items,
            lambda vectors, text: DemoNewsEnvironment(
                found, vectors, text, requests, settings.seed
            ),
        )
    known = list(movielens_messages(folder, user_tags=0))  # tags are hindsight
    films = tuple(one for one in known if isinstance(one, Item))
    log = tuple(one for one in known if not isinstance(one, Item))[:events]
    return Scenario(
        f"{len(films):,} films and the first {len(log):,} ratings of {folder}",
        films,
        lambda vectors, text: DemoLogEnvironment(EventLog(films, vectors, log, text), requests),
    )


def run_demo(settings: Settings, data: Path | None, requests: int, events: int) -> bool:
    """Run all of it and print what was measured; whether the audit found everything the same."""
    began = time.monotonic()
    played_with = scenario(settings, data, requests, events)
    console.print(played_with.says, style="bold", highlight=False)
    with ExitStack() as running:
        bar = running.enter_context(progress(console))
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="rankloop-")))
        stack = running.enter_context(Stack(kafka_home=settings.kafka_home))
        settings = structs.replace(
            settings,
            **{name: getattr(Settings(), name) for name in LEFT_OUT},
            brokers=stack.brokers,
            redis_url=stack.redis_url,
            refresh_on_click=False,
            horizon_seconds=min(HORIZON, settings.horizon_seconds),
            data_dir=str(folder / "data"),
            log_level="WARNING",
        )
        console.print(f"{stack.describes}; texts by {settings.encoder_name}", highlight=False)
        with worker_process(settings, folder) as partitions:
            items = played_with.items
            told = _told(bar, "titles embedded", len(items))
            vectors = asyncio.run(embed_through(settings, items, told))
            if not vectors:
                raise NoAnswerError(f"{settings.encoder_name} reads none of the titles")
            text = EncoderIdentity(vectors[0].encoder, len(vectors[0].vector) // 2)
            environment = played_with.environment(vectors, text)
            told = _told(bar, "requests ranked through Kafka", requests)
            served = asyncio.run(
                serve(settings, environment.messages(), environment.click_model(), told)
            )
            until(lambda: {one["open"] for one in partitions()} == {0}, "horizons to close")
        report, _ = audit_logs(settings, KafkaLogs(settings), quiet=True)
    runs = [
        Run(settings=settings.alone(policy), environment=environment)
        for policy in POLICIES
        if policy != settings.policy
    ]
    others = side_by_side(run, runs, len(served.users) * len(runs), jobs=2)
    console.print(
        reward_table({one.policy: one.rewards for one in others}, served, settings.policy)
    )
    p50, p99 = np.percentile(served.millis, [50, 99])
    console.print(
        f"request to ranking as a customer reads it: p50 {p50:.1f} ms, p99 {p99:.1f} ms, asked one "
        f"by one; {served.events:,} events, {served.events / served.seconds:,.0f} a second",
        highlight=False,
    )
    for line in report_lines(report):
        console.print(f"audit: {line}", highlight=False)
    console.print(f"{time.monotonic() - began:.0f} s in all; everything is stopped")
    return report.ok


def reward_table(rewards: dict[str, list[float]], served: ClientStatistics, champion: str) -> Table:
    """What each policy earned on the same requests, and how much more the champion did."""
    best = np.array(served.rewards)
    made = Table(
        title=f"clicks a ranking, on the same {len(best):,} requests of "
        f"{len(set(served.users)):,} users",
        caption=f"intervals 95%, clustered by user; {champion} learned live in Kafka, the others "
        f"in memory; a ranking closes {HORIZON:g} s after its request",
    )
    for name in ("policy", "clicks a ranking", f"{champion} minus it"):
        made.add_column(name, justify="left" if name == "policy" else "right")
    for name, earned in rewards.items():
        row = np.array(earned)
        made.add_row(
            label(name), str(clustered(row, served.users)), str(clustered(best - row, served.users))
        )
    made.add_section()
    made.add_row(f"[bold]{champion}[/]", f"[bold]{clustered(best, served.users)}[/]", "")
    return made


def _told(bar: Progress, what: str, total: int) -> Callable[[int], None]:
    task = bar.add_task(what, total=total)
    return lambda count: bar.update(task, completed=count)


@contextmanager
def worker_process(settings: Settings, folder: Path) -> Iterator[Callable[[], PartitionStates]]:
    """`rankloop worker` in a process of its own, ready; gives what it says of its partitions.

    It is stopped by SIGTERM at the end. Raises NoAnswerError, with the end of its log, if it fails.
    """
    port = free_port()
    config, log = folder / "worker.toml", folder / "worker.log"
    config.write_text(structs.replace(settings, web_port=port).toml())
    command = [sys.executable, "-m", "stream", "--config", str(config), "worker"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=others_environ(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )

    def partitions() -> PartitionStates:
        if process.poll() is not None:
            raise NoAnswerError(f"the worker ended:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2) as page:
                return list(json.load(page)["partitions"].values())
        except OSError:
            return []

    try:
        until(
            lambda: sum(one["ready"] for one in partitions()) == settings.partitions, "the worker"
        )
        yield partitions
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition; raises NoAnswerError if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NoAnswerError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
