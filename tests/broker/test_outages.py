"""What stops answers, on a real broker: each shows in `/readyz`, in `/metrics` and in the log."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.events import Fold, Item, Request, encode
from stream.kafka.topics import owner
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import Worker, eventually

SMALL = {"partitions": 2, "horizon_seconds": 1, "idle_tick_seconds": 0.5, "snapshot_seconds": 1}


@contextmanager
def with_settings(loop: Deployment, **settings: object) -> Iterator[None]:
    """What is started meanwhile has these as well."""
    before, changed = loop.environ, {f"RANKLOOP_{k.upper()}": str(v) for k, v in settings.items()}
    loop.environ = before | changed
    try:
        yield
    finally:
        loop.environ = before


def run(loop: Deployment, *arguments: str) -> str:
    """What a command with the deployment's settings says."""
    done = loop.command(*arguments)
    return done.stdout + done.stderr


def lines(worker: Worker, level: str, event: str) -> list[str]:
    """Its log's lines of a level and an event."""
    return [
        line
        for line in worker.log.read_text(errors="replace").splitlines()
        if f" {level} " in line and event in line
    ]


@pytest.mark.kafka
def test_one_changed_setting_and_a_restart_is_no_silent_outage(
    apache_kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **SMALL) as loop:
        first = loop.worker()
        eventually(lambda: first.reasons().keys() == {"no_items"}, "only items are missing")
        loop.stock(5)
        eventually(lambda: not first.reasons(), "ready")
        assert first.metric("ready") == first.metric("in_force") == first.metric("kafka_up") == 1
        [ready] = eventually(lambda: lines(first, "INFO", " ready partitions="), "it says so")
        assert "partitions=[0, 1] items=5 version=" in ready
        assert "encoder=hash" in ready
        first.stop()

        with with_settings(loop, learning_rate=0.02):
            other = loop.worker(data=first.data)
            why = eventually(lambda: other.reasons().get("standing_by"), "it stands by")
            assert "learning_rate is 0.02 here and 0.01 in force" in why
            assert "rankloop fold switch" in why
            assert other.reasons().keys() == {"standing_by"}
            assert other.page("/livez")[0] == other.page("/status")[0] == 200
            status = other.status()
            assert (status["ready"], status["reasons"]) == (False, {"standing_by": why})
            assert other.metric("in_force") == other.metric("ready") == 0
            assert other.metric('not_ready{reason="standing_by"}') == 1
            assert other.metric('log_lag_records{log="feedback"}') is not None
            assert other.metric('log_behind_seconds{log="feedback"}') == 0
            [said] = eventually(lambda: lines(other, "ERROR", "standing_by="), "its log says so")
            assert "learning_rate is 0.02 here and 0.01 in force" in said
            shown = run(loop, "fold", "show")
            assert "in force: learning_rate = 0.01" in shown
            assert "differs: learning_rate is 0.02 here and 0.01 in force" in shown
            loop.publish(Request(id="r", user="ann", at=now(), k=3))

            # A second one that may switch takes over, and both decide.
            switching = loop.worker(arguments=["--switch"])
            eventually(lambda: not (other.reasons() or switching.reasons()), "both are ready")
            assert other.metric("in_force") == switching.metric("in_force") == 1
            loop.decision("r")
            assert "differs" not in run(loop, "fold", "show")

        # The setting of before is not in force now; its value comes from the record of the switch.
        late = loop.worker()
        why = eventually(lambda: late.reasons().get("standing_by"), "it stands by")
        assert "learning_rate is 0.01 here and 0.02 in force" in why
        eventually(lambda: lines(late, "ERROR", "learning_rate is 0.01 here"), "its log says so")


