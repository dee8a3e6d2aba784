"""Whatever is sent, the worker says what is wrong with it, and answers the next one."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from struct import pack

import pytest
from aiokafka import AIOKafkaProducer

from models.events import (
    Click,
    Decision,
    Embedding,
    Interaction,
    Item,
    Request,
    Reward,
    Source,
    decode_event,
    encode,
)
from stream.kafka.topics import owner
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, body, now
from tests.support.kafka_worker import eventually

pytestmark = pytest.mark.kafka

AT = now()
REQUEST = Request(id="bad", user="ann", at=AT)
CLICK = Click(id="bad", user="ann", item="item:1", at=AT)
REWARD = Reward(id="bad", user="ann", at=AT, value=1.0, item="item:1")
ITEM = Item(id="bad", at=AT, title="title")
NULLS = json.dumps(
    json.loads(encode(REQUEST))
    | dict.fromkeys(("v", "k", "candidates", "exclude", "mood"))
    | {"context": {"device": None, "hour": 7}}
).encode()
REQUEST_WITHOUT_USER = json.dumps(json.loads(encode(REQUEST)) | {"user": None}).encode()

EVENTS: dict[str, tuple[bytes | None, str]] = {
    "null": (None, "invalid: Input data was truncated"),
    "empty": (b"", "invalid: Input data was truncated"),
    "half": (body(REQUEST)[:-9], "invalid: Input data was truncated"),
    "binary": (b"\x00\xff\xfe", "invalid: JSON is malformed"),
    "a byte order mark": (b"\xef\xbb\xbf" + body(REQUEST), "invalid: JSON is malformed"),
    "two messages": (body(REQUEST) * 2, "invalid: JSON is malformed: trailing characters"),
    "a list": (b"[]", "invalid: Expected `object`, got `array`"),
    "deep": (b'{"type":' + b"[" * 100_000, "invalid: "),
    "deep where ignored": (body(REQUEST)[:-1] + b',"x":' + b"[" * 100_000, "invalid: "),
    "no type": (b"{}", "invalid: Object missing required field `type`"),
    "unknown type": (body(REQUEST, type="purchase"), "Invalid value 'purchase' - at `$.type`"),
    "an item among events": (encode(ITEM), "invalid: Invalid value 'item' - at `$.type`"),
    "version 0": (body(REQUEST, v=0), "invalid: Expected `int` >= 1 - at `$.v`"),
    "no user": (body(REQUEST, user=None), "missing required field `user`"),
    "no item": (body(CLICK, item=None), "missing required field `item`"),
    "a number as user": (body(REQUEST, user=7), "Expected `str`, got `int` - at `$.user`"),
    "no user at all": (REQUEST_WITHOUT_USER, "missing required field `user`"),
    "a newer schema": (body(REQUEST, v=99), "v is 99, and this release reads messages up to v 1"),
    "a text as time": (body(REQUEST, at="noon"), "Expected `int`, got `str` - at `$.at`"),
    "a negative time": (body(REQUEST, at=-1), "Expected `int` >= 0 - at `$.at`"),
    "a time beyond all": (body(REQUEST, at=10**30), "at `$.at`"),
    "microseconds": (body(REQUEST, at=AT * 1000), "looks like microseconds: divide by 1000"),
    "nanoseconds": (body(REQUEST, at=AT * 10**6), "looks like nanoseconds: divide by 1000000"),
    "in ten days": (body(REQUEST, at=AT + 10 * 86_400_000), "future: at "),
    "in 1970": (body(REQUEST, at=1), "too_late: at 1 is beyond the window"),
    "seconds": (body(REQUEST, at=AT // 1000), "looks like seconds: multiply by 1000"),
    "a click in seconds": (body(CLICK, at=AT // 1000), "looks like seconds: multiply by 1000"),
    "NaN": (body(REWARD, value=float("nan")), "invalid: JSON is malformed"),
    "infinity": (body(REWARD, value=float("inf")), "invalid: JSON is malformed"),
    "1e400": (body(REWARD).replace(b'"value": 1.0', b'"value": 1e400'), "invalid: "),
    "a huge reward": (body(REWARD, value=1e7), "Expected `float` <= 1000000.0 - at `$.value`"),
    "a reward for nothing": (body(REWARD, item=None), "a reward needs a request, an item or"),
    "no id": (body(REQUEST, id=""), "Expected `str` of length >= 1 - at `$.id`"),
    "a long id": (body(REQUEST, id="x" * 257), "Expected `str` of length <= 256 - at `$.id`"),
    "a newline in an id": (body(REQUEST, id="a\nb"), "at `$.id`"),
    "half a surrogate": (body(REQUEST, user="\ud800"), "invalid: "),
    "k of 0": (body(REQUEST, k=0), "Expected `int` >= 1 - at `$.k`"),
    "k of 10,000": (body(REQUEST, k=10_000), "Expected `int` <= 100 - at `$.k`"),
    "k of 1.5": (body(REQUEST, k=1.5), "Expected `int`, got `float` - at `$.k`"),
    "a nested context": (body(REQUEST, context={"a": {"b": 1}}), "at `$.context.a`"),
    "too many candidates": (
        body(REQUEST, candidates=[f"i{n}" for n in range(1001)]),
        "Expected `array` of length <= 1000 - at `$.candidates`",
    ),
    "oversized": (body(REQUEST, pad="x" * 1_000_000), "at most 1,000,000 bytes, not 1,000,0"),
}
# Strange, but right: each is answered.
REQUESTS = {
    "from a newer producer": body(REQUEST, mood="new"),
    "with nulls": NULLS,
    "with large numbers": body(
        REQUEST, context={"ean": 4006381333931, "at": AT, "most": 2**53 - 1}
    ),
    "of an unknown user": body(REQUEST, user="nobody knows me"),
    "with all kinds of ids": body(REQUEST, user="a|b c:d'\"\\ 用户 \u2028 🙂"),
    "with a long user": body(REQUEST, user="u" * 256),
    "for more than there is": body(REQUEST, k=100),
    "for unknown candidates": body(REQUEST, candidates=["x|y z:1", "item:1", "不 \t".strip()]),
    "for one candidate, again and again": body(REQUEST, candidates=["item:1"] * 1000),
    "with a hostile context": body(
        REQUEST, context={"a|b c:9\n|x": "|s y:1\n\n", "n": -1e6, "t": True, "空": "\x00🙂"}
    ),
    "with a large context": body(REQUEST, context={f"k{n}": "v" * 200 for n in range(50)}),
    "a minute ahead": body(REQUEST, at=AT + 60_000),
    "an hour ahead": body(REQUEST, at=AT + 3_600_000),
}
ITEMS: dict[str, tuple[bytes | None, str]] = {
    "another key": (body(ITEM), "wrong key: the key is 'ann', the item's id "),
    "empty": (b"", "invalid: Input data was truncated"),
    "half": (body(ITEM)[:-4], "invalid: Input data was truncated"),
    "an event": (encode(REQUEST), "invalid: Invalid value 'request' - at `$.type`"),
    "a newer schema": (body(ITEM, v=2), "v is 2, and this release reads messages up to v 1"),
    "seconds": (body(ITEM, at=AT // 1000), "looks like seconds: multiply by 1000"),
    "expires in seconds": (
        body(ITEM, expires_at=AT // 1000 + 31_536_000),
        "looks like seconds: multiply by 1000",
    ),
    "a long number": (body(ITEM, attributes={"ean": 2**60}), "at `$.attributes.ean`"),
    "no time": (body(ITEM, at=None), "missing required field `at`"),
    "tags as a text": (body(ITEM, tags="new"), "Expected `array`, got `str` - at `$.tags`"),
    "a long text": (body(ITEM, text="x" * 20_001), "of length <= 20000 - at `$.text`"),
    "NaN": (body(ITEM, attributes={"x": float("nan")}), "invalid: JSON is malformed"),
}
VECTORS: dict[str, bytes | None] = {
    "null": None,
    "rubbish": b"rubbish",
    "a short vector": b"\x00\x3c",
    "half a number": b"\x00" * 511,
    "not a number": pack("<e", float("nan")) * 256,
    "infinity": pack("<e", float("inf")) * 256,
}


@pytest.fixture(scope="module")
def deployment(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One worker for the whole table: it has to survive all of it."""
    folder = tmp_path_factory.mktemp("bad")
    with Deployment(kafka.brokers, f"t{uuid.uuid4().hex[:12]}", folder, partitions=2) as deployment:
        deployment.ready()
        deployment.stock(20)
        deployment.publish(
            Request(id="first", user="ann", at=now())
        )  # "too late" is after something
        deployment.decision("first")
        yield deployment


