"""Every counter is a metric, and over all workers they add up to what was sent."""

import re
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from models.events import (
    Click,
    Event,
    Impression,
    Outcome,
    Request,
    Reward,
    Tick,
    decode_event,
    encode,
)
from stream.kafka.topics import owner
from stream.torture.checker.expected import ExpectedOutcomes
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import ROOT, Worker, eventually

pytestmark = pytest.mark.kafka

EVENTS, USERS, PARTITIONS, STEP = 1_600, 40, 4, 10
HORIZON, EARLY, LATENESS = 3_000, 1_000, 2_000
STATUSES = ("complete", "expired", "corrected")

Sample = tuple[str, frozenset[tuple[str, str]]]


class Sent(Struct, frozen=True):
    """A message as the test sends it; `reason` is why it is a dead letter, if it is one."""

    value: bytes
    user: str
    partition: int
    reason: str = ""


class Scrape:
    """What `/metrics` of one worker, or of several together, says."""

    def __init__(self, *workers: Worker) -> None:
        self.values: Counter[Sample] = Counter()
        for worker in workers:
            with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=20) as p:
                assert p.headers["Content-Type"].startswith("text/plain; version=")
                families = text_string_to_metric_families(p.read().decode())
            for family in families:
                for one in family.samples:
                    self.values[one.name, frozenset(one.labels.items())] += (
                        int(one.value) if one.value.is_integer() else 0
                    )

    def by(self, name: str, label: str, **where: str) -> Counter[str]:
        """The values of a metric, summed by one label; those that are 0 are left out."""
        found: Counter[str] = Counter()
        for (of, labels), value in self.values.items():
            said = dict(labels)
            if of == f"rankloop_{name}" and where.items() <= said.items():
                found[said.get(label, "")] += int(value)
        return +found

    def total(self, name: str, **where: str) -> int:
        return self.by(name, "", **where).total()


def scraped(*workers: Worker) -> Scrape:
    """A scrape, of workers each of which accounts for all that it took, at any time."""
    for worker in workers:
        said = Scrape(worker)
        taken = said.total("events_in_total") + said.total(
            "events_waiting_moved_total", direction="in"
        )
        accounted = said.total("events_total") + said.total("events_waiting")
        assert taken == accounted + said.total("events_waiting_moved_total", direction="out")
    return Scrape(*workers)


def traffic(rng: Random, begin: int) -> list[Sent]:
    """Requests and what follows them: in time, late, early, never; twice; and what is no use."""
    asked: list[Request] = []
    sent: list[Sent] = []
    for n in range(EVENTS):
        at, user, turn = begin + n * STEP, f"user:{rng.randrange(USERS)}", rng.random()
        if turn < 0.4 or len(asked) < 50:
            asked.append(Request(id=f"r{n}", user=user, at=at, k=3))
            event: Event = asked[-1]
        elif turn < 0.5:
            sent.append(rng.choice(sent[-60:]))  # once more
            continue
        elif turn < 0.6:
            sent.append(unusable(rng, n, user, at))
            continue
        else:
            of = rng.choice(asked[-rng.choice([20, 20, 300]) :])
            about, user = of.id, of.user
            if turn < 0.65:
                about = rng.choice([f"r{n + rng.randrange(1, 40)}", f"never{n}"])
            item = f"item:{rng.randrange(20)}"
            event = Click(id=f"c{n}", user=user, item=item, at=at, request=about)
            if turn > 0.95:
                event = Reward(id=f"w{n}", user=user, at=at, value=2, item=item)
            elif turn > 0.9:
                event = Impression(id=f"i{n}", user=user, at=at, request=about, shown=(item,))
        sent.append(Sent(encode(event), user, owner(user, PARTITIONS)))
    return sent


def unusable(rng: Random, n: int, user: str, at: int) -> Sent:
    """A message that is a dead letter."""
    place = owner(user, PARTITIONS)
    request = Request(id=f"bad{n}", user=user, at=at)
    kind = rng.randrange(4)
    if kind == 0:
        return Sent(b"poison", user, place, "invalid")
    if kind == 1:
        return Sent(encode(request), user, (place + 1) % PARTITIONS, "misrouted")
    far = 1 if kind == 2 else at + 10**10
    bad = Request(id=f"bad{n}", user=user, at=far)
    return Sent(encode(bad), user, place, "too_late" if kind == 2 else "future")


def accounts_of(
    deployment: Deployment, sent: dict[tuple[int, int], Sent]
) -> tuple[list[ExpectedOutcomes], Counter[str]]:
    """The account of each partition, and the outcomes by status: by none of the agents' code."""
    decisions = deployment.decisions().values()
    proposed = {(one.user, one.id): [slot.item for slot in one.slots] for one in decisions}
    accounts = [
        ExpectedOutcomes(horizon=HORIZON, early=EARLY, lateness=LATENESS, proposed=proposed)
        for _ in range(PARTITIONS)
    ]
    ends: Counter[str] = Counter()
    for message in deployment.read(deployment.topics.events):
        one, account = sent[message.partition, message.offset], accounts[message.partition]
        if one.reason not in ("", "too_late"):
            account.bad(message.offset, one.reason)
        else:
            facts = account(message.offset, message.timestamp, decode_event(one.value))
            ends.update(fact.kind for fact in facts if fact.kind != "interaction")
    return accounts, ends


