"""The command group `rankloop champion`: who decides, who would do better, and the switch."""

import asyncio
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from agents.ledger import Ledger
from models.events import Champion
from stream.cli.errors import OneLineErrorGroup
from stream.cli.fold import append_record, read_feedback
from stream.settings import Settings

if TYPE_CHECKING:  # numpy and scipy come with it: only who needs them waits for them
    from agents.scoreboard import Score, Scoreboard


@click.group(cls=OneLineErrorGroup)
@click.pass_context
def champion(context: click.Context) -> None:
    """See which policy decides and how its challengers would do, and let another one decide.

    The champion is `policy`, until a record in feedback says otherwise: at its offset all workers
    switch. Challengers (`challengers`) learn from the same outcomes. Run it with the settings of
    the workers.
    """
    context.obj = Settings.load(file=context.find_root().obj)


@champion.command()
@click.pass_obj
def show(settings: Settings) -> None:
    """Show the champion and what its challengers would have earned in its place."""
    ledger, board = asyncio.run(_read(settings))
    where = _in_force(settings, ledger)
    click.echo(f"champion at version {ledger.version}: {ledger.champion}{where}")
    if board is None:
        click.echo("no challengers: name some in RANKLOOP_CHALLENGERS")
        return
    scores = board.scores()
    if not scores[0].outcomes:
        names = ", ".join(score.policy for score in scores[1:])
        click.echo(
            f"no outcomes yet: {ledger.champion} and its challengers ({names}) are judged once a "
            "ranking of this champion has closed (horizon_seconds)"
        )
        return
    Console(width=120, highlight=False).print(score_table(scores))
    for line in score_lines(scores):
        click.echo(line)


@champion.command()
@click.argument("name")
@click.pass_obj
def promote(settings: Settings, name: str) -> None:
    """Let the challenger NAME decide from here on; the champion becomes a challenger."""
    ledger, _ = asyncio.run(_read(settings))
    if name not in ledger.policies:
        known = ", ".join(ledger.policies)
        raise click.ClickException(f"NAME must be one of {known}, got {name!r}")
    _switch(settings, name, ledger)


@champion.command()
@click.pass_obj
def rollback(settings: Settings) -> None:
    """Let the champion before this one decide again."""
    ledger, _ = asyncio.run(_read(settings))
    if not ledger.former:
        raise click.ClickException(f"there was no champion before {ledger.champion}")
    _switch(settings, ledger.former, ledger)


async def _read(settings: Settings) -> "tuple[Ledger, Scoreboard | None]":
    """All of feedback taken in, as far as champions go."""
    from agents.scoreboard import scoreboard

    ledger = Ledger(policies=settings.policies)
    board = scoreboard(settings.policies, settings.scoreboard_max_reward)

    def take(offset: int, data: bytes) -> None:
        verdict, record = ledger(offset, data)
        if board is not None and verdict in ("learned", "noted"):
            board(record, ledger)

    await read_feedback(settings, take)
    return ledger, board


def _switch(settings: Settings, name: str, ledger: Ledger) -> None:
    if ledger.begin is None:
        raise click.ClickException("the log has not begun: start a worker first")
    if ledger.fold != settings.fold_hash():
        raise click.ClickException(f"nobody would obey{_in_force(settings, ledger)}")
    if name == ledger.champion:
        click.echo(f"{name} is champion already")
        return
    record = Champion(policy=name, expects=ledger.champion)
    offset = asyncio.run(append_record(settings, record))
    click.echo(f"from {offset} on {name} decides; before, {ledger.champion} did")


def _in_force(settings: Settings, ledger: Ledger) -> str:
    mine = settings.fold_hash()
    if ledger.fold in ("", mine):
        return ""
    return f" (by these settings, whose fold {mine} is not in force: {ledger.fold} is)"


def score_table(scores: "list[Score]") -> Table:
    """The scoreboard; the champion comes first."""
    made = Table(title="Reward a ranking, on the rankings of the champion")
    for i, name in enumerate(
        ("policy", "mean [95%]", "ahead [95%, all]", "effective", "mean weight", "cut", "rankings")
    ):
        made.add_column(name, justify="right" if i else "left", no_wrap=True)
    for score in scores:
        made.add_row(
            score.policy,
            str(score.value or "no outcomes yet"),
            str(score.ahead or ("no outcomes yet" if score is not scores[0] else "champion")),
            f"{score.effective:,.0f}",
            f"{score.weight:.3f}",
            f"{score.cut:.1%}",
            f"{score.outcomes:,}",
        )
    return made


def score_lines(scores: "list[Score]") -> list[str]:
    """What to beware of."""
    return [
        f"warning: {score.policy}: the champion shows only {score.weight:.0%} of what it would, "
        "and the rest counts as worth nothing; explore more (epsilon, temperature, gamma)"
        for score in scores
        if score.outcomes and score.weight < 0.8
    ]
