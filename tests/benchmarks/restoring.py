"""CPU seconds to make a partition's attribution again: from its bookmark, and from a file.

`python tests/benchmarks/restoring.py --events 1000000`: without Kafka, whose reading comes on top.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from machine import machine

from agents.attribution import Attribution, AttributionRules
from agents.bookmark import Bookmark
from agents.ledger import Ledger
from agents.partition import Partition, ReceivedMessage
from models.events import Click, Decision, Event, Features, Request, Slot, encode
from stream.storage.attribution_snapshots import AttributionSnapshots
from stream.storage.object_store import LocalStore

RULES = AttributionRules(refresh=False)
START = 1_700_000_000_000


def slots() -> tuple[Slot, ...]:
    features = Features(x=tuple(n / 7 for n in range(12)), text=(0.1,) * 16)
    return tuple(Slot(item=f"item:{n}", propensity=0.1, features=features) for n in range(10))


SLOTS = slots()


def event(n: int, count: int) -> Event:
    """One request, then nine clicks that go with it or not, spread evenly over the window."""
    asked = request(n - n % 10, count)
    if n % 10 == 0:
        return asked
    about = asked.id if n % 10 == 1 else None
    at = START + n * RULES.window // count
    return Click(id=f"event:{n}", user=asked.user, item="item:1", at=at, request=about)


def request(n: int, count: int) -> Request:
    at = START + n * RULES.window // count
    return Request(id=f"event:{n}", user=f"user:{n % 1000}", at=at)


def decided(request: Request, source: int) -> Decision:
    return Decision(
        id=request.id,
        user=request.user,
        at=request.at,
        k=request.k,
        policy="p",
        model=0,
        items=0,
        embeddings=0,
        source=source,
        slots=SLOTS,
    )


def batches(count: int) -> Iterator[list[ReceivedMessage]]:
    for start in range(0, count, 500):
        events = [(n, event(n, count)) for n in range(start, min(count, start + 500))]
        yield [ReceivedMessage(n, one.at, encode(one)) for n, one in events]


def refuse(_: object) -> Decision:
    raise AssertionError("nothing is decided here")


def again(bookmark: Bookmark, count: int) -> tuple[Attribution, float]:
    """From the bookmark; the time that making the messages takes is left out."""
    fold, seconds = Attribution(0, RULES), 0.0
    fold.resume(bookmark)
    partition = Partition(fold, Ledger(), refuse, lambda _: 0)
    for messages in batches(count):
        answers = [decided(request(m.offset, count), m.offset) for m in messages[::10]]
        began = time.process_time()
        for _ in partition.restore(messages):
            pass
        for answer in answers:
            fold.decided(answer, answer.source)
        seconds += time.process_time() - began
    began = time.process_time()
    partition.restored(count)
    return fold, seconds + time.process_time() - began


@click.command(context_settings={"show_default": True})
@click.option("--events", default=1_000_000)
def main(events: int) -> None:
    """Measure both ways for a window of so many events, a tenth of them requests."""
    for name, value in machine().items():
        click.echo(f"{name:12} {value}")
    one = Attribution(0, RULES)
    for n in range(events):
        happened = event(n, events)
        for ask in one(n, happened.at, happened).tasks:
            one.decided(decided(ask.request, ask.source), ask.source)
    with TemporaryDirectory() as folder:
        kept = AttributionSnapshots(LocalStore(Path(folder)), "benchmark", RULES.digest)
        began = time.process_time()
        state = one.state()
        click.echo(f"copied                 {time.process_time() - began:6.2f} s")
        began = time.process_time()
        kept.write(state)
        click.echo(f"written                {time.process_time() - began:6.2f} s")
        [path] = Path(folder).iterdir()
        click.echo(f"size                   {path.stat().st_size / 1e6:6.1f} MB")
        began = time.process_time()
        found, loaded = kept.newest(0, 0, events), Attribution(0, RULES)
        assert found is not None
        loaded.load(found)
        file = time.process_time() - began
        click.echo(f"restored from the file {file:6.2f} s")
    assert loaded.state() == state
    bookmark = one.bookmark()
    two, seconds = again(bookmark, events)
    click.echo(f"from the bookmark      {seconds:6.2f} s, {seconds / file:.1f} times as long")
    click.echo(f"load average           {os.getloadavg()[0]:6.1f}")
    assert two.bookmark() == bookmark


if __name__ == "__main__":
    main()
