"""What an audit found, in numbers and with the first few of each kind spelled out."""

from msgspec import Struct

from agents.audit.differences import Difference
from models.events import Source


class Report(Struct, frozen=True, kw_only=True):
    """What an audit found. `same + different + apart + unchecked_rankings`: all but repeats."""

    rankings: int
    same: int
    refused: int  # of the same: refusals, made again alike
    different: int
    apart: dict[str, int]  # decided by another build or other settings: not made again
    unchecked_rankings: int  # the event that asked was cut: not made again
    repeated: int  # for an event that was answered before: the first counts, these are not made
    unlike: tuple[str, ...]  # ids of repeats that answer something else than the first
    reused: tuple[str, ...]  # ids that were asked again by another event: made again as any other
    asked: int
    unanswered: int
    unanswered_ids: tuple[str, ...]
    unsure: int  # and those where events are cut: a copy before may have been answered
    unasked: int  # rankings without an event that asks for them
    unasked_ids: tuple[str, ...]
    discarded: dict[str, int]  # requests and clicks that rightly got no ranking
    feedback: dict[str, int]
    feedback_missing: tuple[int, int] | None  # first missing offset, and how many
    implied: int  # learned records that are what the events and rankings imply
    strange: int  # and those that are not
    strange_first: tuple[Source, ...]  # the first of each partition
    unlearned: int  # implied, and not in feedback
    unchecked: int  # from a partition whose events do not begin at 0
    cut: dict[int, int]  # those partitions, and where they begin
    unreadable: dict[str, int]
    catalogues: int  # how many had to be made
    version: int
    digest: str
    causes: dict[str, int]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """Whether there are rankings, all came out the same, and all that is implied is there."""
        wrong = self.different or self.apart or self.unreadable["rankings"]
        wrong = wrong or self.unanswered or self.unasked or self.strange or self.unlearned
        return self.same > 0 and not wrong
