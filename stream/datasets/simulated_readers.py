"""Simulated readers of real texts: their tastes are categories that the log does not tell."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.base import Doubles
from models.events import Click, Item
from stream.datasets.simulated_news import MINUTE, START
from stream.datasets.source_files import csv_rows

EVERY = 10 * MINUTE  # between two texts
DAY = 24 * 60 * MINUTE
YOUNG = 2 * DAY  # then a text is gone
TASTES = 3  # categories a reader likes
NOISE = 0.05  # share of visits with a text read by chance
MOST = 200_000  # texts of a file that are looked at


def simulated_readings(
    path: Path, *, texts: int, readers: int, hits: float = 0.0, seed: int = 1
) -> Iterator[Item | Click]:
    """The texts of a CSV file (`text`, `category`) as items that come all day, and who reads what.

    Each reader likes three categories and comes twice a day: reads up to three texts of them, the
    newest most likely, and now and then any text; a share of `hits` is for everybody, each read
    with 0.4. A text is gone after two days. Categories are in no message: who wants to know them
    must read, or watch the readers.
    """
    found = _texts(path)
    rng = np.random.default_rng(seed)
    chosen = [found[i] for i in rng.permutation(len(found))[:texts].tolist()]
    hit = rng.random(len(chosen)) < hits
    names = sorted({category for _, category in chosen})
    of = {name: i for i, name in enumerate(names)}
    about = np.array([of[category] for _, category in chosen])
    at = START + EVERY * np.arange(len(chosen))
    for i, (text, _) in enumerate(chosen):
        came = int(at[i])
        yield Item(id=f"text:{i + 1}", title=text[:1_000], at=came, expires_at=came + YOUNG)
    clicks: list[Click] = []
    for reader in range(readers):
        tastes = rng.choice(len(names), min(TASTES, len(names)), replace=False)
        likes, read = np.isin(about, tastes), np.zeros(len(chosen), np.bool_)
        now = START + int(rng.integers(DAY // 2))
        while now < at[-1]:
            young = (at <= now) & (at > now - YOUNG) & ~read
            wanted = np.flatnonzero(young & likes)
            weights = np.exp((at[wanted] - now) / (DAY / 2))
            picked = _some(rng, wanted, weights, int(rng.integers(4)))
            picked += [i for i in np.flatnonzero(young & hit).tolist() if rng.random() < 0.4]
            if rng.random() < NOISE:
                anything = np.flatnonzero(young)
                picked += _some(rng, anything, np.ones(len(anything)), 1)
            for n, i in enumerate(dict.fromkeys(picked)):
                read[i] = True
                name = f"read:{reader + 1}:{i + 1}"
                user, when = f"reader:{reader + 1}", now + n * MINUTE
                clicks.append(Click(id=name, user=user, item=f"text:{i + 1}", at=when))
            now += int(rng.integers(DAY // 4, 3 * DAY // 4))
    yield from sorted(clicks, key=lambda one: (one.at, one.id))


def _some(
    rng: np.random.Generator, places: NDArray[np.intp], weights: Doubles, count: int
) -> list[int]:
    """Some of the places, each at most once, in proportion to the weights."""
    if not len(places):
        return []
    return rng.choice(
        places, min(count, len(places)), replace=False, p=weights / weights.sum()
    ).tolist()


def _texts(path: Path) -> list[tuple[str, str]]:
    """Each text once, with its category."""
    found: dict[str, str] = {}
    for row in csv_rows(path, "text", "category"):
        if len(found) == MOST:
            break
        text, category = row.text("text"), row.text("category")
        if not text or not category:
            raise row.error("a text and its category are needed")
        found.setdefault(text, category)
    return sorted(found.items())
