"""Partitions' attributions as files, for windows that would take long to read again (L3).

They lie beside the snapshots of what was learned, under names of their own. Losing one costs time:
the bookmark in the commit leads to the same state. No pickle: see `stream.storage.tensor_file`.
"""

import logging
import re
import time
from importlib.metadata import version as release

import msgspec
import numpy as np
from msgspec import Struct

from agents.attribution_state import AttributionState, decode_state, encode_state
from stream.storage.object_store import ObjectStore
from stream.storage.tensor_file import (
    CorruptFileError,
    SnapshotMismatchError,
    pieces,
    read_header,
    read_tensors,
)

log = logging.getLogger(__name__)

NAME = re.compile(r"attribution-(0|[1-9]\d{0,9})-(\d{20})\.safetensors")
KEEP = 2  # files a partition, the newest


class AttributionHeader(Struct, frozen=True, kw_only=True):
    """What a file says of itself; `next` is the offset of the event to fold next."""

    prefix: str
    topic: str  # Kafka's id of `events`, where it tells one
    partition: int
    next: int
    rules: str
    build: str
    written: int  # milliseconds since 1970


class AttributionSnapshots:
    """The attributions of one log's partitions in a store, the last two of each.

    >>> from agents.attribution import Attribution, AttributionRules
    >>> from stream.storage.object_store import object_store
    >>> store, rules = object_store("memory://doctest-attributions"), AttributionRules()
    >>> kept = AttributionSnapshots(store, "films", rules.digest)
    >>> kept.write(Attribution(3, rules).state())
    >>> kept.read(3, 0).partition, kept.offsets(3), kept.offsets(4)
    (3, [0], [])
    """

    def __init__(self, store: ObjectStore, prefix: str, rules: str) -> None:
        self.store = store
        self.prefix = prefix
        self.topic = ""  # known once a worker has looked at its log
        self.rules = rules

    def write(self, state: AttributionState) -> None:
        """Put a state into the store, whole or not at all; remove what two newer ones replace."""
        label = AttributionHeader(
            prefix=self.prefix,
            topic=self.topic,
            partition=state.partition,
            next=state.next,
            rules=state.rules,
            build=release("rankloop"),
            written=time.time_ns() // 1_000_000,
        )
        texts = {name: str(value) for name, value in msgspec.structs.asdict(label).items()}
        arrays = {
            f"{name}.{n:06}": np.frombuffer(data, np.uint8)
            for n, (name, data) in enumerate(encode_state(state))
        }
        self.store.put(attribution_file(state.partition, state.next), pieces(arrays, texts))
        # Only below what was just written: whoever is ahead of this worker owns the partition now.
        older = [n for n in self.offsets(state.partition) if n <= state.next]
        for offset in older[KEEP:]:
            self.store.remove(attribution_file(state.partition, offset))

    def names(self) -> list[tuple[int, int]]:
        """Partition and offset of all that is there, in order."""
        found = (NAME.fullmatch(name) for name in self.store.names())
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def offsets(self, partition: int) -> list[int]:
        """Those of a partition, the newest first."""
        return [offset for number, offset in reversed(self.names()) if number == partition]

    def label(self, partition: int, offset: int) -> tuple[AttributionHeader, int]:
        """What a file says of itself, and its size.

        Raises CorruptFileError, SnapshotMismatchError or OSError.
        """
        with self.store.open(attribution_file(partition, offset)) as (file, size):
            return self._label(read_header(file, size).texts, partition, offset), size

    def read(self, partition: int, offset: int) -> AttributionState:
        """A state, checked in full. Raises CorruptFileError, SnapshotMismatchError or OSError."""
        with self.store.open(attribution_file(partition, offset)) as (file, size):
            head, arrays = read_tensors(file, size)
        self._label(head.texts, partition, offset)
        order = sorted(arrays, key=lambda name: name.rpartition(".")[2])
        parts = ((name.partition(".")[0], arrays[name].tobytes()) for name in order)
        try:
            state = decode_state(parts, self.rules)
        except ValueError as error:
            raise CorruptFileError(str(error)) from None
        if state is None:
            raise SnapshotMismatchError("it is of another release")
        if (state.partition, state.next) != (partition, offset):
            raise CorruptFileError(f"it is of partition {state.partition} at {state.next}")
        return state

    def newest(self, partition: int, first: int, last: int) -> AttributionState | None:
        """The newest good one between two offsets; what is damaged is said loudly."""
        where = {"partition": partition, "store": self.store.where}
        try:
            offsets = [offset for offset in self.offsets(partition) if first <= offset <= last]
        except Exception as error:  # whatever a store may raise: the bookmark is enough
            log.error("attributions not listed", extra=where | {"reason": str(error)})
            return None
        for offset in offsets:
            where["offset"] = offset
            try:
                return self.read(partition, offset)
            except SnapshotMismatchError as refused:
                log.warning("attribution of no use here", extra=where | {"reason": str(refused)})
            except Exception as error:  # damaged, or gone
                log.error("attribution not used", extra=where | {"reason": str(error)})
        return None

    def _label(self, texts: dict[str, str], partition: int, offset: int) -> AttributionHeader:
        try:
            label = msgspec.convert(texts, AttributionHeader, strict=False)
        except msgspec.ValidationError as error:
            raise CorruptFileError(f"its label cannot be read: {error}") from None
        if (label.partition, label.next) != (partition, offset):
            raise CorruptFileError(f"it is of partition {label.partition} at {label.next}")
        theirs = label.prefix, label.topic, label.rules
        if theirs != (self.prefix, self.topic, self.rules):
            raise SnapshotMismatchError(
                f"it is of the log {label.prefix!r} {label.topic} under rules {label.rules}, not "
                f"of {self.prefix!r} {self.topic} under {self.rules}"
            )
        return label


def attribution_file(partition: int, offset: int) -> str:
    """The file of a partition's attribution before the event at `offset`."""
    return f"attribution-{partition}-{offset:020}.safetensors"
