"""The nouns: they round-trip, older and newer ones are read, and what is wrong is named."""

import json
from contextlib import suppress
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from models import events
from models.codec import MAX_DEPTH
from models.events import (
    MAX_CANDIDATES,
    MAX_MESSAGE_BYTES,
    MAX_SLOTS,
    Begin,
    Champion,
    Click,
    Decision,
    Embedding,
    Features,
    Fold,
    Impression,
    Interaction,
    InvalidMessageError,
    Item,
    Mark,
    Message,
    NewerVersionError,
    Outcome,
    OutcomeSlot,
    Request,
    Restart,
    Reward,
    Slot,
    Source,
    Tick,
    decode_any,
    decode_decision,
    decode_embedding,
    decode_event,
    decode_item,
    decode_record,
    encode,
    text_hash,
    text_of,
)
from models.fields import SCHEMA_VERSION
from models.schemas import schemas
from tests.support import shared

BARCODE = shared.SHARED / "cases" / "hand" / "files" / "item_barcode.jsonl"
SLOT = Slot(
    item="i", propensity=0.5, score=-1.5, source="knn", features=Features((0.25,), ("t",), (1.0,))
)
EXAMPLES: dict[type[Message], Message] = {
    Item: Item(
        id="i",
        at=1,
        title="T",
        text="x",
        language="en",
        tags=("t",),
        attributes={"year": 1995.0, "new": True, "by": "Ann"},
        expires_at=9,
        deleted=True,
    ),
    Request: Request(
        id="r", user="u", at=1, k=3, context={"a": 1.0}, candidates=(), exclude=("x",)
    ),
    Impression: Impression(id="m", request="r", user="u", at=1, shown=("i",)),
    Click: Click(id="c", user="u", item="i", at=1, request="refresh:c", position=0),
    Reward: Reward(id="w", user="u", at=1, value=-0.5, request="r", item="i"),
    Tick: Tick(at=1),
    Embedding: Embedding(id="i", encoder="e", text_hash="0" * 16, vector=b"\x00\x3c"),
    Decision: Decision(
        id="r",
        user="u",
        at=1,
        k=3,
        policy="p",
        model=1,
        items=2,
        embeddings=3,
        source=4,
        slots=(SLOT,),
        features=("x",),
        candidates=("i", "j"),
        refused="why",
    ),
    Interaction: Interaction(
        id="c", user="u", item="i", at=1, value=1.0, source=Source(0, 1, 2), prev="0" * 16
    ),
    Outcome: Outcome(
        id="r",
        user="u",
        at=1,
        status="corrected",
        policy="p",
        model=1,
        slots=(OutcomeSlot(item="i", position=0, propensity=0.5, reward=1.0),),
        source=Source(0, 1, 2),
        foreign=("z",),
    ),
    Begin: Begin(
        fold="f",
        rules="r",
        partitions=4,
        cluster="c",
        topics={"rankloop.events": "1"},
        learning={"seed": 1},
        joining={"refresh_k": 9},
    ),
    Fold: Fold(fold="new", expects="f", learning={"seed": 1, "policy": "mf"}),
    Champion: Champion(policy="bandit", expects="popular"),
    Mark: Mark(fold="f", version=10_000, digest="0f", build="1.2"),
    Restart: Restart(partition=1, offset=7, prev="0f", topics={"rankloop.rankings": "2"}),
}
each_type = pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """All values that a type allows, small ones mostly."""
    match kind:
        case inspect.Metadata(type=inner):
            return values(inner)
        case inspect.StrType(pattern=pattern):
            least, most = kind.min_length or 0, min(kind.max_length or 20, 20)
            only = st.characters(exclude_categories=["Cc", "Cs"] if pattern else ["Cs"])
            return st.text(only, min_size=least, max_size=max(least, most))
        case inspect.IntType():
            return st.integers(kind.ge or 0, kind.le or 2**53)
        case inspect.FloatType(ge=least, le=most, gt=above):
            bottom = least if above is None else above
            return st.floats(
                bottom, most, allow_nan=False, allow_infinity=False, exclude_min=above is not None
            )
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.BytesType():
            return st.binary(min_size=kind.min_length or 0, max_size=8)
        case inspect.LiteralType(values=allowed):
            return st.sampled_from(allowed)
        case inspect.UnionType(types=several):
            return st.one_of([values(one) for one in several])
        case inspect.VarTupleType(item_type=inner):
            return st.lists(values(inner), max_size=3).map(tuple)
        case inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=3)
        case inspect.AnyType():  # values of settings
            numbers = st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6)
            return st.none() | st.booleans() | numbers | st.text(max_size=9) | st.lists(numbers)
        case inspect.StructType():
            fields = {field.name: values(field.type) for field in kind.fields}
            return st.fixed_dictionaries(fields).flatmap(lambda given: made(kind.cls, given))
        case _:
            raise AssertionError(f"no values for {kind}")


