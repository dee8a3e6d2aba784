"""What becomes of each message of a log file: none is left out without a word."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from agents.attribution import Attribution, AttributionRules, empty_decision
from models.events import Event, Request, Tick

TOLERATED = 0.01  # share of a log that may be left out before there is a warning
FATES = (
    "asked",
    "attributed",
    "organic",
    "late",
    "tick",
    "duplicate",
    "too_late",
    "orphan",
    "waiting",
    "unread",
)
LEFT_OUT = ("duplicate", "too_late")  # of these nothing is learned
UNJOINED = ("orphan", "waiting")  # these teach what users like, and reward no decision
REMEDIES = {
    "duplicate": "a user's event with an id that came before is the same event; give each an id "
    "of its own",
    "orphan": "they name a request that is not in the log, is another user's or is long closed; "
    "keep requests and what follows them in one log",
}


class LogAccounting(Struct, frozen=True, kw_only=True):
    """Each message of a log, counted once: `messages` is the sum of `items`, `items_after_log`,
    `fates` and `unused`.

    `fates` are those of the log's `what`, events or outcomes; for events they are the worker's
    counters, and `unread` is what comes after the limit. `unlisted` and `out_of_order` count
    events once more: those on an item that the catalogue did not have at that time, and those that
    lay behind a later one in the file.

    >>> print(LogAccounting(messages=3, what="events", items=1, fates={"organic": 2}))
    2 events: 2 organic; 1 item version
    """

    messages: int
    what: str
    fates: dict[str, int]
    items: int = 0
    items_after_log: int = 0
    unused: dict[str, int] = {}  # by type: of no use to the command
    unlisted: int = 0
    out_of_order: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def read(self) -> int:
        """How many events, or outcomes, there are."""
        return sum(self.fates.values())

    def __str__(self) -> str:
        parts = [counted(self.fates, self.what)]
        if self.items:
            parts.append(f"{self.items:,} item version{'s' * (self.items > 1)}")
        if self.items_after_log:
            parts.append(f"{self.items_after_log:,} after the log")
        parts += [f"{n:,} {name} of no use here" for name, n in sorted(self.unused.items())]
        return "; ".join(parts)


def counted(fates: Mapping[str, int], what: str) -> str:
    """How many there were, and what became of them.

    >>> counted({"organic": 1200, "duplicate": 3}, "events")
    '1,203 events: 1,200 organic, 3 duplicate'
    """
    of = ", ".join(f"{n:,} {fate.replace('_', ' ')}" for fate, n in fates.items())
    return f"{sum(fates.values()):,} {what}" + (f": {of}" if of else "")


def share(count: int, total: int) -> str:
    """A part of a whole.

    >>> share(495, 900)
    '495 of 900'
    """
    return f"{count:,} of {total:,}"


class CountedEvents(Struct, frozen=True):
    """Which of some events are of use, what became of all, and an example of each fate."""

    kept: tuple[bool, ...]
    fates: dict[str, int]
    examples: dict[str, Event]


def count_events(events: Sequence[Event], rules: AttributionRules) -> CountedEvents:
    """What attribution makes of events in the order of time, each request answered at once.

    >>> from models.events import Click
    >>> click = Click(id="c", user="u", item="i", at=5)
    >>> counted = count_events([click, click], AttributionRules())
    >>> counted.kept, counted.fates
    ((True, False), {'organic': 1, 'duplicate': 1})
    """
    fold = Attribution(0, structs.replace(rules, refresh=False))
    kept: list[bool] = []
    examples: dict[str, Event] = {}
    asked = {(event.user, event.id) for event in events if isinstance(event, Request)}
    for event in events:
        caused = fold(fold.next, event.at, event)
        for task in caused.tasks:
            fold.decided(empty_decision(task.request, task.source))
        kept.append(caused.fate not in LEFT_OUT)
        if caused.fate != "waiting" or not joins(event, asked):
            examples.setdefault("orphan" if caused.fate == "waiting" else caused.fate, event)
    return CountedEvents(
        tuple(kept), {name: n for name in FATES if (n := fold.counts[name])}, examples
    )


def joins(event: Event, asked: set[tuple[str, str]]) -> bool:
    """True if the log holds the request that an event names."""
    return not isinstance(event, Request | Tick) and (event.user, event.request or "") in asked


def left_out_warnings(fates: Mapping[str, int], examples: Mapping[str, Event]) -> list[str]:
    """What is to be said if more than 1% of a log's events were left out or joined nothing."""
    total = sum(fates.values())
    groups = {"duplicate": LEFT_OUT, "orphan": UNJOINED}
    sums = {name: sum(fates.get(one, 0) for one in group) for name, group in groups.items()}
    if sum(sums.values()) <= TOLERATED * total:
        return []
    found: list[str] = []
    for name, group in groups.items():
        if sums[name]:
            what = "were left out" if name == "duplicate" else "join no request"
            of = ", ".join(
                f"{fates[one]:,} {one.replace('_', ' ')}" for one in group if one in fates
            )
            example = examples.get(name)
            such = f", for example {named(example)}" if example is not None else ""
            found.append(
                f"{share(sums[name], total)} events ({sums[name] / total:.1%}) {what}: {of}{such}; "
                f"{REMEDIES[name]}"
            )
    return found


def named(event: Event) -> str:
    """An event as a person finds it in the file.

    >>> named(Request(id="r", user="u", at=5))
    "request 'r' of 'u'"
    """
    kind = event.__struct_config__.tag
    return (
        f"{kind} at {event.at}"
        if isinstance(event, Tick)
        else (f"{kind} {event.id!r} of {event.user!r}")
    )
