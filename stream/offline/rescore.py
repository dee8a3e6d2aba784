"""Every decision's candidates found again from the logs, and judged by other policies.

As `rankloop audit` does it: what a ranking was chosen from follows from the logs at its versions.
A policy that learns learns here as it would have: from each outcome once it is in feedback, after
it was judged on all decisions before.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.attribution import RankingTask
from agents.recommender import Recommender
from models.events import Decision, Outcome, decode_record
from policies.base import Policy
from policies.evaluation.importance_weights import choices
from stream import build
from stream.datasets.topic_logs import FileLogs, KafkaLogs, Logs
from stream.offline.audit import ORDER, auditor, take
from stream.offline.target_policies import LoggedPolicy, TargetSlot, TargetSlots
from stream.progress import progress
from stream.settings import Settings

# By a decision's user, id and version, and by item.
FoundSlots = dict[tuple[str, str, int], dict[str, TargetSlot]]


class Rescorer:
    """A recommender that, beside deciding again, notes what other policies would have chosen."""

    def __init__(
        self,
        recommender: Recommender,
        targets: Mapping[str, Policy],
        places: dict[str, FoundSlots],
    ) -> None:
        self.recommender = recommender
        self.catalogue = recommender.catalogue
        self.retrieval = recommender.retrieval
        self._targets = targets
        self._places = places

    def __call__(self, task: RankingTask) -> Decision:
        """The decision, made again."""
        decision = self.recommender(task)
        if decision.slots:
            candidates = self.retrieval(task.request)
            shown = [slot.item for slot in decision.slots]
            order = [candidates.items.index(item) for item in shown]
            x = np.concatenate([candidates.x, candidates.text], axis=1)
            rows = x[order]  # a copy: the candidates are not kept
            for name, policy in self._targets.items():
                scores = policy.scores(task.request.user, task.request.context, candidates)
                self._places[name][decision.user, decision.id, decision.model] = {
                    item: TargetSlot(float(pmf[left.index(i)]), row, pmf @ x[left])
                    for item, i, row, (left, pmf) in zip(
                        shown, order, rows, choices(policy, scores, order), strict=True
                    )
                }
        return decision


def target_slots(served: LoggedPolicy, found: FoundSlots) -> TargetSlots:
    """What was found of each decision of a policy, slot by slot as it was shown."""
    made = [found.get((one.user, one.id, one.model)) for one in served.outcomes]
    return [
        None if of is None else [of.get(slot.item) for slot in one.slots]
        for one, of in zip(served.outcomes, made, strict=True)
    ]


def rescored(
    settings: Settings, folder: Path | None, policies: Sequence[str]
) -> tuple[list[Outcome], dict[str, FoundSlots]]:
    """The log's outcomes, and for each policy and decision what it would have shown there.

    Only decisions that come out bit for bit as they were published are judged.
    """
    if unknown := sorted(set(policies) - set(build.POLICIES)):
        raise ValueError(f"policy must be one of {', '.join(build.POLICIES)}, got {unknown[0]!r}")
    logs: Logs = KafkaLogs(settings) if folder is None else FileLogs(folder)
    found: dict[str, FoundSlots] = {name: {} for name in policies}
    others = [name for name in policies if name != settings.policy or settings.challengers]
    targets = {name: build.policy(settings, name) for name in others}
    outcomes: list[Outcome] = []

    def noting(recommender: Recommender) -> Recommender:
        return Rescorer(recommender, targets, found)  # pyright: ignore[reportReturnType]

    made = auditor(settings, logs.partitions("events"), noting)
    with progress() as bar:
        for name in ORDER:
            messages = bar.track(logs.read(name), logs.total(name), description=name)
            for partition, message in messages:
                before = made.learner.learned
                take(made, name, partition, message)
                if made.learner.learned > before:
                    record = decode_record(message.data)
                    if isinstance(record, Outcome):
                        outcomes.append(record)
                        for policy in targets.values():
                            if record.status != "corrected" or settings.learn_corrections:
                                policy.learn(record, message.offset)
    report = made.report()
    if not report.same:
        why = "; ".join([*report.apart, *report.causes]) or "the logs hold none"
        raise ValueError(
            f"no ranking could be made again ({why}), so what others would have shown is not "
            "known; use the settings of the workers"
        )
    return outcomes, {name: of for name, of in found.items() if name in targets}