def made(kind: type[Any], given: dict[str, Any]) -> st.SearchStrategy[Any]:
    if kind is Reward and given["request"] is None and given["item"] is None:
        given = {**given, "item": "i"}
    if weights := given.get("weights"):
        given = {**given, "weights": {name: (1.0,) * len(given["slots"]) for name in weights}}
    return st.just(kind(**given))


@each_type
def test_every_message_type_has_an_example_and_a_schema(kind: type[Message]) -> None:
    assert isinstance(EXAMPLES[kind], kind)
    assert set(schemas()) == {one.__name__.lower() for one in EXAMPLES}


@each_type
@given(data=st.data())
def test_every_message_comes_back_as_it_went(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(values(inspect.type_info(kind)))
    encoded = encode(message)
    assert decode_any(encoded) == message
    assert encode(decode_any(encoded)) == encoded


@each_type
def test_each_decoder_takes_its_own_and_refuses_others(kind: type[Message]) -> None:
    accepted = {
        decode_event: {Request, Impression, Click, Reward, Tick},
        decode_item: {Item},
        decode_embedding: {Embedding},
        decode_decision: {Decision},
        decode_record: {Interaction, Outcome},
    }
    data = encode(EXAMPLES[kind])
    for decode, kinds in accepted.items():
        if kind in kinds:
            assert decode(data) == EXAMPLES[kind]
        else:
            with pytest.raises(InvalidMessageError, match=r"Invalid value .* at `\$\.type`"):
                decode(data)


@each_type
def test_a_message_with_unknown_fields_is_read(kind: type[Message]) -> None:
    newer = {**json.loads(encode(EXAMPLES[kind])), "mood": {"deep": [1, {"x": None}]}}
    assert decode_any(json.dumps(newer).encode()) == EXAMPLES[kind]


@each_type
@pytest.mark.parametrize("changed", [{}, {"id": 7, "at": "noon"}, {"type": "purchase"}])
@pytest.mark.parametrize("version", [2, 99, 2**53])
def test_a_newer_schema_is_refused_and_both_versions_are_named(
    kind: type[Message], changed: dict[str, Any], version: int
) -> None:
    newer = {**json.loads(encode(EXAMPLES[kind])), **changed, "v": version}
    with pytest.raises(NewerVersionError) as raised:
        decode_any(json.dumps(newer).encode())
    assert f"v is {version}" in str(raised.value)
    assert f"up to v {SCHEMA_VERSION}" in str(raised.value)


def optional(kind: type[Any]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind) if not field.required]


@each_type
@given(data=st.data())
def test_null_is_absent(kind: type[Message], data: st.DataObject) -> None:
    """Any optional fields are null, all of them too, in slots as well, and unknown ones."""
    whole = json.loads(encode(data.draw(values(inspect.type_info(kind)))))
    names = set(data.draw(st.lists(st.sampled_from([*optional(kind), "mood"]))))
    slots = data.draw(st.booleans())
    nulls, without = dict(whole), {k: v for k, v in whole.items() if k not in names}
    nulls |= dict.fromkeys(names)
    for mapping in ("attributes", "context", "weights", "topics"):
        if nulls.get(mapping) is not None and len(nulls[mapping]) < 8:
            nulls[mapping] = {"nothing": None} | nulls[mapping]
    if slots and nulls.get("slots"):
        fields = optional(Slot if kind is Decision else OutcomeSlot)
        without["slots"] = [{k: v for k, v in s.items() if k not in fields} for s in whole["slots"]]
        nulls["slots"] = [slot | dict.fromkeys(fields) for slot in without["slots"]]
    written = json.dumps(nulls, ensure_ascii=data.draw(st.booleans())).encode()
    try:
        right = decode_any(json.dumps(without).encode())
    except InvalidMessageError:  # a reward for nothing, weights without their slots
        with pytest.raises(InvalidMessageError):
            decode_any(written)
    else:
        assert decode_any(b" \n" + written) == right
        jsonschema.validate(nulls, schemas()[kind.__name__.lower()])