def new(name: str) -> str:
    """An id that no other case has."""
    return f"{name} {uuid.uuid4().hex}"


def answered(deployment: Deployment, user: str = "ann") -> Decision:
    """The worker answers a good request, which comes after whatever was sent before."""
    request = Request(id=new("good"), user=user, at=now(), k=3)
    deployment.publish(request)
    decision = deployment.decision(request.id)
    assert len(decision.slots) == 3
    return decision


@pytest.mark.parametrize("case", EVENTS)
def test_a_bad_event_is_a_dead_letter_that_says_why(deployment: Deployment, case: str) -> None:
    value, reason = EVENTS[case]
    partition, offset = deployment.send(value)
    answered(deployment)
    letter = deployment.letter(deployment.topics.events, partition, offset)
    assert reason in letter.reason
    assert letter.value == (value or b"")


def test_an_event_on_another_partition_than_its_users_is_misrouted(deployment: Deployment) -> None:
    wrong = 1 - owner("ann", 2)
    deployment.send(
        encode(Click(id=new("c"), user="ann", item="item:1", at=now())), partition=wrong
    )
    _, offset = deployment.send(encode(Request(id=new("r"), user="ann", at=now())), partition=wrong)
    letter = deployment.letter(deployment.topics.events, wrong, offset)
    assert letter.reason == f"misrouted: the key must be the user, whose partition is {1 - wrong}"


