"""Where a ranking made again differs from the one that was published, and the likely cause."""

from collections.abc import Mapping
from itertools import zip_longest
from math import isclose
from typing import Any, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from models.events import Decision

ABSENT = "nothing"
SHOWN = 200  # characters of a value in a report


class Difference(Struct, frozen=True, kw_only=True):
    """The first difference of one ranking: where, what was logged, what was made, and why."""

    partition: int
    offset: int
    id: str
    model: int
    items: int
    embeddings: int
    field: str
    logged: str
    made: str
    cause: str
    because: str


class Cause(Struct, frozen=True):
    """A likely cause: its name, to count by, and a sentence."""

    cause: str
    because: str


REQUEST = Cause("other request", "the ranking does not answer the event at its source")
FIELDS = {
    "seed": Cause("other seed", "the seed is not this one's: set RANKLOOP_SEED as it was"),
    "policy": Cause("other policy", "another policy decided: set RANKLOOP_POLICY as it was"),
    "build": Cause("other build", "another release decided: audit with that one"),
    "settings": Cause("other settings", "other settings decided: audit with those"),
    "features": Cause("other build", "it was judged on other features: another release decided"),
    "candidates": Cause("other candidates", "others could be chosen, or they were altered"),
}
ENCODER = Cause("other encoder", "the log has no vectors of the text model that it names")
CPU = Cause(
    "other CPU",
    "same items, numbers equal to 5 digits: another processor or other libraries, "
    "on which bits are not promised",
)
CHANCE = Cause(
    "other order", "same items in another order: it was altered, or other chance drew it"
)
PROPENSITY = Cause(
    "other propensity", "only propensities differ: they were altered, or exploration was different"
)
ALTERED = Cause(
    "altered", "it was altered after it was made, or its versions are not those it was made with"
)
BYTES = Cause("other bytes", "same values in other bytes: it was not written by this codec")


def first_difference(logged: Any, made: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first place where two nested values differ, in the order of their fields.

    >>> first_difference({"k": 1, "slots": [{"item": "a"}]}, {"k": 1, "slots": [{"item": "b"}]})
    ('slots[0].item', 'a', 'b')
    """
    if logged == made:
        return None
    if isinstance(logged, dict) and isinstance(made, dict):
        left, right = cast("dict[str, Any]", logged), cast("dict[str, Any]", made)
        for key in [*left, *(key for key in right if key not in left)]:
            name = f"{path}.{key}" if path else key
            if found := first_difference(left.get(key, ABSENT), right.get(key, ABSENT), name):
                return found
    if isinstance(logged, (list, tuple)) and isinstance(made, (list, tuple)):
        pairs = zip_longest(cast("list[Any]", logged), cast("list[Any]", made), fillvalue=ABSENT)
        for i, (one, other) in enumerate(pairs):
            if found := first_difference(one, other, f"{path}[{i}]"):
                return found
    return path, cast(Any, logged), cast(Any, made)


def difference_of(logged: Decision, made: Decision) -> tuple[str, Any, Any]:
    """The first difference of two decisions; `bytes` if all values are equal."""
    return first_difference(_fields(logged), _fields(made)) or (
        "bytes",
        "other bytes",
        "the same values",
    )


def _fields(decision: Decision) -> dict[str, Any]:
    names = decision.__struct_fields__
    return {name: msgspec.to_builtins(getattr(decision, name)) for name in names}


def likely(field: str, logged: Decision, made: Decision, missing: Mapping[str, int]) -> Cause:
    """The likely cause of a first difference; `missing` has a log's first missing offset."""
    top = field.partition("[")[0].partition(".")[0]
    if top in ("id", "user", "at", "k", "context", "source"):
        return REQUEST
    if top in FIELDS:
        return FIELDS[top]
    if missing:
        where = ", ".join(f"{log} has none at offset {n}" for log, n in missing.items())
        return Cause("missing record", f"records below its versions are missing: {where}")
    if top == "bytes":
        return BYTES
    return _of_slots(logged, made) if top == "slots" else ALTERED


def _of_slots(logged: Decision, made: Decision) -> Cause:
    items, again = [[slot.item for slot in one.slots] for one in (logged, made)]
    if items != again:
        return CHANCE if sorted(items) == sorted(again) else ALTERED
    if _without_numbers(logged) != _without_numbers(made):
        return ALTERED
    if all(map(_close, _numbers(logged), _numbers(made))):
        return CPU
    same = [replace(slot, propensity=1.0) for slot in logged.slots]
    if same == [replace(slot, propensity=1.0) for slot in made.slots]:
        return PROPENSITY
    return ALTERED


def _without_numbers(decision: Decision) -> Decision:
    """All that another processor may not change: numbers are 1, and as many as there were."""
    slots = [
        replace(
            slot,
            propensity=1.0,
            score=1.0,
            features=replace(
                slot.features,
                x=(1.0,) * len(slot.features.x),
                text=(1.0,) * len(slot.features.text),
            ),
        )
        for slot in decision.slots
    ]
    return replace(decision, slots=tuple(slots))


def _numbers(decision: Decision) -> list[float]:
    return [
        number
        for slot in decision.slots
        for number in (slot.propensity, slot.score, *slot.features.x, *slot.features.text)
    ]


def _close(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=1e-5, abs_tol=1e-5)


def short_json(value: Any) -> str:
    """A value as a report shows it: JSON, not too long."""
    text = value if value is ABSENT else msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