@each_type
def test_a_required_field_that_is_null_is_missing(kind: type[Message]) -> None:
    whole = json.loads(encode(EXAMPLES[kind]))
    needed = [f.encode_name for f in msgspec.structs.fields(kind) if f.required]
    for name in [*needed, "type"]:
        with pytest.raises(InvalidMessageError, match=f"missing required field `{name}`"):
            decode_any(json.dumps(whole | {name: None}).encode())


@pytest.mark.parametrize(
    ("text", "k"),
    [('"k":5,"k":null', 10), ('"k":null,"k":5', 5), ('"k" : null ', 10), ('"k":3,"x":"null"', 3)],
)
def test_of_a_field_given_twice_the_last_counts(text: str, k: int) -> None:
    data = f'{{"type":"request","id":"r","user":"u","at":1,"context":null,{text}}}'
    request = decode_event(data.encode())
    assert isinstance(request, Request)
    assert request.k == k


def test_null_where_lists_nest_deep_stops_nobody() -> None:
    data = b'{"type":"tick","at":1,"v":null,"x":' + b"[" * 511 + b"null" + b"]" * 511 + b"}"
    assert decode_event(data) == Tick(at=1)
    wide = b'{"type":"tick","at":1,"v":null,"x":[' + b'{"a":null},' * 80_000 + b"1]}"
    assert decode_event(wide) == Tick(at=1)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70))
def test_numbers_that_float64_tells_apart_are_taken(number: float) -> None:
    """In attributes and context; else the letter names the key."""
    for message, field in ((REQUEST, "context"), (ITEM, "attributes")):
        data = json.dumps(message | {field: {"page": "home", "ean": number}}).encode()
        if abs(number) < 2**53:
            assert getattr(decode_any(data), field)["ean"] == number
        else:
            with pytest.raises(InvalidMessageError) as raised:
                decode_any(data)
            assert f"`$.{field}.ean`" in str(raised.value)


@pytest.mark.parametrize("field", ["context", "attributes"])
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ean", 2**53, "9007199254740991.0 - at `$.{}.ean`: a longer number goes as text"),
        ("id", 10**400, "Number out of range - at `$.{}.id`: a longer number goes as text"),
        ("url", "x" * 1_001, "Expected `str` of length <= 1000 - at `$.{}.url`"),
        ("sizes", [1], "got `array` - at `$.{}.sizes`"),
        ("maße", {"x": 1}, "got `object` - at `$.{}.maße`"),
        ("price in $", [], 'got `array` - at `$.{}["price in $"]`'),
        ("a\n`", [], 'got `array` - at `$.{}["a\\n`"]`'),
        ("b" * 100, [], "at `$.{}." + "b" * 100),
    ],
)
def test_the_key_of_a_wrong_value_is_named(field: str, key: str, value: Any, says: str) -> None:
    whole = (ITEM if field == "attributes" else REQUEST) | {field: {"good": 1, key: value}}
    with pytest.raises(InvalidMessageError) as raised:
        decode_any(json.dumps(whole).encode())
    assert says.format(field) in str(raised.value)


@pytest.mark.shared
@pytest.mark.skipif(not BARCODE.exists(), reason="needs the files of ../shared/cases")
def test_a_bar_code_and_a_price_in_cents_are_attributes() -> None:
    shoe, house = (decode_item(line) for line in BARCODE.read_bytes().splitlines())
    assert (shoe.attributes, house.attributes) == (
        {"ean": 4006381333931},
        {"price_cents": 34500000},
    )


def test_what_nothing_reads_costs_no_message() -> None:
    url = "https://example.org/?" + "x" * 900
    request = decode_event(json.dumps(REQUEST | {"context": {"referrer": url}}).encode())
    assert isinstance(request, Request) and request.context == {"referrer": url}
    click = decode_event(json.dumps(CLICK | {"position": 5_000}).encode())  # of an endless feed
    assert isinstance(click, Click) and click.position == 5_000


@each_type
def test_an_older_message_without_optional_fields_is_read(kind: type[Message]) -> None:
    required = {f.encode_name for f in msgspec.structs.fields(kind) if f.required}
    older = {k: v for k, v in json.loads(encode(EXAMPLES[kind])).items() if k in required}
    older |= {"type": kind.__name__.lower()} | ({"item": "i"} if kind is Reward else {})
    read = decode_any(json.dumps(older).encode())
    assert isinstance(read, kind)
    assert read.v == 1


