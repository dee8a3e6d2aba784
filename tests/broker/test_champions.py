"""Another champion, on a real broker: all workers switch at one record, and back."""

import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from models.events import Champion, Click, Item, Request, encode
from stream.cli.main import main
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import Worker, eventually


def run(loop: Deployment, *arguments: str) -> str:
    """What a command with the deployment's settings says."""
    done = loop.command(*arguments)
    return done.stdout + done.stderr


def asked(loop: Deployment, prefix: str, count: int = 12) -> None:
    """Requests of many users, all answered."""
    ids = [f"{prefix}{n}" for n in range(count)]
    loop.publish(*(Request(id=id, user=f"user{id}", at=now(), k=3) for id in ids))
    for id in ids:
        loop.decision(id)


def switched(workers: list[Worker], loop: Deployment, policy: str) -> int:
    """The offset of the last record that says so, once these workers have it."""
    for worker in workers:
        eventually(lambda w=worker: w.status().get("policy") == policy, f"{policy} decides")
    data = [m.value for m in loop.read(loop.topics.feedback)]
    says = f'"champion","policy":"{policy}"'.encode()
    return max(n for n, one in enumerate(data) if says in (one or b""))


@pytest.mark.kafka
def test_two_workers_switch_at_one_record_and_back(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {
        "partitions": 2,
        "policy": "popular",
        "challengers": "bandit,uniform",
        "exploration": "epsilon",
        "epsilon": 0.5,
        "horizon_seconds": 1,
        "idle_tick_seconds": 0.5,
    }
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **settings) as loop:
        one, other = loop.ready(2)
        loop.stock(8)
        asked(loop, "a")
        assert "one of popular, bandit, uniform" in run(loop, "champion", "promote", "nobody")
        assert "no champion before popular" in run(loop, "champion", "rollback")
        assert "on bandit decides; before, popular did" in run(
            loop, "champion", "promote", "bandit"
        )
        promoted = switched([one, other], loop, "bandit")
        repeat = encode(Champion(policy="bandit", expects="popular"))
        loop.send(repeat, topic=loop.topics.feedback, partition=0)
        assert "bandit is champion already" in run(loop, "champion", "promote", "bandit")
        asked(loop, "b")
        for worker in (one, other):
            eventually(lambda w=worker: w.status()["scoreboard"][0]["outcomes"] >= 12, "judged")
        said = run(loop, "champion", "show")
        assert "champion at version" in said
        assert ": bandit\n" in said
        assert all(name in said for name in ("popular", "uniform", "12"))
        with urllib.request.urlopen(f"http://127.0.0.1:{one.port}/metrics", timeout=20) as page:
            metrics = page.read().decode()
        assert 'rankloop_champion{policy="bandit"} 1.0' in metrics
        assert 'rankloop_policy_ahead{bound="low",policy="uniform"}' in metrics
        assert "on popular decides; before, bandit did" in run(loop, "champion", "rollback")
        back = switched([one, other], loop, "popular")
        asked(loop, "c")
        loop.settled(closed=True)
        decisions = [d for d in loop.decisions().values() if d.slots]
        assert len(decisions) == 36
        for decision in decisions:
            during = promoted < decision.model <= back
            assert decision.policy == ("bandit" if during else "popular")
            assert set(decision.weights) == {"popular", "bandit", "uniform"} - {decision.policy}
        version, digest = loop.agreed()
        assert loop.folded(version).digest() == digest
        assert one.status()["scoreboard"] == other.status()["scoreboard"]
        audited = run(loop, "audit")
        assert "36 of 36 rankings came out bit for bit the same" in audited


