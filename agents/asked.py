"""Which events asked for a ranking, which of them got one, and what exactly they asked."""

from collections import Counter
from collections.abc import Callable

from agents.attribution import Rules
from agents.partition import DAY, Received
from models.events import Click, Decision, Event, Invalid, Request, Tick, decode_event

NOTED = 10  # ids that a report spells out


class Asked:
    """Takes all decisions first, then all events, each partition in order.

    A message appended at 0 is taken to have come at its `at`. Keeps the bytes of the events that
    asked, and a mark a decision.

    >>> asked = Asked(Rules(), owner=lambda user: 0)
    >>> asked.event(0, Received(0, 7, b'{"type":"request","id":"r","user":"ann","at":7}'))
    >>> asked.count, list(asked.unanswered)
    (1, [(0, 'r')])
    """

    def __init__(self, rules: Rules, owner: Callable[[str], int]) -> None:
        self.rules = rules
        self.owner = owner
        self.count = 0
        self.unreadable = 0
        self.unanswered: dict[tuple[int, str], None] = {}
        self.discarded: Counter[str] = Counter()  # what asked, and rightly got no ranking
        self._answered: set[tuple[int, str]] = set()
        self._events: dict[tuple[int, int], bytes | None] = {}
        self._watermarks: Counter[int] = Counter()

    def decided(self, partition: int, decision: Decision) -> bool:
        """There is a ranking for the event it names; False if its id had one already."""
        self._events[partition, decision.source] = None
        before = len(self._answered)
        self._answered.add((partition, decision.id))
        return len(self._answered) > before

    def event(self, partition: int, message: Received) -> None:
        """Take a message of the events."""
        try:
            event = decode_event(message.data)
        except Invalid:
            self.unreadable += 1
            return
        where = partition, message.offset
        if where in self._events:
            self._events[where] = message.data
        reason = self._refuses(partition, message.appended or event.at, event)
        id = self._asks(event)
        if id is None:
            return
        if reason and (partition, id) not in self._answered:
            self.discarded[reason] += 1
            return
        self.count += 1
        if (partition, id) not in self._answered:
            self.unanswered[partition, id] = None

    def request(self, partition: int, decision: Decision) -> Request | str:
        """What the event at a decision's source asked, or what is there instead.

        A click asks for its user's next ranking; its length and context are the decision's own.
        """
        data = self._events[partition, decision.source]
        event = None if data is None else decode_event(data)
        if isinstance(event, Request):
            return event
        if not isinstance(event, Click):
            return "no event" if event is None else type(event).__name__.lower()
        return Request(
            id=f"refresh:{event.id}",
            user=event.user,
            at=event.at,
            k=decision.k,
            context=decision.context,
        )

    def _asks(self, event: Event) -> str | None:
        if isinstance(event, Request):
            return event.id
        return f"refresh:{event.id}" if isinstance(event, Click) and self.rules.refresh else None

    def _refuses(self, partition: int, appended: int, event: Event) -> str | None:
        """Why a worker makes nothing of an event, if so; as in `Partition` and `Attribution`."""
        if event.at > appended + DAY:
            return "future"
        if not isinstance(event, Tick) and self.owner(event.user) != partition:
            return "misrouted"
        mark = max(self._watermarks[partition], min(event.at, appended + self.rules.future))
        self._watermarks[partition] = mark
        return "too_late" if min(event.at, mark) < mark - self.rules.window else None
