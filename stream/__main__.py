"""The command line: `rankloop COMMAND --help` teaches each command."""

import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from stream.settings import Settings, settings_table

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rankloop")
@click.option("--config", type=FILE, help="Settings as TOML; the environment wins (RANKLOOP_*).")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Rankings that learn from their own clicks. Kafka in, Kafka out.

    Start with `rankloop demo`. Settings come from RANKLOOP_* variables, above a TOML file, above
    defaults; `rankloop settings` lists them.
    """
    context.obj = config


def _settings(context: click.Context) -> Settings:
    """Settings, or one clear line and exit code 2."""
    try:
        return Settings.load(file=context.obj)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@main.command()
def settings() -> None:
    """List every setting with its default, as a Markdown table."""
    click.echo(settings_table())


@main.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the data here.")
@click.pass_context
def up(context: click.Context, folder: Path | None) -> None:
    """Run Kafka and Redis on free loopback ports until stopped (Ctrl-C or SIGTERM).

    An Apache Kafka under KAFKA_HOME if that is set, else the small broker of the extra `local`,
    which is for one worker on a laptop, never production.
    """
    from stream.local import Stack

    with Stack(kafka_home=_settings(context).kafka_home, folder=folder) as stack:
        click.echo(f"{stack.describes}; in another terminal:")
        click.echo(f"export RANKLOOP_BROKERS={stack.brokers} RANKLOOP_REDIS_URL={stack.redis_url}")
        click.echo("rankloop worker")
        with suppress(KeyboardInterrupt):
            signal.pause()


@main.command()
@click.option("--web-port", type=int, help="Port of the status page; default: any free one.")
@click.pass_context
def worker(context: click.Context, web_port: int | None) -> None:
    """Run a worker: learn from events, answer requests, embed items.

    Start as many as you like under one RANKLOOP_APP: they share the partitions. Stops cleanly on
    SIGTERM: what is under way is finished and committed.
    """
    from stream.worker import run

    settings = _settings(context)
    if web_port is not None:
        settings = msgspec.structs.replace(settings, web_port=web_port)
    run(settings)


@main.command()
@click.pass_context
def topics(context: click.Context) -> None:
    """Create the six topics, or say that they exist."""
    from stream.topics import create

    for name, what in asyncio.run(create(_settings(context))).items():
        click.echo(f"{what:8} {name}")


@main.command()
@click.argument("file", type=FILE)
@click.pass_context
def publish(context: click.Context, file: Path) -> None:
    """Publish a log FILE (JSONL, JSONL.gz or Parquet): items to items, the rest to events."""
    from stream.publish import publish_file

    click.echo(f"{publish_file(_settings(context), file)} messages published")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write one file a type here.")
def schema(out: Path | None) -> None:
    """Print the JSON Schemas of all messages, for producers in other languages."""
    from models.events import schemas

    found: dict[str, Any] = schemas()
    if out is None:
        click.echo(json.dumps(found, indent=2))
        return
    out.mkdir(parents=True, exist_ok=True)
    for name, one in found.items():
        (out / f"{name}.schema.json").write_text(json.dumps(one, indent=2) + "\n")
    click.echo(f"{len(found)} schemas in {out}")


if __name__ == "__main__":
    main(prog_name="rankloop")
