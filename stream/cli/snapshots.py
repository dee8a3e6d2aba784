"""The command group `rankloop snapshots`: list, show, verify, rollback."""

import time
from typing import TYPE_CHECKING

import click

from stream.settings import Settings

if TYPE_CHECKING:
    from stream.storage.snapshots import SnapshotHeader, Snapshots


@click.group()
@click.pass_context
def snapshots(context: click.Context) -> None:
    """Look at the snapshots that workers write, check them, go back to an older one.

    Run it with the settings of the workers.
    """
    from stream.storage.snapshots import open_snapshots

    try:
        context.obj = open_snapshots(Settings.load(file=context.find_root().obj))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@snapshots.command(name="list")
@click.pass_obj
def list_(store: "Snapshots") -> None:
    """List all snapshots, the newest first, by what they say of themselves."""
    entries = store.entries()
    click.echo(f"{len(entries)} snapshots in {store.store.where}")
    for entry in entries:
        says = _says(entry.header) if entry.header else f"NOT USABLE: {entry.error}"
        click.echo(f"{entry.version:>12}  {entry.size / 1e6:>9.1f} MB  {says}")


@snapshots.command()
@click.argument("version", type=click.IntRange(0))
@click.pass_obj
def show(store: "Snapshots", version: int) -> None:
    """Show what the snapshot of VERSION holds, by its header."""
    try:
        header, shapes = store.shapes(version)
    except _failures() as error:
        raise click.ClickException(str(error)) from None
    click.echo(_says(header))
    for name, (dtype, shape) in sorted(shapes.items()):
        click.echo(f"  {name:40} {dtype:4} {' x '.join(f'{n:,}' for n in shape)}")


@snapshots.command()
@click.argument("version", type=click.IntRange(0), required=False)
@click.pass_context
def verify(context: click.Context, version: int | None) -> None:
    """Read the snapshot of VERSION, or all of them, in full: checksum, digest, log, settings.

    The exit code is 0 only if all are good.
    """
    store: Snapshots = context.obj
    bad = 0
    for each in [version] if version is not None else store.versions():
        try:
            header, _ = store.read(each)
            store.check(header)
        except _failures() as error:
            bad += 1
            click.echo(f"{each}: NOT USABLE: {error}")
        else:
            click.echo(f"{each}: good, digest {header.digest}")
    context.exit(1 if bad else 0)


@snapshots.command()
@click.argument("version", type=click.IntRange(0))
@click.pass_obj
def rollback(store: "Snapshots", version: int) -> None:
    """Set aside (rename) all snapshots newer than VERSION; 0: all, so that workers fold anew.

    Stop the workers first: a running one goes on with what it knows, and writes again.
    """
    for name in store.rollback(version):
        click.echo(f"set aside {name}")
    left = store.versions()
    click.echo(f"workers start from version {left[-1] if left else 0}")


def _says(header: "SnapshotHeader") -> str:
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header.written / 1000))
    return (
        f"version {header.version}, digest {header.digest}, log {header.prefix}, "
        f"settings {header.fold}, rankloop {header.build}, written {written}"
    )


def _failures() -> tuple[type[Exception], ...]:
    from stream.storage.tensor_file import SnapshotMismatchError

    return OSError, ValueError, SnapshotMismatchError
