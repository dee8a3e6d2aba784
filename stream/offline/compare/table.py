"""The comparison as a table on the terminal."""

from rich.table import Table

from stream.offline.compare.comparison import ALL, COLD_ITEMS, FULL, POPULAR, Comparison, Contrast
from stream.offline.tables import columns, short, signed


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
