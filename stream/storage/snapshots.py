"""Snapshots: all that was learned up to a version of one feedback log, as a bookmark in it.

A worker starts from the newest good one and folds only what follows it in `feedback`. Losing them
costs time, not knowledge, while the log lasts. No pickle: see `stream.storage.tensor_file`.
"""

import ctypes
import logging
import re
import time
from contextlib import suppress
from importlib.metadata import version as release
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from agents.learner import Learner, LearnerState
from agents.ledger import LedgerState
from models.base import Arrays
from stream.settings import Settings
from stream.storage.attribution_snapshots import AttributionSnapshots
from stream.storage.object_store import ObjectStore, object_store
from stream.storage.tensor_file import (
    CorruptFileError,
    Header,
    SnapshotMismatchError,
    pieces,
    read_header,
    read_tensors,
)

FORMAT = 2
NAME = re.compile(r"(\d{20})\.safetensors")
ASIDE = ".aside"
log = logging.getLogger(__name__)


class SnapshotHeader(Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself. `fold` is the hash of the settings that steer the fold."""

    format: int = FORMAT
    version: int
    digest: str
    prefix: str
    fold: str
    build: str
    written: int  # milliseconds since 1970


class LogId(Struct, frozen=True):
    """What a snapshot belongs to: a log, the settings that steer its fold, and who wrote it."""

    prefix: str
    fold: str
    build: str


class SnapshotInfo(Struct, frozen=True):
    """A file in the store: its header, or what is wrong with it."""

    name: str
    version: int
    size: int = 0
    header: SnapshotHeader | None = None
    error: str = ""


class Snapshots:
    """The snapshots of one log in a store, the last `keep` of them.

    >>> from stream.storage.object_store import object_store
    >>> from models.memory import Memory
    >>> from policies.uniform import Uniform
    >>> store, films = object_store("memory://doctest"), LogId("films", "f01d", "0.1")
    >>> snapshots = Snapshots(store, films, keep=3)
    >>> learner = Learner(Memory(None, {}), Uniform())
    >>> [learner(n, b"garbage") for n in range(3)]
    ['invalid', 'invalid', 'invalid']
    >>> snapshots.write(learner.state()).version
    3
    >>> again = Learner(Memory(None, {}), Uniform())
    >>> snapshots.restore(again).version, again.version
    (3, 3)
    """

    def __init__(self, store: ObjectStore, log: LogId, keep: int) -> None:
        self.store = store
        self.log = log
        self.keep = keep
        self.newest: SnapshotHeader | None = None  # written or restored here

    def write(self, state: LearnerState) -> SnapshotHeader:
        """Put a snapshot into the store, whole or not at all, and remove those beyond `keep`."""
        header = SnapshotHeader(
            version=state.version,
            digest=state.digest(),
            prefix=self.log.prefix,
            fold=self.log.fold,
            build=self.log.build,
            written=time.time_ns() // 1_000_000,
        )
        self.store.put(snapshot_file(state.version), pieces(arrays_of(state), texts_of(header)))
        self.newest = header
        for version in self.versions()[: -self.keep]:
            self.store.remove(snapshot_file(version))
        return header

    def versions(self) -> list[int]:
        """All versions in the store, the oldest first."""
        found = (NAME.fullmatch(name) for name in self.store.names())
        return [int(match[1]) for match in found if match]

    def newer(self, version: int) -> bool:
        """Whether there is one of a later version."""
        return any(found > version for found in self.versions())

    def read(self, version: int) -> tuple[SnapshotHeader, LearnerState]:
        """A snapshot, checked in full: CorruptFileError, SnapshotMismatchError or OSError."""
        with self.store.open(snapshot_file(version)) as (file, size):
            head, arrays = read_tensors(file, size)
        header = decode_header(head)
        if header.version != version:
            raise CorruptFileError(f"it is a snapshot of version {header.version}")
        state = state_in(header, arrays)
        if state.version != version:
            raise CorruptFileError(f"its ledger is of version {state.version}")
        if state.digest() != header.digest:
            raise CorruptFileError("its digest is wrong")
        return header, state

    def restore(self, learner: Learner) -> SnapshotHeader | None:
        """Load the newest good snapshot; None if there is none. Says so for each that is not good.

        Raises SnapshotMismatchError for a good one of another log or of other settings: nothing is
        ever mixed.
        """
        for version in reversed(self.versions()):
            try:
                header, state = self.read(version)
                self.check(header)
                learner.load(state)
            except (OSError, ValueError) as error:
                log.error("snapshot not used", extra={"version": version, "reason": str(error)})
                continue
            self.newest = header
            del state
            trim_malloc()
            return header
        return None

    def check(self, header: SnapshotHeader) -> None:
        """Refuse a snapshot of another log, or of a fold that other settings steered."""
        where = f"the snapshot of version {header.version} in {self.store.where}"
        if header.prefix != self.log.prefix:
            raise SnapshotMismatchError(
                f"{where} is of the log {header.prefix!r}, not {self.log.prefix!r}; "
                "give each log a RANKLOOP_SNAPSHOT_URL (or RANKLOOP_DATA_DIR) of its own"
            )
        if header.fold != self.log.fold:
            raise SnapshotMismatchError(
                f"{where} was learned under settings {header.fold} (rankloop {header.build}), "
                f"not {self.log.fold}; run with those settings, or fold the log again: "
                "`rankloop snapshots rollback 0`"
            )

    def entries(self) -> list[SnapshotInfo]:
        """What is in the store by its headers alone, the newest first."""
        return [self.entry(version) for version in reversed(self.versions())]

    def entry(self, version: int) -> SnapshotInfo:
        """One of them; what cannot be read says why."""
        name, size = snapshot_file(version), 0
        try:
            with self.store.open(name) as (file, size):
                header = decode_header(read_header(file, size))
            self.check(header)
            return SnapshotInfo(name, version, size, header)
        except (OSError, CorruptFileError, SnapshotMismatchError) as error:
            return SnapshotInfo(name, version, size, error=str(error))

    def shapes(self, version: int) -> tuple[SnapshotHeader, dict[str, tuple[str, tuple[int, ...]]]]:
        """A snapshot's header, and the type and shape of each of its arrays, by its header."""
        with self.store.open(snapshot_file(version)) as (file, size):
            head = read_header(file, size)
        return decode_header(head), {n: (t.dtype, t.shape) for n, t in head.tensors.items()}

    def rollback(self, version: int) -> list[str]:
        """Set aside all snapshots newer than `version`, so that a worker starts from an older one.

        They are renamed, not deleted; the new names are returned.
        """
        taken, moved = set(self.store.names()), list[str]()
        for newer in [found for found in self.versions() if found > version]:
            name = snapshot_file(newer) + ASIDE
            new = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 999))) if n not in taken)
            self.store.move(snapshot_file(newer), new)
            moved.append(new)
        return moved


