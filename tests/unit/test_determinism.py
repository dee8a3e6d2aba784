"""Same log, same bits: under any hash seed, in any process, however batches are cut.

Run as a program, it prints what the log comes to.
"""

import os
import subprocess
import sys
from functools import cache
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct

from agents.attribution import Attribution, RankingTask
from agents.learner import Learner, Verdict
from agents.loop import Loop
from agents.partition import Partition, PublishFeedback, PublishRankings, ReceivedMessage
from agents.recommender import Recommender
from models.bert_encoder import embed
from models.events import (
    Click,
    Decision,
    Embedding,
    Event,
    Impression,
    Item,
    Request,
    Reward,
    Tick,
    encode,
)
from stream import build
from stream.settings import Settings

ROOT = Path(__file__).parents[2]
USERS, ITEMS, ROUNDS = 25, 80, 250
# Bounds so small that ids are forgotten all the time: what is evicted must be the same, too.
SETTINGS = Settings(
    encoder="hash",
    candidates=30,
    max_users=20,
    max_items=60,
    horizon_seconds=60,
    early_reward_seconds=10,
    allowed_lateness_seconds=60,
    log_candidates=True,
)


class Noting(Learner):
    """A learner that keeps the feedback it was given."""

    feedback: tuple[bytes, ...] = ()

    def __call__(self, offset: int, data: bytes) -> Verdict:
        self.feedback += (data,)
        return super().__call__(offset, data)


class Run(Struct, frozen=True):
    """What a log came to."""

    events: list[Event]
    decisions: list[Decision]
    feedback: tuple[bytes, ...]
    digest: str

    @property
    def summary(self) -> str:
        digest = blake2b(digest_size=16)
        for message in (*self.events, *self.decisions):
            digest.update(encode(message))
        for record in self.feedback:
            digest.update(record)
        return f"{digest.hexdigest()} {self.digest} {fresh(self.feedback).digest()}"


def films() -> list[Item]:
    words = ["space", "robot", "love", "war", "dog", "music", "paris", "heist", "ghost", "sea"]
    rng = Random(7)
    return [
        Item(id=f"film:{n}", at=n, title=" ".join(rng.sample(words, 3)), tags=(rng.choice(words),))
        for n in range(ITEMS)
    ]


def catalogue() -> list[Item | Embedding]:
    items = films()
    return [*items, *embed(items, build.encoder(SETTINGS))]


def learner(kind: type[Learner] = Learner) -> Learner:
    made = build.parts(SETTINGS, build.encoder(SETTINGS)).learner
    return kind(made.memory, made.policy, SETTINGS.learn_corrections)


def fresh(feedback: tuple[bytes, ...]) -> Learner:
    fold = learner()
    for offset, data in enumerate(feedback):
        fold(offset, data)
    return fold


def deciding(fold: Learner) -> Recommender:
    encoder = build.encoder(SETTINGS)
    _, recommender = build.deciding(SETTINGS, fold, build.catalogue(SETTINGS, encoder))
    return recommender


@cache
def run() -> Run:
    """People ask, look and click; all of it in one loop."""
    fold = learner(Noting)
    loop = Loop(Attribution(0, SETTINGS.attribution_rules()), fold, deciding(fold))
    for message in catalogue():
        loop(message)
    rng, at = Random(1), 1_000_000
    events: list[Event] = []
    decisions: list[Decision] = []

    def take(event: Event) -> None:
        events.append(event)
        decisions.extend(loop(event))

    for n in range(ROUNDS):
        at += rng.randint(0, 4_000)
        user = f"user:{rng.randrange(USERS)}"
        context = {"page": rng.choice(["home", "search"]), "hour": float(n % 24)}
        take(Request(id=f"r{n}", user=user, at=at, k=5, context=context))
        shown = [slot.item for slot in decisions[-1].slots] or ["film:0"]
        if rng.random() < 0.2:
            shown = [*shown[1:], "film:1"]
            take(Impression(id=f"i{n}", request=f"r{n}", user=user, at=at, shown=tuple(shown)))
        if rng.random() < 0.6:
            late = rng.choice([1_000, 1_000, 70_000])
            item = rng.choice(shown)
            take(Click(id=f"c{n}", user=user, item=item, at=at + late, request=f"r{n}"))
        if rng.random() < 0.2:
            value = rng.choice([-1.0, 0.5, 3.0])
            take(Reward(id=f"w{n}", user=user, at=at + 2_000, value=value, item=rng.choice(shown)))
    take(Tick(at=at + 1_000_000))
    take(Tick(at=at + 1_000_001))
    assert isinstance(fold, Noting)
    return Run(events, decisions, fold.feedback, fold.digest())