@each_type
def test_the_json_schema_accepts_what_we_write(kind: type[Message]) -> None:
    schema = schemas()[kind.__name__.lower()]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(encode(EXAMPLES[kind])), schema)


@each_type
@given(data=st.data())
def test_the_json_schema_accepts_every_message(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(values(inspect.type_info(kind)))
    jsonschema.validate(json.loads(encode(message)), schemas()[kind.__name__.lower()])


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"user": ""}, {"at": -1}, {"id": "a\n"}, {"id": "\x07"}, {"at": "now"}]
)
def test_the_json_schema_refuses_what_we_refuse(wrong: dict[str, Any]) -> None:
    message = {"type": "request", "id": "r", "user": "u", "at": 1} | wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(message, schemas()["request"])
    with pytest.raises(InvalidMessageError):
        decode_event(json.dumps(message).encode())


CLICK = {"type": "click", "id": "c", "user": "u", "item": "i", "at": 1}
REQUEST = {"type": "request", "id": "r", "user": "u", "at": 1}
ITEM = {"type": "item", "id": "i", "at": 1}
REWARD = {"type": "reward", "id": "w", "user": "u", "at": 1, "value": 1, "item": "i"}
IMPRESSION = {"type": "impression", "id": "m", "user": "u", "at": 1, "request": "r", "shown": []}
FAR = 253_402_300_800_000


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (CLICK | {"id": ""}, "Expected `str` of length >= 1 - at `$.id`"),
        (CLICK | {"id": "x" * 257}, "Expected `str` of length <= 256 - at `$.id`"),
        (CLICK | {"id": "a\nb"}, "matching regex"),
        (CLICK | {"id": "a\n"}, "matching regex"),
        (CLICK | {"user": "\x7f"}, "- at `$.user`"),
        (CLICK | {"user": None}, "missing required field `user`"),
        (CLICK | {"item": 7}, "Expected `str`, got `int` - at `$.item`"),
        (CLICK | {"at": -1}, "Expected `int` >= 0 - at `$.at`"),
        (CLICK | {"at": FAR}, "Expected `int` <= 253402300799999 - at `$.at`"),
        (CLICK | {"at": 1.5}, "Expected `int`, got `float` - at `$.at`"),
        (CLICK | {"at": "1"}, "Expected `int`, got `str` - at `$.at`"),
        (CLICK | {"at": True}, "Expected `int`, got `bool` - at `$.at`"),
        (CLICK | {"position": -1}, "Expected `int` >= 0 - at `$.position`"),
        (CLICK | {"request": "x" * 301}, "Expected `str` of length <= 300 - at `$.request`"),
        (CLICK | {"v": 0}, "Expected `int` >= 1 - at `$.v`"),
        (CLICK | {"type": "klick"}, "Invalid value 'klick' - at `$.type`"),
        (CLICK | {"type": None}, "missing required field `type`"),
        ({k: v for k, v in CLICK.items() if k != "type"}, "missing required field `type`"),
        ({k: v for k, v in CLICK.items() if k != "item"}, "missing required field `item`"),
        (REQUEST | {"k": 0}, "Expected `int` >= 1 - at `$.k`"),
        (REQUEST | {"k": 10_000}, f"Expected `int` <= {MAX_SLOTS} - at `$.k`"),
        (REQUEST | {"candidates": ["i"] * (MAX_CANDIDATES + 1)}, "length <= 1000 - at `$.cand"),
        (REQUEST | {"candidates": ["i", ""]}, "length >= 1 - at `$.candidates[1]`"),
        (REQUEST | {"exclude": "i"}, "Expected `array`, got `str` - at `$.exclude`"),
        (REQUEST | {"exclude": ["i", None]}, "got `null` - at `$.exclude[1]`"),
        (REQUEST | {"context": {"a": [1]}}, "got `array` - at `$.context.a`"),
        (REQUEST | {"context": {"": 1}}, "length >= 1 - at `key` in `$.context`"),
        (REQUEST | {"context": {str(n): n for n in range(51)}}, "length <= 50 - at `$.context`"),
        (REQUEST | {"context": {"a": 1e16}}, "<= 9007199254740991.0 - at `$.context.a`"),
        (REWARD | {"value": "5"}, "Expected `float`, got `str` - at `$.value`"),
        (REWARD | {"value": -1e7}, "Expected `float` >= -1000000.0 - at `$.value`"),
        (REWARD | {"item": None}, "a reward needs a request, an item or both; it has neither"),
        (IMPRESSION | {"shown": ["i"] * (MAX_SLOTS + 1)}, "length <= 100 - at `$.shown`"),
        ([CLICK], "Expected `object`, got `array`"),
        (None, "Expected `object`, got `null`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_named(message: Any, says: str) -> None:
    with pytest.raises(InvalidMessageError) as raised:
        decode_event(json.dumps(message).encode())
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff", "malformed"),
        (b"\x00" * 10, "malformed"),
        (encode(Tick(at=1)) + b"x", "trailing characters"),
        (b"\xef\xbb\xbf" + encode(Tick(at=1)), "malformed"),
        (b'{"type":"reward","id":"w","user":"u","at":1,"item":"i","value":NaN}', "malformed"),
        (b'{"type":"reward","id":"w","user":"u","at":1,"item":"i","value":1e999}', "out of range"),
        (b'{"type":"click","id":"\xff","user":"u","item":"i","at":1}', "utf-8"),
        (b'{"type":"click","id":"\\ud800","user":"u","item":"i","at":1}', "surrogate"),
    ],
)
def test_what_is_no_message_at_all_is_named_too(data: bytes, says: str) -> None:
    with pytest.raises(InvalidMessageError) as raised:
        decode_event(data)
    assert says in str(raised.value).lower()


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_invalid(data: bytes) -> None:
    with suppress(InvalidMessageError):
        decode_any(data)


