"""An experiment: many runs on the cores there are, and the table that compares their policies."""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from msgspec import Struct, structs

from models.base import Doubles
from policies.evaluation.intervals import Interval, clustered
from stream.datasets.accounting import LogAccounting
from stream.progress import progress
from stream.settings import Settings
from stream.simulation.closed_loop import Run, RunResult, run
from stream.simulation.environment import Environment
from stream.simulation.random_items import RANDOM

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[int], None]  # so many more requests are answered
# What is compared, the champion last: chance, then every fixed policy with and without `repeats`.
POLICIES = (
    RANDOM,
    "uniform",
    "popular",
    "popular-repeats",
    "knn",
    "knn-repeats",
    "mf",
    "mf-repeats",
    "content",
    "content-repeats",
    "blend",
    "blend-repeats",
    "rate",
    "bandit",
)
LABELS = {RANDOM: "random over all items", "uniform": "uniform over candidates"}


def label(policy: str) -> str:
    """A policy as a table names it: those that draw evenly say what from.

    >>> label("uniform"), label("mf")
    ('uniform over candidates', 'mf')
    """
    return LABELS.get(policy, policy)


class PolicyResult(Struct, frozen=True):
    """One policy over all seeds; `lead` is the champion's reward minus its own, paired."""

    policy: str
    reward: Interval
    lead: Interval | None
    seeds: list[float]  # reward a decision, for each seed
    ctr: float  # clicks a slot
    coverage: float  # share of the catalogue shown at least once
    window: float  # reward a decision over the last tenth
    micros: float
    digests: list[str]
    fates: dict[str, int]  # of the events of the first seed: the log's, requests and its own clicks


class Experiment(Struct, frozen=True):
    """The result of a comparison."""

    requests: int
    users: int
    seeds: list[int]
    encoder: str
    horizon_seconds: float
    champion: str
    seconds: float
    standings: list[PolicyResult]
    accounting: LogAccounting | None = None  # of the log, if there is one


_done: "Synchronized[int] | None" = None


def _start(done: "Synchronized[int]") -> None:
    global _done
    _done = done


def _tell(count: int) -> None:
    if _done is not None:
        with _done.get_lock():
            _done.value += count


def _run(play: Callable[[Any, Tell], Any], one: Any) -> Any:
    return play(one, _tell)


def side_by_side(play: Callable[[T, Tell], R], runs: Sequence[T], total: int, jobs: int) -> list[R]:
    """`play` each run, `jobs` at a time in processes of their own, with a progress bar.

    `play` is a function of a module; it tells how many more of the `total` requests are done.
    """
    spawn = multiprocessing.get_context("spawn")
    done: Synchronized[int] = spawn.Value("q", 0)
    with (
        progress() as bar,
        ProcessPoolExecutor(jobs, spawn, _start, (done,)) as pool,
    ):
        task = bar.add_task(f"{len(runs)} runs", total=total)
        futures = [pool.submit(_run, play, one) for one in runs]
        while not all(future.done() for future in futures):
            bar.update(task, completed=done.value)
            wait(futures, timeout=0.2)
        results = [future.result() for future in futures]
        bar.update(task, completed=total)
        return results


def run_experiment(
    environment: Environment,
    settings: Settings,
    *,
    policies: Sequence[str],
    seeds: Iterable[int],
    requests: int,
    jobs: int = 2,
) -> Experiment:
    """Every policy with every seed, on the same requests; the last policy is the champion.

    The champion is played first: what learns takes longest.
    """
    started = perf_counter()
    seeds = list(seeds)
    planned = [
        Run(settings=structs.replace(settings.alone(policy), seed=seed), environment=environment)
        for seed in seeds
        for policy in reversed(policies)
    ]
    results = side_by_side(run, planned, requests * len(planned), jobs)
    by_policy = {name: [one for one in results if one.policy == name] for name in policies}
    champion = policies[-1]
    best = mean_rewards(by_policy[champion])
    users = by_policy[champion][0].users
    asked = {tuple(one.users) for one in results}
    if len(asked) > 1:
        raise RuntimeError("policies answered different requests; a difference would mean nothing")
    standings: list[PolicyResult] = []
    for name, runs in by_policy.items():
        rewards = mean_rewards(runs)
        tenth = max(1, len(rewards) // 10)
        slots = sum(one.slots for one in runs)
        standings.append(
            PolicyResult(
                policy=name,
                reward=clustered(rewards, users),
                lead=None if name == champion else clustered(best - rewards, users),
                seeds=[float(np.mean(one.rewards)) for one in runs],
                ctr=sum(sum(one.rewards) for one in runs) / max(1, slots),
                coverage=float(np.mean([one.different / max(1, one.items) for one in runs])),
                window=float(rewards[-tenth:].mean()),
                micros=float(np.median([one.micros for one in runs])),
                digests=[one.digest for one in runs],
                fates=runs[0].fates,
            )
        )
    return Experiment(
        requests=len(users),
        users=len(set(users)),
        seeds=seeds,
        encoder=environment.encoder.version,
        horizon_seconds=settings.horizon_seconds,
        champion=champion,
        seconds=perf_counter() - started,
        standings=standings,
    )


def mean_rewards(runs: Sequence[RunResult]) -> Doubles:
    """A policy's reward on each request, averaged over seeds."""
    return np.array([one.rewards for one in runs], np.float64).mean(axis=0)
