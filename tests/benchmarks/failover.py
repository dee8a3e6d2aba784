"""How long requests wait after a worker was killed (-9) and another one started at once.

`python tests/benchmarks/failover.py [SESSION]` starts a worker, kills it while requests come ten
times a second, starts one with the same data_dir or with another, and prints the seconds until the
first request after the kill is answered; SESSION is session_timeout_seconds, 30 by default. On
Apache Kafka (KAFKA_HOME), else on the small broker of the extra `local`.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.events import Item, Request
from stream.local.stack import Stack
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually


def measure(brokers: str, folder: Path, session: float, same: bool) -> float:
    """Seconds from the kill to the first answer to a request that came after it."""
    prefix = "same" if same else "other"
    with Deployment(brokers, prefix, folder, session_timeout_seconds=session) as loop:
        [killed] = loop.ready()
        loop.publish(*(Item(id=f"item:{n}", title=f"title {n}", at=n) for n in range(20)))
        loop.publish(Request(id="before", user="ann", at=now(), k=3))
        eventually(lambda: "before" in loop.decisions(), "a request is answered")
        killed.kill()
        began = time.monotonic()
        loop.worker(data=killed.data if same else None)
        sent = 0
        while not any(id.startswith("after") for id in loop.decisions()):
            if time.monotonic() > began + session + 60:
                raise TimeoutError("nobody took the dead worker's place within a minute")
            loop.publish(Request(id=f"after{sent}", user=f"user{sent % 40}", at=now(), k=3))
            sent += 1
            time.sleep(0.1)
        return time.monotonic() - began


def main(session: float = 30) -> None:
    """One line a way to come back."""
    home = os.environ.get("KAFKA_HOME", "")
    with tempfile.TemporaryDirectory() as folder, Stack(kafka_home=home, redis=False) as stack:
        print(f"{stack.describes}; session_timeout_seconds = {session}")
        for same in (True, False):
            seconds = measure(stack.brokers, Path(folder), session, same)
            print(f"{'the same' if same else 'another'} data_dir: {seconds:.1f} s")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
