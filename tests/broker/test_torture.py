"""`rankloop torture` finds nothing in sound workers, and finds what each broken one does."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from models.events import Click, Request, Tick, decode_decision, encode
from stream.settings import Settings
from stream.torture.checker.check import check
from stream.torture.command import run_torture
from stream.torture.faults import Faults
from stream.torture.harness import TorturePlan
from stream.torture.producer import WAYS
from tests.conftest import Kafka
from tests.support.broken_worker import ASLEEP, SAFEGUARDS
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import ROOT, eventually

pytestmark = pytest.mark.kafka

# One after the other, on a machine with two cores: the kinds that hurt most.
KINDS_IN_CI = (
    "kill",
    "kill-sending",
    "snapshot-cut",
    "long-pause",
    "stop",
    "broker",
    "redis-flush",
    "record-again",
    "record-astray",
    "decision-again",
)
slow = pytest.mark.skipif(
    not os.environ.get("RANKLOOP_TEST_SLOW"), reason="half a minute each: make torture-check"
)
QUICK = TorturePlan(
    seed=7, events=1_500, faults=3, workers=2, kinds=(), interval=2, minutes=10, patience=60
)
Tortured = Callable[[TorturePlan, str], dict[str, Any]]


@pytest.fixture
def tortured(
    kafka_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[TorturePlan, str], dict[str, Any]]:
    """What comes of a plan with workers that lack a safeguard."""

    def run(plan: TorturePlan, safeguard: str = "nothing") -> dict[str, Any]:
        broken = [sys.executable, str(ROOT / "tests" / "support" / "broken_worker.py"), safeguard]
        monkeypatch.setenv("RANKLOOP_TEST_WORKER", shlex.join(broken))
        out = tmp_path / "found.json"
        kept = run_torture(Settings(kafka_home=str(kafka_home)), plan, tmp_path / "torture", out)
        found = json.loads(out.read_text())
        assert found["ok"] == kept == (not found["broken"])
        return found

    return run


@pytest.mark.parametrize("safeguard", [one.__name__ for one in SAFEGUARDS])
def test_a_safeguard_is_still_there_to_be_taken_away(safeguard: str) -> None:
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "broken_worker.py"),
        safeguard,
        "--version",
    ]
    assert subprocess.run(command, capture_output=True, cwd=ROOT, check=True).stdout


class DrainingWorker:
    """A worker that has lost its partitions when it is asked a second time."""

    number, busy = 1, True

    def __init__(self) -> None:
        self.owns = [[0], list[int]()]
        self.killed = 0

    def partitions(self) -> list[int]:
        return self.owns.pop(0)

    def parts(self) -> list[Path]:
        return []

    def kill(self) -> None:
        self.killed += 1

    def start(self) -> None:
        return None


def test_a_worker_that_has_just_lost_its_partitions_is_killed_all_the_same(kafka: Kafka) -> None:
    worker = DrainingWorker()

    async def fault() -> None:
        workers = [worker]
        faults = Faults(Settings(brokers=kafka.brokers), None, workers, 1)  # pyright: ignore[reportArgumentType]
        await faults.inject("kill-sending")
        await faults.settle()

    asyncio.run(fault())
    assert worker.killed == 1


def test_ten_faults_lose_nothing_and_teach_nothing_twice(tortured: Tortured) -> None:
    plan = replace(QUICK, events=10_000, faults=10, workers=3, kinds=KINDS_IN_CI, interval=3)
    found = tortured(replace(plan, patience=120), "nothing")
    assert found["broken"] == []
    assert found["injected"] == dict(Counter(KINDS_IN_CI))
    assert found["findings"]["events"] > 10_000
    assert set(found["lived"]["ways"]) == set(WAYS)
    assert found["lived"]["aborted"] > 100
    assert found["lived"]["catalogue_changes"] > 10
    fates = found["findings"]["fates"]
    assert all(fates[f] > 50 for f in ("attributed", "duplicate", "late", "orphan", "too_late"))


@slow
def test_a_record_known_by_its_chain_alone_is_counted_as_a_hole(tortured: Tortured) -> None:
    """Without the source check nothing is learned twice: the chain refuses what came before, too.

    But a worker takes a repeat for a hole then, and its owner starts again from the commit at each.
    """
    found = tortured(replace(QUICK, kinds=("record-again",)), "source")
    assert found["broken"] == ["all workers count alike"]
    assert found["findings"]["verdicts"]["duplicate"] >= 3


@slow
def test_a_record_that_follows_none_costs_what_comes_after_it(tortured: Tortured) -> None:
    found = tortured(replace(QUICK, kinds=("record-astray",)), "chain")
    assert "no event is lost" in found["broken"]
    assert "all digests are that of the uninterrupted fold" in found["broken"]


def test_a_second_ranking_that_counts_is_learned_from(tortured: Tortured) -> None:
    found = tortured(replace(QUICK, kinds=("decision-again",)), "first")
    assert "what is learned is what events imply" in found["broken"]


@slow
def test_a_partition_that_is_not_restored_forgets_what_was_open(tortured: Tortured) -> None:
    found = tortured(replace(QUICK, kinds=("kill",)), "restore")
    assert "no event is lost" in found["broken"]


@slow
def test_a_ranking_that_does_not_wait_does_not_know_its_users_click(tortured: Tortured) -> None:
    found = tortured(replace(QUICK, workers=1, faults=0), "awaiting")
    assert found["broken"] == ["rankings know their user's events"]


@pytest.mark.parametrize(("safeguard", "answers"), [("nothing", 1), ("lease", 2)])
def test_who_sleeps_through_a_rebalance_answers_again_only_without_a_lease(
    safeguard: str, answers: int, apache_kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    """The lease is hygiene: without it a second answer goes out, late, and the first one counts."""
    script = str(ROOT / "tests" / "support" / "broken_worker.py")
    with Deployment(apache_kafka.brokers, topic_prefix, tmp_path, partitions=1) as deployment:
        sleeper = deployment.worker([sys.executable, script, safeguard])
        eventually(lambda: sleeper.owns(1), "a worker owns the partition")
        deployment.stock(10)
        at = now() - 100_000_000
        deployment.publish(Request(id=ASLEEP, user="ann", at=at))
        eventually(lambda: sleeper.asleep, "the owner sleeps")
        other = deployment.worker()
        deployment.decision(ASLEEP)  # by the other one
        eventually(lambda: other.owns(1), "the other one owns the partition")
        sleeper.wake()
        if safeguard == "lease":
            eventually(lambda: answered(deployment) == answers, "the sleeper answers, too")
        else:
            eventually(lambda: "batch abandoned" in sleeper.words(), "the sleeper lets go")
        deployment.publish(Click(id="c", user="ann", item="item:1", at=at + 1, request=ASLEEP))
        for _ in range(2):
            deployment.send(encode(Tick(at=at + 50_000_000)), partition=0)
        eventually(lambda: len(deployment.records()) >= 2, "the ranking is closed")
        assert answered(deployment) == answers
        (tmp_path / "book").touch()
        found = check(deployment.settings, tmp_path / "book")
        assert found.answered_twice == answers - 1
        assert found.ok, found


def answered(deployment: Deployment) -> int:
    """How many rankings were published for the request at which a worker fell asleep."""
    messages = deployment.read(deployment.topics.rankings)
    return sum(decode_decision(message.value or b"").id == ASLEEP for message in messages)
