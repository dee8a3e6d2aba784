"""Arms against each other: by user, by how much is known of the user, by how new the item is."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles
from models.finetuning import FineTuningResult
from policies.evaluation.drift import changes
from policies.evaluation.intervals import Interval
from policies.evaluation.paired import PairedColumns, holm
from stream.datasets.accounting import LogAccounting
from stream.offline.compare.arms import ARMS
from stream.offline.compare.trial import COLD, ArmResult, Cost, ExposureStatistics

SURE = 0.05  # a claim may be wrong so often, all claims of a comparison taken together
POPULAR, FULL, CONTENT = "popular", "full", "content"
DEEP, FULL_DEEP = "deep", "full-deep"  # with BERT fine-tuned
ALL = "all"
PIECES = 10  # of the learning curve
COLD_ITEMS, OTHER_ITEMS = f"items liked 0-{COLD} times", f"items liked more than {COLD} times"
# A part, an arm that has it, and one that differs in nothing else: the difference is what it adds.
PARTS = {
    "Text": (FULL, "bandit-no-text"),
    "Collaborative filtering": (FULL, "bandit-no-cf"),
    "Learning weights from rewards": (FULL, "hybrid-repeats"),
    "Fine-tuning BERT on likes": (FULL_DEEP, FULL),
    "Fine-tuning, where text is alone": (DEEP, CONTENT),
    "All of it, over popularity": (FULL, POPULAR),
}
SLICES = (
    ALL,
    "users with 0 likes",
    "users with 1-5 likes",
    "users with 6-20 likes",
    "users with more than 20 likes",
    COLD_ITEMS,
    OTHER_ITEMS,
)


class Contrast(Struct, frozen=True):
    """Clicks a ranking of `arm` minus those of `base`, on the same requests of a slice.

    `p_value` is corrected for all contrasts that were made.
    """

    arm: str
    base: str
    slice: str
    difference: Interval
    p_value: float

    @property
    def sure(self) -> bool:
        """Whether it may be claimed: by the interval, and after the correction."""
        away = self.difference.low > 0 or self.difference.high < 0
        return away and self.p_value < SURE


class ArmSummary(Struct, frozen=True):
    """One arm: clicks a ranking by slice, nDCG and MRR over all, what it showed and took."""

    arm: str
    says: str
    clicks: dict[str, Interval]
    ndcg: Interval
    mrr: Interval
    shown: list[ExposureStatistics]  # for each seed
    cost: Cost
    curve: list[Interval]  # clicks a ranking, by each `PIECES`th of the requests
    calibration: list["Bin"]  # of arms whose scores are expected clicks
    drift: list[int] = []  # after how many rankings ADWIN noticed that clicks changed


class Bin(Struct, frozen=True):
    """Slots of like score: what was expected of them, and what they earned, clicks a slot."""

    slots: int
    expected: float
    earned: float


class Slice(Struct, frozen=True):
    """A part of the requests, or of the clicks on all of them."""

    name: str
    requests: int
    users: int


class Comparison(Struct, frozen=True, kw_only=True):
    """The result of `rankloop compare`."""

    log: str
    k: int
    requests: int
    users: int
    items: int
    events: int
    seeds: list[int]
    encoder: str
    texts_a_second: float
    asked: bool  # the log's own requests
    seconds: float
    slices: list[Slice]
    standings: list[ArmSummary]
    contrasts: list[Contrast]
    drift: dict[str, list[int]]  # of what requests say: after how many ADWIN noticed a change
    accounting: LogAccounting
    tuned: FineTuningResult | None = None  # what fine-tuning was

    def of(self, arm: str, base: str, slice: str = ALL) -> Contrast | None:
        """The contrast of two arms in a slice, if they were compared there."""
        for one in self.contrasts:
            if (one.arm, one.base, one.slice) == (arm, base, slice):
                return one
        return None


Runs = Mapping[str, Sequence[ArmResult]]  # by arm, one a seed


def slices(first: ArmResult) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Which requests are in each slice; those by item are parts of the clicks of all requests."""
    likes = np.array(first.history)
    everything = np.ones(len(likes), np.bool_)
    masks = (everything, likes == 0, (likes >= 1) & (likes <= 5), (likes >= 6) & (likes <= 20))
    yield from zip(SLICES, (*masks, likes > 20, everything, everything), strict=True)


