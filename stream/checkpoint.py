"""Snapshots: all that was learned up to a version of one feedback log, as a bookmark in it.

A worker starts from the newest good one and folds only what follows it in `feedback`. Losing them
costs time, not knowledge, while the log lasts. No pickle: see `stream.tensors`.
"""

import logging
import re
import time
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from agents.learner import Learner, Place, State, Verdict
from stream.shelves import Shelf
from stream.tensors import Damaged, Header, header, pieces, read

log = logging.getLogger(__name__)

FORMAT = 1
NAME = re.compile(r"(\d{20})\.safetensors")
ASIDE = ".aside"


class Refused(Exception):
    """A good snapshot that must not be used here: why, and what to do."""


class Log(Struct, frozen=True):
    """What a snapshot belongs to: a log, the settings that steer its fold, and who wrote it."""

    prefix: str
    fold: str
    build: str


class Bookmark(Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself. `fold` is the hash of the settings that steer the fold."""

    format: int = FORMAT
    version: int
    digest: str
    prefix: str
    fold: str
    build: str
    written: int  # milliseconds since 1970


class _Fold(Struct, frozen=True):
    """What a learner keeps beside its arrays."""

    last: str
    places: dict[int, Place]
    counts: dict[Verdict, int]


class Entry(Struct, frozen=True):
    """A file on the shelf: its bookmark, or what is wrong with it."""

    name: str
    version: int
    size: int = 0
    bookmark: Bookmark | None = None
    wrong: str = ""


class Snapshots:
    """The snapshots of one log on a shelf, the last `keep` of them.

    >>> from stream.shelves import shelf
    >>> from models.memory import Memory
    >>> from policies.uniform import Uniform
    >>> snapshots = Snapshots(shelf("memory://doctest"), Log("films", "f01d", "0.1"), keep=3)
    >>> learner = Learner(Memory(None, {}), Uniform())
    >>> [learner(n, b"garbage") for n in range(3)]
    ['invalid', 'invalid', 'invalid']
    >>> snapshots.write(learner.state()).version
    3
    >>> again = Learner(Memory(None, {}), Uniform())
    >>> snapshots.restore(again).version, again.version
    (3, 3)
    """

    def __init__(self, shelf: Shelf, log: Log, keep: int) -> None:
        self.shelf = shelf
        self.log = log
        self.keep = keep
        self.newest: Bookmark | None = None  # written or restored here

    def write(self, state: State) -> Bookmark:
        """Put a snapshot on the shelf, whole or not at all, and remove those beyond `keep`."""
        bookmark = Bookmark(
            version=state.version,
            digest=state.digest(),
            prefix=self.log.prefix,
            fold=self.log.fold,
            build=self.log.build,
            written=time.time_ns() // 1_000_000,
        )
        self.shelf.put(named(state.version), pieces(_arrays(state), _texts(bookmark)))
        self.newest = bookmark
        for version in self.versions()[: -self.keep]:
            self.shelf.remove(named(version))
        return bookmark

    def versions(self) -> list[int]:
        """All versions on the shelf, the oldest first."""
        found = (NAME.fullmatch(name) for name in self.shelf.names())
        return [int(match[1]) for match in found if match]

    def read(self, version: int) -> tuple[Bookmark, State]:
        """A snapshot, checked in full. Raises Damaged, Refused or OSError."""
        with self.shelf.open(named(version)) as (file, size):
            head, arrays = read(file, size)
        bookmark = _bookmark(head)
        if bookmark.version != version:
            raise Damaged(f"it is a snapshot of version {bookmark.version}")
        state = _state(bookmark, arrays)
        if state.digest() != bookmark.digest:
            raise Damaged("its digest is wrong")
        return bookmark, state

    def restore(self, learner: Learner) -> Bookmark | None:
        """Load the newest good snapshot; None if there is none. Says so for each that is not good.

        Raises Refused for a good one of another log or of other settings: nothing is ever mixed.
        """
        for version in reversed(self.versions()):
            try:
                bookmark, state = self.read(version)
                self.check(bookmark)
                learner.load(state)
            except (OSError, ValueError) as error:
                log.error("snapshot not used", extra={"version": version, "reason": str(error)})
                continue
            self.newest = bookmark
            return bookmark
        return None

    def check(self, bookmark: Bookmark) -> None:
        """Refuse a snapshot of another log, or of a fold that other settings steered."""
        where = f"the snapshot of version {bookmark.version} in {self.shelf.where}"
        if bookmark.prefix != self.log.prefix:
            raise Refused(
                f"{where} is of the log {bookmark.prefix!r}, not {self.log.prefix!r}; "
                "give each log a RANKLOOP_SNAPSHOT_URL (or RANKLOOP_DATA_DIR) of its own"
            )
        if bookmark.fold != self.log.fold:
            raise Refused(
                f"{where} was learned under settings {bookmark.fold} (rankloop {bookmark.build}), "
                f"not {self.log.fold}; run with those settings, or fold the log again: "
                "`rankloop snapshots rollback 0`"
            )

    def entries(self) -> list[Entry]:
        """What is on the shelf by its headers alone, the newest first."""
        return [self.entry(version) for version in reversed(self.versions())]

    def entry(self, version: int) -> Entry:
        """One of them; what cannot be read says why."""
        name, size = named(version), 0
        try:
            with self.shelf.open(name) as (file, size):
                bookmark = _bookmark(header(file, size))
            self.check(bookmark)
            return Entry(name, version, size, bookmark)
        except (OSError, Damaged, Refused) as error:
            return Entry(name, version, size, wrong=str(error))

    def rollback(self, version: int) -> list[str]:
        """Set aside all snapshots newer than `version`, so that a worker starts from an older one.

        They are renamed, not deleted; the new names are returned.
        """
        taken, moved = set(self.shelf.names()), list[str]()
        for newer in [found for found in self.versions() if found > version]:
            name = named(newer) + ASIDE
            new = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 999))) if n not in taken)
            self.shelf.move(named(newer), new)
            moved.append(new)
        return moved


def fits(version: int, begins: int, ends: int, topic: str) -> None:
    """Refuse to go on from `version` in a log that does not reach to it, or not back to it (L6).

    >>> fits(7, 0, 5, "rankloop.feedback")
    Traceback (most recent call last):
    stream.checkpoint.Refused: rankloop.feedback ends at 5, but was learned up to 7: it is ...
    """
    if ends < version:
        raise Refused(
            f"{topic} ends at {ends}, but was learned up to {version}: it is another log, or was "
            "cut. Restore it; or, if it begins again on purpose, fold it from its start: "
            "`rankloop snapshots rollback 0`"
        )
    if begins > version:
        raise Refused(
            f"{topic} begins at {begins}, but was learned up to {version} only: what lies between "
            "is gone. Start from a snapshot of another worker that reaches there "
            "(RANKLOOP_SNAPSHOT_URL), and keep feedback longer than the oldest snapshot"
        )


def same(last: str, found: str, version: int, topic: str) -> None:
    """Refuse a log whose record before `version` is not the one that was learned there (L6)."""
    if last != found:
        raise Refused(
            f"{topic} holds another record at {version - 1} than the one learned: it is another "
            "log under the same name. Give it another RANKLOOP_TOPIC_PREFIX; or, if it begins "
            "again on purpose, fold it from its start: `rankloop snapshots rollback 0`"
        )


def named(version: int) -> str:
    """The file of a version; names sort as versions do."""
    return f"{version:020}.safetensors"


def _texts(bookmark: Bookmark) -> dict[str, str]:
    return {name: str(value) for name, value in msgspec.structs.asdict(bookmark).items()}


def _bookmark(head: Header) -> Bookmark:
    stated = head.texts.get("format", "")
    if stated != str(FORMAT):
        raise Refused(
            f"a snapshot of format {stated[:20]!r}, and this release reads {FORMAT}; run the "
            "release that wrote it, or fold the log again: `rankloop snapshots rollback 0`"
        )
    try:
        return msgspec.convert(head.texts, Bookmark, strict=False)
    except msgspec.ValidationError as error:
        raise Damaged(f"its bookmark cannot be read: {error}") from None


def _arrays(state: State) -> dict[str, np.ndarray]:
    fold = msgspec.json.encode(_Fold(state.last, state.places, state.counts))
    memory = {f"memory.{name}": array for name, array in state.memory.items()}
    return memory | {
        "fold": np.frombuffer(fold, np.uint8),
        "policy": np.frombuffer(state.policy, np.uint8),
    }


def _state(bookmark: Bookmark, arrays: dict[str, Any]) -> State:
    try:
        fold = msgspec.json.decode(arrays["fold"].tobytes(), type=_Fold)
        policy = arrays["policy"].tobytes()
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"its fold cannot be read: {error}") from None
    cut = len("memory.")
    return State(
        version=bookmark.version,
        last=fold.last,
        places=fold.places,
        counts=fold.counts,
        memory={name[cut:]: a for name, a in arrays.items() if name.startswith("memory.")},
        policy=policy,
    )
