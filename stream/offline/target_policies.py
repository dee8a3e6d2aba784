"""What another policy would have shown in the place of one that was logged, as arrays."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles
from models.events import Item, Outcome, encode
from policies.evaluation.estimators import BanditLog, bounded
from policies.evaluation.intervals import numbered
from policies.evaluation.reward_model import FOLDS, cascaded, cross_fitted
from policies.evaluation.slates import Slates
from stream.datasets.accounting import TOLERATED, LogAccounting, share

CORRECTED = "corrected"
MOST_PLACES = 100  # positions that are told apart
OUTCOME_FATES = ("evaluated", CORRECTED, "duplicate", "empty", "foreign")
REASONS = {
    "duplicate": "each is equal to another one, and counts once; is the log in the file twice?",
    "empty": "they showed nothing",
    "foreign": "other items than the decision's were shown with them, without a propensity",
}


class LoggedPolicy(Struct, frozen=True):
    """All decisions of one logging policy, in the order of the log."""

    policy: str
    outcomes: tuple[Outcome, ...]

    @property
    def single(self) -> bool:
        """True if every decision showed one item."""
        return all(len(one.slots) == 1 for one in self.outcomes)

    @property
    def uniform(self) -> bool:
        """True if every first slot was drawn with one probability."""
        return len({one.slots[0].propensity for one in self.outcomes}) == 1


class EvaluationLog(Struct, frozen=True):
    """What a log holds for evaluation."""

    served: tuple[LoggedPolicy, ...]
    items: tuple[str, ...]  # that the log lists, and those that were shown
    listed: bool
    unlisted: int  # items that were shown and are not listed, if some are
    accounting: LogAccounting


def evaluation_log(messages: Iterable[object]) -> EvaluationLog:
    """Decisions with what they earned, by their policy."""
    outcomes: list[Outcome] = []
    items: list[str] = []
    versions, unused = 0, Counter[str]()
    for message in messages:
        if isinstance(message, Outcome):
            outcomes.append(message)
        elif isinstance(message, Item):
            versions += 1
            items += [] if message.deleted else [message.id]
        else:
            unused[message.__struct_config__.tag] += 1  # pyright: ignore[reportAttributeAccessIssue]
    decisions, fates = put_together(outcomes)
    by: dict[str, list[Outcome]] = {}
    for one in decisions:
        fate = "empty" if not one.slots else "foreign" if one.foreign else "evaluated"
        fates[fate] += 1
        if fate == "evaluated":
            by.setdefault(one.policy, []).append(one)
    shown = {slot.item for ones in by.values() for one in ones for slot in one.slots}
    return EvaluationLog(
        served=tuple(LoggedPolicy(name, tuple(ones)) for name, ones in sorted(by.items())),
        items=tuple(dict.fromkeys([*items, *sorted(shown)])),
        listed=bool(items),
        unlisted=len(shown.difference(items)) if items else 0,
        accounting=LogAccounting(
            messages=len(outcomes) + versions + sum(unused.values()),
            what="outcomes",
            fates={name: n for name in OUTCOME_FATES if (n := fates[name])},
            items=versions,
            unused=dict(unused),
            warnings=tuple(outcome_warnings(fates, len(outcomes))),
        ),
    )


def put_together(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], Counter[str]]:
    """One outcome a decision, and how many were "corrected" by a later one, or a "duplicate".

    A correction takes the place of the outcome before it of its user and id, in whichever order
    they lie in the log. Equal outcomes are one. Others are decisions of their own, whatever their
    ids.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for n, one in enumerate(outcomes):
        groups.setdefault((one.user, one.id), []).append(n)
    kept: dict[int, Outcome] = {}  # by the place of a decision's first outcome
    fates = Counter[str]()
    for group in groups.values():
        equal: set[bytes] = set()
        last = -1
        for n in sorted(group, key=lambda n: (outcomes[n].source, outcomes[n].status == CORRECTED)):
            one = outcomes[n]
            if len(group) > 1:
                before = len(equal)
                equal.add(encode(one))
                if len(equal) == before:
                    fates["duplicate"] += 1
                    continue
            if one.status == CORRECTED and last >= 0:
                fates["corrected"] += 1
            else:
                last = n
            kept[last] = one
    return [kept[n] for n in sorted(kept)], fates


