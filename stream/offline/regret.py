"""Regret, exactly: what the best ranking of each moment earns on average, less the one shown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct, structs
from rich.console import Console
from rich.table import Table

from models.base import Doubles
from policies.evaluation.intervals import Interval, student
from stream import build
from stream.datasets.log_files import ready
from stream.offline.plotting import COLOURS, dashes, figure, save_png
from stream.offline.tables import numeric_table, short, signed
from stream.settings import Settings
from stream.simulation.closed_loop import play
from stream.simulation.drifting_news import drifting_news_environment
from stream.simulation.experiment import POLICIES, label, side_by_side
from stream.simulation.random_items import policy_loop

if TYPE_CHECKING:
    from stream.offline.plotting import Figure
LEARNER = "bandit"
HORIZON = 1_800.0  # seconds that a decision waits for clicks, which come up to 20 minutes late
POINTS = 60  # of a curve


class RegretRun(Struct, frozen=True, kw_only=True):
    """A policy (in `settings`, with the seed of all) before readers."""

    settings: Settings
    requests: int
    articles: int
    readers: int


class RegretCurve(Struct, frozen=True):
    """A policy's regret over all seeds: intervals are Student's, one value a seed."""

    policy: str
    curve: list[Interval]  # cumulative, at `Regret.at`
    total: Interval
    first: Interval  # a ranking, in the first third
    last: Interval  # and in the last
    bend: Interval  # the last less the first, paired by seed
    seeds: list[float]  # the total of each


class Regret(Struct, frozen=True):
    """The result of `rankloop regret`."""

    requests: int
    articles: int
    readers: int
    seeds: list[int]
    encoder: str
    at: list[int]  # rankings made, for each point of a curve
    seconds: float
    courses: list[RegretCurve]

    def of(self, policy: str) -> RegretCurve:
        """A policy's course."""
        return next(one for one in self.courses if one.policy == policy)


def report(
    settings: Settings,
    *,
    requests: int,
    articles: int,
    readers: int,
    seeds: int,
    jobs: int,
    out: Path | None,
    plot: Path | None,
) -> None:
    """`rankloop regret`: run, print, and write what was asked for."""
    ready(out, plot)
    if plot:
        figure(1, 1)  # where there is no matplotlib, say so now
    result = measure_regret(
        settings, requests=requests, articles=articles, readers=readers, seeds=seeds, jobs=jobs
    )
    console = Console(width=130, highlight=False)
    console.print(regret_table(result))
    for line in regret_lines(result):
        console.print(line, markup=False)
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    if plot is not None:
        save_png(draw_curves(result), plot)
        console.print(f"drawn in {plot}", markup=False)


