"""Results as tables for people."""

import click
from rich.table import Table

from policies.evaluation.intervals import Interval
from stream.datasets.accounting import LogAccounting
from stream.offline.prequential import PrequentialResult
from stream.simulation.experiment import Experiment, label


def print_accounting(accounting: LogAccounting) -> None:
    """What became of each message of a log; warnings go to stderr."""
    click.echo(str(accounting))
    for warning in accounting.warnings:
        click.echo(f"warning: {warning}", err=True)


def numeric_table(title: str, caption: str, *names: str) -> Table:
    """An empty table; the first column names the row, the others hold numbers."""
    table = Table(title=title, caption=caption)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def prequential_table(result: PrequentialResult) -> Table:
    """Models against popularity and chance on the same events."""
    k = result.k
    table = numeric_table(
        f"{result.questions:,} liked items of {result.users} users, each ranked among all "
        f"{result.items:,} items less what the user had met",
        f"{result.cold:.1%} cold (item or user unknown); texts by {result.encoder}; intervals 95%, "
        f"clustered by user; {result.seconds:.0f} s, {result.events_a_second:,.0f} events/s",
        "model",
        f"recall@{k}",
        "minus popularity",
        "times",
        f"nDCG@{k}",
        "MRR",
        f"last {result.window:,}",
        "coverage",
    )
    base = next(row.recall.mean for row in result.rows if row.model == "popularity")
    for row in result.rows:
        table.add_row(
            row.model,
            str(row.recall),
            "" if row.model == "popularity" else str(row.recall_difference),
            f"{row.recall.mean / base:.2f}" if base else "",
            f"{row.ndcg.mean:.4f}",
            f"{row.mrr.mean:.4f}",
            f"{row.recall_window:.3f}",
            f"{row.coverage:.1%}",
        )
    return table


def experiment_table(result: Experiment) -> Table:
    """Policies against the champion on the same requests."""
    seeds = ", ".join(map(str, result.seeds))
    table = numeric_table(
        f"{result.requests:,} requests of {result.users} users, seeds {seeds}",
        f"texts by {result.encoder}; decisions close after {result.horizon_seconds:g} s of the "
        f"log's time; intervals 95%, clustered by user; {result.seconds:.0f} s",
        "policy",
        "reward a decision",
        f"{result.champion} minus it",
        "CTR",
        "coverage",
        "last tenth",
        "µs",
    )
    for one in result.standings:
        table.add_row(
            label(one.policy),
            str(one.reward),
            str(one.lead or ""),
            f"{one.ctr:.2%}",
            f"{one.coverage:.1%}",
            f"{one.window:.3f}",
            f"{one.micros:,.0f}",
        )
    return table


def short(interval: Interval, sign: str = "") -> str:
    """An interval to three decimals, without noughts in front.

    >>> short(Interval(0.5, 0.25, 1.75))
    '.500 [.250, 1.750]'
    """
    numbers = (interval.mean, interval.low, interval.high)
    mean, low, high = (f"{x:{sign}.3f}".replace("0.", ".", abs(x) < 1) for x in numbers)
    return f"{mean} [{low}, {high}]"


def signed(interval: Interval) -> str:
    """The same of a difference.

    >>> signed(Interval(0.5, -0.25, 0.75))
    '+.500 [-.250, +.750]'
    """
    return short(interval, "+")
