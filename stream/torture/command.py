"""`rankloop torture`: workers under a script of faults, and then: was anything lost?"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from rich.console import Console
from rich.progress import Progress

from stream.local.process import StackError
from stream.local.stack import Stack
from stream.progress import progress
from stream.settings import Settings, others_environ
from stream.storage.snapshots import open_snapshots
from stream.torture.checker.check import Findings, check, total
from stream.torture.checker.journal import Journal
from stream.torture.faults import FORGED, MOST_WORKERS
from stream.torture.harness import RunRecord, TorturePlan, TortureRun
from stream.torture.producer import LoadProducer
from stream.torture.report import PostMortem, TortureReport, print_report
from stream.torture.workers import ROOT, Worker, all_gone
from stream.torture.workload import EARLY, HORIZON, LATENESS, SimulatedUsers, begins

ITEMS, PARTITIONS = 300, 6


def chosen(settings: Settings, stack: Stack, seed: int) -> Settings:
    """The settings of the workers: small, quick and impatient; the rest are the defaults."""
    return Settings(
        group="torture",
        topic_prefix="torture",
        brokers=stack.brokers,
        redis_url=stack.redis_url,
        kafka_home=settings.kafka_home,
        partitions=PARTITIONS,
        encoder="hash",
        seed=seed,
        candidates=30,
        horizon_seconds=HORIZON / 1000,
        early_reward_seconds=EARLY / 1000,
        allowed_lateness_seconds=LATENESS / 1000,
        session_timeout_seconds=6,
        read_your_writes_seconds=1,
        snapshot_seconds=8,
    )


def run_torture(
    settings: Settings, plan: TorturePlan, folder: Path | None = None, out: Path | None = None
) -> bool:
    """Run the plan, check, print; whether every promise was kept.

    Everything lies in `folder`; without one, in a temporary folder that stays if a promise was
    broken.
    """
    if not settings.kafka_home:
        raise StackError(
            "a torture needs an Apache Kafka, whose groups rebalance: unpack a release from "
            "https://kafka.apache.org/downloads and set KAFKA_HOME to its folder"
        )
    console = Console(soft_wrap=True, highlight=False)
    where = folder or Path(tempfile.mkdtemp(prefix="rankloop-torture-"))
    kept = False
    try:
        verdict = _tortured(settings, plan, where, console)
        kept = verdict.ok
        print_report(console, verdict)
        if out is not None:
            out.write_text(json.dumps(verdict.as_json(), indent=2) + "\n")
        return kept
    finally:
        if kept and folder is None:
            shutil.rmtree(where, ignore_errors=True)
        else:
            console.print(f"logs, snapshots and Kafka's data are in {where}")


def _tortured(
    settings: Settings, plan: TorturePlan, folder: Path, console: Console
) -> TortureReport:
    with ExitStack() as running:
        bar = running.enter_context(progress(quiet=not sys.stderr.isatty()))
        stack = running.enter_context(Stack(kafka_home=settings.kafka_home, folder=folder))
        console.print(f"{stack.describes}; seed {plan.seed}")
        settings = chosen(settings, stack, plan.seed)
        workers = [Worker(settings, folder, n) for n in range(max(MOST_WORKERS, plan.workers))]
        running.callback(all_killed, workers)
        people = SimulatedUsers(
            seed=plan.seed,
            begin=begins(time.time_ns() // 1_000_000, plan.events),
            users=max(200, plan.events // 100),
            items=ITEMS,
            partitions=PARTITIONS,
        )
        book = folder / "acknowledged"
        lived = asyncio.run(_live(plan, settings, stack, workers, people, book, bar))
        all_gone(workers)
        return _checked(plan, settings, workers, lived, book, bar)


async def _live(
    plan: TorturePlan,
    settings: Settings,
    stack: Stack,
    workers: Sequence[Worker],
    people: SimulatedUsers,
    path: Path,
    bar: Progress,
) -> RunRecord:
    tasks = {"events": plan.events, "faults": plan.faults, "behind": None}
    rows = {name: bar.add_task(name, total=total) for name, total in tasks.items()}
    book = Journal(path)
    try:
        run = TortureRun(
            plan,
            settings,
            stack,
            workers,
            people,
            LoadProducer(settings, book, plan.seed),
            lambda name, done: bar.update(rows[name], completed=done),
        )
        return await run()
    finally:
        book.close()


def _checked(
    plan: TorturePlan,
    settings: Settings,
    workers: Sequence[Worker],
    lived: RunRecord,
    book: Path,
    bar: Progress,
) -> TortureReport:
    """All that is checked once the workers are gone: the logs, the fold, the snapshots, audit."""
    began = time.monotonic()
    config = book.with_name("check.toml")
    config.write_text(settings.toml())
    snapshots = _snapshots(workers, settings)
    task = bar.add_task("messages checked", total=total(settings))
    with ThreadPoolExecutor(2) as beside:
        versions = [str(version) for version, _ in snapshots]
        fold = beside.submit(
            _said, [sys.executable, "-m", "stream.torture.refold", str(config), *versions]
        )
        audit = beside.submit(
            _said, [sys.executable, "-m", "stream", "--config", str(config), "audit", "--json"]
        )
        faults = [(one.kind, one.at) for one in lived.injected]
        findings: Findings = check(
            settings, book, faults, lived.over, FORGED, lambda n: bar.update(task, completed=n)
        )
        fresh, audited = fold.result(), audit.result()
    return TortureReport(
        plan=plan,
        lived=lived,
        findings=findings,
        kept=PostMortem(
            fold=fresh,
            snapshots=snapshots,
            audit=audited,
            exits=[code for worker in workers for code in worker.exits],
            ended=[code for worker in workers for code in worker.ended],
            starts=sum(worker.starts for worker in workers),
        ),
        seconds=time.monotonic() - began,
    )


def _snapshots(workers: Sequence[Worker], settings: Settings) -> list[tuple[int, str]]:
    """(version, digest) of each worker's newest snapshot, read in full; -1 for a damaged one."""
    found: list[tuple[int, str]] = []
    for worker in workers:
        snapshots = open_snapshots(structs.replace(settings, data_dir=str(worker.data)))
        if versions := snapshots.versions():
            try:
                _, state = snapshots.read(versions[-1])
            except (OSError, ValueError) as error:
                found.append((-1, f"worker {worker.number}: {error}"))
            else:
                found.append((state.version, state.digest()))
    return found


def _said(command: list[str]) -> dict[str, Any]:
    """What a process of its own prints as JSON; its last words under "error" if it is none."""
    env = others_environ() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    try:
        return msgspec.json.decode(done.stdout)
    except msgspec.DecodeError:
        return {"error": (done.stdout + done.stderr)[-2000:]}


def all_killed(workers: Sequence[Worker]) -> None:
    """SIGKILL for whoever still runs."""
    for worker in workers:
        worker.kill()
