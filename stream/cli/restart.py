"""The command `rankloop restart-from`: a partition goes on though what it needs is gone."""

import asyncio

import click
from aiokafka import TopicPartition
from msgspec import Struct, structs

from agents.bookmark import decode_bookmark
from agents.ledger import Ledger
from models.events import Begin, Restart, chain, encode
from stream.cli.fold import append_record, read_feedback
from stream.errors import UserError
from stream.kafka.consumer import committed_consumer
from stream.settings import Settings


class LogSpan(Struct, frozen=True):
    """Where a partition's events begin and end, and up to where they were handled."""

    partition: int
    begin: int
    end: int
    learned: int  # the first offset that nothing was learned from
    handled: int  # as far as the group's offset tells

    def offset(self, where: str) -> int:
        """The offset that `where` names. Raises UserError."""
        first = max(self.begin, self.learned)
        named = {"earliest": first, "latest": max(first, self.end)}
        try:
            offset = named.get(where) if where in named else int(where)
        except ValueError:
            offset = None
        if offset is None or not first <= offset <= named["latest"]:
            raise UserError(
                f"WHERE must be earliest ({first}), latest ({named['latest']}) or an offset "
                f"between them for partition {self.partition}, got {where!r}: what lies before is "
                "learned, or gone"
            )
        return offset

    def loses(self, offset: int) -> str:
        """What going on at `offset` leaves out."""
        skipped = max(0, offset - max(self.begin, self.handled, self.learned))
        return (
            f"partition {self.partition}: goes on at {offset} of {self.end} (it begins at "
            f"{self.begin}, learned up to {self.learned}); {skipped} events that are there were "
            "not handled and are skipped; what was open before is not learned"
        )


def restart(settings: Settings, where: str, partitions: tuple[int, ...], yes: bool) -> None:
    """Show what is lost, ask, and write a Restart for each partition."""
    ledger = asyncio.run(_read(settings))
    if ledger.begin is None:
        raise UserError("the log has not begun: start a worker first")
    topics = asyncio.run(_accepted(settings, ledger.begin))
    if topics and partitions:
        raise UserError(f"{', '.join(topics)} was made again: restart all partitions at once")
    chosen = sorted(set(partitions)) or list(range(ledger.begin.partitions))
    if chosen[-1] >= ledger.begin.partitions:
        raise UserError(f"the log has partitions 0 to {ledger.begin.partitions - 1}")
    spans = asyncio.run(_spans(settings, ledger, chosen))
    records: list[Restart] = []
    for span in spans:
        offset, place = span.offset(where), ledger.places.get(span.partition)
        prev = place.chain if place else ""
        records.append(Restart(span.partition, offset, prev, topics))
        click.echo(span.loses(offset))
    for topic in topics:
        click.echo(f"{topic} was made again, and is accepted as it is now")
    if not yes:
        click.confirm("What is learned is kept. Go on so?", abort=True)
    for record in records:
        asyncio.run(append_record(settings, record))
    after = asyncio.run(_read(settings))
    for record in records:
        head = after.restarts.get(record.partition)
        if head is None or head.chain != chain(encode(record)):
            raise UserError(
                f"partition {record.partition} was learned on meanwhile, and goes on without; "
                "if it must not, run this again"
            )
        click.echo(f"partition {record.partition} goes on at {record.offset}")


async def _read(settings: Settings) -> Ledger:
    """All of feedback, from the newest snapshot on: its beginning may be gone."""
    from stream.storage.snapshots import open_snapshots

    ledger, snapshots = Ledger(), open_snapshots(settings)
    for version in reversed(snapshots.versions()):
        try:
            ledger.load(snapshots.read(version)[1].ledger)
        except (OSError, ValueError):
            continue
        break

    def take(offset: int, data: bytes) -> None:
        if offset >= ledger.version:
            ledger(offset, data)
        elif offset == ledger.version - 1 and chain(data) != ledger.last:
            raise UserError(
                "the newest snapshot is of another feedback log: `rankloop snapshots rollback 0`"
            )

    await read_feedback(settings, take)
    return ledger


async def _accepted(settings: Settings, begin: Begin) -> dict[str, str]:
    """Ids of topics that were made again, and that learning can do without.

    Raises LogMismatchError where all begins anew: other events have other offsets.
    """
    from stream.kafka.identity import check_identity, current_identity
    from stream.kafka.topics import Topics

    topics, found = Topics(settings.topic_prefix), await current_identity(settings)
    new = {
        topic: found.topics[topic]
        for topic in (topics.rankings, topics.items, topics.embeddings)
        if topic in found.topics and begin.topics.get(topic, "") not in ("", found.topics[topic])
    }
    check_identity(structs.replace(begin, topics=begin.topics | new), found)
    return new


async def _spans(settings: Settings, ledger: Ledger, partitions: list[int]) -> list[LogSpan]:
    from stream.kafka.topics import Topics
    from stream.worker.restore import last_commit

    rules = settings.attribution_rules().digest
    events = [TopicPartition(Topics(settings.topic_prefix).events, n) for n in partitions]
    async with committed_consumer(settings, group_id=None) as reader:
        begins, ends = await reader.beginning_offsets(events), await reader.end_offsets(events)
    spans: list[LogSpan] = []
    for tp in events:
        place, commit = ledger.places.get(tp.partition), await last_commit(settings, tp.partition)
        learned = place.source.offset + (place.source.index >= 0) if place else 0
        handled = commit.offset if decode_bookmark(commit.metadata, rules) else 0
        spans.append(LogSpan(tp.partition, begins[tp], ends[tp], learned, handled))
    return spans
