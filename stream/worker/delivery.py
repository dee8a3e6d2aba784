"""Rankings on their way to where consumers look them up, off the path of those who wait."""

import asyncio

from aiokafka import ConsumerRecord

from models.events import Decision
from stream.storage.latest_rankings import LatestRanking, LatestRankings

MOST_WAITING = 10_000


class RankingWriter:
    """Gives rankings to `rankings` in batches; beyond `most` waiting, new ones are left out."""

    def __init__(self, rankings: LatestRankings, most: int = MOST_WAITING) -> None:
        self.rankings = rankings
        self.most = most
        self.unkept = 0  # left out: too many were on their way
        self._latest: list[LatestRanking] = []
        self._some = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many are on their way."""
        return len(self._latest)

    def add(self, message: ConsumerRecord, decision: Decision) -> None:
        """Take a ranking as read back from its topic."""
        if decision.slots and len(self._latest) >= self.most:
            self.unkept += 1
        elif decision.slots:
            where = f"{message.topic}-{message.partition}"
            self._latest.append(
                LatestRanking(decision.user, message.value or b"", where, message.offset)
            )
            self._some.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            await self.flush()

    async def flush(self) -> None:
        """Deliver what waits."""
        latest, self._latest = self._latest, []
        if latest:
            await self.rankings.put_many(latest)
