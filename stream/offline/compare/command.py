"""`rankloop compare`: every arm on one log, the same requests, the same seeds; who earned what."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import msgspec
from msgspec import Struct, structs
from rich.console import Console

from models.events import Item, Request, text_of
from models.finetuning import FineTuningResult
from policies.evaluation.drift import changes, context_changes
from stream import build
from stream.datasets.log_files import ready
from stream.offline import finetune
from stream.offline.compare.arms import ARMS
from stream.offline.compare.comparison import Comparison, Runs, Slice, contrasts, slices, standings
from stream.offline.compare.findings import findings
from stream.offline.compare.plots import overview
from stream.offline.compare.report import comparison_table, page
from stream.offline.compare.trial import ArmRun, run_arm
from stream.offline.plotting import figure, save_png
from stream.offline.regret import Regret
from stream.offline.tables import print_accounting
from stream.settings import Settings
from stream.simulation.environment import LogEnvironment
from stream.simulation.event_log import EventLog, liked, read_event_log
from stream.simulation.experiment import side_by_side

SAMPLE = 300  # texts embedded again, to know how fast that is


class TunedLog(Struct, frozen=True):
    """The same log with the vectors of a fine-tuned BERT, and what that came from."""

    log: EventLog
    tuned: FineTuningResult


class ComparisonPlan(Struct, frozen=True, kw_only=True):
    """What is played: so many requests with so many seeds, by `jobs` processes at a time."""

    requests: int
    seeds: int
    k: int = 10
    jobs: int = 2
    arms: tuple[str, ...] = tuple(ARMS)


class ComparisonOptions(Struct, frozen=True, kw_only=True):
    """The options of `rankloop compare`: the first `events` of a log are played."""

    requests: int
    seeds: int
    events: int
    k: int
    horizon: float
    jobs: int
    out: Path | None
    plot: Path | None
    html: Path | None
    regret: Path | None
    tuned: Path | None


def run_comparison(settings: Settings, file: Path, options: ComparisonOptions) -> None:
    """Compare, print, and write what was asked for."""
    regret = None if options.regret is None else read_regret(options.regret)
    ready(options.out, options.plot, options.html)
    if options.plot or options.html:
        figure(1, 1)  # where there is no matplotlib, say so now
    settings = structs.replace(settings, horizon_seconds=options.horizon)
    log = read_event_log(file, settings, options.events)
    if not any(isinstance(event, Request) or liked(event) for event in log.events):
        raise ValueError(f"{file} holds no request, click or positive reward: nothing to rank")
    print_accounting(log.accounting)
    deep = None
    if options.tuned is not None:
        deep = reread(file, settings, options.events, options.tuned, log)
    plan = ComparisonPlan(
        requests=options.requests, seeds=options.seeds, k=options.k, jobs=options.jobs
    )
    result = compare_arms(file.name, log, settings, plan, deep)
    present(result, regret, options)


def present(result: Comparison, regret: Regret | None, options: ComparisonOptions) -> None:
    """Print a comparison, and write the files that were asked for."""
    console = Console(width=160, highlight=False)
    console.print(comparison_table(result))
    for one in findings(result):
        console.print(
            f"[bold]{one.part}[/] ({one.arm} against {one.against}): {one.finds}; {one.cost}"
        )
        for line in one.whom:
            console.print(f"  {line}", markup=False)
    if options.out is not None:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    if options.plot is not None:
        save_png(overview(result), options.plot)
        console.print(f"drawn in {options.plot}", markup=False)
    if options.html is not None:
        options.html.write_text(page(result, regret), encoding="utf-8")
        console.print(f"report in {options.html}", markup=False)


def arm_runs(
    settings: Settings, environment: LogEnvironment, plan: ComparisonPlan, deep: TunedLog | None
) -> list[ArmRun]:
    """Every arm with every seed, the slowest arms first; fine-tuned ones if there is a `deep`."""
    tuned = environment if deep is None else LogEnvironment(deep.log, plan.requests, plan.k)
    arms = [arm for arm in plan.arms if deep is not None or not ARMS[arm].tuned]
    return [
        ArmRun(
            arm=arm,
            settings=structs.replace(settings, seed=seed),
            environment=tuned if ARMS[arm].tuned else environment,
            after=0 if deep is None else deep.tuned.until,
        )
        for seed in range(settings.seed, settings.seed + plan.seeds)
        for arm in reversed(arms)
    ]


def compare_arms(
    name: str, log: EventLog, settings: Settings, plan: ComparisonPlan, deep: TunedLog | None = None
) -> Comparison:
    """Play every arm with every seed, the fine-tuned ones if there are any."""
    started = perf_counter()
    environment = LogEnvironment(log, plan.requests, plan.k)
    planned = arm_runs(settings, environment, plan, deep)
    likes = sum(liked(event) is not None for event in log.events)
    asks = sum(isinstance(event, Request) for event in log.events)
    answered = min(plan.requests, asks or likes) * len(planned)
    found = side_by_side(run_arm, planned, answered, plan.jobs)
    arms = [arm for arm in plan.arms if any(one.arm == arm for one in planned)]
    runs: Runs = {arm: [one for one in found if one.arm == arm] for arm in arms}
    first = runs[arms[0]][0]
    asked = [one.context for one in environment.messages() if isinstance(one, Request)]
    if not first.users:
        after = planned[0].after
        raise ValueError(f"no request comes after {after}, until when fine-tuning has seen the log")
    if any(one.users != first.users for one in found):
        raise RuntimeError("arms answered different requests; a difference would mean nothing")
    return Comparison(
        log=name,
        k=plan.k,
        requests=len(first.users),
        users=len(set(first.users)),
        items=len({item.id for item in log.items}),
        events=len(log.events),
        seeds=list(range(settings.seed, settings.seed + plan.seeds)),
        encoder=log.encoder.version,
        texts_a_second=speed(settings, log.items),
        asked=environment.has_requests,
        seconds=perf_counter() - started,
        slices=[
            Slice(
                name, int(mask.sum()), len({u for u, m in zip(first.users, mask, strict=True) if m})
            )
            for name, mask in slices(first)
        ],
        standings=standings(runs, settings.seed),
        contrasts=contrasts(runs, settings.seed),
        drift={"likes of who asks": changes(first.history)} | context_changes(asked),
        tuned=deep and deep.tuned,
        accounting=log.accounting,
    )


def reread(file: Path, settings: Settings, events: int, folder: Path, log: EventLog) -> TunedLog:
    """The log again, as the fine-tuned BERT of a folder reads it."""
    tuned = finetune.read_result(folder)
    if tuned.base != log.encoder.version:
        raise ValueError(
            f"{folder} was fine-tuned from {tuned.base}, and the other arms read with "
            f"{log.encoder.version}: set RANKLOOP_ENCODER to what it was fine-tuned from"
        )
    return TunedLog(
        read_event_log(file, structs.replace(settings, encoder=str(folder)), events), tuned
    )


def read_regret(file: Path) -> Regret:
    """What `regret --json` wrote."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Regret)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file} is not what `regret --json` writes: {error}") from None


def speed(settings: Settings, items: Sequence[Item]) -> float:
    """Texts embedded a second, on some of the items; 0 if there is no item."""
    texts = [text_of(item) for item in items[:SAMPLE]]
    if not texts:
        return 0.0
    encoder = build.encoder(settings)
    encoder.encode(texts[:1])  # the first one pays for the start
    before, started = encoder.misses, perf_counter()
    encoder.encode(texts)
    return (encoder.misses - before) / (perf_counter() - started)