@pytest.mark.parametrize("case", REQUESTS)
def test_a_strange_request_is_answered(deployment: Deployment, case: str) -> None:
    id = new("strange")
    value = REQUESTS[case].replace(b'"bad"', f'"{id}"'.encode())
    request = decode_event(value)
    assert isinstance(request, Request)
    deployment.send(value, user=request.user, partition=owner(request.user, 2))
    decision = deployment.decision(id)
    assert decision.slots
    assert all(0 < slot.propensity <= 1 for slot in decision.slots)


def test_a_request_without_candidates_gets_an_empty_decision_with_its_reason(
    deployment: Deployment,
) -> None:
    nothing = Request(id=new("none"), user="ann", at=now(), candidates=())
    exclude = tuple(f"item:{n}" for n in range(20))
    none_left = Request(
        id=new("none"), user="ann", at=now(), candidates=("item:1", "item:2"), exclude=exclude
    )
    deployment.publish(nothing, none_left)
    for request in (nothing, none_left):
        decision = deployment.decision(request.id)
        assert decision.slots == ()
        assert "no candidates" in (decision.refused or "")


def test_more_than_there_is_gives_what_there_is(deployment: Deployment) -> None:
    request = Request(
        id=new("r"), user=new("u"), at=now(), k=100, candidates=("item:1", "item:2", "item:2")
    )
    deployment.publish(request)
    assert {slot.item for slot in deployment.decision(request.id).slots} == {"item:1", "item:2"}


def test_one_future_event_closes_nobodys_decision(deployment: Deployment) -> None:
    mine, other = Request(id=new("mine"), user="ann", at=now()), new("other")
    deployment.publish(mine, Request(id=other, user="ann", at=now() + 20 * 3_600_000))
    deployment.decision(other)
    deployment.publish(Click(id=new("c"), user="ann", item="item:9", at=now(), request=mine.id))
    answered(deployment)
    deployment.settled()
    assert deployment.outcomes(mine.id) == []


@pytest.mark.parametrize("case", ITEMS)
def test_a_bad_item_is_a_dead_letter_and_the_next_is_embedded(
    deployment: Deployment, case: str
) -> None:
    value, reason = ITEMS[case]
    partition, offset = deployment.send(value, topic=deployment.topics.items)
    good = Item(id=new("item"), at=1, title="a good one")
    deployment.publish(good)
    letter = deployment.letter(deployment.topics.items, partition, offset)
    assert reason in letter.reason
    assert letter.value == (value or b"")
    eventually(
        lambda: any(
            (m.key or b"").endswith(good.id.encode())
            for m in deployment.read(deployment.topics.embeddings)
        ),
        "the item after a bad one has its vector",
    )


LARGE = b"x" * 10_000_000


def squeezed(deployment: Deployment, topic: str) -> int:
    """Publish LARGE in some kB of gzip, which brokers let through; the offset."""

    async def sent() -> int:
        options = deployment.settings.aiokafka_options()
        producer = AIOKafkaProducer(**options, compression_type="gzip", max_request_size=16 << 20)
        async with producer:
            return (await producer.send_and_wait(topic, LARGE, key=b"ann", partition=0)).offset

    return asyncio.run(sent())


