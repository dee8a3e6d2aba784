"""The first fold again: which events ask for a ranking, and which records they imply."""

from collections import Counter
from collections.abc import Callable, Sequence

from agents.attribution import Attribution, AttributionRules, RankingTask, empty_decision
from agents.bookmark import Bookmark
from agents.ledger import PartitionHead
from agents.partition import ReceivedMessage
from models.events import (
    DAY,
    Click,
    Decision,
    Event,
    InvalidMessageError,
    Request,
    Source,
    Tick,
    chain,
    decode_decision,
    decode_event,
    encode,
    read_event,
)


class ExpectedRecords:
    """Takes all decisions first, then all events, each partition in order, then what was learned.

    A message appended at 0 is taken to have come at its `at`. Of a partition that does not begin at
    0 (`cut`) it cannot be said what its events imply. `restarts` are those of feedback, in order.
    Keeps the bytes of what was asked, of decisions until their event comes, and a chain value a
    record.

    >>> asked = ExpectedRecords(AttributionRules(), owner=lambda user: 0)
    >>> asked.event(0, ReceivedMessage(0, 7, b'{"type":"request","id":"r","user":"ann","at":7}'))
    >>> asked.count, asked.unanswered
    (1, ['r'])
    """

    def __init__(
        self,
        rules: AttributionRules,
        owner: Callable[[str], int],
        restarts: Sequence[PartitionHead] = (),
    ) -> None:
        self.rules = rules
        self.restarts: dict[int, list[PartitionHead]] = {}
        for head in restarts:
            self.restarts.setdefault(head.source.partition, []).append(head)
        self.skipped = 0  # requests that a Restart left out
        self.owner = owner
        self.count = 0
        self.unreadable = 0
        self.unanswered: list[str] = []
        self.unsure = 0  # unanswered where events are cut: a copy before may have been answered
        self.discarded: Counter[str] = Counter()  # what asked, and rightly got no ranking
        self.cut: dict[int, int] = {}  # partition -> where its events begin
        self.records: Counter[str] = Counter()  # learned records: implied, strange or unchecked
        self.strange: list[Source] = []  # of the first record of each partition not implied
        self._decided: dict[tuple[int, int, str], bytes] = {}
        self._events: dict[tuple[int, int], bytes | None] = {}
        self._folds: dict[int, Attribution] = {}
        self._next: dict[int, list[tuple[int, Attribution]]] = {}  # those after a Restart to come
        self._implied: dict[Source, str] = {}

    @property
    def unasked(self) -> list[str]:
        """Ids of decisions that no event asked for, or only one that was answered before."""
        return [id for partition, _, id in self._decided if partition not in self.cut]

    @property
    def unlearned(self) -> int:
        """Records that events imply and that were not learned so far."""
        return sum(
            source.partition not in self.cut and not self._left_out(source.partition, source.offset)
            for source in self._implied
        )

    @property
    def unlearned_skipped(self) -> int:
        """Records that events imply and that a Restart left out."""
        return sum(
            source.partition not in self.cut and self._left_out(source.partition, source.offset)
            for source in self._implied
        )

    def _left_out(self, partition: int, offset: int) -> bool:
        return any(offset < head.source.offset for head in self.restarts.get(partition, ()))

    def decided(self, partition: int, decision: Decision, data: bytes) -> None:
        """The ranking that counts for the event it names."""
        self._events[partition, decision.source] = None
        self._decided[partition, decision.source, decision.id] = data

    def event(self, partition: int, message: ReceivedMessage) -> None:
        """Take a message of the events."""
        fold = self._folds.get(partition)
        if fold is None:
            fold = self._folds[partition] = Attribution(partition, self.rules)
            if message.offset:
                self.cut[partition] = message.offset
            self._next[partition] = [
                self._restarted(one) for one in self.restarts.get(partition, ())
            ]
        while (ahead := self._next[partition]) and ahead[0][0] <= message.offset:
            offset, fold = ahead.pop(0)
            fold.resumed(offset)
            self._folds[partition] = fold
        try:
            event = read_event(message.data, message.appended)
        except InvalidMessageError:
            self.unreadable += 1
            return
        where = partition, message.offset
        if where in self._events:
            self._events[where] = message.data
        asks = isinstance(event, Request) or (isinstance(event, Click) and self.rules.refresh)
        appended = message.appended or event.at
        reason = self._discards(partition, appended, event)
        if reason is None:
            for _, later in self._next[partition]:
                later(message.offset, appended, event)  # takes note of ids
            caused = fold(message.offset, appended, event)
            for record in caused.records:
                self._implied[record.source] = chain(record.data)
            for task in caused.tasks:
                if where in self._events and partition not in self.cut:
                    self._events[where] = encode(task.request)
                fold.decided(self._answer(partition, task))
            reason = None if caused.tasks else caused.fate
        if asks and reason:
            self.discarded[reason] += 1

    def request(self, partition: int, decision: Decision) -> Request | str:
        """What the event at a decision's source asked, or what is there instead.

        A click asks for its user's next ranking. Where events are cut, the request before it may be
        gone: length and context are then the decision's own.
        """
        data = self._events[partition, decision.source]
        event = None if data is None else decode_event(data)
        if isinstance(event, Request):
            return event
        if not isinstance(event, Click) or partition not in self.cut:
            return "no event" if event is None else type(event).__name__.lower()
        return Request(
            id=f"refresh:{event.id}",
            user=event.user,
            at=event.at,
            k=decision.k,
            context=decision.context,
        )

    def learned(self, place: PartitionHead) -> None:
        """A record was learned: is it the one that its event implies?"""
        source = place.source
        implied = self._implied.pop(source, None)
        if source.partition in self.cut:
            self.records["unchecked"] += 1
        elif implied == place.chain:
            self.records["implied"] += 1
        else:
            self.records["strange"] += 1
            if source.partition not in {other.partition for other in self.strange}:
                self.strange.append(source)

    def _answer(self, partition: int, task: RankingTask) -> Decision:
        request = task.request
        data = self._decided.pop((partition, task.source, request.id), None)
        left_out = data is None and self._left_out(partition, task.source)
        if data is None and partition in self.cut:
            self.unsure += 1
        elif left_out:
            self.skipped += 1
        else:
            self.count += 1
        if data is not None:
            return decode_decision(data)
        if partition not in self.cut and not left_out:
            self.unanswered.append(request.id)
        return empty_decision(request, task.source)

    def _restarted(self, head: PartitionHead) -> tuple[int, Attribution]:
        """What joins events from a Restart on, and where that is."""
        fold, offset = Attribution(head.source.partition, self.rules), head.source.offset
        begins = Bookmark(
            ids_from=0,
            watermark=0,
            open_from=offset,
            rankings_from=0,
            last=head.source,
            chain=head.chain,
            rules=self.rules.digest,
        )
        fold.resume(begins)
        return offset, fold

    def _discards(self, partition: int, appended: int, event: Event) -> str | None:
        """Why a partition's owner does not fold an event, as in `agents.partition`."""
        if event.at > appended + DAY:
            return "future"
        if not isinstance(event, Tick) and self.owner(event.user) != partition:
            return "misrouted"
        return None
