"""What a field may hold: every id, time and number has its bounds here, checked as it comes in."""

from typing import Annotated

from msgspec import Meta

SCHEMA_VERSION = 1
MAX_CANDIDATES = 1_000
MAX_SLOTS = 100
MAX_CHALLENGERS = 8
MOST_WEIGHT = 1_000.0  # that is logged; what is greater is cut
MAX_MILLIS = 253_402_300_799_999  # the last one of the year 9999
EXACT = 2**53 - 1  # up to here a float64 tells whole numbers apart
NO_CONTROL = r"^[^\x00-\x1f\x7f]*(?!\n)$"  # Python's $ would let one newline pass

Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        pattern=NO_CONTROL,
        description="an id: 1 to 256 characters, none of them control characters",
    ),
]
DecisionId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=300,
        pattern=NO_CONTROL,
        description="a request's id, or `refresh:` and a click's id",
    ),
]
Label = Annotated[str, Meta(min_length=1, max_length=100)]
Millis = Annotated[
    int,
    Meta(ge=0, le=MAX_MILLIS, description="milliseconds since 1970-01-01 UTC"),
]
Value = Annotated[float, Meta(ge=-1e6, le=1e6)]
Propensity = Annotated[float, Meta(gt=0.0, le=1.0)]
Version = Annotated[
    int, Meta(ge=1, le=SCHEMA_VERSION, description="of the schema; a newer one is refused")
]
Number = Annotated[float, Meta(ge=-EXACT, le=EXACT)]  # an EAN, cents, a time: whatever is known
Scalar = Annotated[str, Meta(max_length=1_000)] | Number | bool
Flat = Annotated[dict[Label, Scalar], Meta(max_length=50)]
Ids = Annotated[tuple[Id, ...], Meta(max_length=MAX_CANDIDATES)]
Weight = Annotated[float, Meta(ge=0.0, le=MOST_WEIGHT)]
Weights = Annotated[
    dict[Label, Annotated[tuple[Weight, ...], Meta(max_length=MAX_SLOTS)]],
    Meta(max_length=MAX_CHALLENGERS),
]


def unit_of(time: float) -> str:
    """What a number of a time's size is, if not milliseconds since 1973: says so, and the remedy.

    Smaller numbers are counts that somebody began at 0, as in examples and simulations.

    >>> unit_of(1_732_780_000), unit_of(1_732_780_000_000), unit_of(40)
    ('looks like seconds: multiply by 1000', '', '')
    """
    if 1e8 <= time <= MAX_MILLIS / 1e3:
        return "looks like seconds: multiply by 1000"
    if 1e14 <= time < 1e17:
        return "looks like microseconds: divide by 1000"
    if 1e17 <= time < 1e20:
        return "looks like nanoseconds: divide by 1000000"
    return ""