def open_snapshots(settings: Settings) -> Snapshots:
    """The snapshots that settings name, those of their fold: each fold has a folder of its own.

    Raises ValueError for a URL that nothing here opens.
    """
    mine = LogId(settings.topic_prefix, settings.fold_hash(), release("rankloop"))
    return Snapshots(object_store(f"{_where(settings)}/{mine.fold}"), mine, settings.snapshot_keep)


def open_attribution_snapshots(settings: Settings) -> AttributionSnapshots:
    """The partitions' attributions; they are the same in each fold, so beside these folders."""
    return AttributionSnapshots(
        object_store(_where(settings)), settings.topic_prefix, settings.attribution_rules().digest
    )


def _where(settings: Settings) -> str:
    return (settings.snapshot_url or str(Path(settings.data_dir, "snapshots"))).rstrip("/")


def snapshot_file(version: int) -> str:
    """The file of a version; names sort as versions do."""
    return f"{version:020}.safetensors"


def texts_of(header: SnapshotHeader) -> dict[str, str]:
    """A snapshot's header as the texts of its file's header."""
    return {name: str(value) for name, value in msgspec.structs.asdict(header).items()}


def decode_header(head: Header) -> SnapshotHeader:
    """The snapshot's header in its file's header.

    Raises SnapshotMismatchError for another format, CorruptFileError for none.
    """
    stated = head.texts.get("format", "")
    if stated != str(FORMAT):
        raise SnapshotMismatchError(
            f"a snapshot of format {stated[:20]!r}, and this release reads {FORMAT}; run the "
            "release that wrote it, or fold the log again: `rankloop snapshots rollback 0`"
        )
    try:
        return msgspec.convert(head.texts, SnapshotHeader, strict=False)
    except msgspec.ValidationError as error:
        raise CorruptFileError(f"its header cannot be read: {error}") from None


