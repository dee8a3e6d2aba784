"""What another policy would have shown in the place of one that was logged, as arrays."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from models.base import Doubles
from models.events import Item, Outcome
from policies.evaluation.estimators import BanditLog
from policies.evaluation.reward_model import FOLDS, cascaded, cross_fitted
from policies.evaluation.slates import Slates


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
    items: tuple[str, ...]  # that the log lists, or that were shown
    listed: bool
    empty: int  # decisions that showed nothing
    foreign: int  # decisions shown with items of another's choice


def evaluation_log(messages: Iterable[object]) -> EvaluationLog:
    """Outcomes by their policy; of those with one id the last counts, since it is the corrected."""
    last: dict[str, Outcome] = {}
    items: list[str] = []
    for message in messages:
        if isinstance(message, Outcome):
            last[message.id] = message
        elif isinstance(message, Item) and not message.deleted:
            items.append(message.id)
    empty = sum(not one.slots for one in last.values())
    foreign = sum(bool(one.foreign) for one in last.values())
    kept = [one for one in last.values() if one.slots and not one.foreign]
    by: dict[str, list[Outcome]] = {}
    for one in kept:
        by.setdefault(one.policy, []).append(one)
    shown = sorted({slot.item for one in kept for slot in one.slots})
    return EvaluationLog(
        served=tuple(LoggedPolicy(name, tuple(ones)) for name, ones in sorted(by.items())),
        items=tuple(dict.fromkeys(items)) or tuple(shown),
        listed=bool(items),
        empty=empty,
        foreign=foreign,
    )


class TargetSlot(Struct, frozen=True):
    """A place of a ranking: its item, and what a target would have put there instead.

    `shown` are the features of its item and `chosen` their mean over what the target would put
    there, given the same items above; None where the log does not tell.
    """

    chance: float  # of its item under the target, given those above
    shown: Doubles | None = None
    chosen: Doubles | None = None


TargetSlots = Mapping[str, Mapping[str, TargetSlot]]  # decision -> item -> its place


def uniform(served: LoggedPolicy, candidates: int) -> TargetSlots:
    """Every remaining candidate alike: 1 / (n - slots above)."""
    longest = max(len(one.slots) for one in served.outcomes)
    if candidates < longest:
        raise ValueError(f"{candidates} candidates cannot fill rankings of {longest}; say more")
    return {
        one.id: {slot.item: TargetSlot(1.0 / (candidates - i)) for i, slot in enumerate(one.slots)}
        for one in served.outcomes
    }


class Frequencies:
    """How often a policy showed each item at each place: all that its own log says of it."""

    def __init__(self, target: LoggedPolicy, items: Sequence[str]) -> None:
        self.items = items
        self.number = {item: i for i, item in enumerate(items)}
        self.places = 1 + max(one.slots[0].position for one in target.outcomes)
        counts = self.counted(target)
        self.chances = counts / np.maximum(counts.sum(axis=0), 1.0)  # (items, places)

    def counted(self, served: LoggedPolicy) -> Doubles:
        """Times an item was shown at a place, shape (items, places)."""
        counts = np.zeros((len(self.items), self.places))
        for one in served.outcomes:
            slot = one.slots[0]
            if slot.position < self.places:
                counts[self.number[slot.item], slot.position] += 1
        return counts

    def of(self, served: LoggedPolicy) -> Doubles:
        """Probabilities of every item in each decision of another's log, (n, items)."""
        places = [min(one.slots[0].position, self.places - 1) for one in served.outcomes]
        return self.chances[:, places].T

    def beyond(self, served: LoggedPolicy) -> Doubles:
        """The probability, in each decision, of what that log never showed there, (n,)."""
        never = self.counted(served) == 0
        lost = (self.chances * never).sum(axis=0)
        places = [min(one.slots[0].position, self.places - 1) for one in served.outcomes]
        return lost[places]


def described(served: LoggedPolicy, items: Sequence[str]) -> tuple[Doubles, int]:
    """What a model of rewards knows of each decision, and where the columns of the item end.

    Columns: which item (the first len(items)), which place, and each word of the context that at
    least 1% of the decisions have.
    """
    ones = served.outcomes
    number = {item: i for i, item in enumerate(items)}
    words = Counter(f"{k}={v}" for one in ones for k, v in one.context.items())
    common = sorted(word for word, count in words.items() if count >= 0.01 * len(ones))[:200]
    column = {word: len(items) + 100 + i for i, word in enumerate(common)}
    x = np.zeros((len(ones), len(items) + 100 + len(common)))
    for row, one in enumerate(ones):
        slot = one.slots[0]
        x[row, number[slot.item]] = 1.0
        x[row, len(items) + slot.position] = 1.0
        for key, value in one.context.items():
            if (at := column.get(f"{key}={value}")) is not None:
                x[row, at] = 1.0
    return x, len(items)


def logged(
    served: LoggedPolicy, items: Sequence[str], chances: Doubles, beyond: Doubles | None, model: str
) -> BanditLog:
    """A log of one slot with a model of its rewards; `chances` of every item, shape (n, items)."""
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

    shown, every = cross_fitted(x, rewards, users, len(items), features, model=model)
    return BanditLog(
        rewards=rewards,
        propensities=np.array([one.slots[0].propensity for one in served.outcomes]),
        chances=chances[np.arange(len(actions)), actions],
        users=users,
        shown=shown,
        chosen=(chances * every).sum(axis=1),
        beyond=beyond,
    )


def slates(served: LoggedPolicy, places: TargetSlots) -> Slates:
    """A log of rankings, as far as the target's probabilities are known.

    With a model of rewards where candidates are known and there are users enough to fit one.
    """
    ones = [one for one in served.outcomes if one.id in places]
    k = max(len(one.slots) for one in ones)
    rewards = np.zeros((len(ones), k))
    propensities, target = np.ones((len(ones), k)), np.ones((len(ones), k))
    for row, one in enumerate(ones):
        for column, slot in enumerate(one.slots):
            rewards[row, column] = slot.reward
            propensities[row, column] = slot.propensity
            place = places[one.id].get(slot.item)
            target[row, column] = place.chance if place else 0.0
    users = tuple(one.user for one in ones)
    shown, chosen = _modelled(ones, places, rewards, users)
    return Slates(
        rewards=rewards,
        propensities=propensities,
        chances=target,
        users=users,
        shown=shown,
        chosen=chosen,
    )


def _modelled(
    ones: Sequence[Outcome], places: TargetSlots, rewards: Doubles, users: Sequence[str]
) -> tuple[Doubles, Doubles] | tuple[None, None]:
    """What a model expects of each slot and those below, or nothing: see Slates."""
    rankings = [[places[one.id].get(slot.item) for slot in one.slots] for one in ones]
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
