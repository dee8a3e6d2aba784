"""Logs, offsets and disks that are not as they were: the true cause in one line, and a way on."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from models.events import Click, Mark, encode
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually

pytestmark = pytest.mark.kafka
Make = Callable[..., Deployment]


@pytest.fixture
def deployment(apache_kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Starts a small rankloop; workers stop with the test."""
    with ExitStack() as stack:

        def make(**settings: object) -> Deployment:
            chosen = {"partitions": 1, "refresh_on_click": "false"} | settings
            made = Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **chosen)
            return stack.enter_context(made)

        yield make


def clicks(begin: int, count: int) -> list[Click]:
    return [
        Click(id=f"c{n}", user=f"u{n % 97}", item=f"item:{n % 20}", at=now())
        for n in range(begin, begin + count)
    ]


def learned(loop: Deployment) -> int:
    return loop.workers[-1].status().get("learned", {}).get("learned", 0)


def test_l7_a_worker_called_wrong_by_a_mark_folds_anew_when_it_starts_again(
    deployment: Make,
) -> None:
    loop = deployment(policy="uniform", snapshot_seconds=0)
    [worker] = loop.ready()
    loop.publish(*clicks(0, 10_100))
    eventually(lambda: learned(loop) >= 10_100, "all is learned")
    sound = worker.status(digest=True)
    wrong = Mark(fold=sound["fold"], version=10_000, digest="f" * 16)
    loop.send_all([(encode(wrong), "", loop.topics.feedback, 0)])
    assert worker.ended() != 0
    assert "set aside: start it again, to fold anew" in worker.words()
    assert not list(worker.data.rglob("0*.safetensors"))
    again = loop.worker(data=worker.data)
    eventually(lambda: again.owns(1), "it runs again")
    assert "snapshot loaded" not in again.words()
    loop.publish(*clicks(20_000, 10))
    eventually(lambda: learned(loop) >= 10_110, "it learns on")
    fresh = loop.worker()
    eventually(lambda: fresh.status().get("learned", {}).get("learned", 0) >= 10_110, "folded")
    digests = {json.dumps(w.status(digest=True)["digest"]) for w in (again, fresh)}
    assert len(digests) == 1
