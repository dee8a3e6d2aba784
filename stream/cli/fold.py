"""The command group `rankloop fold`: which fold decides, and the switch to another (L12)."""

import asyncio
import json
from collections.abc import Callable

import click

from agents.ledger import Ledger
from models.events import Control, Fold, encode
from stream.cli.errors import OneLineErrorGroup
from stream.settings import Settings


@click.group(cls=OneLineErrorGroup)
@click.pass_context
def fold(context: click.Context) -> None:
    """See which learning configuration (fold) decides, and switch to another.

    A fold is how workers learn: the settings that steer it, and the release. Workers whose fold is
    not in force fold the whole log and stand by; at the switch, a record in feedback, they take
    over from the others at one offset. Both kinds may run side by side, and back is the same way.
    """
    context.obj = Settings.load(file=context.find_root().obj)


@fold.command()
@click.pass_obj
def show(settings: Settings) -> None:
    """Show the learning configuration (fold) in force, and the one of these settings."""
    ledger = asyncio.run(_read(settings))
    click.echo(f"in force at version {ledger.version}: {ledger.fold or 'none, the log is empty'}")
    click.echo(f"of these settings: {settings.fold_hash()}")
    for name, value in ledger.folds.get(ledger.fold, {}).items():
        click.echo(f"  in force: {name} = {json.dumps(value)}")
    if ledger.fold:
        for line in settings.learning_differences(ledger.fold, ledger.folds.get(ledger.fold, {})):
            click.echo(f"differs: {line}")


@fold.command()
@click.option("--to", help="The fold to switch to; default: the one of these settings.")
@click.pass_obj
def switch(settings: Settings, to: str | None) -> None:
    """Let workers of these settings decide from here on.

    Start them first: they stand by (`/readyz`: standing_by) once they have folded the log; `worker
    --switch` does both.
    Those who decided stand by from then on, and can be stopped, or switched back to (--to).
    """
    chosen = to or settings.fold_hash()
    ledger = asyncio.run(_read(settings))
    if ledger.begin is None:
        raise click.ClickException(
            "the log has not begun, and the first worker's fold will decide: start that one"
        )
    if ledger.fold == chosen:
        click.echo(f"{chosen} is in force already")
        return
    told = settings.learning() if chosen == settings.fold_hash() else ledger.folds.get(chosen, {})
    record = Fold(fold=chosen, expects=ledger.fold, learning=told)
    offset = asyncio.run(append_record(settings, record))
    click.echo(f"from {offset} on {chosen} decides; before, {ledger.fold} did")


async def _read(settings: Settings) -> Ledger:
    """All of feedback taken in, as far as who decides goes."""
    ledger = Ledger()
    await read_feedback(settings, lambda offset, data: ledger(offset, data) and None)
    return ledger


async def read_feedback(settings: Settings, take: Callable[[int, bytes], None]) -> None:
    """Feedback up to its present end, record by record."""
    from aiokafka import TopicPartition

    from stream.kafka.reader import TopicReader
    from stream.kafka.topics import Topics

    reader = TopicReader(settings)
    feedback = TopicPartition(Topics(settings.topic_prefix).feedback, 0)
    try:
        await reader.start()
        begins, end = await reader.begins(feedback), await reader.end(feedback)
        reader.subscribe(feedback, begins, lambda m: take(m.offset, m.value or b""))
        reading = asyncio.create_task(reader.run())
        await asyncio.wait(
            {reading, reached := asyncio.create_task(reader.wait_until(feedback, end))},
            return_when=asyncio.FIRST_COMPLETED,
        )
        reached.cancel()
        if reading.done():
            await reading
        reading.cancel()
    finally:
        await reader.stop()


async def append_record(settings: Settings, record: Control) -> int:
    """Put a record into feedback; its offset."""
    from stream.kafka.producer import Producer, ProducerRecord
    from stream.kafka.topics import Topics

    producer = Producer(settings.aiokafka_options())
    try:
        feedback = Topics(settings.topic_prefix).feedback
        return (await producer([ProducerRecord(feedback, encode(record))]))[0]
    finally:
        await producer.stop()
