"""Whatever comes in: the codec refuses or reads it, no string steers the bandit, folds go on."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.attribution import Attribution
from agents.learner import Learner
from agents.loop import Loop
from models.bert_encoder import embed
from models.codec import MAX_DEPTH, Decode, too_deep
from models.events import (
    Click,
    Embedding,
    Features,
    Impression,
    Interaction,
    InvalidMessageError,
    Item,
    Outcome,
    OutcomeSlot,
    Request,
    Reward,
    Source,
    Tick,
    chain,
    decode_any,
    decode_decision,
    decode_event,
    decode_item,
    decode_record,
    encode,
)
from models.hash_encoder import HashEncoder
from policies.vowpal import Vowpal
from policies.vowpal_text import head, item, label, shared
from stream import build
from stream.settings import Settings
from stream.storage.tensor_file import CHECKSUM, DTYPES, HASH_BYTES, CorruptFileError, read_tensors

DECODERS: list[Decode[Any]] = [
    decode_any,
    decode_event,
    decode_item,
    decode_decision,
    decode_record,
]
ODD = "|: \n\t\r\0\x1b\"'\\{}[],0:1abUCxteshared\ud800\udfff\u2028用🎬\u202e"
odd = st.text(alphabet=ODD, max_size=20) | st.text(max_size=20)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e308, -1e308, 5e-324, 1e6, 1e6 + 1, -0.0, 2**53 + 1, 2**63, 10**400]),
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd, inner, max_size=4),
    max_leaves=12,
)
anything_clean = st.none() | st.integers(-(2**63), 2**63) | st.text(max_size=5)
FIELDS = sorted(field.encode_name for field in msgspec.structs.fields(Outcome))
KINDS = ["item", "embedding", "request", "impression", "click", "reward", "tick", "decision"]
KINDS += ["interaction", "outcome"]

VALID: list[dict[str, Any]] = [
    {"type": "item", "id": "i", "at": 1, "title": "t", "tags": ["a"], "attributes": {"y": 1}},
    {"type": "embedding", "id": "i", "encoder": "e", "text_hash": "0" * 16, "vector": "ADw="},
    {"type": "request", "id": "r", "user": "u", "at": 1, "k": 2, "context": {"d": "x", "n": 1.0}},
    {"type": "impression", "id": "m", "request": "r", "user": "u", "at": 1, "shown": ["i"]},
    {"type": "click", "id": "c", "user": "u", "item": "i", "at": 1, "request": "r"},
    {"type": "reward", "id": "w", "user": "u", "at": 1, "value": -0.5, "item": "i"},
    {"type": "tick", "at": 1},
    {
        "type": "outcome",
        "id": "r",
        "user": "u",
        "at": 1,
        "status": "complete",
        "policy": "p",
        "model": 0,
        "source": [0, 1, 0],
        "features": ["knn"],
        "slots": [
            {
                "item": "i",
                "position": 0,
                "propensity": 0.5,
                "reward": 1.0,
                "features": [[0.5], ["t"], [0.25]],
            }
        ],
    },
    {
        "type": "interaction",
        "id": "c",
        "user": "u",
        "item": "i",
        "at": 1,
        "value": 1.0,
        "source": [0, 0, 0],
    },
]


def written(value: object) -> bytes:
    """JSON as a careless producer writes it: NaN, Infinity, lone surrogates and all."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid message with a few fields replaced, added or left out, then a few bytes."""
    message = dict(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(message) or FIELDS) | st.sampled_from(FIELDS) | odd)
        if draw(st.booleans()):
            message[name] = draw(anything)
        else:
            message.pop(name, None)
    data = bytearray(written(message))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        if not data:
            break
    return bytes(data)


def holds(data: bytes) -> None:
    """Each decoder reads it or raises InvalidMessageError; what it read it can write and read."""
    for decode in DECODERS:
        try:
            message = decode(data)
        except InvalidMessageError:
            continue
        again = encode(message)
        assert decode(again) == message
        assert encode(decode(again)) == again
        assert len(chain(again)) == 16


@given(st.binary(max_size=300) | anything.map(written) | mutants())
def test_bytes_are_read_whole_or_refused_with_a_reason(data: bytes) -> None:
    holds(data)


@given(st.data())
def test_depth_is_counted_as_a_plain_reader_counts_it(data: st.DataObject) -> None:
    """Against one that walks byte by byte, around the limit, in texts and out of them."""
    rng = Random(data.draw(st.integers(0, 2**32)))
    parts = ["[" * rng.randrange(600), "]" * rng.randrange(600), '"[[\\"{"', "{}", '"\\\\"', "["]
    text = "".join(rng.choice(parts) for _ in range(rng.randrange(8))).encode()
    depth = deepest = 0
    inside = escaped = False
    for byte in text:
        if inside:
            escaped, inside = byte == 0x5C and not escaped, escaped or byte != 0x22
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    if not inside:  # a text that never ends is refused by whoever reads it
        assert too_deep(text) == (deepest > MAX_DEPTH)
    holds(text)


