"""`make schedules`: random schedules on all cores; `--help` has the choices."""

import os
import sys
from collections import Counter
from multiprocessing import Pool

import click
from rich.console import Console

from stream.progress import progress
from tests.properties.schedules.shorten import play, story
from tests.properties.schedules.without import WITHOUT, Parts

CHUNK = 50
Failures = list[tuple[int, str, str]]  # seed, kind, what


def parts(name: str | None) -> Parts:
    return WITHOUT[name] if name else Parts()


def chunk(first: int, count: int, without: str | None) -> tuple[int, Failures]:
    """What went wrong in some schedules."""
    failures: Failures = []
    for seed in range(first, first + count):
        _, wrong = play(seed, parts(without))
        if wrong is not None:
            failures.append((seed, wrong.kind, str(wrong)))
    return count, failures


def each(work: tuple[int, int, str | None]) -> tuple[int, Failures]:
    return chunk(*work)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--first", type=click.IntRange(0), default=0, help="Seed of the first schedule.")
@click.option("--count", type=click.IntRange(1), default=100_000, help="How many.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count(), help="Processes.")
@click.option("--without", type=click.Choice(list(WITHOUT)), help="Turn a rule off.")
def main(first: int, count: int, jobs: int, without: str | None) -> None:
    """Play random schedules of crashes, sleepers, torn writes, rebalances and switches of the fold.

    After each, the logs must say what one event at a time, never interrupted, would have said. The
    first schedule that goes wrong is shortened and told as a story.
    """
    console, failures = Console(width=120), Failures()
    starts = range(first, first + count, CHUNK)
    work = [(start, min(CHUNK, first + count - start), without) for start in starts]
    with Pool(jobs) as pool, progress() as bar:
        task = bar.add_task(f"schedules from {first}", total=count)
        for done, failed in pool.imap_unordered(each, work):
            failures += failed
            bar.advance(task, done)
    kinds = Counter(kind for _, kind, _ in failures)
    for seed, kind, what in sorted(failures)[:10]:
        console.print(f"schedule {seed}: {kind}: {what[:200]}", markup=False, highlight=False)
    if failures:
        seed = min(failures)[0]
        console.print(story(seed, parts(without)), markup=False, highlight=False, soft_wrap=True)
    summary = (
        f"{count:,} schedules: {kinds['lost']:,} lost, {kinds['twice']:,} learned twice, "
        f"{kinds['decision']:,} wrong decisions"
    )
    if kinds["wrong"]:
        summary += f", {kinds['wrong']:,} went wrong otherwise"
    console.print(summary, highlight=False)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
