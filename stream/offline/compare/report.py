"""The report of `rankloop compare`: one page that opens anywhere; the answers come first."""

from collections.abc import Sequence
from math import expm1
from pathlib import Path
from statistics import mean

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct
from rich.table import Table

from models.finetuning import FineTuningResult
from stream.offline.compare.arms import ARMS
from stream.offline.compare.comparison import (
    ALL,
    COLD_ITEMS,
    FULL,
    POPULAR,
    SURE,
    Comparison,
    Contrast,
)
from stream.offline.compare.findings import findings
from stream.offline.compare.plots import behaviour, curves, overview
from stream.offline.plotting import data_uri
from stream.offline.regret import Regret, draw_curves, regret_lines
from stream.offline.tables import numeric_table, short, signed

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


class Cells(Struct, frozen=True):
    """A table: the titles of its columns, and rows that begin with their name."""

    head: list[str]
    rows: list[list[str]]


def page(result: Comparison, regret: Regret | None = None) -> str:
    """The report as HTML. Raises ValueError where matplotlib is not installed."""
    moved = (f"{name}: {switch_points(found)}" for name, found in result.drift.items())
    full = [one for one in result.standings if one.arm == FULL and one.calibration]
    return TEMPLATES.get_template("report.html").render(
        log=result.log,
        about=about(result),
        verdicts=findings(result),
        arms={one.arm: one.says for one in result.standings},
        earned=earned(result),
        overview=data_uri(overview(result)),
        took=took(result),
        by_user=by_slice(result, "users"),
        by_item=by_slice(result, "items"),
        curves=data_uri(curves(result)),
        regret=regret and {"lines": regret_lines(regret), "curves": data_uri(draw_curves(regret))},
        exposure=exposure(result),
        moved="; ".join(moved),
        exploring=[data_uri(behaviour(one)) for one in full],
        method=method(result),
    )


def about(result: Comparison) -> str:
    return (
        f"{result.requests:,} rankings of {result.k} for {result.users:,} users, "
        f"{result.items:,} items, {result.events:,} events, seeds "
        f"{', '.join(map(str, result.seeds))}; texts by {result.encoder}. Clicks a ranking, with "
        "95% intervals over users, paired: every arm answered the same requests."
    )


def earned(result: Comparison) -> Cells:
    """Clicks and where they were, arm by arm."""
    head = ["arm", "clicks a ranking", "minus popular", "full minus it", f"nDCG@{result.k}", "MRR"]
    rows = [
        [
            one.arm,
            short(one.clicks[ALL]),
            starred(result.of(one.arm, POPULAR)),
            starred(result.of(FULL, one.arm)),
            short(one.ndcg),
            short(one.mrr),
        ]
        for one in result.standings
    ]
    return Cells(head, rows)


def took(result: Comparison) -> Cells:
    """Time and memory, arm by arm."""
    head = ["arm", "µs a decision", "µs an event learned", "learning, s", "state, MB", "texts"]
    rows = [
        [
            one.arm,
            f"{one.cost.decision_micros:,.0f}",
            f"{one.cost.event_micros:,.0f}",
            f"{one.cost.learning_seconds:,.1f}",
            f"{one.cost.state_mb:,.1f}",
            f"{result.items:,} to embed" if ARMS[one.arm].text else "none",
        ]
        for one in result.standings
    ]
    return Cells(head, rows)


def by_slice(result: Comparison, kind: str) -> Cells:
    """Clicks beyond popularity in the slices by `users` or by `items`."""
    parts = [one for one in result.slices if one.requests and one.name.startswith(kind)]
    counted = kind == "users"  # slices by item are parts of the clicks on all requests
    head = [f"{one.name} ({one.requests:,})" if counted else one.name for one in parts]
    rows = [
        [one.arm, *(starred(result.of(one.arm, POPULAR, part.name)) for part in parts)]
        for one in result.standings
        if one.arm != POPULAR
    ]
    return Cells(["arm", *head], rows)


