"""What a torture found, as a table for people and as JSON."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from stream.torture.checker.check import Findings
from stream.torture.faults import KINDS
from stream.torture.harness import RunRecord, TorturePlan

UNAWARE = 0.02  # share of rankings whose bounded wait for their user's events may run out


class PostMortem(Struct, frozen=True):
    """What processes of their own say of the logs and snapshots that were left."""

    fold: dict[str, Any]  # of the uninterrupted fold: version, digests, learned
    snapshots: list[tuple[int, str]]  # version and digest of each worker's newest
    audit: dict[str, Any]
    exits: list[int]  # after SIGTERM
    ended: list[int]  # of workers that ended by themselves, and were started again
    starts: int


class TortureReport(Struct, frozen=True):
    """All that is known in the end, and which promises it breaks."""

    plan: TorturePlan
    lived: RunRecord
    findings: Findings
    kept: PostMortem
    seconds: float

    @property
    def digests_equal(self) -> bool:
        """Whether all workers and snapshots have the digest of the uninterrupted fold."""
        digests: dict[str, str] = self.kept.fold.get("digests", {})
        said = [(one.version, one.digest) for one in self.lived.said]
        pairs = [*said, *self.kept.snapshots]
        return bool(said) and all(digests.get(str(v)) == digest for v, digest in pairs)

    @property
    def counts_equal(self) -> bool:
        """Whether all workers count what they took as the checker does."""
        names = "learned", "duplicate", "refused", "invalid"
        ours = {name: self.findings.verdicts.get(name, 0) for name in names}
        return all({n: one.learned.get(n, 0) for n in names} == ours for one in self.lived.said)

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept, in words."""
        found, audit = self.findings, self.kept.audit
        promises = {
            "the workers came to rest": self.lived.settled,
            "no event is lost": found.lost == 0,
            "nothing is learned twice": found.learned_twice == 0,
            "what is learned is what events imply": not found.different + found.strange,
            "every request is answered": found.unanswered == 0,
            "nothing else is answered": not found.unasked + found.unreadable,
            "nothing good is a dead letter": found.letters_unasked == 0,
            "every decision closed": found.open == 0,
            "rankings know their user's events": found.unaware <= UNAWARE * found.requests,
            "all workers count alike": self.counts_equal,
            "all digests are that of the uninterrupted fold": self.digests_equal,
            "the audit makes every ranking again": audit.get("ok", False),
            "SIGTERM stops a worker cleanly": not any(self.kept.exits),
        }
        return [promise for promise, kept in promises.items() if not kept]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        audit = {k: v for k, v in self.kept.audit.items() if k not in ("differences",)}
        return {
            "ok": self.ok,
            "broken": self.broken,
            "plan": msgspec.to_builtins(self.plan),
            "injected": dict(Counter(one.kind for one in self.lived.injected)),
            "lived": msgspec.to_builtins(self.lived),
            "findings": msgspec.to_builtins(self.findings),
            "kept": msgspec.to_builtins(self.kept) | {"audit": audit},
            "digests_equal": self.digests_equal,
            "counts_equal": self.counts_equal,
            "seconds_of_checking": round(self.seconds, 1),
        }


def print_report(console: Console, verdict: TortureReport) -> None:
    """Print the tables, and what is wrong."""
    console.print(_faults(verdict))
    console.print(_table(verdict))
    for example in verdict.findings.examples:
        console.print(f"  {example}", markup=False)
    for promise in verdict.broken:
        console.print(f"BROKEN: {promise}", style="bold red")
    if verdict.ok:
        console.print("every promise was kept", style="bold green")


def _faults(verdict: TortureReport) -> Table:
    table = Table(title=f"{len(verdict.lived.injected)} faults; silence of a partition in seconds")
    table.add_column("fault")
    for name in ("times", "p50", "p95", "longest"):
        table.add_column(name, justify="right")
    counts = Counter(one.kind for one in verdict.lived.injected)
    for kind, says in KINDS.items():
        if counts[kind]:
            silent = verdict.findings.silence.get(kind)
            seconds = (silent.p50, silent.p95, silent.largest) if silent else ()
            table.add_row(says, str(counts[kind]), *(f"{one:.1f}" for one in seconds))
    return table


def _table(verdict: TortureReport) -> Table:
    table = Table(title="what became of it", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _rows(verdict):
        table.add_row(name, value)
    return table


def _rows(verdict: TortureReport) -> Iterator[tuple[str, str]]:
    found, kept, lived = verdict.findings, verdict.kept, verdict.lived
    audit = kept.audit
    yield "seconds of load and faults, of checking", f"{lived.seconds:,.0f}, {verdict.seconds:,.0f}"
    yield "events in the log", f"{found.events:,}"
    yield "acknowledged to the producer", f"{found.acknowledged:,}"
    ways = (f"{count:,} {way}" for way, count in sorted(lived.ways.items()))
    yield "chunks sent, by compression or in transactions", ", ".join(ways)
    yield "messages of aborted transactions", f"{lived.aborted:,}"
    yield "items deleted by a null value, and published again", f"{lived.catalogue_changes:,}"
    for fate, count in sorted(found.fates.items()):
        yield f"  {fate.replace('_', ' ')}", f"{count:,}"
    yield "lost", f"{found.lost:,}"
    yield "records implied, learned", f"{found.facts:,}, {found.verdicts.get('learned', 0):,}"
    yield "learned twice", f"{found.learned_twice:,}"
    yield "learned otherwise than implied", f"{found.different + found.strange:,}"
    yield "records that came again, and did nothing", f"{found.verdicts.get('duplicate', 0):,}"
    yield "records refused", f"{found.verdicts.get('refused', 0):,}"
    yield "requests, and clicks that ask", f"{found.requests:,}"
    yield "unanswered", f"{found.unanswered:,}"
    yield "answered twice by workers (the first counts)", f"{found.answered_twice:,}"
    yield "answered again by the harness", f"{found.forgeries:,}"
    yield "decided before their own events were learned", f"{found.unaware:,}"
    yield "rankings audited, different", f"{audit.get('same', 0):,}, {audit.get('different', '?')}"
    yield "digests equal", "yes" if verdict.digests_equal else "NO"
    yield "workers started, ended by themselves", f"{kept.starts:,}, {len(kept.ended):,}"
