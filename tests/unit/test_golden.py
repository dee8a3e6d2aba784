"""Whoever changes code without meaning to change what is learned or decided finds the same bits.

A change that means to is a new learning configuration: print the new digests by running this file.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from random import Random

import pytest
from msgspec.structs import replace

from agents.attribution import Attribution
from agents.learner import Learner, Verdict
from agents.loop import Loop
from models.bert_encoder import embed
from models.events import Click, Event, Impression, Item, Request, Reward, encode
from models.hash_encoder import HashEncoder
from stream import build
from stream.datasets.movielens import movielens_messages
from stream.datasets.simulated_news import news
from stream.settings import Settings
from tests.support.shared import movielens_folder

EVENTS = 10_000
# Decisions (without their hash of settings and their build), feedback records, what was learned.
FILMS = ("59171a25b2b1eac5d81319703efb136b", "7c41db6f89319a73a4d3ff702c5f5d69", "a86dc2bbe4476f96")
NEWS = ("5cbbf967e4e5a2295e949d1fcb996dda", "540f202ef318f2cc4be68f52d5ac4749", "f2964c6b6187efd8")


class Recording(Learner):
    """A learner that hashes the records it is given."""

    records = blake2b(digest_size=16)

    def __call__(self, offset: int, data: bytes) -> Verdict:
        self.records.update(data)
        return super().__call__(offset, data)


def asking(log: Iterator[Item | Event], seed: int) -> Iterator[Item | Event]:
    """The log with a request every fifth event: for candidates, with exclusions, with context."""
    rng, items = Random(seed), list[str]()
    for n, message in enumerate(log):
        if isinstance(message, Item):
            items.append(message.id)
        elif n % 5 == 0 and isinstance(message, Click | Reward):
            yield Request(
                id=f"ask{n}",
                user=message.user,
                at=message.at,
                k=rng.randint(1, 10),
                context={"page": rng.choice(["home", "search"]), "hour": n % 24},
                candidates=tuple(rng.sample(items, 20)) if n % 7 == 0 else None,
                exclude=tuple(rng.sample(items, 3)) if n % 4 == 0 else (),
            )
        yield message


def digests(log: Iterator[Item | Event], seed: int = 1) -> tuple[str, str, str]:
    """Of the decisions, the feedback records and the learner after a log and clicks on rankings."""
    settings = Settings(encoder="hash", challengers="knn", horizon_seconds=3600)
    encoder, rng, decided = HashEncoder(), Random(seed), blake2b(digest_size=16)
    parts = build.parts(settings, encoder)
    learner = Recording(
        parts.learner.memory,
        parts.learner.policy,
        settings.learn_corrections,
        challengers=[build.policy(settings, name) for name in settings.policies[1:]],
    )
    learner.records = blake2b(digest_size=16)
    _, recommender = build.deciding(settings, learner, parts.catalogue)
    loop = Loop(Attribution(0, settings.attribution_rules()), learner, recommender)
    queue: list[Event] = []
    for message in asking(log, seed):
        loop_in = [message, *queue]
        queue.clear()
        for one in loop_in:
            decisions = loop(one)
            if isinstance(one, Item):
                for vector in embed([one], encoder):
                    loop(vector)
            for decision in decisions:
                decided.update(encode(replace(decision, settings="", build="")))
                shown = [slot.item for slot in decision.slots]
                if not shown or not isinstance(one, Request):
                    continue
                mine = {"user": decision.user, "at": decision.at, "request": decision.id}
                if rng.random() < 0.2:
                    shown = shown[::-1]
                    queue.append(Impression(id=f"i{decision.id}", shown=tuple(shown), **mine))
                if rng.random() < 0.5:
                    queue.append(Click(id=f"c{decision.id}", item=rng.choice(shown), **mine))
                if rng.random() < 0.1:
                    queue.append(Reward(id=f"w{decision.id}", value=rng.choice([-1, 3]), **mine))
    return decided.hexdigest(), learner.records.hexdigest(), learner.digest()


def films() -> Iterator[Item | Event]:
    folder = movielens_folder()
    if folder is None:
        pytest.skip("needs MovieLens latest-small under ./data or ../shared/data")
    log = list(movielens_messages(folder))
    yield from (one for one in log if isinstance(one, Item))
    yield from islice((one for one in log if not isinstance(one, Item)), EVENTS)


def simulated() -> Iterator[Item | Event]:
    made, rng = news(300, 60), Random(2)
    yield from made.items
    at = made.items[-1].at
    for n in range(3_000):
        at += rng.randint(0, 60_000)
        user, item = f"user:{rng.randint(1, 60)}", rng.choice(made.items).id
        yield Click(id=f"n{n}", user=user, item=item, at=at)


@pytest.mark.shared
def test_ten_thousand_film_events_give_the_same_bits() -> None:
    assert digests(films()) == FILMS


def test_simulated_news_give_the_same_bits() -> None:
    assert digests(simulated()) == NEWS


if __name__ == "__main__":
    print(digests(films()))
    print(digests(simulated()))
