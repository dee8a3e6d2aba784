"""A state of the learner as named arrays and texts, and what a snapshot says of itself."""

import msgspec
import numpy as np
from msgspec import Struct

from agents.learner import State
from agents.ledger import Standing
from models.base import Arrays
from stream.storage.tensor_file import Damaged, Header

FORMAT = 2


class Refused(Exception):
    """A good snapshot that must not be used here: why, and what to do."""


class Cover(Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself. `fold` is the hash of the settings that steer the fold."""

    format: int = FORMAT
    version: int
    digest: str
    prefix: str
    fold: str
    build: str
    written: int  # milliseconds since 1970


def fits(version: int, begins: int, ends: int, topic: str) -> None:
    """Refuse to go on from `version` in a log that does not reach to it, or not back to it (L6).

    >>> fits(7, 0, 5, "rankloop.feedback")
    Traceback (most recent call last):
    stream.storage.cover.Refused: rankloop.feedback ends at 5, but was learned up to 7: it is ...
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


def texts_of(cover: Cover) -> dict[str, str]:
    """A cover as a header's texts."""
    return {name: str(value) for name, value in msgspec.structs.asdict(cover).items()}


def cover_in(head: Header) -> Cover:
    """The cover in a header. Raises Refused for another format, Damaged for none."""
    stated = head.texts.get("format", "")
    if stated != str(FORMAT):
        raise Refused(
            f"a snapshot of format {stated[:20]!r}, and this release reads {FORMAT}; run the "
            "release that wrote it, or fold the log again: `rankloop snapshots rollback 0`"
        )
    try:
        return msgspec.convert(head.texts, Cover, strict=False)
    except msgspec.ValidationError as error:
        raise Damaged(f"its cover cannot be read: {error}") from None


def arrays_of(state: State) -> Arrays:
    """A state as named arrays; they share its memory."""
    ledger = msgspec.json.encode(state.ledger)
    memory = {f"memory.{name}": array for name, array in state.memory.items()}
    rivals = {f"challenger.{name}": learned for name, learned in state.challengers.items()}
    board = {"board": state.board} if state.board else {}
    texts = {"ledger": ledger, "policy": state.policy, **rivals, **board}
    return memory | {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}


def state_in(cover: Cover, arrays: Arrays) -> State:
    """The state that `arrays_of` wrote. Raises Damaged if there is none."""
    try:
        ledger = msgspec.json.decode(arrays["ledger"].tobytes(), type=Standing)
        policy = arrays["policy"].tobytes()
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"its ledger cannot be read: {error}") from None
    return State(
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
