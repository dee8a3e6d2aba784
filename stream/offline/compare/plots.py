"""What `rankloop compare` found, as pictures."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stream.offline.compare.comparison import (
    ALL,
    COLD_ITEMS,
    FULL,
    OTHER_ITEMS,
    POPULAR,
    ArmSummary,
    Comparison,
)
from stream.offline.compare.trial import BINS
from stream.offline.plotting import COLOURS, dashes, figure

if TYPE_CHECKING:
    from stream.offline.plotting import Figure


def overview(result: Comparison) -> "Figure":
    """Clicks beyond popularity, by arm and by how new the item is; and what they cost."""
    arms = [one for one in result.standings if one.arm != POPULAR]
    drawn = figure(11, 1.6 + 0.42 * len(arms))
    left, right = drawn.subplots(1, 2, width_ratios=[3, 2])
    shades = {ALL: "black", COLD_ITEMS: COLOURS[3], OTHER_ITEMS: COLOURS[1]}
    for j, (name, colour) in enumerate(shades.items()):
        for i, one in enumerate(arms):
            contrast = result.of(one.arm, POPULAR, name)
            if contrast is not None:
                y, found = i + 0.22 * (j - 1), contrast.difference
                left.plot([found.low, found.high], [y, y], color=colour, linewidth=1.5)
                left.plot(
                    [found.mean], [y], "o", color=colour, markersize=4, label=name if not i else ""
                )
    left.axvline(0, color="#888888", linewidth=0.8)
    left.set_yticks(range(len(arms)), [one.arm for one in arms])
    left.invert_yaxis()
    left.set_xlabel("clicks a ranking minus those of popular, 95% by user")
    left.legend(frameon=False, fontsize=8)
    _prices(right, result.standings)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _prices(axes: Any, standings: list[ArmSummary]) -> None:
    """Clicks by what a decision takes."""
    for i, one in enumerate(standings):
        x, found = one.cost.decision_micros / 1e3, one.clicks[ALL]
        colour = shade(one.arm, i)
        axes.plot([x, x], [found.low, found.high], color=colour, linewidth=1)
        axes.plot([x], [found.mean], "o", color=colour, markersize=4)
        axes.annotate(
            one.arm, (x, found.mean), (5, 3), textcoords="offset points", fontsize=7, color=colour
        )
    axes.margins(x=0.25)
    axes.set_xlabel("ms a decision")
    axes.set_ylabel("clicks a ranking")


def curves(result: Comparison) -> "Figure":
    """Clicks a ranking as the log goes on, with bands."""
    drawn = figure(11, 4)
    axes = drawn.add_subplot()
    for i, one in enumerate(result.standings):
        colour = shade(one.arm, i)
        step = result.requests / len(one.curve)
        x = [(j + 0.5) * step for j in range(len(one.curve))]
        axes.fill_between(
            x, [y.low for y in one.curve], [y.high for y in one.curve], color=colour, alpha=0.12
        )
        middles = [y.mean for y in one.curve]
        axes.plot(x, middles, color=colour, linestyle=dashes(i), label=one.arm)
    axes.set_xlabel("ranking number, in the log's time")
    axes.set_ylabel("clicks a ranking")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def behaviour(full: ArmSummary) -> "Figure":
    """How likely what was shown was, and whether scores are what slots earn."""
    drawn = figure(11, 3.6)
    left, right = drawn.subplots(1, 2)
    slots = [sum(some) for some in zip(*(one.propensities for one in full.shown), strict=True)]
    edges = [10 ** ((i - BINS) / 3) for i in range(BINS + 1)]
    left.bar(edges[:-1], slots, [b - a for a, b in pairwise(edges)], align="edge", color=COLOURS[3])
    left.set_xscale("log")
    left.set_yscale("log")  # few slots are free draws, and they are the ones that matter
    left.set_xlim(min(x for x, n in zip(edges, slots, strict=False) if n) / 2, 1.5)
    left.set_xlabel("propensity of a slot, given those above")
    left.set_ylabel("slots")
    bins = full.calibration
    right.plot([one.expected for one in bins], [one.earned for one in bins], "o-", color="black")
    ends = [min(one.expected for one in bins), max(one.earned for one in bins)]
    right.plot(ends, ends, color="#888888", linewidth=0.8)
    right.set_xlabel("clicks a slot that the score expected, by tenths of the slots")
    right.set_ylabel("clicks a slot earned")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def shade(arm: str, i: int) -> str:
    """The colour of the `i`-th arm; the full one is black."""
    return "black" if arm == FULL else COLOURS[i % len(COLOURS)]
