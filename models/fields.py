"""What a field may hold: every id, time and number has its bounds here, checked as it comes in."""

from typing import Annotated

from msgspec import Meta

MAX_CANDIDATES = 1_000
MAX_SLOTS = 100
MAX_CHALLENGERS = 8
MOST_WEIGHT = 1_000.0  # that is logged; what is greater is cut
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
    Meta(ge=0, le=253_402_300_799_999, description="milliseconds since 1970-01-01 UTC"),
]
Value = Annotated[float, Meta(ge=-1e6, le=1e6)]
Propensity = Annotated[float, Meta(gt=0.0, le=1.0)]
Scalar = Annotated[str, Meta(max_length=200)] | Value | bool
Flat = Annotated[dict[Label, Scalar], Meta(max_length=50)]
Ids = Annotated[tuple[Id, ...], Meta(max_length=MAX_CANDIDATES)]
Weight = Annotated[float, Meta(ge=0.0, le=MOST_WEIGHT)]
Weights = Annotated[
    dict[Label, Annotated[tuple[Weight, ...], Meta(max_length=MAX_SLOTS)]],
    Meta(max_length=MAX_CHALLENGERS),
]
