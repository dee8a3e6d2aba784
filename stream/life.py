"""A partition while this worker owns it."""

import time

from aiokafka import OffsetAndMetadata

from agents.bookmark import encode_bookmark
from agents.partition import Commit, Partition


class Lost(Exception):
    """The partition is no longer ours, or the batch took too long to be sure that it is."""


class Life:
    """One partition while this worker owns it."""

    def __init__(self, number: int, partition: Partition) -> None:
        self.number = number
        self.partition = partition
        self.ready = False
        self.lost = False
        self.commits: list[Commit] = []
        self.heard = time.monotonic()

    def done(self) -> OffsetAndMetadata | None:
        """What may be committed since the last time: all that the learner has accepted (L4).

        The bookmark goes with it (L3).
        """
        learner = self.partition.learner
        ready = [c for c in self.commits if c.needs is None or learner.has(c.needs)]
        if not ready:
            return None
        self.commits = self.commits[len(ready) :]
        return OffsetAndMetadata(ready[-1].offset, encode_bookmark(ready[-1].bookmark))
