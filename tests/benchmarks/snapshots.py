"""Seconds to copy, write and load what was learned of many users, and the pause it makes.

`python tests/benchmarks/snapshots.py --users 1000000 --items 100000 --likes 5`: some ten minutes,
nearly all of it learning.
"""

import gc
import os
import time
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import click
import msgspec
from machine import machine

from agents.attribution import Ask
from agents.learner import Learner
from models.embedding import HashEncoder
from models.events import (
    Features,
    Interaction,
    Item,
    Judged,
    Outcome,
    Request,
    Source,
    chain,
    encode,
)
from stream import build
from stream.checkpoint import Snapshots, opened
from stream.settings import Settings


def learned(settings: Settings, users: int, items: int, likes: int, outcomes: int) -> Learner:
    """A learner of `likes` a user, with few items liked by many, and of `outcomes` decisions."""
    learner, rng = fresh(settings), Random(0)

    def item() -> str:
        return f"item:{int(items * rng.random() ** 3)}"

    for n in range(users * likes):
        user, value = f"user:{n % users if n < users else rng.randrange(users)}", 1.0
        liked = Interaction("i", user, item(), 1_700_000_000_000 + n, value, Source(0, n, 0))
        learner.memory.learn(liked, n)
    names, prev = tuple(f"x{n}" for n in range(12)), ""
    for n in range(outcomes):
        features = Features(x=tuple(rng.gauss(0, 1) for _ in names), text=(0.1,) * 16)
        slots = tuple(
            Judged(item=item(), position=k, propensity=0.1, reward=float(k == 3), features=features)
            for k in range(10)
        )
        data = encode(
            Outcome(
                id="r",
                user=f"user:{rng.randrange(users)}",
                at=n,
                status="complete",
                policy="bandit",
                model=0,
                slots=slots,
                source=Source(0, n, 0),
                features=names,
                prev=prev,
            )
        )
        learner(n, data)
        prev = chain(data)
    return learner


def fresh(settings: Settings) -> Learner:
    return build.parts(settings, HashEncoder()).learner


def resident() -> float:
    """GB of memory that this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def ranked(settings: Settings, learner: Learner) -> float:
    """Seconds of a first ranking: retrieval over 2,000 of the items, features, policy."""
    items = build.catalogue(settings, HashEncoder())
    for n in range(min(2_000, settings.max_items)):
        items.fold_item(n, Item(id=f"item:{n}", at=0))
    _, recommend = build.deciding(settings, learner, items)
    began = time.perf_counter()
    assert recommend(Ask(Request(id="r", user="user:1", at=1), source=0)).slots
    return time.perf_counter() - began


class Stalled(Thread):
    """Does something in a thread, and says how long and the longest that others waited for it."""

    def __init__(self, what: Any, *args: Any) -> None:
        super().__init__()
        self.what, self.args, self.found = what, args, None

    def run(self) -> None:
        self.found = self.what(*self.args)

    def measured(self) -> tuple[float, float]:
        began = last = time.perf_counter()
        longest = 0.0
        self.start()
        while self.is_alive():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return last - began, longest


def report(kept: Snapshots, learner: Learner, settings: Settings) -> None:
    """Print what each step takes."""
    began = time.perf_counter()
    learner.state()
    click.echo(f"copied at once         {time.perf_counter() - began:6.2f} s")
    copying = Stalled(learner.state)
    click.echo(
        "copied in a thread     {:6.2f} s, longest pause {:.3f} s".format(*copying.measured())
    )
    state: Any = copying.found
    writing = Stalled(kept.write, state)
    click.echo(
        "written in a thread    {:6.2f} s, longest pause {:.3f} s".format(*writing.measured())
    )
    [entry] = kept.entries()
    click.echo(f"size                   {entry.size / 1e6:6.1f} MB")
    del state, copying, writing
    before = resident()
    began = time.perf_counter()
    kept.read(entry.version)
    click.echo(f"read and checked       {time.perf_counter() - began:6.2f} s")
    again, began = fresh(settings), time.perf_counter()
    kept.restore(again)
    seconds = time.perf_counter() - began
    click.echo(f"read, checked, loaded  {seconds:6.2f} s; memory {resident() - before:.2f} GB")
    click.echo(f"first ranking after    {ranked(settings, again):6.3f} s")
    assert again.digest() == learner.digest()


@click.command(context_settings={"show_default": True})
@click.option("--users", default=1_000_000)
@click.option("--items", default=100_000)
@click.option("--likes", default=5, help="A user, on average.")
@click.option("--outcomes", default=5_000)
def main(users: int, items: int, likes: int, outcomes: int) -> None:
    """Measure snapshots of a synthetic learner."""
    for name, value in machine().items():
        click.echo(f"{name:12} {value}")
    before = resident()
    settings = Settings(encoder="hash", max_users=users, max_items=items)
    began = time.perf_counter()
    learner = learned(settings, users, items, likes, outcomes)
    seconds, memory = time.perf_counter() - began, resident() - before
    click.echo(f"{users:,} users, {items:,} items, {likes} likes a user, {outcomes:,} outcomes")
    click.echo(
        f"learned in {seconds:.0f} s; memory {memory:.2f} GB, "
        f"{memory / users * 1e6:.2f} GB a million users"
    )
    with TemporaryDirectory() as folder:
        settings = msgspec.structs.replace(settings, snapshot_url=str(Path(folder)))
        report(opened(settings), learner, settings)
    click.echo(
        f"peak memory, two learners and a copy {getrusage(RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
