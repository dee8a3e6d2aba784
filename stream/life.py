"""A partition while this worker owns it."""

import time

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