def test_each_counter_is_a_metric_and_adds_up_over_workers_and_a_rebalance(
    apache_kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {
        "partitions": PARTITIONS,
        "horizon_seconds": HORIZON / 1000,
        "early_reward_seconds": EARLY / 1000,
        "allowed_lateness_seconds": LATENESS / 1000,
        "idle_tick_seconds": 3600,  # time passes by what the test sends alone
        "candidates": 10,
        "session_timeout_seconds": 20,
    }
    with Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **settings) as deployment:
        [first] = deployment.ready()
        deployment.stock(20)
        messages = traffic(Random(11), now() - 2 * EVENTS * STEP)
        known: dict[tuple[int, int], Sent] = {}

        def send(part: list[Sent]) -> None:
            places = deployment.send_all((one.value, one.user, "", one.partition) for one in part)
            known.update(zip(places, part, strict=True))

        half = EVENTS // 2
        send(messages[:half])
        eventually(
            lambda: scraped(first).total("events_in_total") == half, "half is committed", 120
        )
        assert scraped(first).total("events_waiting") > 0  # they go with their partition
        second = deployment.worker()
        eventually(lambda: second.status().get("model"), "the second worker is up", 120)
        send(messages[half : half + half // 2])  # while partitions change hands
        eventually(lambda: first.owns(2) and second.owns(2), "both own two partitions", 120)
        send(messages[half + half // 2 :])
        ticks = [Tick(at=now() - EVENTS * STEP // 2 + n) for n in range(20)]
        send([Sent(encode(t), "", p) for t in ticks for p in range(PARTITIONS)])
        both = first, second
        total = len(known)

        def told() -> Scrape | None:
            said = scraped(*both)
            return said if said.total("events_in_total") == total else None

        said = eventually(told, f"{total} events are counted", 120)
        assert all(scraped(worker).total("events_in_total") > 0 for worker in both)

        # Every fate, every reason and every status, as the independent count has them.
        accounts, ends = accounts_of(deployment, known)
        fates = sum((Counter(one.fates.values()) for one in accounts), Counter[str]())
        fates["deadletter"] = fates.pop("letter")
        assert fates["waiting"] == said.total("events_waiting")
        del fates["waiting"]
        assert said.by("events_total", "result") == fates
        moved = said.by("events_waiting_moved_total", "direction")
        assert moved["in"] == moved["out"]
        reasons = Counter(why.partition(":")[0] for one in accounts for why in one.letters.values())
        assert said.by("deadletters_total", "reason", topic="events") == reasons
        outcomes = said.by("outcomes_total", "status")
        assert {status: outcomes[status] for status in STATUSES} == ends

        # What was published and learned, as the topics have it.
        assert said.total("rankings_total") == len(deployment.read(deployment.topics.rankings))
        deployment.agreed()
        records = deployment.records()
        written = Counter(one.status for one in records if isinstance(one, Outcome))
        assert written == ends

        def at_end(worker: Worker) -> Scrape | None:  # of what is marked meanwhile, too
            one, end = scraped(worker), len(deployment.read(deployment.topics.feedback))
            return one if one.by("version", "log")["feedback"] == end else None

        for worker in both:
            one = eventually(lambda w=worker: at_end(w), "all of feedback is taken")
            verdicts = one.by("feedback_records_total", "verdict")
            assert verdicts["learned"] == len(records)
            assert set(verdicts) <= {"learned", "noted"}
            assert one.by("version", "log")["feedback"] == verdicts.total()
            assert one.total("log_lag_records") == one.total("consumer_lag_events") == 0
            assert one.total("decision_seconds_count") > 0
        assert said.total("restores_total") >= PARTITIONS + PARTITIONS // 2
        # Items are acknowledged behind their embedding: who takes over may embed them once more.
        assert said.total("items_embedded_total") in (20, 40)

        # What docs/operations.md says is bounded is told, and is within its limit.
        documented = (ROOT / "docs" / "operations.md").read_text()
        promised = set(re.findall(r'collection_size\{collection="(\w+)"\}', documented))
        assert len(promised) > 5
        for worker in both:
            held, limit = (
                scraped(worker).by(f"collection_{name}", "collection") for name in ("size", "limit")
            )
            assert promised - {"vectors_cached"} <= set(limit)  # only for MiniLM
            assert all(held[what] <= limit[what] for what in held)
            assert held["users"] > 10

        # The log was as mixed as it should be.
        for kind in ("asked", "attributed", "organic", "late", "orphan", "duplicate", "too_late"):
            assert fates[kind] > 10, fates
        assert {"invalid", "misrouted", "future", "too_late"} == set(reasons)
        assert all(ends[status] > 10 for status in STATUSES), ends