def assert_cut(deployment: Deployment, topic: str, offset: int) -> None:
    """There is one dead letter for LARGE, as much of it as goes into one."""
    letter = deployment.letter(topic, 0, offset)
    assert "at most 1,000,000 bytes, not 10,000,000" in letter.reason
    assert letter.value == LARGE[:2_000_000]
    letters = [(one.topic, one.partition, one.offset) for one in deployment.letters()]
    assert letters.count((topic, 0, offset)) == 1


def test_a_large_event_in_a_small_parcel_is_one_dead_letter(deployment: Deployment) -> None:
    offset = squeezed(deployment, deployment.topics.events)
    user = next(user for user in map(str, range(99)) if owner(user, 2) == 0)
    answered(deployment, user)
    assert_cut(deployment, deployment.topics.events, offset)


def test_a_large_item_in_a_small_parcel_is_one_dead_letter(deployment: Deployment) -> None:
    offset = squeezed(deployment, deployment.topics.items)
    good = Item(id=new("item"), at=1, title="a good one")
    deployment.publish(good)
    eventually(
        lambda: any(
            (m.key or b"").endswith(good.id.encode())
            for m in deployment.read(deployment.topics.embeddings)
        ),
        "the item after a large one has its vector",
    )
    assert_cut(deployment, deployment.topics.items, offset)


@pytest.mark.parametrize("case", VECTORS)
def test_a_bad_vector_is_passed_over(deployment: Deployment, case: str) -> None:
    vector = VECTORS[case]
    encoder = deployment.workers[0].status()["encoder"]
    bad = vector
    if vector not in (None, b"rubbish"):
        bad = encode(Embedding(id="item:2", encoder=encoder, text_hash="0" * 32, vector=vector))
    deployment.send(bad, topic=deployment.topics.embeddings)
    good = Embedding(id="item:1", encoder=encoder, text_hash="0" * 32, vector=b"\0\x3c" * 256)
    _, offset = deployment.send(encode(good), topic=deployment.topics.embeddings)
    eventually(lambda: deployment.workers[0].status()["embeddings"] > offset, "the vector was read")
    request = Request(id=new("r"), user=new("u"), at=now(), candidates=("item:1", "item:2"))
    deployment.publish(request)
    assert len(deployment.decision(request.id).slots) == 2


@pytest.mark.parametrize(
    "value",
    [None, b"", b"rubbish", b'{"type":"click"}', pytest.param(body(REQUEST), id="a request")],
)
def test_rubbish_among_the_rankings_is_passed_over(
    deployment: Deployment, value: bytes | None
) -> None:
    deployment.send(value, topic=deployment.topics.rankings, partition=owner("ann", 2))
    answered(deployment)


@pytest.mark.parametrize("value", [None, b"rubbish", b"{}", b'{"type":"interaction"}'])
def test_rubbish_in_feedback_is_passed_over_by_all_alike(
    deployment: Deployment, value: bytes | None
) -> None:
    deployment.send(value, topic=deployment.topics.feedback)
    deployment.publish(Click(id=new("c"), user="bob", item="item:5", at=now()))
    answered(deployment, "bob")
    version, digest = deployment.agreed()
    assert deployment.folded(version).digest() == digest


def test_a_record_that_does_not_follow_is_refused_and_its_partition_goes_on(
    deployment: Deployment,
) -> None:
    partition = owner("bob", 2)
    record = Interaction("x", "bob", "item:6", 1, 1.0, Source(partition, 10**9, 0), "no chain")
    deployment.send(encode(record), topic=deployment.topics.feedback)
    click = Click(id=new("c"), user="bob", item="item:7", at=now())
    deployment.publish(click)
    assert "item:7" not in {slot.item for slot in answered(deployment, "bob").slots}
    version, digest = deployment.agreed()
    fresh = deployment.folded(version)
    assert fresh.digest() == digest
    assert fresh.ledger.places[partition].source.offset < 10**9


def test_the_worker_that_has_seen_it_all_starts_again(deployment: Deployment) -> None:
    _, digest = deployment.agreed()
    assert deployment.workers.pop().stop() == 0
    deployment.ready()
    assert deployment.agreed()[1] == digest
    answered(deployment)
