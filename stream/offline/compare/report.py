"""The report of `rankloop compare`: one page that opens anywhere; the answers come first."""

from collections.abc import Sequence
from math import expm1
from statistics import mean

from rich.table import Table

from models.finetuning import FineTuningResult
from stream.offline.compare.arms import ARMS
from stream.offline.compare.comparison import (
    ALL,
    COLD_ITEMS,
    FULL,
    POPULAR,
    SURE,
    ArmSummary,
    Comparison,
    Contrast,
)
from stream.offline.compare.findings import Finding, findings
from stream.offline.compare.html import Html, document, joined, table, tag
from stream.offline.compare.plots import behaviour, curves, overview
from stream.offline.plotting import data_uri
from stream.offline.regret import Regret, draw, says
from stream.offline.tables import columns, short, signed

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff;
  max-width: 1150px; margin: 1.2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 1.6rem 0 .3rem; }
p { margin: .3rem 0; } .quiet { color: #5a5a5a; font-size: .88em; font-weight: normal; }
.cards { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin: .9rem 0; }
.card { border: 1px solid #ddd; border-left: 5px solid #888; border-radius: 4px;
  padding: .5rem .8rem; }
.card.adds { border-left-color: #009e73; } .card.costs { border-left-color: #d55e00; }
.card h3 { margin: 0; font-size: 1rem; } .card strong { font-size: 1.02rem; }
.card ul { margin: .3rem 0; padding-left: 1.1rem; font-size: .88rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .8rem; }
th, td { padding: .2rem .5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e5e5e5; }
th:first-child { text-align: left; } thead th { vertical-align: bottom; white-space: normal; }
td { font-variant-numeric: tabular-nums; } img { max-width: 100%; }
@media (max-width: 800px) { .cards { grid-template-columns: 1fr; } }
"""


def page(result: Comparison, regret: Regret | None = None) -> str:
    """The report as HTML. Raises ValueError where matplotlib is not installed."""
    return document(
        f"Which part earns its cost: {result.log}",
        STYLE,
        tag("h1", f"Which part earns its cost? {result.log}"),
        tag("p", about(result), class_="quiet"),
        tag("div", *map(card, findings(result)), class_="cards"),
        tag("h2", "What every arm earned"),
        earned(result),
        tag("img", src=data_uri(overview(result)), alt="Clicks beyond popularity, and cost"),
        tag("h2", "What it took"),
        took(result),
        tag("h2", "For whom: clicks a ranking minus those of popular"),
        by_slice(result, "users"),
        by_slice(result, "items"),
        tag("h2", "Learning curves"),
        tag("img", src=data_uri(curves(result)), alt="Clicks a ranking as the log goes on"),
        *regrets(regret),
        tag("h2", "What was shown"),
        exposure(result),
        *exploring(result),
        tag("h2", "How to read this"),
        *(tag("p", line) for line in method(result)),
    )


def about(result: Comparison) -> str:
    return (
        f"{result.requests:,} rankings of {result.k} for {result.users:,} users, "
        f"{result.items:,} items, {result.events:,} events, seeds "
        f"{', '.join(map(str, result.seeds))}; texts by {result.encoder}. Clicks a ranking, with "
        "95% intervals over users, paired: every arm answered the same requests."
    )


def card(one: Finding) -> Html:
    """One answer: which part, whether it helped, whom, for how much."""
    kind = one.finds.split()[0]
    return tag(
        "div",
        tag("h3", one.part),
        tag("p", tag("strong", one.finds)),
        tag("ul", *(tag("li", line) for line in one.whom)),
        tag("p", f"Measured: {one.arm} against {one.against}. Cost: {one.cost}.", class_="quiet"),
        class_=f"card {kind}",
    )


def earned(result: Comparison) -> Html:
    """Clicks and where they were, arm by arm."""
    head = ["arm", "clicks a ranking", "minus popular", "full minus it", f"nDCG@{result.k}", "MRR"]
    rows = [
        [
            named(one),
            short(one.clicks[ALL]),
            starred(result.of(one.arm, POPULAR)),
            starred(result.of(FULL, one.arm)),
            short(one.ndcg),
            short(one.mrr),
        ]
        for one in result.standings
    ]
    return table(head, rows)


def took(result: Comparison) -> Html:
    """Time and memory, arm by arm."""
    head = ["arm", "µs a decision", "µs an event learned", "learning, s", "state, MB", "texts"]
    rows = [
        [
            named(one),
            f"{one.cost.decision_micros:,.0f}",
            f"{one.cost.event_micros:,.0f}",
            f"{one.cost.learning_seconds:,.1f}",
            f"{one.cost.state_mb:,.1f}",
            f"{result.items:,} to embed" if ARMS[one.arm].text else "none",
        ]
        for one in result.standings
    ]
    return table(head, rows)


def named(one: ArmSummary) -> Html:
    """An arm with what it is."""
    return joined(one.arm, tag("br"), tag("span", one.says, class_="quiet"))


def by_slice(result: Comparison, kind: str) -> Html:
    """Clicks beyond popularity in the slices by `users` or by `items`."""
    parts = [one for one in result.slices if one.requests and one.name.startswith(kind)]
    counted = kind == "users"  # slices by item are parts of the clicks on all requests
    head = [f"{one.name} ({one.requests:,})" if counted else one.name for one in parts]
    rows = [
        [one.arm, *(starred(result.of(one.arm, POPULAR, part.name)) for part in parts)]
        for one in result.standings
        if one.arm != POPULAR
    ]
    return table(["arm", *head], rows)


def regrets(regret: Regret | None) -> list[Html]:
    """What learning cost where the best is known."""
    if regret is None:
        return []
    return [
        tag("h2", "Regret, where readers are simulated and the best is known"),
        *(tag("p", line) for line in says(regret)),
        tag("img", src=data_uri(draw(regret)), alt="Cumulative regret by policy"),
    ]


def exposure(result: Comparison) -> Html:
    """How much of the catalogue is shown, how popular that is, and when clicks changed."""
    head = ["arm", "items ever shown", "likes before, of a typical item shown", "clicks changed"]
    rows = [
        [
            one.arm,
            f"{mean(some.coverage for some in one.shown):.1%}",
            f"{expm1(mean(some.popularity for some in one.shown)):,.1f}",
            told(one.drift),
        ]
        for one in result.standings
    ]
    note = (
        "Typical is the geometric mean: what random shows is the catalogue's own, and the farther "
        "above it, the more an arm favours what is popular anyway. Changes of clicks a ranking are "
        "noticed by ADWIN at 0.002, over the seeds' mean."
    )
    moved = [f"{name}: {told(found)}" for name, found in result.drift.items()]
    return tag(
        "div",
        table(head, rows),
        tag("p", note, class_="quiet"),
        tag("p", "Changes of what requests say: " + "; ".join(moved) + "."),
    )


def told(changes: Sequence[int]) -> str:
    """After how many requests.

    >>> told([1500, 2000]), told([])
    ('after 1,500, after 2,000', 'no')
    """
    return ", ".join(f"after {n:,}" for n in changes[:10]) or "no"


def exploring(result: Comparison) -> list[Html]:
    """The full arm's propensities and calibration, if it was there."""
    full = [one for one in result.standings if one.arm == FULL and one.calibration]
    return [
        tag(
            "div",
            tag("h2", "Full: exploration and calibration"),
            tag(
                "img",
                src=data_uri(behaviour(one)),
                alt="Propensities, and clicks expected against clicks earned",
            ),
        )
        for one in full
    ]


def tuning(tuned: FineTuningResult | None) -> str:
    """What was fine-tuned, and what counts then."""
    if tuned is None:
        return (
            "No model was fine-tuned: `rankloop finetune`, then --tuned, says what that would add."
        )
    return (
        f"BERT was fine-tuned on {tuned.pairs:,} pairs of likes of one user, in "
        f"{tuned.seconds:,.0f} s: of {tuned.batch} texts, the right one is then the nearest in "
        f"{tuned.after:.1%} of {tuned.held:,} pairs held out ({tuned.before:.1%} before). Only "
        "requests after those likes count; all arms have learned from everything before."
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
        "Times are CPU times, medians over seeds; trials shared the machine's caches: compare them "
        f"within this page. {result.texts_a_second:,.0f} texts were embedded a second.",
        tuning(result.tuned),
    ]


def comparison_table(result: Comparison) -> Table:
    """Arms against popularity and the full ranker, with what they cost."""
    seeds = ", ".join(map(str, result.seeds))
    table = columns(
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
