"""How fresh rankings are where one worker learns and another ranks.

`python tests/benchmarks/freshness.py` publishes a click now and then and measures the seconds until
the worker that ranks decides by a version that holds it, for some times between snapshots. Needs
Apache Kafka (KAFKA_HOME).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.events import Click, Item
from stream.local.stack import Stack
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import Worker, eventually

CLICKS = 30


def measure(brokers: str, folder: Path, seconds: float) -> list[float]:
    """Seconds from a click's acknowledgement to the model that holds it, sorted."""
    prefix = f"fresh{int(seconds * 1000)}"
    shared = {
        "snapshot_url": folder / prefix,
        "snapshot_seconds": seconds,
        "snapshot_poll_seconds": 0.2,
    }
    took: list[float] = []
    with Deployment(brokers, prefix, folder, partitions=1, **shared) as loop:
        loop.environ["RANKLOOP_ROLE"] = "learn"
        learn = loop.worker()
        loop.environ["RANKLOOP_ROLE"] = "rank"
        rank = loop.worker()
        eventually(lambda: rank.owns(1), "the one that ranks owns the partition")
        loop.publish(*(Item(id=f"item:{n}", title=f"title {n}", at=n) for n in range(100)))
        for n in range(CLICKS):
            loop.publish(Click(id=f"c{n}", user=f"u{n}", item=f"item:{n % 100}", at=now()))
            began = time.monotonic()
            eventually(lambda n=n: knows(rank, n + 1), "it is known")
            took.append(time.monotonic() - began)
            time.sleep(0.37)
        assert learn.runs
    return sorted(took)


def knows(rank: Worker, clicks: int) -> bool:
    """Whether it decides by a model that holds so many clicks."""
    says = rank.status()
    return says["learned"].get("learned", 0) >= clicks and says["behind"] == 0


def main() -> None:
    """One line a time between snapshots."""
    home = os.environ.get("KAFKA_HOME", "../shared/kafka")
    with tempfile.TemporaryDirectory() as folder, Stack(kafka_home=home) as stack:
        for seconds in (0.5, 2.0, 5.0):
            took = measure(stack.brokers, Path(folder), seconds)
            p50, p95 = took[len(took) // 2], took[int(len(took) * 0.95)]
            print(f"snapshot_seconds={seconds}: p50 {p50:.2f} s, p95 {p95:.2f} s")


if __name__ == "__main__":
    main()