def outcome_warnings(fates: Mapping[str, int], total: int) -> list[str]:
    """What is to be said if more than 1% of the outcomes are not evaluated."""
    lost = {name: fates[name] for name in REASONS if fates[name]}
    if sum(lost.values()) <= TOLERATED * total:
        return []
    return [f"{share(n, total)} outcomes are left out: {REASONS[name]}" for name, n in lost.items()]


class TargetSlot(Struct, frozen=True):
    """A place of a ranking: its item, and what a target would have put there instead.

    `shown` are the features of its item and `chosen` their mean over what the target would put
    there, given the same items above; None where the log does not tell.
    """

    chance: float  # of its item under the target, given those above
    shown: Doubles | None = None
    chosen: Doubles | None = None


# For each decision its slots; None for what the target could not show, or is not known.
TargetSlots = Sequence[Sequence[TargetSlot | None] | None]


def uniform(served: LoggedPolicy, candidates: int) -> TargetSlots:
    """Every remaining candidate alike: 1 / (n - slots above)."""
    longest = max(len(one.slots) for one in served.outcomes)
    if candidates < longest:
        raise ValueError(f"{candidates} candidates cannot fill rankings of {longest}; say more")
    return [
        [TargetSlot(1.0 / (candidates - i)) for i in range(len(one.slots))]
        for one in served.outcomes
    ]


def numbered_places(served: LoggedPolicy) -> dict[int, int]:
    """The positions of first slots and their numbers; of many, the most common ones.

    A position is a name, and need not count from 0.
    """
    counts = Counter(one.slots[0].position for one in served.outcomes)
    common = sorted(counts, key=lambda position: (-counts[position], position))[:MOST_PLACES]
    return {position: n for n, position in enumerate(sorted(common))}


class Frequencies:
    """How often a policy showed each item at each place: all that its own log says of it.

    Where it was never shown, its frequencies over all places stand, as one more place.
    """

    def __init__(self, target: LoggedPolicy, items: Sequence[str]) -> None:
        self.items = items
        self.number = {item: i for i, item in enumerate(items)}
        self.places = numbered_places(target)
        self._target = target
        self.chances = self.drawn(np.ones(len(target.outcomes)))

    def drawn(self, times: Doubles) -> Doubles:
        """The frequencies if each decision of the target had come so often, (items, places)."""
        counts = self.counted(self._target, times)
        counts[:, -1] = counts.sum(axis=1)
        return counts / np.maximum(counts.sum(axis=0), 1.0)

    def counted(self, served: LoggedPolicy, times: Doubles | None = None) -> Doubles:
        """Times an item was shown at a place, shape (items, places)."""
        width = len(self.places) + 1
        shown = np.array([self.number[one.slots[0].item] for one in served.outcomes])
        cells = shown * width + self.where(served)
        return np.bincount(cells, times, len(self.items) * width).reshape(-1, width).astype(float)

    def where(self, served: LoggedPolicy) -> NDArray[np.intp]:
        """The place of each decision of another's log, (n,)."""
        other = len(self.places)
        found = [self.places.get(one.slots[0].position, other) for one in served.outcomes]
        return np.array(found, np.intp)

    def of(self, served: LoggedPolicy) -> Doubles:
        """Probabilities of every item in each decision of another's log, (n, items)."""
        return self.chances[:, self.where(served)].T

    def beyond(self, served: LoggedPolicy) -> Doubles:
        """The probability, in each decision, of what that log never showed there, (n,)."""
        never = self.counted(served) == 0
        return (self.chances * never).sum(axis=0)[self.where(served)]

    def moves(self, served: LoggedPolicy, draws: int = 200, seed: int = 0) -> tuple[float, float]:
        """By how much IPS and SNIPS on another's log move, 19 times in 20, if the target's users
        are drawn again: the error of frequencies that stand for probabilities.
        """
        rng = np.random.default_rng(seed)
        user = numbered([one.user for one in self._target.outcomes])
        users = int(user.max()) + 1
        places = self.where(served)
        shown = np.array([self.number[one.slots[0].item] for one in served.outcomes])
        propensities = np.array([one.slots[0].propensity for one in served.outcomes])
        rewards = np.array([one.slots[0].reward for one in served.outcomes])
        found = np.empty((draws, 2))
        for n in range(draws):
            times = np.bincount(rng.integers(0, users, users), minlength=users)[user]
            weights = bounded(self.drawn(times.astype(float))[shown, places], propensities)
            ips, total = float((weights * rewards).mean()), float(weights.mean())
            found[n] = ips, ips / total if total else 0.0
        low, high = np.percentile(found, [2.5, 97.5], axis=0)
        ips, snips = ((high - low) / 2.0).tolist()
        return ips, snips


