"""What became of the events that this worker committed: counters by partition that only grow.

An event is counted when the commit behind it was accepted, not when it was handled: a batch that is
abandoned, or whose commit the group refuses, is handled again by the next owner and counted there.
So over all workers each committed event is counted once, by whoever committed it, and
`taken == accounted for` holds at any time. What a worker killed with SIGKILL had counted goes with
it (Prometheus remembers its last scrape); what it had not committed is counted by the next owner.
"""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct
from prometheus_client import Histogram

from agents.partition import Partition
from models.events import Decision

RESULTS = ("asked", "attributed", "organic", "late", "orphan", "duplicate", "too_late", "tick")
OUTCOMES = ("complete", "expired", "corrected", "unshown", "refused")
WAITING = "waiting"


class CounterSnapshot(Struct, frozen=True):
    """An assigned partition's own counters as they were at one event."""

    taken: int  # messages, counted as they came
    events: Counter[str]
    letters: Counter[str]

    @classmethod
    def of(cls, partition: Partition, taken: int) -> "CounterSnapshot":
        return cls(taken, Counter(partition.attribution.counts), partition.counts.copy())

    @property
    def waiting(self) -> int:
        """Events whose request has not come yet."""
        return self.events[WAITING]


class PartitionCounters:
    """One partition's totals over all its assignments to this worker.

    Events that wait for their request move with their partition: `inherited` and `released` count
    them as an assignment begins and ends. Else a worker that attributes a click which another one
    took in would account for more than it took.

    >>> counters = PartitionCounters()
    >>> before, after = (CounterSnapshot(n, Counter(asked=n), Counter()) for n in (0, 2))
    >>> counters.committed(before, after)
    >>> counters.taken, counters.accounted, counters.results["asked"]
    (2, 2, 2)
    """

    def __init__(self) -> None:
        self.taken = 0
        self.waiting = 0  # of the present assignment, as of its last commit
        self.inherited = self.released = 0
        self.results: Counter[str] = Counter(dict.fromkeys((*RESULTS, "deadletter"), 0))
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.dead_letters: Counter[str] = Counter()  # by reason
        self.rankings: Counter[str] = Counter()  # published: ranked or refused
        self.left_out: Counter[str] = Counter()  # of requests' own candidates, by why
        self.abandoned = 0  # batches
        self.older = 0  # batches decided with an older model than their own clicks
        self.restores = 0
        self.restore_seconds = 0.0
        self.unserved_times = 0
        self.unserved_seconds = 0.0
        self.longest_unserved = 0.0

    @property
    def accounted(self) -> int:
        """What `taken` must be."""
        return self.results.total() + self.waiting + self.released - self.inherited

    def restored(self, counts: CounterSnapshot, seconds: float) -> None:
        """An assigned partition was restored, which took so long."""
        self.restores += 1
        self.restore_seconds += seconds
        self.inherited += counts.waiting
        self.waiting = counts.waiting

    def published(self, decisions: Iterable[Decision]) -> None:
        """These were acknowledged."""
        for decision in decisions:
            self.rankings["refused" if decision.refused else "ranked"] += 1
            self.left_out.update(decision.left_out)

    def revoked(self, counts: CounterSnapshot) -> None:
        """An assignment is over; `counts` is what it committed last."""
        self.released += counts.waiting
        self.waiting = 0

    def committed(
        self, before: CounterSnapshot, after: CounterSnapshot, over: bool = False
    ) -> None:
        """What lies between two snapshots of one assignment, which may be over, was committed."""
        self.taken += after.taken - before.taken
        if over:
            self.released += after.waiting - before.waiting
        else:
            self.waiting += after.waiting - before.waiting
        letters = after.letters - before.letters
        for name, number in (after.events - before.events).items():
            if name in OUTCOMES:
                self.outcomes[name] += number
            elif name != WAITING:
                self.results[name] += number
                if name == "too_late":
                    letters[name] += number
        self.results["deadletter"] += (after.letters - before.letters).total()
        self.dead_letters += letters

    def unserved(self, seconds: float) -> None:
        """The oldest event from before an assignment began was handled so long after it came."""
        self.unserved_times += 1
        self.unserved_seconds += seconds
        self.longest_unserved = max(self.longest_unserved, seconds)


def decision_times() -> Histogram:
    """How long decisions take; in no registry, `stream.worker.prometheus` collects it.

    >>> times = decision_times()
    >>> times.observe(0.0007)
    >>> [(s.labels["le"], s.value) for m in times.collect() for s in m.samples[:2]]
    [('0.0005', 0.0), ('0.001', 1.0)]
    """
    return Histogram(
        "rankloop_decision_seconds",
        "How long one decision took to make.",
        buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        registry=None,
    )