def test_a_message_may_have_a_million_bytes_and_no_more() -> None:
    tick = encode(Tick(at=1))
    largest = tick + b" " * (MAX_MESSAGE_BYTES - len(tick))
    assert decode_event(largest) == Tick(at=1)
    with pytest.raises(InvalidMessageError, match="at most 1,000,000 bytes, not 1,000,001"):
        decode_event(largest + b" ")


def nested(depth: int) -> bytes:
    return b'{"type":"tick","at":1,"x":' + b"[" * depth + b"]" * depth + b"}"


def deeper(calls: int, data: bytes) -> object:
    return deeper(calls - 1, data) if calls else decode_event(data)


@pytest.mark.parametrize("calls", [0, 200])
def test_how_deep_a_message_may_nest_does_not_depend_on_who_reads_it(calls: int) -> None:
    assert deeper(calls, nested(MAX_DEPTH - 1)) == Tick(at=1)
    with pytest.raises(
        InvalidMessageError, match="at most 512 lists and objects within each other"
    ):
        deeper(calls, nested(MAX_DEPTH))


def test_brackets_side_by_side_or_in_texts_are_not_deep() -> None:
    item = Item(id="i", at=1, text='[{"\\' * 1_000, tags=("[",) * 50)
    assert decode_item(encode(item)) == item
    wide = b'{"type":"tick","at":1,"x":[' + b"[]," * 2_000 + b"[]]}"
    assert decode_event(wide) == Tick(at=1)


def test_the_largest_request_fits_a_message() -> None:
    ids = tuple("ﷺ" * 70 + f"{n:04}" for n in range(MAX_CANDIDATES))
    request = Request(id="r", user="u", at=1, candidates=ids, exclude=ids)
    assert decode_event(encode(request)) == request


def test_a_refreshed_decision_has_room_for_the_longest_click_id() -> None:
    id = "refresh:" + "c" * 256
    decision = msgspec.structs.replace(EXAMPLES[Decision], id=id)
    assert decode_decision(encode(decision)) == decision


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.0001])
def test_a_propensity_is_above_zero_and_at_most_one(propensity: float) -> None:
    slot = msgspec.structs.replace(SLOT, propensity=propensity)
    decision = msgspec.structs.replace(EXAMPLES[Decision], slots=(slot,))
    with pytest.raises(InvalidMessageError, match="propensity"):
        decode_decision(encode(decision))


def test_messages_are_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Tick(at=1).at = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_the_text_of_an_item_has_its_title_tags_and_text() -> None:
    item = Item(id="i", at=1, title="Toy Story", tags=("comedy", "toys"), text="Woody.")
    assert text_of(item) == "Toy Story\ncomedy, toys\nWoody."
    assert text_of(Item(id="i", at=1, text="Woody.")) == "Woody."
    assert text_hash("a") != text_hash("b")
    assert len(text_hash("a")) == 32


def test_the_vocabulary_has_one_door() -> None:
    assert events.encode is encode
    assert {name for name in vars(events) if name.startswith("decode_")} == {
        "decode_any",
        "decode_decision",
        "decode_embedding",
        "decode_event",
        "decode_feedback",
        "decode_item",
        "decode_record",
    }