@pytest.mark.kafka
def test_a_record_that_tells_no_settings_or_false_ones_gives_the_hashes(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **SMALL) as loop:
        [worker] = loop.ready()
        mine, topic = loop.settings.fold_hash(), loop.topics.feedback
        loop.send(encode(Fold(fold="old", expects=mine)), topic=topic, partition=0)
        why = eventually(lambda: worker.reasons().get("standing_by"), "it stands by")
        assert f"the configuration is {mine} here and old in force" in why
        false = Fold(fold="new", expects="old", learning={"seed": 3})
        loop.send(encode(false), topic=topic, partition=0)
        eventually(lambda: "new in force" in worker.reasons().get("standing_by", ""), "it says so")
        assert "seed" not in worker.reasons()["standing_by"]
        back = Fold(fold=mine, expects="new", learning=loop.settings.learning())
        loop.send(encode(back), topic=topic, partition=0)
        eventually(lambda: "standing_by" not in worker.reasons(), "it decides again")


@pytest.mark.kafka
def test_other_joining_settings_are_named(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> None:
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **SMALL) as loop:
        loop.ready()[0].stop()
        with with_settings(loop, horizon_seconds=9, impressions="explicit"):
            other = loop.worker()
            assert other.ended() == 1
        assert "horizon_seconds is 9 here and 1 in the log" in other.words()
        assert 'impressions is "explicit" here and "implied" in the log' in other.words()


@pytest.mark.kafka
def test_a_worker_without_a_partition_says_that_it_is_idle(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **SMALL | {"partitions": 1}) as loop:
        [first] = loop.ready()
        loop.stock(3)
        second = loop.worker()
        eventually(lambda: not second.reasons() and not first.reasons(), "both are ready")

        def idle() -> list[Worker]:
            both = [one for one in (first, second) if "idle" in one.page("/readyz")[1]]
            return both if len(both) == 1 else []

        [one] = eventually(idle, "one of them has nothing to do")
        note = json.loads(one.page("/readyz")[1])["notes"]["idle"]
        assert "no partition is assigned to this worker: there are 1" in note
        eventually(lambda: lines(one, "INFO", " ready partitions=[]"), "its log says so")


@pytest.mark.kafka
def test_every_line_of_a_worker_is_json_and_dead_letters_show_in_it(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    chosen = SMALL | {"log_json": "true", "challengers": "popular", "scoreboard_max_reward": 1}
    with Deployment(kafka.brokers, topic_prefix, tmp_path, **chosen) as loop:
        [worker] = loop.ready()
        loop.stock(3)
        assert "no outcomes yet: bandit and its challengers (popular)" in run(
            loop, "champion", "show"
        )
        metrics = worker.page("/metrics")[1]
        assert 'rankloop_policy_ahead{bound="mean",policy="popular"} NaN' in metrics
        assert worker.status()["scoreboard"][1]["ahead"] is None
        loop.send(b"poison", partition=0)
        loop.send(encode(Item(id="a", at=1)).replace(b"item", b"junk"), topic=loop.topics.items)
        wrong = 1 - owner("ann", 2)
        loop.send(encode(Request(id="r", user="ann", at=now())), partition=wrong)

        def letters() -> dict[str, dict[str, Any]] | None:
            said = [json.loads(line) for line in worker.log.read_text().splitlines()]
            found = {
                f"{one['topic']} {one['reason']}": one
                for one in said
                if one["event"].startswith("dead letters")
            }
            return found if len(found) == 3 else None

        said = eventually(letters, "three reasons are in the log")
        misrouted = said[f"{loop.topics.events} misrouted"]
        assert (misrouted["level"], misrouted["count"]) == ("WARNING", 1)
        assert misrouted["partition"] == wrong
        assert "partitioner=murmur2_random" in misrouted["hint"]
        assert said[f"{loop.topics.items} invalid"]["offset"] == 3
        assert "poison" not in worker.log.read_text()
        assert worker.stop() == 0
        written = worker.log.read_text().splitlines()
        assert [json.loads(line)["level"] for line in written]
        with with_settings(loop, partitions=3):  # refused before there is a loop
            other = loop.worker()
            assert other.ended() == 1
        assert "partitions" in json.loads(other.log.read_text().splitlines()[-1])["event"]
