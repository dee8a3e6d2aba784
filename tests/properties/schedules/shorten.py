"""A failing schedule made short, and told as a story."""

from collections.abc import Iterator

from msgspec import structs

from agents.errors import LogError
from tests.properties.schedules.chance import Frames, Schedule
from tests.properties.schedules.logs import World
from tests.properties.schedules.play import Parts, Play
from tests.properties.schedules.truth import BrokenPromiseError, Kind, judge

LINES = 30  # of a story are shown
TRIES = 1_500


def play(
    seed: int, parts: Parts, schedule: Schedule | None = None, *, telling: bool = False
) -> tuple[World, BrokenPromiseError | None]:
    """One schedule: its logs, and what went wrong if something did."""
    world = World(
        seed, schedule, attribution=parts.attribution, ledger=parts.ledger, telling=telling
    )
    try:
        running = Play(world, parts)
        running.run()
        judge(running)
    except BrokenPromiseError as wrong:
        return world, wrong
    except (AssertionError, LogError, RuntimeError, ValueError, LookupError) as error:
        kind: Kind = "lost" if "did not come to an end" in str(error) else "wrong"
        return world, BrokenPromiseError(kind, f"{type(error).__name__}: {error}")
    return world, None


def shorten(schedule: Schedule, parts: Parts, tries: int = TRIES) -> Schedule:
    """Leave out steps, events and faults for as long as something still goes wrong."""
    left = tries

    def fails(other: Schedule) -> bool:
        nonlocal left
        left -= 1
        return play(0, parts, other)[1] is not None

    while left > 0:
        before = schedule
        for name in ("steps", "events"):
            size = max(1, len(getattr(schedule, name)) // 2)
            while size and left > 0:
                at = len(getattr(schedule, name)) - size
                while at > -size and left > 0:
                    frames: Frames = getattr(schedule, name)
                    cut = frames[: max(at, 0)] + frames[max(at, 0) + size :]
                    other = structs.replace(schedule, **{name: cut})
                    if len(cut) < len(frames) and fails(other):
                        schedule = other
                    at -= size
                size //= 2
        for other in calmer(schedule):
            if left > 0 and fails(other):
                schedule = other
                break
        if schedule == before:
            break
    return schedule


def calmer(schedule: Schedule) -> Iterator[Schedule]:
    """The same with one knob, event or step at its peaceful choice."""
    for n, value in enumerate(schedule.knobs):
        if value:
            knobs = [*schedule.knobs[:n], 0, *schedule.knobs[n + 1 :]]
            yield structs.replace(schedule, knobs=knobs)
    for name in ("steps", "events"):
        frames: Frames = getattr(schedule, name)
        for n, frame in enumerate(frames):
            if any(frame):
                yield structs.replace(schedule, **{name: [*frames[:n], [], *frames[n + 1 :]]})


def story(seed: int, parts: Parts) -> str:
    """A failing schedule, shortened and in words."""
    world, wrong = play(seed, parts)
    if wrong is None:
        return f"schedule {seed} goes well"
    short = shorten(world.schedule, parts)
    world, wrong = play(0, parts, short, telling=True)
    lines = told(world)
    lines.append(f"=> {wrong}")
    head = f"schedule {seed}, shortened to {len(short.events)} events and {len(short.steps)} steps:"
    return "\n".join([head, *lines[-LINES:]])


def told(world: World) -> list[str]:
    """The events, then what happened."""
    events = [
        f"events[{log.number}] {message.offset} at {message.appended}: {message.data.decode()}"
        for log in world.logs
        for message in log.events
    ]
    return [*events, *(world.story or [])]