# The bandit's text


def seen(policy: Vowpal, lines: list[str]) -> list[dict[str, int]]:
    """What Vowpal Wabbit itself reads: each line's namespaces, and their numbers of features."""
    vw = policy._model.vw
    examples = vw.parse(lines)
    spaces = [
        {chr(one.get_ns(i).ord_ns): one.num_features_in(i) for i in range(one.num_namespaces())}
        for one in examples
    ]
    labels = [one.get_label() for one in examples]
    assert len(labels) == len(lines)
    vw.finish_example(examples)
    for found in spaces:
        found.pop(chr(128), None)  # the constant
    return spaces


@pytest.fixture(scope="module")
def policy() -> Iterator[Vowpal]:
    made = Vowpal()
    yield made
    made.close()


small = st.floats(-100, 100)
# Names differ, as columns do: of two that are equal, Vowpal Wabbit may keep one.
features = st.tuples(
    st.lists(odd, max_size=4, unique=True), st.lists(odd, max_size=6), st.integers(0, 4)
)


@given(
    user=odd,
    context=st.dictionaries(odd, odd | small | st.booleans(), max_size=5),
    given_features=features,
    value=small,
)
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
def test_vowpal_wabbit_reads_one_example_of_the_shape_that_was_written(
    policy: Vowpal,
    user: str,
    context: dict[str, Any],
    given_features: tuple[list[str], list[str], int],
    value: float,
) -> None:
    names, tags, dims = given_features
    shown = Features((value or 1.0,) * len(names), tuple(tags), (value or 1.0,) * dims)
    lines = [
        head(shared(user, context)),
        f"{label(value, 0.5, weigh=True)} {item(tuple(names), shown)}",
    ]
    zero = sum(1 for v in context.values() if not isinstance(v, bool | str) and abs(v) < 1e-6)
    first, second = seen(policy, lines)
    tiny = abs(shown.x[0] if shown.x else shown.text[0] if dims else 1.0) < 1e-6
    assert first["U"] == 1
    assert len(context) - zero <= first.get("C", 0) <= len(context)
    assert set(first) <= {"U", "C"} and set(second) <= {"x", "t", "e"}
    assert second.get("t", 0) == len(tags)
    assert second.get("x", 0) == (0 if tiny else len(names))
    assert second.get("e", 0) == (0 if tiny else dims)


# Folds: whatever a decoder lets in is learned or passed over; nothing else happens

outcomes = st.builds(
    lambda slots, names, context, status: Outcome(
        id="r",
        user="u\u2028|",
        at=1,
        status=status,
        policy="p",
        model=0,
        slots=tuple(slots),
        source=Source(0, 0, 0),
        features=tuple(names),
        context=context,
    ),
    slots=st.lists(
        st.builds(
            lambda item, propensity, reward, x, tags, text: OutcomeSlot(
                item=item,
                position=0,
                propensity=propensity,
                reward=reward,
                features=Features(tuple(x), tuple(tags), tuple(text)),
            ),
            st.sampled_from("abc"),
            st.floats(5e-324, 1.0),
            st.floats(-1e6, 1e6),
            st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
            st.lists(st.text(max_size=5), max_size=3),
            st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        ),
        max_size=3,
    ),
    names=st.lists(st.text(max_size=5), max_size=3),
    context=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.text(max_size=5) | st.floats(-1e6, 1e6) | st.booleans(),
        max_size=3,
    ),
    status=st.sampled_from(["complete", "expired", "corrected"]),
)


@pytest.mark.parametrize("name", ["bandit", "vw_explore"])
def test_what_feedback_may_hold_is_learned_or_invalid_and_learning_goes_on(name: str) -> None:
    settings = Settings(encoder="hash", policy=name, max_users=5, max_items=5)
    learner = build.parts(settings, HashEncoder()).learner
    good = msgspec.convert(VALID[-1], Interaction)

    @given(outcomes)
    @hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    def learned(outcome: Outcome) -> None:
        for record in (outcome, good):
            place = learner.ledger.places.get(0)
            source = Source(0, learner.version + 1, 0)
            prev = place.chain if place else ""
            data = encode(msgspec.structs.replace(record, source=source, prev=prev))
            verdict = learner(learner.version, data)
        assert verdict == "learned"
        assert np.isfinite(np.concatenate([np.ravel(a) for a in finite_arrays(learner)])).all()

    learned()


def finite_arrays(learner: Learner) -> list[np.ndarray]:
    return [a for a in learner.memory.state().values() if a.dtype.kind == "f"] or [np.zeros(1)]


def worlds() -> Loop:
    parts = build.parts(SETTINGS, HashEncoder())
    return Loop(Attribution(0, SETTINGS.attribution_rules()), parts.learner, parts.recommender)


