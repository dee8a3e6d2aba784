"""Messages as bytes: one way to write them, one way to read them, and the chain over records."""

import re
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec

MAX_MESSAGE_BYTES = 1_000_000  # Kafka's own default for one record
MAX_DEPTH = 512  # far above any message of ours, far below Python's own limit less its stack

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_strings = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_brackets = re.compile(rb"[\[\]{}]")


class InvalidMessageError(ValueError):
    """A message that cannot be used: the rule it breaks and where."""


class Decode(Generic[T]):
    """Bytes to one of some message types; an InvalidMessageError has the path of what is wrong.

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
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidMessageError(str(error)) from None


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
