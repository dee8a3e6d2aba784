"""How long each partition was silent after each fault: nothing answered, nothing learned."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

Stamps = np.ndarray[tuple[int], np.dtype[np.int64]]


class Downtime(Struct, frozen=True):
    """Seconds of silence a partition after faults of one kind.

    Of each partition, the longest time without a ranking or a learned record that began, or went
    on, between a fault and the next one, counted from the fault on.
    """

    p50: float
    p95: float
    largest: float


def downtimes(
    faults: Sequence[tuple[str, int]], progress: Mapping[int, Sequence[int]], end: int
) -> dict[str, Downtime]:
    """By kind of fault, until `end`; `faults` are (kind, time), `progress` each partition's times.

    >>> downtimes([("kill", 10_000)], {0: [9_900, 12_000, 12_500]}, end=20_000)["kill"].largest
    2.0
    """
    times = sorted(at for _, at in faults)
    found: dict[str, list[float]] = {}
    stamps = {p: np.unique(np.asarray(one, dtype=np.int64)) for p, one in progress.items()}
    for kind, at in faults:
        i = bisect_right(times, at)
        until = times[i] if i < len(times) else end
        for one in stamps.values():
            longest = _longest(one, at, until)
            if longest is not None:
                found.setdefault(kind, []).append(longest / 1000)
    return {kind: _silence(seconds) for kind, seconds in found.items()}


def _longest(stamps: Stamps, at: int, until: int) -> int | None:
    first = int(np.searchsorted(stamps, at, side="right"))
    last = int(np.searchsorted(stamps, until, side="right"))
    inside = stamps[first : last + 1]  # with the one that ends the silence at `until`
    if not len(inside):
        return None
    return int(np.diff(inside, prepend=at).max())


def _silence(seconds: list[float]) -> Downtime:
    p50, p95 = np.percentile(seconds, [50, 95])
    return Downtime(round(float(p50), 2), round(float(p95), 2), round(max(seconds), 2))