def described(served: LoggedPolicy, items: Sequence[str]) -> tuple[Doubles, int]:
    """What a model of rewards knows of each decision, and where the columns of the item end.

    Columns: which item (the first len(items)), which place (the most common), and each word of the
    context that at least 1% of the decisions have.
    """
    ones = served.outcomes
    number = {item: i for i, item in enumerate(items)}
    words = Counter(f"{k}={v}" for one in ones for k, v in one.context.items())
    common = sorted(word for word, count in words.items() if count >= 0.01 * len(ones))[:200]
    places = numbered_places(served)
    base = len(items) + len(places)
    column = {word: base + i for i, word in enumerate(common)}
    x = np.zeros((len(ones), base + len(common)))
    for row, one in enumerate(ones):
        slot = one.slots[0]
        x[row, number[slot.item]] = 1.0
        if (place := places.get(slot.position)) is not None:
            x[row, len(items) + place] = 1.0
        for key, value in one.context.items():
            if (at := column.get(f"{key}={value}")) is not None:
                x[row, at] = 1.0
    return x, len(items)


def logged(
    served: LoggedPolicy, items: Sequence[str], chances: Doubles, beyond: Doubles | None, model: str
) -> BanditLog:
    """A log of one slot; `chances` of every item, shape (n, items).

    With a model of its rewards where there are users enough to fit one.
    """
    x, end = described(served, items)
    number = {item: i for i, item in enumerate(items)}
    actions = np.array([number[one.slots[0].item] for one in served.outcomes])
    rewards = np.array([one.slots[0].reward for one in served.outcomes])
    users = tuple(one.user for one in served.outcomes)

    def features(action: int) -> Doubles:
        changed = x.copy()
        changed[:, :end] = 0.0
        changed[:, action] = 1.0
        return changed

    shown, chosen = None, None
    if len(set(users)) >= FOLDS:
        shown, every = cross_fitted(x, rewards, users, len(items), features, model=model)
        chosen = (chances * every).sum(axis=1)
    return BanditLog(
        rewards=rewards,
        propensities=np.array([one.slots[0].propensity for one in served.outcomes]),
        chances=chances[np.arange(len(actions)), actions],
        users=users,
        shown=shown,
        chosen=chosen,
        beyond=beyond,
    )


def slates(served: LoggedPolicy, places: TargetSlots) -> Slates:
    """A log of rankings, as far as the target's probabilities are known.

    With a model of rewards where candidates are known and there are users enough to fit one.
    """
    known = [(one, at) for one, at in zip(served.outcomes, places, strict=True) if at is not None]
    ones = [one for one, _ in known]
    if not ones:
        raise ValueError(
            f"no decision of {served.policy} could be made again, so what others would have shown "
            "is not known; use the settings of the workers"
        )
    k = max(len(one.slots) for one in ones)
    rewards = np.zeros((len(ones), k))
    propensities, target = np.ones((len(ones), k)), np.ones((len(ones), k))
    for row, (one, at) in enumerate(known):
        for column, (slot, place) in enumerate(zip(one.slots, at, strict=True)):
            rewards[row, column] = slot.reward
            propensities[row, column] = slot.propensity
            target[row, column] = min(place.chance, 1.0) if place else 0.0
    users = tuple(one.user for one in ones)
    shown, chosen = _modelled([at for _, at in known], rewards, users)
    return Slates(
        rewards=rewards,
        propensities=propensities,
        chances=target,
        users=users,
        shown=shown,
        chosen=chosen,
    )


def _modelled(
    rankings: Sequence[Sequence[TargetSlot | None]], rewards: Doubles, users: Sequence[str]
) -> tuple[Doubles, Doubles] | tuple[None, None]:
    """What a model expects of each slot and those below, or nothing: see Slates."""
    first = next((place for ranking in rankings for place in ranking if place), None)
    if first is None or first.shown is None or len(set(users)) < FOLDS:
        return None, None
    shown = np.zeros((*rewards.shape, len(first.shown)))
    chosen, given = np.zeros_like(shown), np.zeros_like(rewards)
    for row, ranking in enumerate(rankings):
        for column, place in enumerate(ranking):
            if place is not None and place.shown is not None and place.chosen is not None:
                shown[row, column], chosen[row, column] = place.shown, place.chosen
                given[row, column] = 1.0
    return cascaded(shown, chosen, rewards, given, users)
