"""What the rankings say: the first decision of each id, and how many came after it."""

from sys import intern

from msgspec import Struct

from models.events import Invalid, decode_decision


class Answer(Struct, frozen=True):
    """The decision that counts, in short."""

    source: int
    model: int
    items: tuple[str, ...]


class Answers:
    """Takes the rankings, each partition in order; `first` has the answers by id.

    >>> answers = Answers(forged="x")
    >>> answers(0, b"garbage"), answers.unreadable
    (None, 1)
    """

    def __init__(self, forged: str) -> None:
        self.forged = forged  # the policy of those that are no worker's
        self.first: dict[int, dict[str, Answer]] = {}
        self.proposed: dict[str, tuple[str, ...]] = {}
        self.again = 0
        self.unreadable = 0
        self.forgeries = 0

    def __call__(self, partition: int, data: bytes) -> None:
        """Take a message of the rankings."""
        try:
            decision = decode_decision(data)
        except Invalid:
            self.unreadable += 1
            return
        known = self.first.setdefault(partition, {})
        if decision.policy == self.forged:
            self.forgeries += 1
        elif decision.id in known:
            self.again += 1
        if decision.id not in known:
            items = tuple(intern(slot.item) for slot in decision.slots)
            known[decision.id] = Answer(decision.source, decision.model, items)
            self.proposed[decision.id] = items
