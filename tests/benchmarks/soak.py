"""`make soak`: a million users pass through one worker's agents; memory must stay flat.

In memory (`agents.loop`), one event at a time: clicks of ever new users on ever new items, and now
and then a request. Once all limits are reached, resident memory may rise by `--slope` percent per
full turn of users (as many new ones as are remembered) at most.
"""

import gc
import os
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from models.bert_encoder import embed
from models.events import Click, Item, Request
from stream import build
from stream.settings import Settings

console = Console(width=120)


def resident() -> float:
    """Megabytes this process holds now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def soak(users: int, limit: int, items: int, clicks: int, samples: int) -> list[tuple[int, float]]:
    """Users that passed, and the resident memory then."""
    settings = Settings(
        encoder="hash", refresh_on_click=False, max_users=limit, max_items=items,
        horizon_seconds=60, allowed_lateness_seconds=60, early_reward_seconds=10, candidates=20,
    )  # fmt: skip
    text = build.encoder(settings)
    loop = build.loop(settings, text)
    found: list[tuple[int, float]] = []
    at, known = 1_000_000, 0
    rng = np.random.default_rng(1)
    for user in range(users):
        while known < items * (user / limit + 0.1):  # with each turn of users one of items
            item = Item(id=f"item:{known}", title=f"words {known} of it", at=at)
            loop(item)
            loop(embed([item], text)[0])
            known += 1
        at += 5
        for n, age in enumerate(rng.integers(0, min(known, items), clicks).tolist()):
            liked = f"item:{known - 1 - age}"
            loop(Click(id=f"c{user}.{n}", user=f"user:{user}", item=liked, at=at))
        if user % 4 == 0:  # so that those who were shown something are as many, too, by half-time
            loop(Request(id=f"r{user}", user=f"user:{user}", at=at, k=5))
        if user % (users // samples) == 0 and user:
            gc.collect()
            found.append((user, resident()))
            console.print(f"{user:>10,} users {known:>9,} items {resident():8.0f} MB")
    return found


def slope(found: list[tuple[int, float]], limit: int) -> float:
    """Percent by which memory rises per `limit` users, over the second half: all limits are met."""
    x, y = np.array(found[len(found) // 2 :], np.float64).T
    return float(100 * np.polyfit(x, y, 1)[0] * limit / y.mean())


def drawn(found: list[tuple[int, float]], out: Path) -> None:
    """The curve as a picture, if matplotlib is there, else as a line of text."""
    if not find_spec("matplotlib"):
        most = max(mb for _, mb in found)
        console.print("".join(" ▁▂▃▄▅▆▇█"[round(8 * mb / most)] for _, mb in found))
        return
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure()
    axes = figure.subplots()
    axes.plot(*zip(*found, strict=True))
    axes.set_xlabel("users")
    axes.set_ylabel("resident MB")
    axes.set_ylim(0)
    figure.savefig(out)
    console.print(f"see {out}")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--users", default=1_000_000, type=click.IntRange(1_000))
@click.option("--limit", default=20_000, type=click.IntRange(10), help="Users remembered.")
@click.option("--items", default=5_000, type=click.IntRange(10), help="Items remembered.")
@click.option("--clicks", default=3, type=click.IntRange(1), help="Of each user.")
@click.option("--slope", "most", default=1.0, help="Percent a turn of users may add.")
@click.option("--out", default="soak.png", type=click.Path(dir_okay=False, path_type=Path))
def main(users: int, limit: int, items: int, clicks: int, most: float, out: Path) -> None:
    """Push users through, sample memory, and fail if it is not flat in the second half."""
    began = time.perf_counter()
    found = soak(users, limit, items, clicks, samples=20)
    drawn(found, out)
    rise = slope(found, limit)
    seconds = time.perf_counter() - began
    console.print(f"{rise:+.2f}% per {limit:,} users, {found[-1][1]:.0f} MB, {seconds:.0f} s")
    sys.exit(rise > most)


if __name__ == "__main__":
    main()
