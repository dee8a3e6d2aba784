"""One worker on a real Kafka: what it answers, when, with what it knows."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from models.events import Click, Impression, Request, Reward, decode_decision
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually

pytestmark = pytest.mark.kafka

SHORT = {"horizon_seconds": 1, "allowed_lateness_seconds": 60, "idle_tick_seconds": 0.2}


def made(kafka: Kafka, folder: Path, **settings: object) -> Iterator[Deployment]:
    prefix = f"t{uuid.uuid4().hex[:12]}"
    with Deployment(kafka.brokers, prefix, folder, partitions=1, **settings) as deployment:
        deployment.ready()
        deployment.stock()
        yield deployment


@pytest.fixture(scope="module")
def patient(
    kafka: Kafka, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """With Redis, and horizons that no test waits for."""
    folder = tmp_path_factory.mktemp("patient")
    yield from made(kafka, folder, redis_url=redis_url, ranking_ttl_seconds=100)


@pytest.fixture(scope="module")
def quick(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Decisions close after a second."""
    yield from made(kafka, tmp_path_factory.mktemp("quick"), **SHORT)


@pytest.fixture(scope="module")
def explicit(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The same, and nothing counts as shown unless an impression says so. Its Redis is away."""
    away = {"impressions": "explicit", "redis_url": "redis://127.0.0.1:1/0"}
    yield from made(kafka, tmp_path_factory.mktemp("explicit"), **SHORT, **away)


def new(name: str) -> str:
    """An id that no other test has."""
    return f"{name}:{uuid.uuid4().hex}"


def test_a_ranking_knows_the_click_before_it(patient: Deployment) -> None:
    user = new("ann")
    for n in range(20):
        at = now()
        click = Click(id=new("c"), user=user, item=f"item:{n}", at=at)
        request = Request(id=new("r"), user=user, at=at, k=5)
        patient.publish(click, request)
        decision = patient.decision(request.id)
        [offset] = [i for i, record in enumerate(patient.records()) if record.id == click.id]
        assert decision.model > offset
        assert click.item not in {slot.item for slot in decision.slots}


def test_a_click_refreshes_the_ranking(patient: Deployment) -> None:
    at, user = now(), new("ann")
    asked = Request(id=new("r"), user=user, at=at, k=4, context={"page": "home"})
    click = Click(id=new("c"), user=user, item="item:7", at=at, request=asked.id)
    patient.publish(asked, click)
    fresh = patient.decision(f"refresh:{click.id}")
    assert (fresh.user, fresh.k, fresh.context) == (user, 4, {"page": "home"})
    assert len(fresh.slots) == 4
    assert "item:7" not in {slot.item for slot in fresh.slots}
    [offset] = [i for i, record in enumerate(patient.records()) if record.id == click.id]
    assert fresh.model > offset


def test_the_latest_ranking_is_in_redis(patient: Deployment, redis_url: str) -> None:
    user = new("ann")
    first, second = (Request(id=new("r"), user=user, at=now()) for _ in range(2))
    store: Any = redis.from_url(redis_url)
    with store:
        for request in (first, second):
            patient.publish(request)
            patient.decision(request.id)
        prefix, wanted = patient.settings.topic_prefix, patient.decision(second.id)
        key = f"{prefix}:ranking:{user}"

        def kept() -> bool:
            value = store.hget(key, "decision")
            return value is not None and decode_decision(value) == wanted

        eventually(kept, "the latest ranking is in Redis")
        assert 0 < store.pttl(key) <= 100_000


def test_ticks_close_the_decision_of_a_quiet_partition(quick: Deployment) -> None:
    request = Request(id=new("r"), user="ann", at=now(), k=2)
    quick.publish(request)
    [outcome] = eventually(lambda: quick.outcomes(request.id), "the decision is closed")
    shown = [slot.item for slot in quick.decision(request.id).slots]
    assert [slot.item for slot in outcome.slots] == shown
    assert (outcome.status, outcome.reward) == ("expired", 0)


def test_a_late_reward_corrects_its_outcome(quick: Deployment) -> None:
    request = Request(id=new("r"), user="ann", at=now(), k=2)
    quick.publish(request)
    eventually(lambda: quick.outcomes(request.id), "the decision is closed")
    top = quick.decision(request.id).slots[0].item
    quick.publish(Reward(id=new("w"), user="ann", item=top, at=now(), request=request.id, value=3))
    expired, corrected = eventually(
        lambda: found if len(found := quick.outcomes(request.id)) > 1 else None, "a correction"
    )
    assert (expired.status, expired.reward) == ("expired", 0)
    assert (corrected.status, corrected.reward, corrected.slots[0].reward) == ("corrected", 3, 3)


def test_what_was_shown_is_what_is_learned(explicit: Deployment) -> None:
    at = now()
    request = Request(id=new("shown"), user="ann", at=at, k=3)
    explicit.publish(request)
    slots = {slot.item: slot for slot in explicit.decision(request.id).slots}
    first, second, _ = slots
    explicit.publish(
        Impression(
            id=new("i"), request=request.id, user="ann", at=at, shown=(second, "advert", first)
        ),
        Click(id=new("c"), user="ann", item=first, at=at, request=request.id, position=2),
        Reward(id=new("w"), user="ann", item=second, at=at, request=request.id, value=-0.5),
    )
    [outcome] = eventually(lambda: explicit.outcomes(request.id), "the decision is closed")
    judged = [(slot.item, slot.position, slot.reward) for slot in outcome.slots]
    assert judged == [(second, 0, -0.5), (first, 2, 1.0)]
    assert outcome.foreign == ("advert",)
    assert (outcome.status, outcome.reward) == ("complete", 0.5)
    for slot in outcome.slots:
        assert slot.propensity == slots[slot.item].propensity
        assert slot.features == slots[slot.item].features


def test_what_no_impression_names_is_not_learned(explicit: Deployment) -> None:
    unseen, seen = (Request(id=new("r"), user="ann", at=now(), k=2) for _ in range(2))
    explicit.publish(unseen, seen)
    shown = tuple(slot.item for slot in explicit.decision(seen.id).slots)
    explicit.publish(Impression(id=new("i"), request=seen.id, user="ann", at=now(), shown=shown))
    eventually(lambda: explicit.outcomes(seen.id), "the decision after it is closed")
    assert explicit.outcomes(unseen.id) == []


def test_without_redis_the_worker_goes_on(explicit: Deployment) -> None:
    request = Request(id=new("r"), user="ann", at=now())
    explicit.publish(request)
    assert explicit.decision(request.id).slots
    assert "ConnectionError" in explicit.workers[0].words()