def exposure(result: Comparison) -> Cells:
    """How much of the catalogue is shown, how popular that is, and when clicks changed."""
    head = ["arm", "items ever shown", "likes before, of a typical item shown", "clicks changed"]
    rows = [
        [
            one.arm,
            f"{mean(some.coverage for some in one.shown):.1%}",
            f"{expm1(mean(some.popularity for some in one.shown)):,.1f}",
            switch_points(one.drift),
        ]
        for one in result.standings
    ]
    return Cells(head, rows)


def switch_points(changes: Sequence[int]) -> str:
    """After how many requests.

    >>> switch_points([1500, 2000]), switch_points([])
    ('after 1,500, after 2,000', 'no')
    """
    return ", ".join(f"after {n:,}" for n in changes[:10]) or "no"


def tuning(tuned: FineTuningResult | None) -> str:
    """What was fine-tuned, and what counts then."""
    if tuned is None:
        return (
            "No model was fine-tuned: `rankloop finetune`, then --tuned, says what that would add."
        )
    return (
        f"BERT was fine-tuned on {tuned.pairs:,} pairs of likes of one user, in "
        f"{tuned.seconds:,.0f} s: of at most {tuned.batch} texts, the right one is then the "
        f"nearest in {tuned.after:.1%} of {tuned.held:,} pairs held out ({tuned.before:.1%} "
        "before). Only requests after those likes count; all arms have learned from "
        "everything before."
    )


def method(result: Comparison) -> list[str]:
    """What was done, and what it cannot say."""
    asks = (
        "The log's own requests were answered; a click counts if its item was shown."
        if result.asked
        else "Requests are spread evenly over the log, each just before an item was liked. A shown "
        "item is clicked, once, if it is among the user's next 20 events and liked there."
    )
    return [
        asks + " Each arm learns from its own clicks and from the log as it goes on; nothing is "
        "known before its time. An arm has only the parts that it names.",
        f"Intervals are 95%, users drawn again. A star marks what holds at {SURE:.0%} after Holm's "
        f"correction for all {len(result.contrasts)} contrasts (each user's difference flipped at "
        "random), the questions above over all requests having half of the weight; only that is "
        "called helping or hurting.",
        "nDCG counts a click by its place, against the user's next liked items in front; MRR is "
        "1 / the place of the first click. Slices by user count items liked before in the log; "
        "slices by item add up to all clicks.",
        "Times are CPU times, medians over seeds; runs shared the machine's caches: compare them "
        f"within this page. {result.texts_a_second:,.0f} texts were embedded a second.",
        tuning(result.tuned),
        f"The log: {result.accounting}. " + ". ".join(result.accounting.warnings),
    ]


def comparison_table(result: Comparison) -> Table:
    """Arms against popularity and the full ranker, with what they cost."""
    seeds = ", ".join(map(str, result.seeds))
    table = numeric_table(
        f"{result.requests:,} rankings of {result.k} for {result.users} users, seeds {seeds}",
        f"clicks a ranking, intervals 95% by user; * holds after Holm's correction for all "
        f"{len(result.contrasts)} contrasts; texts by {result.encoder}, "
        f"{result.texts_a_second:,.0f} a second; {result.seconds:.0f} s",
        "arm",
        "clicks",
        "minus popular",
        "full minus it",
        "cold",
        f"nDCG@{result.k}",
        "MRR",
        "µs",
        "µs/event",
        "MB",
        "learns s",
    )
    for one in result.standings:
        table.add_row(
            one.arm,
            short(one.clicks[ALL]),
            starred(result.of(one.arm, POPULAR)),
            starred(result.of(FULL, one.arm)),
            f"{one.clicks[COLD_ITEMS].mean:.3f}",
            f"{one.ndcg.mean:.3f}",
            f"{one.mrr.mean:.3f}",
            f"{one.cost.decision_micros:,.0f}",
            f"{one.cost.event_micros:,.0f}",
            f"{one.cost.state_mb:.1f}",
            f"{one.cost.learning_seconds:.1f}",
        )
    return table


def starred(contrast: Contrast | None) -> str:
    """A difference, marked if it may be claimed."""
    return "" if contrast is None else signed(contrast.difference) + "*" * contrast.sure