SETTINGS = Settings(encoder="hash", max_users=5, max_items=5, horizon_seconds=0.001)
ids = st.sampled_from(["a", "b", "用|:", "\u2028", "refresh:a"])
times = st.integers(0, 5) | st.sampled_from([0, 600_000, 253_402_300_799_999])
flat = st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5) | st.floats(-1e6, 1e6))
halves = st.sampled_from([0x0000, 0x3C00, 0x7C00, 0x7E00, 0x0001, 0x7BFF, 0x8000, 0xFC00])
messages = st.one_of(
    st.builds(
        Item,
        id=ids,
        at=times,
        title=st.text(max_size=9),
        tags=st.lists(st.text(min_size=1, max_size=3), max_size=20).map(tuple),
        expires_at=st.none() | times,
        deleted=st.booleans(),
        attributes=flat,
    ),
    st.builds(
        lambda id, half: Embedding(
            id=id,
            encoder=HashEncoder().version,
            text_hash="0" * 16,
            vector=half.to_bytes(2, "little") * HashEncoder().dimensions,
        ),
        ids,
        halves,
    ),
    st.builds(
        Request,
        id=ids,
        user=ids,
        at=times,
        k=st.sampled_from([1, 2, 100]),
        context=flat,
        candidates=st.none() | st.lists(ids, max_size=4).map(tuple),
        exclude=st.lists(ids, max_size=3).map(tuple),
    ),
    st.builds(
        Impression,
        id=ids,
        request=ids,
        user=ids,
        at=times,
        shown=st.lists(ids, max_size=4).map(tuple),
    ),
    st.builds(Click, id=ids, user=ids, item=ids, at=times, request=st.none() | ids),
    st.builds(
        Reward, id=ids, user=ids, item=ids, at=times, request=ids, value=st.floats(-1e6, 1e6)
    ),
    st.builds(Tick, at=times),
)


@given(st.lists(messages, max_size=25))
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_messages_in_any_order_leave_a_loop_that_answers(log: list[Any]) -> None:
    loop = worlds()
    for message in log:
        read_back: Any = decode_any(encode(message))
        for decision in loop(read_back):
            assert decode_decision(encode(decision)) == decision
    loop(Item(id="sure", at=0))
    [vector] = embed([Item(id="sure", title="sure", at=0)], HashEncoder())
    loop(vector)
    end = loop.attribution.watermark
    [decision] = loop(Request(id="last", user="z", at=end, k=1, candidates=("sure",)))
    assert [slot.item for slot in decision.slots] == ["sure"]
    assert loop.learner.ledger.counts["refused"] == loop.learner.ledger.counts["invalid"] == 0


# Snapshots: a header that claims anything, under a right checksum


def forged(head: object, body: bytes) -> bytes:
    text = head if isinstance(head, bytes) else msgspec.json.encode(head)
    made = len(text).to_bytes(8, "little") + text + body
    return made + blake2b(made, digest_size=HASH_BYTES).digest()


sizes = st.integers(0, 4) | st.sampled_from([2**31, 2**32, 2**47, 2**48, 2**63, 2**64, -1])
claimed = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "BOOL", "F128", ""]),
        "shape": st.lists(sizes, max_size=5),
        "data_offsets": st.lists(sizes, min_size=2, max_size=2),
    }
)
names = st.sampled_from(["a", "memory.mf.p", "../a", "/etc/passwd", "a\0", "", CHECKSUM, "n" * 300])


@given(st.dictionaries(names, claimed | anything_clean, max_size=4), st.binary(max_size=64))
def test_a_forged_header_is_refused_or_means_what_it_says(head: dict, body: bytes) -> None:
    data = forged(head, body)
    with suppress(CorruptFileError):
        _, arrays = read_tensors(BytesIO(data), len(data))
        assert sum(a.nbytes for a in arrays.values()) == len(body)


@pytest.mark.parametrize(
    "shape", [[0, 2**48], [0, 2**48, 2**48, 2**48], [2**48, 0], [2**32, 2**32], [2**48] * 4]
)
def test_a_shape_whose_product_overflows_allocates_nothing(shape: list[int]) -> None:
    head = {
        "a": {"dtype": "F64", "shape": shape, "data_offsets": [0, 0]},
        CHECKSUM: {"dtype": "U8", "shape": [HASH_BYTES], "data_offsets": [0, HASH_BYTES]},
    }
    data = forged(head, b"")
    tracemalloc.start()
    try:
        with suppress(CorruptFileError):
            _, arrays = read_tensors(BytesIO(data), len(data))
            assert arrays["a"].nbytes == 0
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        b"{" + b",".join(b'"%d":{}' % n for n in range(100_000)) + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"__metadata__":{"a":"' + b"x" * 900_000 + b'"}}',
        b"[" * 1_000_000,
        b'{"a":1' + b"0" * 900_000 + b"}",
        b"{}",
    ],
    ids=["many", "deep", "long", "open", "a long number", "nothing"],
)
def test_a_header_made_to_burst_is_refused(text: bytes) -> None:
    data = forged(text, b"")
    with pytest.raises(CorruptFileError):
        read_tensors(BytesIO(data), len(data))
