"""What `replay` and `simulate` do: read, run, print a table, write JSON for machines."""

from pathlib import Path

import click
import msgspec
from msgspec import Struct, structs
from rich.console import Console

from models.events import Request
from stream import build
from stream.offline.prequential import evaluate_prequentially
from stream.offline.tables import experiment_table, prequential_table
from stream.settings import Settings
from stream.simulation.closed_loop import Run, run
from stream.simulation.environment import Environment, LogEnvironment
from stream.simulation.event_log import liked, read
from stream.simulation.experiment import POLICIES, run_experiment
from stream.simulation.news import news_environment

WIDE = Console(width=130)


def replay(
    settings: Settings,
    file: Path,
    policies: str | None,
    *,
    limit: int | None,
    requests: int,
    k: int,
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
    if limit is not None and policies is not None:
        raise click.UsageError("--limit goes without --policies; with them, say --requests")
    soon = structs.replace(settings, horizon_seconds=horizon)
    names = _names(policies) if policies is not None else ()
    log = read(file, settings)
    if not any(isinstance(event, Request) or liked(event) for event in log.events):
        raise ValueError(f"{file} holds no request, click or positive reward: nothing to rank")
    if not names:
        result = evaluate_prequentially(log, settings, k=k, limit=limit, window=window)
        WIDE.print(prequential_table(result))
        return _write(out, result)
    world = LogEnvironment(log, requests, k)
    if decisions is not None:
        soon = soon.alone(names[0])
        done = run(Run(settings=soon, world=world, decisions=decisions))
        click.echo(f"{len(done.users)} decisions in {decisions}, digest {done.digest}")
        return None
    return _contest(out, world, soon, names, seeds, requests, jobs)


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
    names = _names(policies)
    settings = structs.replace(settings, horizon_seconds=horizon)
    world = news_environment(settings, requests=requests, articles=articles, readers=readers)
    _contest(out, world, settings, names, seeds, requests, jobs)


def _names(policies: str) -> tuple[str, ...]:
    names = POLICIES if policies == "all" else tuple(dict.fromkeys(policies.split(",")))
    if unknown := sorted(set(names) - set(build.POLICIES)):
        known = ", ".join(build.POLICIES)
        raise click.UsageError(f"--policies must be among {known}, got {', '.join(unknown)}")
    return names


def _contest(
    out: Path | None,
    world: Environment,
    settings: Settings,
    names: tuple[str, ...],
    seeds: int,
    requests: int,
    jobs: int,
) -> None:
    result = run_experiment(
        world,
        settings,
        policies=names,
        seeds=range(settings.seed, settings.seed + seeds),
        requests=requests,
        jobs=jobs,
    )
    WIDE.print(experiment_table(result))
    _write(out, result)


def _write(out: Path | None, result: Struct) -> None:
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
