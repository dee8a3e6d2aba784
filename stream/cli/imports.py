"""`rankloop import`: other data sets as logs of ours."""

from pathlib import Path
from typing import Any

import click

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
    """MovieLens in DIR as a log OUT (.jsonl, .jsonl.gz or .parquet)."""
    from stream.datasets.log_files import write_log
    from stream.datasets.movielens import find_movielens, movielens_messages

    found = find_movielens(folder)
    assert found is not None  # it raises for a folder without ratings
    written = write_log(out, movielens_messages(found, user_tags=user_tags))
    click.echo(f"{written} messages in {out}")


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
    from stream.datasets.log_files import write_log
    from stream.datasets.simulated_readers import simulated_readings

    log = simulated_readings(file, **options)
    click.echo(f"{write_log(out, log)} messages in {out}")


@imports.command(name="open-bandit")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("out", type=OUT)
@click.option("--campaign", default="men", show_default=True, help="men, women or all.")
def open_bandit(folder: Path, out: Path, campaign: str) -> None:
    """Open Bandit Dataset in DIR as a log OUT of outcomes with propensities, for evaluate."""
    from stream.datasets.log_files import write_log
    from stream.datasets.open_bandit import open_bandit_messages

    written = write_log(out, open_bandit_messages(folder, campaign))
    click.echo(f"{written} messages in {out}")