def in_another_process(hash_seed: str) -> str:
    """The summary, as a process with that PYTHONHASHSEED prints it."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_log_is_worth_folding() -> None:
    made = run()
    assert len(made.decisions) > ROUNDS
    assert sum(bool(decision.slots) for decision in made.decisions) > ROUNDS
    sources = {slot.source for decision in made.decisions for slot in decision.slots}
    assert len(sources) >= 4
    kinds = {data[:30].split(b'"')[3] for data in made.feedback}
    assert kinds == {b"interaction", b"outcome"}
    for status in (b'"expired"', b'"complete"', b'"corrected"'):
        assert any(status in data for data in made.feedback)


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_another_process_comes_to_the_same_bits_under_any_hash_seed(hash_seed: str) -> None:
    assert in_another_process(hash_seed) == run().summary


def test_feedback_alone_comes_to_the_same_digest() -> None:
    made = run()
    assert fresh(made.feedback).digest() == made.digest
    assert fresh(made.feedback[:-1]).digest() != made.digest


def test_a_ranking_is_made_again_from_its_versions() -> None:
    made = run()
    fold = learner()
    recommender = deciding(fold)
    items = [message for message in catalogue() if isinstance(message, Item)]
    vectors = [message for message in catalogue() if isinstance(message, Embedding)]
    for offset, vector in enumerate(vectors):
        recommender.catalogue.fold_embedding(offset, vector)
    for offset, item in enumerate(items):
        recommender.catalogue.fold_item(offset, item)
    for decision in made.decisions:
        while fold.version < decision.model:
            fold(fold.version, made.feedback[fold.version])
        request = asked(made.events[decision.source], decision)
        assert encode(recommender(RankingTask(request, decision.source))) == encode(decision)


def asked(event: Event, decision: Decision) -> Request:
    if isinstance(event, Request):
        return event
    return Request(
        id=decision.id,
        user=decision.user,
        at=decision.at,
        k=decision.k,
        context=decision.context,
    )


def test_asking_changes_nothing_that_was_learned() -> None:
    fold = fresh(run().feedback)
    recommender = deciding(fold)
    for message in films():
        recommender.catalogue.fold_item(recommender.catalogue.items_version, message)
    before = fold.digest()
    for user in ("user:1", "nobody"):
        for n in range(20):
            recommender(RankingTask(Request(id=f"r{n}", user=user, at=9_000_000, k=50), n))
    assert fold.digest() == before


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_batches_cut_anywhere_come_to_the_same_feedback(size: int) -> None:
    made = run()
    messages = [ReceivedMessage(n, event.at, encode(event)) for n, event in enumerate(made.events)]
    decisions = {(decision.source, decision.id): decision for decision in made.decisions}
    fold = learner(Noting)
    attribution = Attribution(0, SETTINGS.attribution_rules())
    partition = Partition(
        attribution, fold.ledger, lambda ask: decisions[ask.source, ask.request.id], lambda user: 0
    )
    while waiting := messages[attribution.next : attribution.next + size]:
        commands, answer = partition.batch(waiting), None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration:
                break
            answer = None
            if isinstance(command, PublishFeedback):
                for record in command.records:
                    fold(fold.version, record.data)
                answer = fold.version
            elif isinstance(command, PublishRankings):
                for decision in command.decisions:
                    attribution.decided(decision)
    assert isinstance(fold, Noting)
    assert fold.feedback == made.feedback
    assert fold.digest() == made.digest


if __name__ == "__main__":
    print(run().summary)
