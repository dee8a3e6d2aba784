"""What `replay` and `simulate` print: tables with intervals, or JSON for machines."""

from pathlib import Path

import click
import msgspec
from msgspec import Struct, structs
from rich.console import Console
from rich.table import Table

from stream import build
from stream.compare import LogWorld, Trial, World, run
from stream.contest import POLICIES, Contest, contest
from stream.replay import Foresight, foresee, read
from stream.settings import Settings
from stream.simulate import news_world

WIDE = Console(width=130)


def replay(
    settings: Settings,
    file: Path,
    policies: str | None,
    *,
    limit: int | None,
    requests: int,
    seeds: int,
    horizon: float,
    window: int,
    jobs: int,
    out: Path | None,
    decisions: Path | None,
) -> None:
    """`rankloop replay`."""
    if decisions is not None and (policies is None or policies.count(",") or policies == "all"):
        raise click.UsageError("--decisions writes those of one policy; name it with --policies")
    log = read(file, settings)
    if policies is None:
        result = foresee(log, settings, limit=limit, window=window)
        WIDE.print(foresight_table(result))
        return _write(out, result)
    settings = structs.replace(settings, horizon_seconds=horizon)
    world = LogWorld(log, limit or requests)
    if decisions is not None:
        settings = structs.replace(settings, policy=policies)
        done = run(Trial(settings=settings, world=world, decisions=decisions))
        click.echo(f"{len(done.users)} decisions in {decisions}, digest {done.digest}")
        return None
    return _contest(out, world, settings, policies, seeds, limit or requests, jobs)


def simulate(
    settings: Settings,
    policies: str,
    *,
    requests: int,
    seeds: int,
    articles: int,
    readers: int,
    horizon: float,
    jobs: int,
    out: Path | None,
) -> None:
    """`rankloop simulate`."""
    settings = structs.replace(settings, horizon_seconds=horizon)
    world = news_world(settings, requests=requests, articles=articles, readers=readers)
    _contest(out, world, settings, policies, seeds, requests, jobs)


def _contest(
    out: Path | None,
    world: World,
    settings: Settings,
    policies: str,
    seeds: int,
    requests: int,
    jobs: int,
) -> None:
    names = POLICIES if policies == "all" else tuple(dict.fromkeys(policies.split(",")))
    if unknown := sorted(set(names) - set(build.POLICIES)):
        known = ", ".join(build.POLICIES)
        raise click.UsageError(f"--policies must be among {known}, got {', '.join(unknown)}")
    result = contest(
        world,
        settings,
        policies=names,
        seeds=range(settings.seed, settings.seed + seeds),
        requests=requests,
        jobs=jobs,
    )
    WIDE.print(contest_table(result))
    _write(out, result)


def _write(out: Path | None, result: Struct) -> None:
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(title=title, caption=caption)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def foresight_table(result: Foresight) -> Table:
    """Models against popularity and chance on the same events."""
    k = result.k
    table = _table(
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


def contest_table(result: Contest) -> Table:
    """Policies against the champion on the same requests."""
    seeds = ", ".join(map(str, result.seeds))
    table = _table(
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
            one.policy,
            str(one.reward),
            str(one.lead or ""),
            f"{one.ctr:.2%}",
            f"{one.coverage:.1%}",
            f"{one.window:.3f}",
            f"{one.micros:,.0f}",
        )
    return table
