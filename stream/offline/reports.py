"""`rankloop replay` and `rankloop simulate`: read, run, print a table, write JSON for machines."""

from pathlib import Path

import click
import msgspec
from msgspec import Struct, structs
from rich.console import Console

from models.events import Request
from stream import build
from stream.datasets.accounting import LogAccounting, counted
from stream.offline.prequential import evaluate_prequentially
from stream.offline.tables import experiment_table, prequential_table, print_accounting
from stream.settings import Settings
from stream.simulation.closed_loop import Run, run
from stream.simulation.environment import Environment, LogEnvironment
from stream.simulation.event_log import liked, read_event_log
from stream.simulation.experiment import POLICIES, run_experiment
from stream.simulation.news import news_environment
from stream.simulation.random_items import RANDOM

WIDE = Console(width=130)


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """The options of `rankloop replay`; without `policies`, models are evaluated."""

    policies: str | None
    limit: int | None
    requests: int
    k: int
    seeds: int
    horizon: float
    window: int
    jobs: int
    out: Path | None
    decisions: Path | None


class SimulateOptions(Struct, frozen=True, kw_only=True):
    """The options of `rankloop simulate`."""

    policies: str
    requests: int
    seeds: int
    articles: int
    readers: int
    horizon: float
    jobs: int
    out: Path | None


def run_replay(settings: Settings, file: Path, options: ReplayOptions) -> None:
    """`rankloop replay`."""
    policies, k = options.policies, options.k
    several = policies is None or policies.count(",") or policies == "all"
    if options.decisions is not None and several:
        raise click.UsageError("--decisions writes those of one policy; name it with --policies")
    if options.limit is not None and policies is not None:
        raise click.UsageError("--limit goes without --policies; with them, say --requests")
    soon = structs.replace(settings, horizon_seconds=options.horizon)
    names = _names(policies) if policies is not None else ()
    log = read_event_log(file, soon if names else settings)
    if not any(isinstance(event, Request) or liked(event) for event in log.events):
        raise ValueError(f"{file} holds no request, click or positive reward: nothing to rank")
    print_accounting(log.accounting)
    if not names:
        result = evaluate_prequentially(
            log, settings, k=k, limit=options.limit, window=options.window
        )
        WIDE.print(prequential_table(result))
        return _write(options.out, result)
    environment = LogEnvironment(log, options.requests, k)
    if options.decisions is not None:
        soon = soon.alone(names[0])
        done = run(Run(settings=soon, environment=environment, decisions=options.decisions))
        click.echo(f"{len(done.users)} decisions in {options.decisions}, digest {done.digest}")
        return None
    return _experiment(environment, soon, names, options, log.accounting)


def run_simulation(settings: Settings, options: SimulateOptions) -> None:
    """`rankloop simulate`."""
    names = _names(options.policies)
    settings = structs.replace(settings, horizon_seconds=options.horizon)
    environment = news_environment(
        settings,
        requests=options.requests,
        articles=options.articles,
        readers=options.readers,
    )
    _experiment(environment, settings, names, options)


def _names(policies: str) -> tuple[str, ...]:
    names = POLICIES if policies == "all" else tuple(dict.fromkeys(policies.split(",")))
    if unknown := sorted(set(names) - {*build.POLICIES, RANDOM}):
        known = ", ".join((*build.POLICIES, RANDOM))
        raise click.UsageError(f"--policies must be among {known}, got {', '.join(unknown)}")
    return names


def _experiment(
    environment: Environment,
    settings: Settings,
    names: tuple[str, ...],
    options: ReplayOptions | SimulateOptions,
    accounting: LogAccounting | None = None,
) -> None:
    result = run_experiment(
        environment,
        settings,
        policies=names,
        seeds=range(settings.seed, settings.seed + options.seeds),
        requests=options.requests,
        jobs=options.jobs,
    )
    WIDE.print(experiment_table(result))
    if accounting is None:  # all events are the simulation's
        click.echo(f"{names[-1]}: {counted(result.standings[-1].fates, 'events')}")
    _write(options.out, structs.replace(result, accounting=accounting))


def _write(out: Path | None, result: Struct) -> None:
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