@pytest.mark.kafka
def test_a_worker_that_ranks_switches_with_the_snapshot_that_holds_the_record(
    apache_kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {
        "partitions": 2,
        "policy": "popular",
        "challengers": "bandit,uniform",
        "epsilon": 0.5,
        "horizon_seconds": 1,
        "idle_tick_seconds": 0.5,
        "snapshot_url": tmp_path / "common",
        "snapshot_seconds": 0.5,
        "snapshot_poll_seconds": 0.2,
    }
    with Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **settings) as loop:

        def started(role: str) -> Worker:
            loop.environ["RANKLOOP_ROLE"] = role
            return loop.worker()

        learn, rank = started("learn"), started("rank")
        started("embed")
        eventually(lambda: rank.owns(2), "it owns the partitions")
        items = [Item(id=f"item:{n}", title=f"title {n}", at=n) for n in range(8)]
        loop.publish(*items)
        eventually(lambda: rank.status()["embeddings"] >= 8, "items are embedded")
        switches: list[int] = []
        for n, says in enumerate((["promote", "bandit"], ["rollback"])):
            asked(loop, f"{n}-before")
            assert "decides; before" in run(loop, "champion", *says)
            policy = ("bandit", "popular")[n]
            switches.append(switched([learn, rank], loop, policy))
            if n == 0:
                assert rank.stop() == 0
                rank = started("rank")  # has the champion from the snapshot it starts with
                eventually(lambda w=rank: w.owns(2), "it owns the partitions again")
                assert rank.status()["policy"] == policy
            asked(loop, f"{n}-after")
        loop.settled(closed=True)
        promoted, back = switches
        decisions = list(loop.decisions().values())
        assert len(decisions) == 48
        for decision in decisions:
            during = promoted < decision.model <= back
            assert decision.policy == ("bandit" if during else "popular")
            assert set(decision.weights) == {"popular", "bandit", "uniform"} - {decision.policy}
        assert {"bandit", "popular"} == {decision.policy for decision in decisions}
        end, board = learn.status()["model"], learn.status()["scoreboard"]
        eventually(lambda: rank.status()["model"] >= end, "a snapshot of the end has come")
        assert rank.status()["scoreboard"] == board
        assert "48 of 48 rankings came out bit for bit the same" in run(loop, "audit")


def test_without_a_log_the_command_says_so_in_one_line() -> None:
    found = CliRunner().invoke(
        main,
        ["champion", "show"],
        env={"RANKLOOP_BROKERS": "127.0.0.1:1", "RANKLOOP_CONNECT_SECONDS": "1"},
    )
    assert found.exit_code == 1
    assert found.output.count("\n") == 1


@pytest.mark.kafka
def test_a_challenger_that_is_ahead_for_sure_is_promoted_by_itself(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {
        "partitions": 1,
        "policy": "uniform",
        "challengers": "popular",
        "promote": True,
        "promote_margin": 0.05,
        "promote_min_effective": 30,
        "horizon_seconds": 180,
        "max_clock_skew_seconds": 600,
        "idle_tick_seconds": 0.5,
        "refresh_on_click": False,
    }
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **settings) as loop:
        [worker] = loop.ready()
        loop.stock(4)
        began, ids = now(), [f"r{n}" for n in range(400)]
        loop.publish(Click(id="first", user="cid", at=began, item="item:0"))  # so it is popular
        loop.settled()
        loop.publish(*(Request(id=id, user=f"u{id}", at=began, k=1) for id in ids))
        eventually(lambda: loop.decisions().keys() >= set(ids), "all are answered")
        shown = {id: one.slots[0].item for id, one in loop.decisions().items()}
        click = Click(id="", user="", at=began, item="item:0")
        liked = [id for id in ids if shown[id] == "item:0"]
        loop.publish(*(replace(click, id=f"c{id}", user=f"u{id}", request=id) for id in liked))
        loop.publish(Request(id="later", user="ann", at=began + 200_000, k=1))  # closes them all
        eventually(lambda: worker.status()["scoreboard"][0]["outcomes"] >= 400, "all are judged")
        eventually(lambda: worker.status()["policy"] == "popular", "popular is promoted")
        assert loop.folded(worker.status()["model"]).policy.name == "popular"
