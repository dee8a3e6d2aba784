"""`rankloop evaluate`: what other policies would have earned on a log, and how sure that is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from models.base import Doubles
from policies.evaluation.confidence_sequences import betting
from policies.evaluation.diagnostics import cautions, estimate, support
from policies.evaluation.estimators import ESTIMATORS, NO_INTERVAL, BanditLog, bounded
from policies.evaluation.intervals import Interval, brief, clustered
from policies.evaluation.reward_model import FOLDS
from policies.evaluation.slates import SLATE_ESTIMATORS, Slates
from stream.datasets.log_files import read_log
from stream.offline.off_policy_report import (
    Evaluation,
    MeasuredValue,
    PolicyEstimate,
    draw_estimates,
    estimate_table,
    evaluation_lines,
)
from stream.offline.rescore import FoundSlots, rescored, target_slots
from stream.offline.tables import print_accounting
from stream.offline.target_policies import (
    EvaluationLog,
    Frequencies,
    LoggedPolicy,
    TargetSlots,
    evaluation_log,
    logged,
    slates,
    uniform,
)
from stream.settings import Settings

# What a policy learned while it logged, or looks at, is not in its frequencies.
FIXED = ("uniform",)
MODELLED = ("DM", "DR", "SNDR", "Switch-DR", "DRos")
# Judged unless others are named, where each request's candidates are known.
TARGETS = (
    "uniform",
    "popular",
    "popular-repeats",
    "mf-repeats",
    "blend",
    "blend-repeats",
    "rate",
    "bandit",
)


def run_evaluation(
    settings: Settings,
    log: str,
    policies: Sequence[str],
    *,
    candidates: int | None,
    model: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Evaluate and print; the result as JSON and as a picture, if asked for."""
    threadpool_limits(1)  # small products: threads would wait for each other
    result = evaluate(settings, log, policies, candidates=candidates, model=model)
    print_accounting(result.accounting)
    console = Console(width=130, highlight=False)
    console.print(estimate_table(result))
    for line in evaluation_lines(result):
        console.print(line, markup=False, soft_wrap=True)
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    if plot is not None:
        draw_estimates(result, plot)
        console.print(f"drawn in {plot}", markup=False)


def evaluate(
    settings: Settings,
    log: str,
    policies: Sequence[str] = (),
    *,
    candidates: int | None = None,
    model: str = "linear",
) -> Evaluation:
    """Judge each policy on the log of each other; without names: all that the log can judge."""
    path = Path(log)
    whole = log == "topic" or path.is_dir()
    remade: Mapping[str, FoundSlots] = {}
    if whole:
        wanted = tuple(policies) or TARGETS
        messages, remade = rescored(settings, None if log == "topic" else path, wanted)
        found = evaluation_log(messages)
    elif path.is_file():
        found = evaluation_log(read_log(path))
    else:
        raise FileNotFoundError(f"{log} is no file, no folder and not the word topic")
    if not found.served:
        raise ValueError(
            f"{log} holds no outcome that showed anything ({found.accounting}): nothing to evaluate"
        )
    names = [served.policy for served in found.served]
    targets = list(dict.fromkeys(policies)) or sorted({"uniform", *names, *remade})
    notes = list(general(found))
    judged: list[PolicyEstimate] = []
    if "uniform" in remade:
        notes.append("uniform: of the candidates that retrieval found for each request")
    for target in targets:
        for served in found.served:
            if served.policy == target:
                continue
            if target in remade:
                judged.append(ranked(served, target, target_slots(served, remade[target])))
            elif target == "uniform":
                n = candidates or (len(found.items) if found.listed else settings.candidates)
                where = "--candidates" if candidates else "the log" if found.listed else "settings"
                notes.append(f"uniform: of {n} candidates each, as {where} says")
                judged.append(against_uniform(served, found, n, model))
            elif policies or judgeable(served, target, found):
                judged.append(against(served, target, found, model, notes))
            else:
                notes.append(
                    f"{target} is not judged on the log of {served.policy}: of rankings, a file "
                    "knows the shown items alone; evaluate a folder of `rankloop audit --save`"
                )
    if any(one.estimator in NO_INTERVAL for each in judged for one in each.estimates):
        notes.append(
            f"{', '.join(NO_INTERVAL)} has no interval: decisions drawn again would leave its "
            "model of rewards as it is, and say nothing of that model's error"
        )
    return Evaluation(
        log=log,
        measured=[measured(served) for served in found.served],
        judged=judged,
        notes=tuple(dict.fromkeys(notes)),
        accounting=found.accounting,
    )


def measured(served: LoggedPolicy) -> MeasuredValue:
    """A policy's own reward a decision."""
    rewards = [sum(slot.reward for slot in one.slots) for one in served.outcomes]
    users = [one.user for one in served.outcomes]
    clicks = sum(reward != 0.0 for reward in rewards)
    return MeasuredValue(
        served.policy, len(rewards), clicks, clustered(rewards, users, draws=1_000)
    )


def against_uniform(
    served: LoggedPolicy, log: EvaluationLog, candidates: int, model: str
) -> PolicyEstimate:
    """The uniform policy on another's log."""
    if not served.single or candidates != len(log.items):
        return ranked(served, "uniform", uniform(served, candidates))
    even = np.full((len(served.outcomes), candidates), 1.0 / candidates)
    beyond = Frequencies(served, log.items)
    never = (beyond.counted(served) == 0).mean(axis=0)[beyond.where(served)]
    return single(served, "uniform", logged(served, log.items, even, never, model))