def arrays_of(state: LearnerState) -> Arrays:
    """A state as named arrays; they share its memory."""
    ledger = msgspec.json.encode(state.ledger)
    memory = {f"memory.{name}": array for name, array in state.memory.items()}
    rivals = {f"challenger.{name}": learned for name, learned in state.challengers.items()}
    board = {"board": state.board} if state.board else {}
    texts = {"ledger": ledger, "policy": state.policy, **rivals, **board}
    return memory | {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}


def state_in(header: SnapshotHeader, arrays: Arrays) -> LearnerState:
    """The state that `arrays_of` wrote. Raises CorruptFileError if there is none."""
    try:
        ledger = msgspec.json.decode(arrays["ledger"].tobytes(), type=LedgerState)
        policy = arrays["policy"].tobytes()
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError(f"its ledger cannot be read: {error}") from None
    return LearnerState(
        ledger=ledger,
        memory=_within("memory.", arrays),
        policy=policy,
        challengers={n: a.tobytes() for n, a in _within("challenger.", arrays).items()},
        board=arrays["board"].tobytes() if "board" in arrays else b"",
    )


def _within(first: str, arrays: Arrays) -> Arrays:
    """Those whose names begin so, by what follows."""
    cut = len(first)
    return {name[cut:]: array for name, array in arrays.items() if name.startswith(first)}


def check_range(version: int, begins: int, ends: int, topic: str) -> None:
    """Refuse to go on from `version` in a log that does not reach to it, or not back to it (L6).

    >>> check_range(7, 0, 5, "rankloop.feedback")
    Traceback (most recent call last):
    stream.storage.tensor_file.SnapshotMismatchError: rankloop.feedback ends at 5, but was learned
    up to 7: ...
    """
    if ends < version:
        raise SnapshotMismatchError(
            f"{topic} ends at {ends}, but was learned up to {version}: it is another log, or was "
            "cut. Restore it; or, if it begins again on purpose, fold it from its start: "
            "`rankloop snapshots rollback 0`"
        )
    if begins > version:
        raise SnapshotMismatchError(
            f"{topic} begins at {begins}, but was learned up to {version} only: what lies between "
            "is gone. Start from a snapshot of another worker that reaches there "
            "(RANKLOOP_SNAPSHOT_URL), and keep feedback longer than the oldest snapshot"
        )


def check_last_record(last: str, found: str, version: int, topic: str) -> None:
    """Refuse a log whose record before `version` is not the one that was learned there (L6)."""
    if last != found:
        raise SnapshotMismatchError(
            f"{topic} holds another record at {version - 1} than the one learned: it is another "
            "log under the same name. Give it another RANKLOOP_TOPIC_PREFIX; or, if it begins "
            "again on purpose, fold it from its start: `rankloop snapshots rollback 0`"
        )


def trim_malloc() -> None:
    """Return what was freed to the system, where the C library can: glibc's keeps it for later.

    After a snapshot was loaded, that is a third of all; it takes some hundredths of a second.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
