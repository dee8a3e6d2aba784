"""The commands that look at a log, or make one up, without Kafka."""

from pathlib import Path
from typing import Any

import click

from stream.settings import Settings

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--policies", help="Compare these in closed loops; the last is the champion, or: all."
)
@click.option(
    "--limit", type=click.IntRange(1), help="Stop after as many liked items; without --policies."
)
@click.option("--requests", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--k", type=click.IntRange(1, 100), default=10, show_default=True, help="Items each.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--horizon", type=float, default=10, show_default=True, help="Seconds of log time.")
@click.option("--window", type=click.IntRange(1), default=2_000, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--json", "out", type=OUT, help="Write the result here as well.")
@click.option("--decisions", type=OUT, help="Write every decision of one policy here (JSONL).")
@click.pass_context
def replay(context: click.Context, file: Path, policies: str | None, **options: Any) -> None:
    """Replay a log FILE through the agents, in event time.

    Without --policies: which model would have foreseen what users liked next (recall, nDCG, MRR)?
    With them: each policy answers the same requests, one just before each liked item, and learns
    from its own clicks. uniform draws from the candidates that retrieval found, random from all
    items. A visitor clicks what is among the user's next 20 events and liked, once.
    The visitor clicks within 2.5 s, so decisions may close early: --horizon. vw_explore, which is
    Vowpal Wabbit's own exploration, is for rankings of one item: --k 1.
    """
    from stream.offline import reports

    chosen = reports.ReplayOptions(policies=policies, **options)
    reports.run_replay(Settings.load(file=context.obj), file, chosen)


@click.command()
@click.option("--policies", default="all", show_default=True, help="The last is the champion.")
@click.option("--requests", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--articles", type=click.IntRange(2), default=1_000, show_default=True)
@click.option("--readers", type=click.IntRange(1), default=200, show_default=True)
@click.option("--horizon", type=float, default=10, show_default=True, help="Seconds.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--json", "out", type=OUT, help="Write the result here as well.")
@click.pass_context
def simulate(context: click.Context, policies: str, **options: Any) -> None:
    """Compare policies on simulated news in English and Chinese, with readers of known taste."""
    from stream.offline import reports

    chosen = reports.SimulateOptions(policies=policies, **options)
    reports.run_simulation(Settings.load(file=context.obj), chosen)


@click.command()
@click.argument("file", metavar="LOG", type=FILE)
@click.option("--requests", type=click.IntRange(1), default=3_000, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="How many.")
@click.option("--events", type=click.IntRange(1), default=200_000, show_default=True, help="First.")
@click.option("--k", type=click.IntRange(1, 100), default=10, show_default=True, help="Items each.")
@click.option("--horizon", type=float, default=10, show_default=True, help="Seconds of log time.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--json", "out", type=OUT, help="Write the result here as well.")
@click.option("--plot", type=OUT, help="Draw it (PNG; needs the extra `evaluate`).")
@click.option("--html", type=OUT, help="Write a report that opens offline (needs it, too).")
@click.option("--regret", type=FILE, help="What `regret --json` wrote, for the report.")
@click.option("--tuned", type=FOLDER, help="What `finetune` wrote: two more arms read with it.")
@click.pass_context
def compare(context: click.Context, file: Path, **options: Any) -> None:
    """Which part earns its cost: rankers with more and fewer parts, on one LOG.

    Random (of all items), popular, matrix factorisation, item neighbours, text alone, a fixed
    blend, each of the last five once more less what the user was shown and did not click
    (-repeats), click rate, and the bandit without text, without collaborative filtering and with
    all: each answers the same requests in a closed loop (see `replay`), knows its own parts alone,
    and is held against the others by user, by how much is known of the user and by how new the
    item is. With --tuned, text alone and all of it once more, by BERT fine-tuned on the log's
    likes: then only requests after those likes count.
    """
    from stream.offline.compare import command

    settings = Settings.load(file=context.obj)
    command.run_comparison(settings, file, command.ComparisonOptions(**options))


@click.command()
@click.argument("file", metavar="LOG", type=FILE)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--share", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="First of likes."
)
@click.option(
    "--pairs", type=click.IntRange(1), default=20_000, show_default=True, help="At most, of likes."
)
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(2, 4_096), default=64, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=2e-4,
    show_default=True,
    help="Of learning, at most.",
)
@click.pass_context
def finetune(context: click.Context, file: Path, folder: Path, **options: Any) -> None:
    """Fine-tune BERT on the likes of a LOG's first half, into a new FOLDER.

    The texts of what one user liked in turn come to lie near each other (a contrastive loss over
    pairs of likes). RANKLOOP_ENCODER=FOLDER then reads with it; `compare LOG --tuned FOLDER` says
    whether it is worth that, on what came after. On a GPU if there is one.
    """
    from stream.offline.finetune import run_finetuning

    run_finetuning(Settings.load(file=context.obj), file, folder, **options)


@click.command()
@click.option("--requests", type=click.IntRange(60), default=1_500, show_default=True)
@click.option("--seeds", type=click.IntRange(4), default=20, show_default=True, help="How many.")
@click.option("--articles", type=click.IntRange(61), default=300, show_default=True)
@click.option("--readers", type=click.IntRange(2), default=30, show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--json", "out", type=OUT, help="Write the result here as well.")
@click.option("--plot", type=OUT, help="Draw the curves (PNG; needs the extra `evaluate`).")
@click.pass_context
def regret(context: click.Context, **options: Any) -> None:
    """What learning costs: clicks lost against the best ranking, where the best is known.

    Simulated readers of a stock of 60 articles, a new one every ten minutes: tastes drift, lower
    places are seen less, a fifth of the clicks come up to 20 minutes late. Regret is exact: the
    expected clicks of the best ranking less those of the one shown.
    """
    from stream.offline.regret import report

    report(Settings.load(file=context.obj), **options)


@click.command()
@click.argument("log")
@click.option("--policy", "policies", multiple=True, help="What would it have earned? Repeatable.")
@click.option("--candidates", type=click.IntRange(2), help="How many there were a request.")
@click.option(
    "--model",
    default="linear",
    show_default=True,
    help="Of rewards, for DM and DR; that of rankings is linear.",
)
@click.option("--json", "out", type=OUT, help="Write the result here as well.")
@click.option("--plot", type=OUT, help="Draw the estimates (PNG; needs the extra `evaluate`).")
@click.pass_context
def evaluate(context: click.Context, log: str, policies: tuple[str, ...], **options: Any) -> None:
    """What would these policies have earned on a LOG, had they decided in its place?

    LOG is a file of outcomes (feedback as JSONL or Parquet, or an import of open-bandit), a folder
    that `audit --save` made, or the word topic: the topics of a running rankloop. From a file,
    uniform and the policies that are in it; from a folder or topics, every policy, since each
    request's candidates are found again as they were.
    """
    from stream.offline.off_policy import run_evaluation

    run_evaluation(Settings.load(file=context.obj), log, policies, **options)
