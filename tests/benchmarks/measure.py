"""A figure with how it was come by, and the watch that says whether the machine was ours."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct

FULL = 20.0  # --seconds for which amounts of work are stated


class Row(Struct, frozen=True):
    """One line of the table."""

    measure: str
    figure: float
    unit: str
    how: str


Rows = Iterator[Row]
Bench = Callable[[float], Rows]


def amount(full: int, seconds: float) -> int:
    """How much of the `full` amount of work a run of so many seconds does."""
    return max(10, round(full * seconds / FULL))


class Stopwatch:
    """Wall and processor time of a block, of this process or another's."""

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self.wall = self.busy = 0.0

    def start(self) -> None:
        self._from = time.perf_counter(), self._processor()

    def stop(self) -> None:
        self.wall = time.perf_counter() - self._from[0]
        self.busy = self._processor() - self._from[1]

    def _processor(self) -> float:
        return time.process_time() if self._pid is None else processor(self._pid)

    @property
    def cores(self) -> str:
        """How many cores it had: much less than 1 in a loop means that others took them."""
        return f"{self.busy / self.wall:.2f} cores busy" if self.busy else "cores busy unknown"


def processor(pid: int) -> float:
    """Seconds of processor time a process has used; 0 where the system does not say."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watch(pid: int | None = None) -> Iterator[Stopwatch]:
    """Time a block."""
    made = Stopwatch(pid)
    made.start()
    yield made
    made.stop()


def percentiles(what: str, millis: Sequence[float], how: str) -> Rows:
    """p50 and p99 as rows."""
    for p in (50, 99):
        yield Row(f"{what}, p{p}", float(np.percentile(millis, p)), "ms", how)
