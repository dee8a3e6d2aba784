"""The same workers without one of the rules: what only tests can turn off."""

from msgspec import structs

from agents.attribution import Attribution, RankingTask
from agents.attribution_state import AttributionState
from agents.bookmark import Bookmark, encode_bookmark
from agents.ledger import Ledger, PartitionHead, Verdict
from agents.partition import Command, Commit, PublishFeedback, PublishRankings
from agents.pending import PendingDecision
from models.events import Control, Decision, Event, Interaction, Outcome, Record, chain
from tests.properties.schedules.life import Life, Pauses, Performed
from tests.properties.schedules.play import Parts
from tests.properties.schedules.worker import Worker


class Unblocked(Attribution):
    """Without L1: closes what is due, decided or not."""

    def blocked(self, appended: int, event: Event) -> bool:
        return False

    def _close(self, pending: PendingDecision, corrected: bool) -> None:
        if pending.decision is None:
            pending.closed = True
        else:
            super()._close(pending, corrected)


class Hasty(Attribution):
    """Without L2: takes the decision that was read last, not the first."""

    def decided(self, decision: Decision, offset: int = 0) -> bool:
        pending = self._pending.get((decision.user, decision.id))
        if pending is not None and pending.decision is not None and not pending.closed:
            pending.decision = decision
            return True
        return super().decided(decision, offset)


class Unread(Life):
    """Without the other half of L2: takes its own decisions before they are read back."""

    def perform(self, command: Command) -> Performed:
        if isinstance(command, PublishRankings):
            for decision in command.decisions:
                self.attribution.decided(decision, len(self.log.rankings))
        return super().perform(command)


class Spoiled(Life):
    """Without L3: the bookmark begins after something that is still open."""

    def metadata(self, bookmark: Bookmark) -> str:
        later = min(bookmark.open_from + 1, self.log.committed)
        return encode_bookmark(structs.replace(bookmark, open_from=max(bookmark.ids_from, later)))


class Forgetful(Life):
    """Without L3: goes on from the commit as if nothing were open there."""

    def restore(self, committed: int, metadata: str) -> Pauses:
        yield
        bookmark = self.attribution.bookmark()
        place = self.worker.ledger.places.get(self.log.number)
        self.attribution.resume(
            structs.replace(
                bookmark,
                ids_from=committed,
                open_from=committed,
                last=place and place.source,
                chain=place.chain if place else "",
            )
        )
        self.read_rankings(len(self.log.rankings))
        self.partition.restored(committed)


class Ahead(Life):
    """Without L4 and L3: keeps and uses attributions that are ahead of the commit."""

    def keep(self) -> None:
        self.log.kept.append(self.attribution.state())

    def found(self, bookmark: Bookmark | None, committed: int) -> AttributionState | None:
        return self.log.kept[-1] if self.log.kept else None


class Early(Life):
    """Without L4: commits what it has not taught yet."""

    def perform(self, command: Command) -> Performed:
        if isinstance(command, PublishFeedback):
            attribution = self.attribution
            self.commits.append(Commit(attribution.next, None, attribution.bookmark()))
            self.commit()
        return super().perform(command)


class Trusting(Ledger):
    """Without L4: takes whatever it is given."""

    def _judge(self, record: Record | Control, data: bytes) -> Verdict:
        if not isinstance(record, Interaction | Outcome):
            return super()._judge(record, data)
        place = self.places.get(record.source.partition)
        if place is None or place.source < record.source:
            self.places[record.source.partition] = PartitionHead(record.source, chain(data))
        return "learned"


class Gapped(Trusting):
    """Without half of L4: takes every source above the last one, whatever came between."""

    def _judge(self, record: Record | Control, data: bytes) -> Verdict:
        if isinstance(record, Interaction | Outcome) and self.has(record.source):
            return "duplicate"
        return super()._judge(record, data)


class Late(Worker):
    """Without half of L12: a batch under way goes on as it was begun."""

    def decide(self, ask: RankingTask) -> Decision:
        mine, self.fold = self.fold, self.ledger.fold
        try:
            return structs.replace(super().decide(ask), settings=mine)
        finally:
            self.fold = mine


class Deaf(Late):
    """Without L12: decides on, whatever fold is in force."""

    def turned(self) -> None:
        pass


def lived(kind: type[Life]) -> type[Worker]:
    """Workers with such lives."""

    class Other(Worker):
        life = kind

    return Other


WITHOUT: dict[str, Parts] = {
    "l1-blocking": Parts(attribution=Unblocked),
    "l2-first": Parts(attribution=Hasty),
    "l2-read-back": Parts(worker=lived(Unread)),
    "l3-bookmark": Parts(worker=lived(Spoiled)),
    "l3-attribution": Parts(worker=lived(Forgetful)),
    "l3-snapshot": Parts(worker=lived(Ahead)),
    "l4-source": Parts(ledger=Trusting),
    "l4-chain": Parts(ledger=Gapped),
    "l4-commit": Parts(worker=lived(Early)),
    "l12-fold": Parts(worker=Deaf),
    "l12-batch": Parts(worker=Late),
}
