"""Messages as bytes: one way to write them, one way to read them, and the chain over records."""

import re
from hashlib import blake2b
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from models.fields import SCHEMA_VERSION, Scalar, unit_of

MAX_MESSAGE_BYTES = 1_000_000  # Kafka's own default for one record
MAX_DEPTH = 512  # far above any message of ours, far below Python's own limit less its stack

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_strings = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_brackets = re.compile(rb"[\[\]{}]")
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_scalar = msgspec.json.Decoder(Scalar)
_number = msgspec.json.Decoder(float)
_at = re.compile(r" - at `\$\.(\w+)(\[\.\.\.\])?`$")
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError)


class InvalidMessageError(ValueError):
    """A message that cannot be used: the rule it breaks and where."""


class NewerVersionError(InvalidMessageError):
    """A message of a newer schema than this release knows: it may mean what is not read here."""


class Decode(Generic[T]):
    """Bytes to one of some message types; an InvalidMessageError has the path of what is wrong.

    A field that is null is absent, as is a null value in a map.

    >>> from models.events import decode_event
    >>> decode_event(b'{"type":"request","id":"r","user":"u","at":1,"k":0}')
    Traceback (most recent call last):
    models.codec.InvalidMessageError: Expected `int` >= 1 - at `$.k`
    """

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def __call__(self, data: bytes) -> T:
        if len(data) > MAX_MESSAGE_BYTES:
            raise InvalidMessageError(
                f"a message has at most {MAX_MESSAGE_BYTES:,} bytes, not {len(data):,}"
            )
        if too_deep(data):
            raise InvalidMessageError(
                f"a message has at most {MAX_DEPTH} lists and objects within each other"
            )
        try:
            return self._decoder.decode(data)
        except _FAULTS as error:
            wrong = error
        if b"null" in data:  # where it is allowed it was read above: most messages never come here
            try:
                return self._decoder.decode(data := without_nulls(data))
            except _FAULTS as error:
                wrong = error
        raise _invalid(data, str(wrong))


def encode(message: msgspec.Struct) -> bytes:
    """The message as compact JSON; equal messages give equal bytes.

    >>> from models.events import Tick
    >>> encode(Tick(at=5))
    b'{"type":"tick","at":5}'
    """
    return _encoder.encode(message)


def chain(record: bytes) -> str:
    """64 bits over an encoded record, which holds the chain value before it in `prev`.

    >>> chain(b"")
    'e4a6a0577479b2b4'
    """
    return blake2b(record, digest_size=8).hexdigest()


def too_deep(data: bytes) -> bool:
    """Whether JSON nests deeper than MAX_DEPTH.

    A decoder gives up where the stack it was called from happens to end, so that one worker would
    take a message that another one refuses: this is the same for all.

    >>> too_deep(b"[" * 512), too_deep(b"[" * 513), too_deep(b"[]" * 513)
    (False, True, False)
    """
    if len(data) <= MAX_DEPTH or data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _brackets.findall(_strings.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def without_nulls(data: bytes, levels: int = 4) -> bytes:
    """JSON without fields that are null, in objects within each other down to some levels.

    >>> without_nulls(b'{"k": null, "context": {"page": null, "hour": 7}, "exclude": [null]}')
    b'{"context":{"hour":7},"exclude":[null]}'
    """
    data = data.lstrip()
    if not levels or b"null" not in data:
        return data
    if data.startswith(b"{"):
        fields = ((name, bytes(raw)) for name, raw in _object.decode(data).items())
        kept = {n: without_nulls(raw, levels - 1) for n, raw in fields if raw != b"null"}
        return _encoder.encode({name: msgspec.Raw(raw) for name, raw in kept.items()})
    if data.startswith(b"["):
        found = [without_nulls(bytes(raw), levels - 1) for raw in _array.decode(data)]
        return _encoder.encode([msgspec.Raw(raw) for raw in found])
    return data


class _Versioned(msgspec.Struct):
    type: str
    v: Annotated[int, msgspec.Meta(le=2**53)] = SCHEMA_VERSION


_versioned = msgspec.json.Decoder(_Versioned)


def _invalid(data: bytes, wrong: str) -> InvalidMessageError:
    """What is wrong with a message, told better than by a validator that has just the types."""
    try:
        version = _versioned.decode(data).v
        if version > SCHEMA_VERSION:
            return NewerVersionError(
                f"v is {version}, and this release reads messages up to v {SCHEMA_VERSION}: run a "
                f"newer release, or send what v {SCHEMA_VERSION} has"
            )
        fields = _object.decode(data)
        if (at := _at.search(wrong)) and (raw := fields.get(at[1])) is not None:
            name, inside = at.groups()
            if inside:
                key = next((k for k, v in _object.decode(raw).items() if not _usable(v)), "...")
                path = f".{key}" if key.isidentifier() else f"[{_encoder.encode(key).decode()}]"
                wrong = wrong.replace(f"{name}{inside}", f"{name}{path[:200]}")
                if wrong.startswith(("Expected `float`", "Number")):
                    wrong += ": a longer number goes as text"
            elif name in ("at", "expires_at"):
                wrong += f": {name} is in milliseconds since 1970-01-01 UTC, a whole number"
                if unit := unit_of(_number.decode(raw)):
                    wrong += f"; {bytes(raw).decode()[:40]} {unit}"
    except _FAULTS:
        pass  # nothing more can be told
    return InvalidMessageError(wrong)


def _usable(value: msgspec.Raw) -> bool:
    try:
        _scalar.decode(value)
    except _FAULTS:
        return False
    return True
