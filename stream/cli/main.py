"""The command line: `rankloop COMMAND --help` teaches each command."""

import asyncio
import json
import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from stream.cli.champion import champion
from stream.cli.errors import OneLineErrorGroup
from stream.cli.fold import fold
from stream.cli.imports import imports
from stream.cli.offline import compare, evaluate, finetune, regret, replay, simulate
from stream.cli.snapshots import snapshots
from stream.errors import RankloopError
from stream.settings import Settings, settings_table

log = logging.getLogger(__name__)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(
    cls=OneLineErrorGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="rankloop")
@click.option("--config", type=FILE, help="Settings as TOML; the environment wins (RANKLOOP_*).")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Rankings that learn from their own clicks. Kafka in, Kafka out.

    Start with `rankloop demo`. Settings come from RANKLOOP_* variables, above a TOML file, above
    defaults; `rankloop settings` lists them.
    """
    context.obj = config
    # Without a handler its errors go to stderr: ours says the same, once. A worker logs them.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def _settings(context: click.Context) -> Settings:
    return Settings.load(file=context.obj)


@main.command()
def settings() -> None:
    """List every setting with its default, as a Markdown table."""
    click.echo(settings_table())


@main.command()
@click.option("--data", type=FOLDER, help="A MovieLens folder; default: found near, else news.")
@click.option("--requests", type=click.IntRange(20), default=3_000, show_default=True)
@click.option("--events", type=click.IntRange(100), default=30_000, show_default=True)
@click.pass_context
def demo(context: click.Context, data: Path | None, requests: int, events: int) -> None:
    """See it learn: Kafka, a worker, BERT, clicks, and who earned how many. Some three minutes.

    Starts a local stack, publishes and embeds a catalogue, replays the first EVENTS of the log with
    REQUESTS spread over them, lets a visitor click what its logged self liked next, compares the
    policies on the same requests, audits every ranking, and stops everything.
    """
    from stream.demo.demo import run_demo

    context.exit(0 if run_demo(_settings(context), data, requests, events) else 1)


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the data here.")
@click.pass_context
def up(context: click.Context, folder: Path | None) -> None:
    """Run Kafka and Redis on free loopback ports until stopped (Ctrl-C or SIGTERM).

    An Apache Kafka under KAFKA_HOME if that is set, else the small broker of the extra `local`,
    which is for one worker on a laptop, never production.
    """
    from stream.local.stack import Stack

    with Stack(kafka_home=_settings(context).kafka_home, folder=folder) as stack:
        click.echo(f"{stack.describes}; in another terminal:")
        click.echo(f"export RANKLOOP_BROKERS={stack.brokers} RANKLOOP_REDIS_URL={stack.redis_url}")
        click.echo(
            f"export RANKLOOP_DATA_DIR={stack.folder}/worker  # gone with the log it belongs to"
        )
        click.echo("rankloop worker")
        with suppress(KeyboardInterrupt):
            signal.pause()


@main.command()
@click.option("--web-port", type=int, help="Port of the status page; default: any free one.")
@click.option(
    "--role",
    type=click.Choice(["all", "rank", "learn", "embed"]),
    help="What it does; default: RANKLOOP_ROLE, else all.",
)
@click.option(
    "--switch",
    is_flag=True,
    help="Once caught up, let these learning settings decide, as `fold switch` does.",
)
@click.pass_context
def worker(context: click.Context, web_port: int | None, role: str | None, switch: bool) -> None:
    """Run a worker: learn from events, answer requests, embed items.

    Start as many as you like under one RANKLOOP_GROUP: they share the partitions. Stops cleanly on
    SIGTERM: what is under way is finished and committed.

    Roles: rank answers by the snapshots that learn writes to a common RANKLOOP_SNAPSHOT_URL instead
    of learning itself; embed has the text model to itself, and a GPU; all does everything.
    """
    from stream.worker.app import run_worker

    settings = _settings(context)
    chosen = {"web_port": web_port, "role": role}
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = msgspec.structs.replace(settings, **given)
    if switch and not settings.worker_role.folds:
        raise click.UsageError(
            f"--switch is for a worker that learns, got role {settings.role}; start one of role "
            "all or learn with it"
        )
    try:
        run_worker(settings, switch)
    except Exception as error:
        if not settings.log_json:
            raise
        ours = isinstance(error, (RankloopError, OSError, ValueError))
        log.critical("stopped: %s", error, exc_info=None if ours else error)
        context.exit(error.exit_code if isinstance(error, RankloopError) else 1)


@main.command()
@click.pass_context
def topics(context: click.Context) -> None:
    """Create the six topics, or say that they exist."""
    from stream.kafka.topics import create

    for name, what in asyncio.run(create(_settings(context))).items():
        click.echo(f"{what:8} {name}")


@main.command()
@click.argument("file", type=FILE)
@click.pass_context
def publish(context: click.Context, file: Path) -> None:
    """Publish a log FILE (JSONL, JSONL.gz or Parquet): items to items, the rest to events.

    Creates the topics if they are missing. The whole file is checked first: if a line is no item,
    request, impression, click or reward, nothing is sent.
    """
    from stream.datasets.log_files import by_type
    from stream.datasets.publish import publish_file

    counts = publish_file(_settings(context), file)
    click.echo(f"{counts.total()} messages published: {by_type(counts)}")


for command in (replay, simulate, regret, imports, finetune, compare, evaluate):
    main.add_command(command)


@main.command()
@click.option("--from", "source", type=FOLDER, help="Read files, as --save makes, not Kafka.")
@click.option("--save", "folder", type=click.Path(path_type=Path), help="Keep what is read here.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def audit(context: click.Context, source: Path | None, folder: Path | None, as_json: bool) -> None:
    """Make every published ranking again from the logs, and compare bit for bit.

    Run it with the settings of the workers. The exit code is 0 only if every ranking came out the
    same and no request is unanswered. Workers may run on; what comes later is not looked at.
    """
    from stream.offline.audit import run_audit

    context.exit(0 if run_audit(_settings(context), source, folder, as_json) else 1)


@main.command()
@click.option("--events", type=click.IntRange(100), default=20_000, show_default=True)
@click.option("--faults", type=click.IntRange(0), default=16, show_default=True)
@click.option("--workers", type=click.IntRange(1, 4), default=3, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--kinds", default="all", show_default=True, help="Of fault, comma-separated.")
@click.option("--interval", type=float, default=5, show_default=True, help="Seconds, at least.")
@click.option("--minutes", type=float, default=60, show_default=True, help="Load at most so long.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep everything here.")
@click.option("--json", "out", type=OUT, help="Write the result here as well.")
@click.pass_context
def torture(
    context: click.Context, folder: Path | None, out: Path | None, kinds: str, **options: Any
) -> None:
    """Kill, stop and starve workers under load, then count: was anything lost or learned twice?

    Starts Apache Kafka (KAFKA_HOME), Redis and workers, publishes EVENTS while a seeded script of
    FAULTS runs, and checks every event, ranking and record against what the logs imply, by code
    that is not the workers'. The exit code is 0 only if every promise was kept.
    """
    from stream.torture.command import run_torture
    from stream.torture.faults import kinds_of
    from stream.torture.harness import TorturePlan

    plan = TorturePlan(kinds=kinds_of(kinds), **options)
    context.exit(0 if run_torture(_settings(context), plan, folder, out) else 1)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write one file a type here.")
def schema(out: Path | None) -> None:
    """Print the JSON Schemas of all messages, for producers in other languages."""
    from models.schemas import schemas

    found: dict[str, Any] = schemas()
    if out is None:
        click.echo(json.dumps(found, indent=2))
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, one in found.items():
        (out / f"{name}.schema.json").write_text(json.dumps(one, indent=2) + "\n")
    click.echo(f"{len(found)} schemas in {out}")


@main.command("restart-from")
@click.argument("where", metavar="WHERE")
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, help="Only this.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def restart_from(
    context: click.Context, where: str, partitions: tuple[int, ...], yes: bool
) -> None:
    """Go on though what a partition needs is gone; keep what is learned.

    WHERE is `earliest` (the first event that nothing was learned from and that is still there),
    `latest` (skip all that waits) or an offset. What was open before it is never learned. It shows
    what is lost and asks; a record in feedback then says so to all workers, running or not.
    """
    from stream.cli.restart import restart

    restart(_settings(context), where, partitions, yes)


main.add_command(snapshots)
main.add_command(fold)
main.add_command(champion)

# How `rankloop --help` groups them.
main.sections = {
    "Run": ("demo", "up", "topics", "worker"),
    "Data": ("import", "publish", "schema"),
    "Offline evaluation": ("replay", "simulate", "compare", "evaluate", "regret", "finetune"),
    "Operate": ("settings", "snapshots", "fold", "champion", "restart-from"),
    "Verify": ("audit", "torture"),
}