def judgeable(served: LoggedPolicy, target: str, log: EvaluationLog) -> bool:
    """True if the target's frequencies in its own log can stand for its probabilities."""
    own = [one for one in log.served if one.policy == target]
    return served.single and bool(own) and own[0].single


def against(
    served: LoggedPolicy, target: str, log: EvaluationLog, model: str, notes: list[str]
) -> PolicyEstimate:
    """A policy that has a log of its own, by its frequencies there."""
    own = next((one for one in log.served if one.policy == target), None)
    if own is None or not judgeable(served, target, log):
        known = ", ".join(one.policy for one in log.served)
        raise ValueError(
            f"what {target} would have shown is not in this log (it has {known}, and only the "
            "shown items' features); keep the topics with `rankloop audit --save FOLDER` and "
            "evaluate FOLDER, or say topic"
        )
    times = Frequencies(own, log.items)
    ips, snips = times.moves(served)
    notes.append(
        f"{target}: its frequencies of item at place in {len(own.outcomes):,} decisions of its own "
        "stand for its probabilities; their error is not in the intervals: drawn again, they move "
        f"IPS on the log of {served.policy} by up to {brief(ips)}, SNIPS by {brief(snips)} (19 "
        "times in 20); by how much it matters that they are alike for all users the log does not "
        "tell"
    )
    if (other := times.where(served) == len(times.places)).any():
        notes.append(
            f"{target}: {int(other.sum()):,} decisions of {served.policy} are at places where "
            "it never was, or rarely; its frequencies over all places stand there"
        )
    one = logged(served, log.items, times.of(served), times.beyond(served), model)
    return single(served, target, one)


def single(served: LoggedPolicy, target: str, log: BanditLog) -> PolicyEstimate:
    """All estimators of decisions of one slot."""
    names = [name for name in ESTIMATORS if name != "replay" or served.uniform]
    found: list[str] = []
    if log.chosen is None:
        names = [name for name in names if name not in MODELLED]
        found.append(f"no {', '.join(MODELLED)}: a model of rewards needs {FOLDS} users")
    terms = {name: ESTIMATORS[name](log) for name in names}
    bears = support(log.weights, log.rewards, log.users, log.beyond)
    estimates = estimate(terms, log.users, dict.fromkeys(names, bears), what="clicks")
    return PolicyEstimate(
        served.policy,
        target,
        estimates,
        anytime(served, log.weights, log.rewards, log.chances),
        (*found, *cautions(bears, "clicks"), *cautious(served)),
    )


def ranked(served: LoggedPolicy, target: str, places: TargetSlots) -> PolicyEstimate:
    """Estimators of rankings; each has weights of its own, and so a support of its own."""
    log: Slates = slates(served, places)
    missing = len(served.outcomes) - len(log.users)
    weights = {
        "standard IPS": log.upto[:, -1],
        "independent IPS": log.each.mean(axis=1),
        "RIPS": log.upto.mean(axis=1),
        "SNRIPS": log.upto.mean(axis=1),
    }
    total = log.rewards.sum(axis=1)
    found: list[str] = []
    if log.shown is not None:
        weights["cascade-DR"] = weights["RIPS"]
    elif len(set(log.users)) < FOLDS:
        found.append(f"no cascade-DR: its model of rewards needs {FOLDS} users")
    else:
        found.append("no cascade-DR: candidates are known from a folder or topics alone")
    bears = {name: support(w, total, log.users) for name, w in weights.items()}
    terms = {name: SLATE_ESTIMATORS[name](log) for name in weights}
    if missing:
        found.append(f"{missing:,} decisions could not be made again, and are left out")
    if log.rewards.shape[1] > 1:
        found.append(
            "independent IPS leaves the slots above to the logging policy: right only if they do "
            "not matter; RIPS is right if users read from the top"
        )
    found += cautions(bears["RIPS"], "clicks")
    return PolicyEstimate(
        served.policy,
        target,
        estimate(terms, log.users, bears, what="clicks"),
        None,
        (*found, *cautious(served)),
    )


def anytime(
    served: LoggedPolicy, weights: Doubles, rewards: Doubles, chances: Doubles
) -> Interval | None:
    """For IPS, where the greatest weight is known beforehand: the log is uniform."""
    if not served.uniform or rewards.min() < 0.0 or rewards.max() > 1.0:
        return None
    propensity = np.array(served.outcomes[0].slots[0].propensity)
    most = float(bounded(chances.max(), propensity))
    return betting(weights * rewards, most=most) if most else None


def cautious(served: LoggedPolicy) -> tuple[str, ...]:
    """What is wrong with a log whose policy went on learning."""
    if served.policy in FIXED or served.uniform:
        return ()
    return (
        f"if {served.policy} learned while it logged, decisions hang together: intervals that take "
        "them as independent are too narrow",
    )


def general(log: EvaluationLog) -> list[str]:
    """What is to be said of all estimates on a log."""
    found = ["many estimators are many looks: choose yours before you see them (DR or SNIPS)"]
    counts = log.accounting.fates
    if counts.get("empty"):
        found.append(f"{counts['empty']:,} decisions that showed nothing are left out")
    if counts.get("foreign"):
        found.append(f"{counts['foreign']:,} decisions shown with other items in them are left out")
    if counts.get("duplicate"):
        found.append(f"{counts['duplicate']:,} outcomes are equal to another one: put together")
    if counts.get("corrected"):
        found.append(f"{counts['corrected']:,} outcomes were put together with their correction")
    if log.unlisted:
        found.append(
            f"{log.unlisted:,} items were shown that the log does not list: they are candidates too"
        )
    return found
