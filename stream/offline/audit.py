"""`rankloop audit`: are the rankings that were published what the logs imply, bit for bit?"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import monotonic

import msgspec
from aiokafka.errors import KafkaError
from rich.console import Console

from agents.audit.audit import Audit, AuditReport
from agents.errors import UnknownRecordTypeError
from agents.ledger import Ledger, PartitionHead
from agents.partition import ReceivedMessage
from agents.recommender import Recommender
from models.base import Floats
from models.events import InvalidMessageError, Source
from stream import build
from stream.datasets.topic_logs import FileLogs, KafkaLogs, Logs, save_topic
from stream.errors import UserError
from stream.kafka.reader import LogTruncatedError
from stream.kafka.topics import owner
from stream.progress import progress
from stream.settings import Settings

# Feedback last: rankings are made again while it is learned.
RESTART = b'"type":"restart"'
ORDER = ("rankings", "events", "items", "embeddings", "feedback")


class NotAuditableError(UserError):
    """The logs cannot be read to their end; says why and what to do."""


class RecordedEncoder:
    """A text model of which only the vectors in the log are needed: none is loaded."""

    def __init__(self, version: str, dimensions: int) -> None:
        self.version = version
        self.dimensions = dimensions

    def encode(self, texts: Sequence[str]) -> Floats:
        """Never: an audit reads vectors from the log."""
        raise RuntimeError(f"an audit embeds nothing, got {len(texts)} texts; read the log")


def audit_logs(
    settings: Settings, logs: Logs, folder: Path | None = None, quiet: bool = False
) -> tuple[AuditReport, float]:
    """Read all logs and make every ranking again; what was found, and how many seconds it took.

    With `folder`, what is read is kept there, to be audited again as `FileLogs`.
    """
    began = monotonic()
    partitions = logs.partitions("events")
    made = auditor(settings, partitions, restarts=restarts(logs))
    with progress(quiet=quiet) as bar:
        for name in ORDER:
            messages = logs.read(name) if folder is None else save_topic(logs, folder, name)
            messages = bar.track(messages, logs.total(name), description=name)
            for partition, message in messages:
                take(made, name, partition, message)
    return made.report(), monotonic() - began


def auditor(
    settings: Settings,
    partitions: int,
    around: Callable[[Recommender], Recommender] = lambda recommender: recommender,
    restarts: Sequence[PartitionHead] = (),
) -> Audit:
    """An audit with the settings' models, policy and rules, nothing learned.

    `around` may put something around each recommender that decides again.
    """
    parts = build.parts(settings, RecordedEncoder("", 64))

    def make(encoder: str, dimensions: int) -> Recommender:
        catalogue = build.catalogue(settings, RecordedEncoder(encoder, dimensions))
        return around(build.deciding(settings, parts.learner, catalogue)[1])

    return Audit(
        parts.learner,
        make,
        settings.attribution_rules(),
        parts.recommender.terms,
        lambda user: owner(user, partitions),
        restarts,
    )


def restarts(logs: Logs) -> list[PartitionHead]:
    """Where partitions went on without what was before, as feedback says (`Restart`)."""
    if not any(RESTART in message.data for _, message in logs.read("feedback")):
        return []
    ledger, found = Ledger(), list[PartitionHead]()
    for _, message in logs.read("feedback"):
        before = dict(ledger.restarts)
        ledger(message.offset, message.data)
        found += [head for n, head in ledger.restarts.items() if before.get(n) is not head]
    return found


def take(made: Audit, name: str, partition: int, message: ReceivedMessage) -> None:
    """Give an audit a message of one of its logs, which come in ORDER."""
    match name:
        case "rankings":
            made.ranking(partition, message)
        case "events":
            made.event(partition, message)
        case "items":
            made.item(message)
        case "embeddings":
            made.embedding(message)
        case _:
            made.feedback(message)


def report_lines(report: AuditReport) -> Iterator[str]:
    """What was found, for people, the verdict first."""
    counted = report.same + report.different + sum(report.apart.values())
    yield f"{report.same:,} of {counted:,} rankings came out bit for bit the same"
    if not counted:
        yield "no ranking could be checked: nothing was proved"
    if report.refused:
        yield f"  {report.refused:,} of these are refusals"
    for what, count in report.apart.items():
        yield f"  {count:,} not made again: decided by {what}; audit with theirs"
    if report.unchecked_rankings:
        cut = _begin(report)
        yield f"  {report.unchecked_rankings:,} not checked: events begin late in partition {cut}"
    if report.repeated:
        yield f"  {report.repeated:,} came again for an event already answered; the first counts"
    for id in report.unlike:
        yield f"  a repeat for {id!r} answers something else than the first"
    for id in report.reused:
        yield f"  {id!r} was asked again by a later event"
    for cause, count in report.causes.items():
        yield f"  {count:,} differ: {cause}"
    for d in report.differences:
        yield (
            f"    rankings-{d.partition}@{d.offset} {d.id!r} (model {d.model}, items {d.items}, "
            f"embeddings {d.embeddings}): {d.field} is {d.logged}, made again {d.made}; {d.because}"
        )
    answered = report.asked - report.unanswered
    yield f"{answered:,} of {report.asked:,} requests and clicks that ask were answered"
    if report.unanswered:
        yield f"  unanswered: {_some(report.unanswered_ids, report.unanswered)}"
    if report.unsure:
        yield f"  {report.unsure:,} more are not, and not checked: they may repeat what was cut"
    if report.skipped or report.unlearned_skipped:
        skipped = f"{report.skipped:,} requests and {report.unlearned_skipped:,} records"
        yield f"  {skipped} more were left out: `rankloop restart-from`"
    if report.unasked:
        some = _some(report.unasked_ids, report.unasked)
        yield f"  {report.unasked:,} rankings nobody asked for: {some}"
    for reason, count in report.discarded.items():
        yield f"  {count:,} more need none: {reason}"
    verdicts = ", ".join(f"{n:,} {verdict}" for verdict, n in report.feedback.items()) or "empty"
    yield f"feedback: {verdicts}; model {report.digest} at version {report.version}"
    if report.feedback_missing:
        first, count = report.feedback_missing
        yield f"  {count:,} records are missing, the first at offset {first}"
    yield f"  {report.implied:,} are what events and rankings imply"
    if report.strange:
        yield f"  {report.strange:,} are not, the first from {_sources(report.strange_first)}"
    if report.unlearned:
        yield f"  {report.unlearned:,} more are implied, and not there"
    if report.unchecked:
        cut = _begin(report)
        yield f"  {report.unchecked:,} not checked: events begin late in partition {cut}"
    for topic, count in report.unreadable.items():
        if count:
            yield f"{topic}: {count:,} messages cannot be decoded"


def _begin(report: AuditReport) -> str:
    return ", ".join(f"{n} at {offset}" for n, offset in report.cut.items())


def _some(ids: Sequence[str], count: int) -> str:
    return ", ".join(ids) + (", ..." if count > len(ids) else "")


def _sources(sources: Iterable[Source]) -> str:
    return ", ".join(f"events-{s.partition}@{s.offset} (its record {s.index})" for s in sources)


def run_audit(settings: Settings, source: Path | None, folder: Path | None, as_json: bool) -> bool:
    """Audit topics, or the files in `source`; print what was found; whether all is well.

    Raises NotAuditableError.
    """
    try:
        if folder is not None and folder.exists() and any(folder.iterdir()):
            raise NotAuditableError(f"{folder} is not empty; save to a new folder")
        logs: Logs = FileLogs(source) if source else KafkaLogs(settings)
        quiet = as_json or not sys.stderr.isatty()
        report, seconds = audit_logs(settings, logs, folder, quiet)
    except (
        LogTruncatedError,
        InvalidMessageError,
        KafkaError,
        OSError,
        UnknownRecordTypeError,
    ) as error:
        raise NotAuditableError(str(error)) from error
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if as_json:
        found = msgspec.to_builtins(report) | {"ok": report.ok, "seconds": round(seconds, 3)}
        console.print(json.dumps(found, indent=2))
        return report.ok
    for line in report_lines(report):
        console.print(line)
    done = report.same + report.different
    console.print(f"{done / max(seconds, 1e-9):,.0f} rankings a second, in {seconds:.1f} s")
    return report.ok
