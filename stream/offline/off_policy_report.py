"""What `rankloop evaluate` found, for people: a table, every warning, a picture."""

from pathlib import Path

from msgspec import Struct
from rich.table import Table

from policies.evaluation.diagnostics import Estimate, cautions
from policies.evaluation.intervals import Interval, brief
from stream.datasets.accounting import LogAccounting
from stream.offline.plotting import figure, save_png


class MeasuredValue(Struct, frozen=True):
    """What a policy earned a decision on its own log."""

    policy: str
    decisions: int
    clicks: int
    value: Interval


class PolicyEstimate(Struct, frozen=True):
    """One target on one policy's log. `anytime`: the range that holds however often one looks."""

    logged_by: str
    target: str
    estimates: list[Estimate]
    anytime: Interval | None
    warnings: tuple[str, ...]


class Evaluation(Struct, frozen=True):
    """The result of `rankloop evaluate`."""

    log: str
    measured: list[MeasuredValue]
    judged: list[PolicyEstimate]
    notes: tuple[str, ...]
    accounting: LogAccounting


def estimate_table(result: Evaluation) -> Table:
    """Measured and estimated, side by side."""
    made = Table(
        title=f"Reward a decision, by {result.log}", caption="intervals 95%, by user; DM has none"
    )
    for i, name in enumerate(
        ("policy", "how", "logged by", "reward [95%]", "effective", "largest w", "mean w")
    ):
        made.add_column(name, justify="right" if i > 2 else "left", no_wrap=True)
    for one in result.measured:
        rows = f"{one.decisions:,}"
        made.add_row(one.policy, "[bold]measured[/]", one.policy, f"[bold]{one.value}[/]", rows)
        for judged in result.judged:
            if judged.target == one.policy:
                _rows(made, judged)
        made.add_section()
    own = {one.policy for one in result.measured}
    for judged in result.judged:
        if judged.target not in own:
            _rows(made, judged)
            made.add_section()
    return made


def _rows(made: Table, judged: PolicyEstimate) -> None:
    for one in judged.estimates:
        bears = one.support
        made.add_row(
            judged.target,
            one.estimator,
            judged.logged_by,
            str(one.value),
            f"{bears.effective:,.0f}",
            brief(bears.largest, 1),
            brief(bears.control.mean, 3),
        )
    if judged.anytime is not None:
        made.add_row(judged.target, "IPS, any time", judged.logged_by, str(judged.anytime))


def evaluation_lines(result: Evaluation) -> list[str]:
    """Every warning that applies, once."""
    lines = [f"note: {note}" for note in result.notes]
    for judged in result.judged:
        name = f"{judged.target} on the log of {judged.logged_by}"
        lines += [f"warning: {name}: {one}" for one in judged.warnings]
        for one in judged.estimates:
            own = one.warnings[: len(one.warnings) - len(cautions(one.support, "clicks"))]
            lines += [f"warning: {name}, {one.estimator}: {why}" for why in own]
    return list(dict.fromkeys(lines))


def draw_estimates(result: Evaluation, path: Path) -> None:
    """Estimates with their intervals, and what was measured as bands."""
    rows = [(j, one) for j in result.judged for one in j.estimates]
    drawn = figure(8, 1.5 + 0.3 * len(rows))
    axes = drawn.add_subplot()
    for i, one in enumerate(result.measured):
        axes.axvspan(one.value.low, one.value.high, color=f"C{i}", alpha=0.15)
        axes.axvline(one.value.mean, color=f"C{i}", label=f"{one.policy}, measured")
    colours = {one.policy: f"C{i}" for i, one in enumerate(result.measured)}
    for y, (judged, one) in enumerate(rows):
        value = one.value
        colour = colours.get(judged.target, "black")
        axes.plot([value.low, value.high], [y, y], color=colour)
        axes.plot([value.mean], [y], "o", color=colour)
    axes.set_yticks(
        range(len(rows)), [f"{j.target} by {j.logged_by}: {one.estimator}" for j, one in rows]
    )
    axes.invert_yaxis()
    axes.set_xlabel("reward a decision, 95%")
    if result.measured:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)  # hides none
    save_png(drawn, path)
