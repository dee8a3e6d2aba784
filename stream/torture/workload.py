"""What a torture sends: what people do, and what goes wrong on the way, all from one seed."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from itertools import count
from random import Random

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from models.events import Click, Event, Impression, Item, Request, Reward, Tick, encode
from stream.kafka.topics import owner

HORIZON, EARLY, LATENESS = 20_000, 2_000, 20_000  # milliseconds of event time
WINDOW = HORIZON + EARLY + LATENESS
STEP = 10  # milliseconds of event time from one event to the next
RECENT = 5_000  # messages that may come again
CLOSING = 40  # ticks a partition at the end: at each of them at most a hundred decisions close


class SentMessage(Struct, frozen=True):
    """A message as it is sent; `bad` is how its dead letter must begin, if it is bad."""

    value: bytes
    user: str
    partition: int
    bad: str = ""


class SimulatedUsers(Struct, frozen=True, kw_only=True):
    """Who does what, when it begins (milliseconds), and where it goes.

    >>> people = SimulatedUsers(seed=1, begin=10**12, users=50, items=20, partitions=2)
    >>> first = next(load_messages(people))
    >>> first.partition == owner(first.user, 2), first == next(load_messages(people))
    (True, True)
    """

    seed: int
    begin: int
    users: int
    items: int
    partitions: int

    def stock(self) -> list[Item]:
        """The catalogue."""
        return [
            Item(id=f"item:{n}", title=f"title {n}", tags=(f"tag {n % 7}",), at=self.begin)
            for n in range(self.items)
        ]

    def sent(self, event: Event) -> SentMessage:
        """A message where its user's partition is."""
        user = "" if isinstance(event, Tick) else event.user
        return SentMessage(encode(event), user, owner(user, self.partitions))


def begins(now: int, events: int) -> int:
    """A time from which on so many events, and all horizons after them, are over before `now`."""
    return now - events * STEP - 2 * WINDOW - 120_000


def closing(people: SimulatedUsers, events: int) -> list[SentMessage]:
    """Ticks that close whatever is open after so many events."""
    at = people.begin + events * STEP + 2 * WINDOW
    tick = encode(Tick(at=at))
    return [SentMessage(tick, "", p) for _ in range(CLOSING) for p in range(people.partitions)]


def load_messages(people: SimulatedUsers) -> Iterator[SentMessage]:
    """All that is sent, for ever: a tenth late, 5% again, a tenth out of order, some bad."""
    rng = Random(people.seed)
    held: list[tuple[int, SentMessage]] = []  # at most some eighty
    recent: deque[SentMessage] = deque(maxlen=RECENT)
    bad = 0
    for n, event in enumerate(_lives(people, rng)):
        sent = people.sent(event)
        if rng.random() < 0.1:
            held.append((n + rng.randint(1, 80), sent))
        else:
            recent.append(sent)
            yield sent
        for due in [one for one in held if one[0] <= n]:
            held.remove(due)
            recent.append(due[1])
            yield due[1]
        turn = rng.random()
        if turn < 0.055:
            near = min(len(recent), 200 if turn < 0.05 else RECENT)
            if near:
                yield recent[-rng.randint(1, near)]
        elif turn < 0.06 and not isinstance(event, Tick):
            bad += 1
            yield _spoiled(people, rng, event, bad)


def _lives(people: SimulatedUsers, rng: Random) -> Iterator[Event]:
    """What people do, in order of time: ask, and then see, click and value what they got.

    Each user's requests are counted from 1, as within a session: ids that others have, too.
    """
    asked: list[Request] = []
    own = Counter[str]()
    times: list[int] = []
    clicks: deque[Click] = deque(maxlen=100)
    for n in count():
        at = people.begin + n * STEP
        kind = rng.random()
        if kind < 0.06 or not asked:
            user = f"user:{rng.randrange(people.users)}"
            own[user] += 1
            request = Request(id=f"r:{own[user]}", user=user, at=at, k=rng.randint(2, 6))
            if rng.random() < 0.1:  # somebody is faster than their own request
                yield _follows(people, rng, n, at, request.user, request.id, clicks)
            asked.append(request)
            times.append(at)
            yield request
            continue
        if kind < 0.062:
            yield Tick(at=at)
            continue
        about = _one(rng, asked, times, at)
        user, request_id = about.user, about.id
        turn = rng.random()
        if turn < 0.01:
            request_id = f"r:never:{n}"
        elif turn < 0.015:
            user = f"user:{rng.randrange(people.users)}"
        elif turn < 0.06:
            request_id = None
        elif turn < 0.09 and clicks:
            click = rng.choice(clicks)
            user, request_id = click.user, f"refresh:{click.id}"
        elif turn < 0.12:
            at -= rng.randrange(WINDOW)  # an old thing
        elif turn < 0.13:
            at -= WINDOW + rng.randrange(1, WINDOW)
        yield _follows(people, rng, n, at, user, request_id, clicks)


def _one(rng: Random, asked: list[Request], times: list[int], at: int) -> Request:
    """The request that an event is about: open, closed but correctable, or long forgotten."""
    turn = rng.random()
    if turn < 0.90:
        age = rng.randrange(HORIZON)
    elif turn < 0.98:
        age = HORIZON + rng.randrange(LATENESS)
    else:
        age = WINDOW + rng.randrange(WINDOW)
    return asked[min(len(asked) - 1, bisect_left(times, at - age))]


def _follows(
    people: SimulatedUsers,
    rng: Random,
    n: int,
    at: int,
    user: str,
    request: str | None,
    clicks: deque[Click],
) -> Event:
    kind = rng.random()
    item = f"item:{rng.randrange(int(people.items * 1.05))}"  # some of them unknown
    if kind < 0.09:
        click = Click(id=f"c:{n}", user=user, item=item, at=at, request=request)
        clicks.append(click)
        return click
    if kind < 0.35 and request is not None:
        shown = tuple(f"item:{rng.randrange(people.items)}" for _ in range(rng.randrange(5)))
        return Impression(id=f"i:{n}", request=request, user=user, at=at, shown=shown)
    thing = item if request is None or rng.random() < 0.5 else None
    value = round(rng.uniform(-2, 5), 1)
    return Reward(id=f"w:{n}", user=user, at=at, value=value, request=request, item=thing)


def _spoiled(people: SimulatedUsers, rng: Random, event: Event, n: int) -> SentMessage:
    """A bad message, and how its dead letter must begin."""
    user = getattr(event, "user", "ann")
    place = owner(user, people.partitions)
    request = Request(id=f"bad:{n}", user=user, at=event.at)
    whole = encode(request)
    fields = msgspec.json.decode(whole)
    table = [
        (whole[:-1], "invalid: "),
        (b"\xff\xfe\x00", "invalid: "),
        (msgspec.json.encode(fields | {"type": "purchase"}), "invalid: "),
        (msgspec.json.encode(fields | {"k": 0}), "invalid: "),
        (b"[]", "invalid: "),
        (encode(replace(request, at=event.at + 10**11)), "future: "),
        (whole, "misrouted: "),
        (whole, "misrouted: "),
    ]
    value, reason = table[n % len(table)]
    if reason == "misrouted: ":
        if people.partitions == 1:
            return SentMessage(b"", user, place, "invalid: ")
        place = (place + 1 + rng.randrange(people.partitions - 1)) % people.partitions
    return SentMessage(value, user, place, reason)
