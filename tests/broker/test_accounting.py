"""10,000 mixed events, bad ones and repeats among them: what became of each is known."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct
from msgspec.structs import replace

from models.events import (
    Click,
    Decision,
    Event,
    Impression,
    Request,
    Reward,
    Tick,
    decode_decision,
    decode_event,
    encode,
)
from stream.kafka.topics import owner
from stream.torture.checker.expected import ExpectedOutcomes, ExpectedRecord, expected_record
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, body, now
from tests.support.kafka_worker import ROOT, eventually

pytestmark = pytest.mark.kafka

EVENTS, USERS, ITEMS, PARTITIONS = 10_000, 200, 200, 4
HORIZON, EARLY, LATENESS = 20_000, 2_000, 20_000
FATES = ("asked", "attributed", "organic", "late", "orphan", "duplicate", "too_late", "letter")
STEP = 10  # milliseconds of event time between events


class Sent(Struct, frozen=True):
    """A message as the test sends it; `reason` is what its dead letter must say, if it is bad."""

    value: bytes | None
    user: str
    partition: int
    reason: str = ""


def good_events(rng: Random, begin: int) -> Iterator[Event]:
    """Requests and what follows them: soon, late, far too late, early, by strangers, or never."""
    asked: list[Request] = []
    clicks: list[Click] = []
    count: Counter[str] = Counter()
    for n in range(EVENTS):
        at, user = begin + n * STEP, f"user:{rng.randrange(USERS)}"
        kind = rng.random()
        if kind < 0.4 or not clicks:
            count[user] += 1
            request = Request(id=f"r:{user}:{count[user]}", user=user, at=at, k=rng.randint(1, 6))
            asked.append(request)
            yield request
            if not clicks:
                clicks.append(Click(id="c:first", user=user, item="item:0", at=at))
                yield clicks[0]
            continue
        if kind < 0.41:
            yield Tick(at=at)
            continue
        where = rng.choice(asked[-rng.choice([50, 50, 50, 400, 1500, 3500]) :])
        about: str | None = where.id
        user = where.user if rng.random() < 0.95 else user
        turn = rng.random()
        if turn < 0.1:
            about = None
        elif turn < 0.15:
            about = f"r:{user}:{count[user] + 1}"  # comes before its request
        elif turn < 0.2:
            about = f"r:never:{n}"
        elif turn < 0.25:
            click = rng.choice(clicks[-50:])
            about, user = f"refresh:{click.id}", click.user
        item = f"item:{rng.randrange(int(ITEMS * 1.05))}"  # some of them unknown
        if kind < 0.76:
            clicks.append(Click(id=f"c:{n}", user=user, item=item, at=at, request=about))
            yield clicks[-1]
        elif kind < 0.88:
            thing = item if about is None or rng.random() < 0.5 else None
            value = round(rng.uniform(-2, 5), 1)
            yield Reward(id=f"w:{n}", user=user, at=at, value=value, request=about, item=thing)
        else:
            shown = tuple(f"item:{rng.randrange(ITEMS)}" for _ in range(rng.randrange(5)))
            yield Impression(id=f"i:{n}", request=about or "r:none", user=user, at=at, shown=shown)


def spoiled(rng: Random, event: Event, n: int) -> Sent:
    """A bad message made of a good one, and how its dead letter must begin."""
    user = getattr(event, "user", "ann")
    at, place = event.at, owner(user, PARTITIONS)
    request = Request(id=f"bad:{n}", user=user, at=at)
    reward = Reward(id=f"bad:{n}", user=user, at=at, value=1, item="item:1")
    table: list[tuple[bytes | None, str]] = [
        (body(request)[:-1], "invalid: Input data was truncated"),
        (b"\xff\xfe\x00", "invalid: JSON is malformed"),
        (body(request, type="purchase"), "invalid: Invalid value 'purchase' - at `$.type`"),
        (body(request, user=None), "invalid: Object missing required field `user`"),
        (body(request, at="noon"), "invalid: Expected `int`, got `str` - at `$.at`"),
        (body(reward, value=float("nan")), "invalid: JSON is malformed"),
        (body(request, id=""), "invalid: Expected `str` of length >= 1 - at `$.id`"),
        (body(request, k=0), "invalid: Expected `int` >= 1 - at `$.k`"),
        (body(request, k=10_000), "invalid: Expected `int` <= 100 - at `$.k`"),
        (body(reward, item=None), "invalid: a reward needs a request, an item or both"),
        (encode(replace(request, at=1)), "too_late: at 1 "),
        (encode(replace(request, at=at + 10**10)), f"future: at {at + 10**10} "),
        (None, "invalid: Input data was truncated"),
        (body(request, pad="x" * 1_000_000) if n % 10 == 0 else b"[]", "invalid: "),
        (encode(request), "misrouted: "),
    ]
    value, reason = table[n % len(table)]
    if reason == "misrouted: ":
        place = (place + 1 + rng.randrange(PARTITIONS - 1)) % PARTITIONS
    return Sent(value, user, place, reason)


def mixed(begin: int) -> list[Sent]:
    """10,000 messages: 5% bad, 5% sent before already, the rest good."""
    rng = Random(7)
    sent: list[Sent] = []
    bad = 0
    for event in good_events(rng, begin):
        turn = rng.random()
        if len(sent) > 500 and turn < 0.05:
            sent.append(spoiled(rng, event, bad := bad + 1))
        elif len(sent) > 500 and turn < 0.1:
            again = rng.choice(sent[-100:])
            sent.append(again)
        elif isinstance(event, Tick):
            sent.append(Sent(encode(event), "", rng.randrange(PARTITIONS)))
        else:
            sent.append(Sent(encode(event), event.user, owner(event.user, PARTITIONS)))
        if len(sent) == EVENTS:
            break
    end = begin + EVENTS * STEP
    return sent + [Sent(encode(Tick(at=end)), "", p) for p in range(PARTITIONS)]


def accounts_of(
    deployment: Deployment,
    sent: list[Sent],
    places: list[tuple[int, int]],
    decisions: dict[int, dict[str, Decision]],
) -> dict[int, tuple[ExpectedOutcomes, list[ExpectedRecord]]]:
    """The account of each partition, from what was sent and when the broker appended it."""
    known = dict(zip(places, sent, strict=True))
    made: dict[int, tuple[ExpectedOutcomes, list[ExpectedRecord]]] = {}
    for p in range(PARTITIONS):
        proposed = {
            (one.user, id): [slot.item for slot in one.slots] for id, one in decisions[p].items()
        }
        account = ExpectedOutcomes(
            horizon=HORIZON, early=EARLY, lateness=LATENESS, proposed=proposed
        )
        made[p] = account, []
    for message in deployment.read(deployment.topics.events):
        one = known.pop((message.partition, message.offset))
        account, facts = made[message.partition]
        if one.reason and not one.reason.startswith("too_late"):
            account.bad(message.offset, one.reason)
        else:
            event = decode_event(one.value or b"")
            facts += account(message.offset, message.timestamp, event)
    assert not known
    return made


def first_decisions(deployment: Deployment) -> dict[int, dict[str, Decision]]:
    """The decisions of each partition; fails if one was published twice."""
    found: dict[int, dict[str, Decision]] = {p: {} for p in range(PARTITIONS)}
    for message in deployment.read(deployment.topics.rankings):
        decision = decode_decision(message.value or b"")
        assert decision.id not in found[message.partition]
        found[message.partition][decision.id] = decision
    return found


def test_each_of_ten_thousand_events_is_accounted_for(
    apache_kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {
        "partitions": PARTITIONS,
        "horizon_seconds": HORIZON / 1000,
        "early_reward_seconds": EARLY / 1000,
        "allowed_lateness_seconds": LATENESS / 1000,
        "idle_tick_seconds": 3600,  # time passes by what the test sends alone
        "candidates": 30,
    }
    with Deployment(apache_kafka.brokers, topic_prefix, tmp_path, **settings) as deployment:
        workers = deployment.ready(2)
        deployment.stock(ITEMS)
        sent = mixed(now() - 2 * EVENTS * STEP)
        places = deployment.send_all((s.value, s.user, "", s.partition) for s in sent)
        deployment.settled()
        decisions = first_decisions(deployment)
        found = accounts_of(deployment, sent, places, decisions)
        accounts = {p: account for p, (account, _) in found.items()}

        # Every event has one fate, and the workers' counters say the same.
        assert sum(len(account.fates) for account in accounts.values()) == EVENTS + PARTITIONS
        said = {p: owned for worker in workers for p, owned in worker.partitions().items()}
        for p, account in accounts.items():
            outcomes = {"complete", "expired", "corrected", "unshown", "refused"}
            counted = {k: n for k, n in said[p]["events"].items() if n and k not in outcomes}
            assert counted == dict(account.counts())
            assert sum(said[p]["deadletters"].values()) == sum(
                fate == "letter" for fate in account.fates.values()
            )

        # Every dead letter, and no other message, lies there with its reason and its bytes.
        wanted = {(p, o): why for p, one in accounts.items() for o, why in one.letters.items()}
        letters = eventually(
            lambda: there if len(there := deployment.letters()) >= len(wanted) else None, "letters"
        )
        assert {(letter.partition, letter.offset) for letter in letters} == set(wanted)
        assert len(letters) == len(wanted)
        bytes_sent = {place: one.value or b"" for place, one in zip(places, sent, strict=True)}
        for letter in letters:
            where = letter.partition, letter.offset
            assert letter.reason.startswith(wanted[where])
            assert letter.value == bytes_sent[where]

        # Every request, and every click's refresh, has exactly one decision.
        for p, account in accounts.items():
            assert set(decisions[p]) == {id for _, id in account.asked}
            assert all(decision.slots for decision in decisions[p].values())

        # Feedback holds what users liked and one outcome for each that closed, in order.
        version, digest = deployment.agreed()
        records = deployment.records()
        for p, (_, facts) in found.items():
            learned = [
                expected_record(record) for record in records if record.source.partition == p
            ]
            assert len(learned) == len(facts)
            assert [(a, b) for a, b in zip(facts, learned, strict=True) if not a.like(b)] == []

        # Both workers hold what a fresh fold of the log holds.
        assert deployment.folded(version).digest() == digest

        # And every ranking can be made again from the logs.
        audit = subprocess.run(
            [sys.executable, "-m", "stream", "audit"],
            env=deployment.environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert audit.returncode == 0, audit.stdout + audit.stderr

        # The log was as mixed as it should be.
        fates = sum((Counter(one.fates.values()) for one in accounts.values()), Counter[str]())
        assert all(fates[fate] > 20 for fate in FATES), fates