def clicks(runs: Sequence[ArmResult], slice: str) -> Doubles:
    """Clicks of each request, averaged over seeds; in a slice by item, those on such items."""
    every, cold = mean([one.clicks for one in runs]), mean([one.cold for one in runs])
    return {COLD_ITEMS: cold, OTHER_ITEMS: every - cold}.get(slice, every)


def mean(lists: Sequence[Sequence[float]]) -> Doubles:
    """The mean over seeds, one value a request."""
    return np.array(lists, np.float64).mean(axis=0)


def pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Every arm against popular, full against every arm, and fine-tuned against as it was.

    >>> pairs(["popular", "knn", "full"])
    [('knn', 'popular'), ('full', 'popular'), ('full', 'knn')]
    """
    over = [(arm, POPULAR) for arm in arms if arm != POPULAR and POPULAR in arms]
    rest = [arm for arm in arms if arm not in (POPULAR, FULL, FULL_DEEP)]
    under = [(FULL, arm) for arm in rest if FULL in arms]
    tuned = [(DEEP, CONTENT), (FULL_DEEP, FULL)]
    return over + under + [pair for pair in tuned if {*pair} <= {*arms}]


def contrasts(runs: Runs, seed: int = 0) -> list[Contrast]:
    """Every pair of arms in every slice that holds a request."""
    first = next(iter(runs.values()))[0]
    columns, made = PairedColumns(first.users), list[tuple[str, str, str]]()
    for arm, base in pairs(list(runs)):
        for name, mask in slices(first):
            if mask.any():
                columns.add(clicks(runs[arm], name) - clicks(runs[base], name), mask)
                made.append((arm, base, name))
    if not made:
        return []
    p_values = holm(columns.p_values(seed), hypothesis_weights(made)).tolist()
    return [
        Contrast(*names, difference, p_value)
        for names, difference, p_value in zip(
            made, columns.intervals(seed=seed), p_values, strict=True
        )
    ]


def hypothesis_weights(made: Sequence[tuple[str, str, str]]) -> Doubles:
    """The questions of a comparison have half of the weight, all other contrasts the other half.

    >>> question = ("full", "popular", "all")
    >>> hypothesis_weights([question, ("mf", "popular", "all"), ("mf", "popular", "cold")])
    array([1. , 0.5, 0.5])
    """
    asked = np.array([slice == ALL and (arm, base) in PARTS.values() for arm, base, slice in made])
    return np.where(asked, 1 / max(1, asked.sum()), 1 / max(1, (~asked).sum()))


def standings(runs: Runs, seed: int = 0) -> list[ArmSummary]:
    """Each arm by itself."""
    first = next(iter(runs.values()))[0]
    columns, parts = PairedColumns(first.users), [one for one in slices(first) if one[1].any()]
    piece = np.arange(len(first.users)) * PIECES // len(first.users)
    pieces = [mask for mask in (piece == i for i in range(PIECES)) if mask.any()]
    for some in runs.values():
        columns.add(mean([one.ndcg for one in some]))
        columns.add(mean([one.reciprocal for one in some]))
        for name, mask in parts:
            columns.add(clicks(some, name), mask)
        for mask in pieces:
            columns.add(clicks(some, ALL), mask)
    found = iter(columns.intervals(seed=seed))
    made: list[ArmSummary] = []
    for arm, some in runs.items():
        ndcg, mrr = next(found), next(found)
        made.append(
            ArmSummary(
                arm=arm,
                says=ARMS[arm].says,
                clicks={name: next(found) for name, _ in parts},
                ndcg=ndcg,
                mrr=mrr,
                shown=[one.shown for one in some],
                cost=middle([one.cost for one in some]),
                curve=[next(found) for _ in pieces],
                calibration=calibrated(some) if ARMS[arm].expects else [],
                drift=changes(clicks(some, ALL)),
            )
        )
    return made


def calibrated(runs: Sequence[ArmResult]) -> list[Bin]:
    """Slots in ten parts of like score and equal size."""
    scores = np.concatenate([np.array(one.scores) for one in runs])
    earned = np.concatenate([np.array(one.earned, np.float64) for one in runs])
    order = np.argsort(scores, kind="stable")
    return [
        Bin(len(part), float(scores[part].mean()), float(earned[part].mean()))
        for part in np.array_split(order, 10)
        if len(part)
    ]


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    names = Cost.__struct_fields__
    return Cost(*(float(np.median([getattr(one, name) for one in costs])) for name in names))
