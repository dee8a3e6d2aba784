"""Arrays as a safetensors file that checks itself: its last tensor is a hash of all bytes before.

Any safetensors reader reads it. This one trusts nothing: what the header claims must add up to the
size of the file before anything is allocated, and nothing is returned unless the hash is right.
Why not the library's own reader and writer: loading 308 MB takes them 615 MB of memory, not 312
(writing to a stream 619 MB, not 3), a header may have 100 MB, and both want a path, not a store.
"""

import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from math import prod
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta, Struct

from models.base import Arrays
from stream.errors import LogError, UserError

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
CHECKSUM = "~checksum"  # sorts behind every allowed name
HASH_BYTES = 32
MAX_HEADER = 1 << 20
NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
CHUNK = 1 << 22
LARGEST_SHAPE = 1 << 48


class CorruptFileError(UserError, ValueError):
    """Not the file that was written."""


class SnapshotMismatchError(LogError):
    """A good snapshot that must not be used here: why, and what to do."""


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a header."""

    dtype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**48)], ...], Meta(max_length=4)]
    data_offsets: tuple[int, int]


class Header(Struct, frozen=True):
    """What a file says of itself: texts by name, and its tensors in the order of their bytes."""

    texts: dict[str, str]
    tensors: dict[str, Tensor]
    raw: bytes


def pieces(arrays: Arrays, texts: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The file, piece by piece, without a copy of it in memory.

    >>> from io import BytesIO
    >>> data = b"".join(pieces({"a": np.arange(3)}, {"what": "numbers"}))
    >>> found, back = read_tensors(BytesIO(data), len(data))
    >>> found.texts, back["a"].tolist()
    ({'what': 'numbers'}, [0, 1, 2])
    """
    for name, array in arrays.items():
        if not NAME.fullmatch(name) or array.dtype not in CODES:
            raise ValueError(f"{name!r} of {array.dtype} cannot be written; add it to DTYPES")
    # The widest first, so that every array lies where its type wants it.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    claims: dict[str, object] = {"__metadata__": dict(texts)}
    at = 0
    for name in order:
        array = arrays[name]
        claims[name] = Tensor(CODES[array.dtype], array.shape, (at, at + array.nbytes))
        at += array.nbytes
    claims[CHECKSUM] = Tensor("U8", (HASH_BYTES,), (at, at + HASH_BYTES))
    text = msgspec.json.encode(claims)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"a header has at most {MAX_HEADER:,} bytes, not {len(text):,}")
    head = len(text).to_bytes(8, "little") + text
    digest = blake2b(head, digest_size=HASH_BYTES)
    yield head
    for name in order:
        for piece in _chunks(np.ascontiguousarray(arrays[name])):
            digest.update(piece)
            yield piece
    yield digest.digest()


def _chunks(array: np.ndarray) -> Iterator[memoryview]:
    flat = array.reshape(-1).view(np.uint8)
    return (flat[at : at + CHUNK].data for at in range(0, len(flat), CHUNK))


def read_header(file: BinaryIO, size: int) -> Header:
    """The header of a file of `size` bytes; its claims add up, but its hash was not looked at."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8 - HASH_BYTES):
        raise CorruptFileError(f"a file of {size:,} bytes cannot have a header of {length:,}")
    text = file.read(length)
    if len(text) < length:
        raise CorruptFileError(f"the file ends within its header, after {8 + len(text):,} bytes")
    try:
        claims = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        texts = msgspec.json.decode(claims.pop("__metadata__", b"{}"), type=dict[str, str])
        tensors = {n: msgspec.json.decode(raw, type=Tensor) for n, raw in claims.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"its header cannot be read: {error}") from None
    tensors = dict(sorted(tensors.items(), key=lambda one: one[1].data_offsets))
    at = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or not (NAME.fullmatch(name) or name == CHECKSUM):
            raise CorruptFileError(
                f"a tensor {name[:50]!r} of type {tensor.dtype[:20]!r} was never written"
            )
        if prod(max(1, n) for n in tensor.shape) > LARGEST_SHAPE:  # also where another side is 0
            raise CorruptFileError(f"{name} of shape {tensor.shape} is larger than any array")
        bytes_needed = prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize
        if tensor.data_offsets != (at, at + bytes_needed):
            raise CorruptFileError(
                f"{name} of shape {tensor.shape} lies at {tensor.data_offsets}, not {at}"
            )
        at += bytes_needed
    if next(reversed(tensors), "") != CHECKSUM or tensors[CHECKSUM].shape != (HASH_BYTES,):
        raise CorruptFileError("its last tensor is no checksum")
    if 8 + length + at != size:
        raise CorruptFileError(f"it should have {8 + length + at:,} bytes, and has {size:,}")
    return Header(texts, tensors, start + text)


def read_tensors(file: BinaryIO, size: int) -> tuple[Header, Arrays]:
    """Header and arrays, checked. Memory: the file's size."""
    found = read_header(file, size)
    digest = blake2b(found.raw, digest_size=HASH_BYTES)
    arrays: Arrays = {}
    for name, tensor in found.tensors.items():
        if name == CHECKSUM:
            continue
        flat = np.empty(tensor.data_offsets[1] - tensor.data_offsets[0], np.uint8)
        for piece in _chunks(flat):
            _fill(file, piece)
            digest.update(piece)
        arrays[name] = flat.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
    if file.read(HASH_BYTES) != digest.digest():
        raise CorruptFileError("its checksum is wrong")
    return found, arrays


def _fill(file: BinaryIO, piece: memoryview) -> None:
    filled = 0
    while filled < len(piece):
        data = file.read(len(piece) - filled)
        if not data:
            raise CorruptFileError("the file ends within its data")
        piece[filled : filled + len(data)] = data
        filled += len(data)
