"""A log's closed decisions, by the policy that made them."""

from collections.abc import Iterable

from msgspec import Struct

from models.events import Item, Outcome


class Served(Struct, frozen=True):
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


class Log(Struct, frozen=True):
    """What a log holds for evaluation."""

    served: tuple[Served, ...]
    items: tuple[str, ...]  # that the log lists, or that were shown
    listed: bool
    empty: int  # decisions that showed nothing
    foreign: int  # decisions shown with items of another's choice


def gathered(messages: Iterable[object]) -> Log:
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
    return Log(
        served=tuple(Served(name, tuple(ones)) for name, ones in sorted(by.items())),
        items=tuple(dict.fromkeys(items)) or tuple(shown),
        listed=bool(items),
        empty=empty,
        foreign=foreign,
    )
