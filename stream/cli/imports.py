"""`rankloop import`: other data sets as logs of ours."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from models.events import Click, Item, Message, Outcome, Reward

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)


@click.group(name="import")
def imports() -> None:
    """Turn a data set into a log file."""


@imports.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("out", type=OUT)
@click.option(
    "--user-tags",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Tags users gave, as text: known in hindsight only, so a replay would see the future.",
)
def movielens(folder: Path, out: Path, user_tags: int) -> None:
    """MovieLens in DIR as a log OUT (.jsonl, .jsonl.gz or .parquet).

    Every version that was published: latest, latest-small, 32M, 25M, 20M (ratings.csv), 10M, 1M
    (ratings.dat), 100K (u.data).
    """
    from stream.datasets.movielens import find_movielens, movielens_messages

    found = find_movielens(folder)
    assert found is not None  # it raises for a folder without ratings
    _write(out, movielens_messages(found, user_tags=user_tags))


@imports.command()
@click.argument("file", metavar="TEXTS", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("out", type=OUT)
@click.option("--texts", type=click.IntRange(2), default=1_500, show_default=True)
@click.option("--readers", type=click.IntRange(1), default=60, show_default=True)
@click.option("--hits", type=click.FloatRange(0, 1), default=0, help="Share that all may read.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
def readers(file: Path, out: Path, **options: Any) -> None:
    """Simulated readers of real TEXTS (CSV: text, category) as a log OUT: new items all day.

    What a reader likes is three categories, which the log does not tell: see `compare`.
    """
    from stream.datasets.simulated_readers import simulated_readings

    _write(out, simulated_readings(file, **options))


@imports.command(name="open-bandit")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("out", type=OUT)
@click.option("--campaign", default="men", show_default=True, help="men, women or all.")
def open_bandit(folder: Path, out: Path, campaign: str) -> None:
    """Open Bandit Dataset in DIR as a log OUT of outcomes with propensities, for evaluate."""
    from stream.datasets.open_bandit import open_bandit_messages

    _write(out, open_bandit_messages(folder, campaign))


def _write(out: Path, messages: Iterable[Message]) -> None:
    """Write the log and say what is in it, and what it names without describing it."""
    from stream.datasets.log_files import by_type, kind_of, ready, write_log

    counts, unknown = Counter[str](), Counter[str]()
    items = set[str]()

    def counted() -> Iterator[Message]:
        for message in messages:
            counts[kind_of(message)] += 1
            if isinstance(message, Item):
                items.add(message.id)
            unknown.update(item for item in _named(message) if item not in items)
            yield message

    ready(out)
    written = write_log(out, counted())
    click.echo(f"{written} messages in {out}: {by_type(counts)}")
    if unknown:
        example, _ = unknown.most_common(1)[0]
        click.echo(
            f"Warning: {unknown.total():,} of them are of {len(unknown):,} items that the data set "
            f"does not describe, such as {example}",
            err=True,
        )


def _named(message: Message) -> tuple[str, ...]:
    if isinstance(message, Click | Reward):
        return (message.item,) if message.item else ()
    return tuple(slot.item for slot in message.slots) if isinstance(message, Outcome) else ()
