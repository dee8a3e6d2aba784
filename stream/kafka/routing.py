"""Which partition a user's events belong on: murmur2, as Java's and aiokafka's clients do."""

from aiokafka.partitioner import DefaultPartitioner


def owner(user: str, partitions: int) -> int:
    """The partition of a user's events and rankings.

    >>> owner("ann", 4), owner("ann", 1)
    (2, 0)
    """
    every = list(range(partitions))
    return DefaultPartitioner()(user.encode(), every, every)
