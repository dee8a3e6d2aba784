"""`make bench`: the figures of docs/results.md, measured on this machine; `--help` says which."""

from pathlib import Path
from typing import Any

import click
import msgspec
from inside import deciding, folds, replay
from machine import disturbed, machine
from measure import FULL, Bench, Row
from rich.console import Console
from rich.table import Table
from through import feedback, refreshed
from titles import titles

BENCHES: dict[str, Bench] = {
    "kafka": feedback,
    "refresh": refreshed,
    "fold": folds,
    "decide": deciding,
    "titles": titles,
    "replay": replay,
}
console = Console(width=120)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--only", type=click.Choice(list(BENCHES)), multiple=True, help="Just these.")
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=FULL,
    help="Of each run under load; fixed amounts of work shrink and grow with it.",
)
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path))
def main(only: tuple[str, ...], seconds: float, out: Path | None) -> None:
    """Measure rankloop, each part on the real thing: Kafka, a worker, Redis, BERT.

    Kafka is the Apache Kafka under KAFKA_HOME or in ../shared/kafka (with Java), else the broker
    of the extra `local`. Compare figures of one run with each other, and runs on idle machines.
    """
    header = machine()
    for name, value in header.items():
        console.print(f"[bold]{name:12}[/] {value}", highlight=False)
    if disturbed():
        console.print("[yellow]others are using this machine: trust ratios, not figures[/]")
    rows: list[Row] = []
    for name in only or BENCHES:
        with console.status(f"measuring: {name}"):
            for row in BENCHES[name](seconds):
                rows.append(row)
                console.print(f"  {row.measure}: {shown(row)}", highlight=False)
    console.print(table(rows, seconds))
    if out:
        report: dict[str, Any] = {"seconds": seconds, **header, "rows": rows}
        out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def shown(row: Row) -> str:
    """The figure with its unit."""
    digits = 0 if row.figure >= 100 else 1 if row.figure >= 10 else 2
    return f"{row.figure:,.{digits}f} {row.unit}"


def table(rows: list[Row], seconds: float) -> Table:
    made = Table(title=f"make bench --seconds {seconds:g}")
    made.add_column("measure")
    made.add_column("figure", justify="right", no_wrap=True)
    made.add_column("how it was measured", ratio=1)
    for row in rows:
        made.add_row(row.measure, shown(row), row.how)
    return made


if __name__ == "__main__":
    main()
