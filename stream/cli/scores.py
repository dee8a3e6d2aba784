"""The scoreboard for people: a table, and what to beware of."""

from rich.table import Table

from agents.scoreboard import Score


def table(scores: list[Score]) -> Table:
    """The scoreboard; the champion comes first."""
    made = Table(title="Reward a ranking, on the rankings of the champion")
    for i, name in enumerate(
        ("policy", "mean [95%]", "ahead [95%, all]", "effective", "mean weight", "cut", "rankings")
    ):
        made.add_column(name, justify="right" if i else "left", no_wrap=True)
    for score in scores:
        made.add_row(
            score.policy,
            str(score.value),
            str(score.ahead) if score.ahead else "champion",
            f"{score.effective:,.0f}",
            f"{score.weight:.3f}",
            f"{score.cut:.1%}",
            f"{score.outcomes:,}",
        )
    return made


def said(scores: list[Score]) -> list[str]:
    """What to beware of."""
    return [
        f"warning: {score.policy}: the champion shows only {score.weight:.0%} of what it would, "
        "and the rest counts as worth nothing; explore more (epsilon, temperature, gamma)"
        for score in scores
        if score.outcomes and score.weight < 0.8
    ]