def measure_regret(
    settings: Settings,
    *,
    requests: int,
    articles: int,
    readers: int,
    seeds: int,
    policies: Sequence[str] = POLICIES,
    jobs: int = 2,
) -> Regret:
    """Every policy before the same readers, with every seed."""
    started = perf_counter()
    numbers = list(range(settings.seed, settings.seed + seeds))
    runs = [
        RegretRun(
            settings=structs.replace(settings, policy=policy, seed=seed),
            requests=requests,
            articles=articles,
            readers=readers,
        )
        for seed in numbers
        for policy in reversed(policies)
    ]
    found = side_by_side(run_regret, runs, requests * len(runs), jobs)
    by_policy: dict[str, list[list[float]]] = {name: [] for name in policies}
    for one, regrets in zip(runs, found, strict=True):
        by_policy[one.settings.policy].append(regrets)
    at = sorted({requests * (i + 1) // POINTS for i in range(POINTS)} - {0})
    return Regret(
        requests=requests,
        articles=articles,
        readers=readers,
        seeds=numbers,
        encoder=build.encoder(settings).version,
        at=at,
        seconds=perf_counter() - started,
        courses=[course(name, np.array(by_policy[name]), at) for name in policies],
    )


def run_regret(planned: RegretRun, progress: Callable[[int], None] | None = None) -> list[float]:
    """The regret of each ranking, in clicks."""
    settings = structs.replace(
        planned.settings, refresh_on_click=False, exclude_seen=False, horizon_seconds=HORIZON
    )
    environment = drifting_news_environment(
        settings, requests=planned.requests, articles=planned.articles, readers=planned.readers
    )
    loop = policy_loop(settings, environment.encoder)
    click_model = environment.click_model()
    regrets: list[float] = []
    for decision, _, _ in play(loop, environment.messages(), click_model):
        at, user = decision.at, decision.user
        best = click_model.best(user, environment.available(at), environment.k, at)
        regrets.append(best - click_model.value(decision))
        if progress and len(regrets) % 50 == 0:
            progress(50)
    return regrets


def course(policy: str, regrets: Doubles, at: Sequence[int]) -> RegretCurve:
    """From the regrets of each seed, shape (seeds, requests)."""
    third = max(1, regrets.shape[1] // 3)
    upto = regrets.cumsum(axis=1)
    first, last = regrets[:, :third].mean(axis=1), regrets[:, -third:].mean(axis=1)
    return RegretCurve(
        policy=policy,
        curve=[student(upto[:, n - 1]) for n in at],
        total=student(upto[:, -1]),
        first=student(first),
        last=student(last),
        bend=student(last - first),
        seeds=upto[:, -1].tolist(),
    )


def regret_lines(result: Regret) -> list[str]:
    """Whether the learner's regret bends, and whether it ends below all others."""
    learner = result.of(LEARNER)
    falls = f"{learner.first.mean:.2f} to {learner.last.mean:.2f} clicks a ranking"
    change = f"{learner.bend.mean:+.2f} [{learner.bend.low:+.2f}, {learner.bend.high:+.2f}]"
    bends = "it bends" if learner.bend.high < 0 else "it does not surely bend"
    others = [one for one in result.courses if one.policy != LEARNER]
    not_above = [label(one.policy) for one in others if one.total.low <= learner.total.high]
    ends = f"not surely below {', '.join(not_above)}" if not_above else "below every other policy"
    return [
        f"regret of {LEARNER} goes from {falls} ({change}): {bends}",
        f"in all it ends {ends}" + ("" if not_above else ", intervals apart"),
    ]


def regret_table(result: Regret) -> Table:
    """Policies by what they lost against the best."""
    table = numeric_table(
        f"{result.requests:,} rankings, seeds {result.seeds[0]} to {result.seeds[-1]}, "
        f"{result.readers} readers, {result.articles:,} articles",
        f"clicks lost against the best ranking of each moment; intervals 95% over seeds (Student); "
        f"texts by {result.encoder}; {result.seconds:.0f} s",
        "policy",
        "regret in all",
        "a ranking, first third",
        "last third",
        "last less first",
    )
    for one in result.courses:
        total = f"{one.total.mean:,.0f} [{one.total.low:,.0f}, {one.total.high:,.0f}]"
        rest = short(one.first), short(one.last), signed(one.bend)
        table.add_row(label(one.policy), total, *rest)
    return table


def draw_curves(result: Regret) -> "Figure":
    """Cumulative regret with bands."""
    drawn = figure(9, 5)
    axes = drawn.add_subplot()
    for i, one in enumerate(result.courses):
        colour = "black" if one.policy == LEARNER else COLOURS[i % len(COLOURS)]
        lows, highs = [y.low for y in one.curve], [y.high for y in one.curve]
        axes.fill_between(result.at, lows, highs, color=colour, alpha=0.2)
        means, name = [y.mean for y in one.curve], label(one.policy)
        axes.plot(result.at, means, color=colour, linestyle=dashes(i), label=name)
    axes.set_xlabel("rankings")
    axes.set_ylabel(f"regret in clicks, 95% over {len(result.seeds)} seeds")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn
