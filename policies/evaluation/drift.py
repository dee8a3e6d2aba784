"""When what is earned changed: ADWIN (Bifet & Gavaldà 2007, "Learning from time-changing data")."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from river.drift import ADWIN

MOST_NAMES = 20  # of context that are looked at: those that most requests have


def changes(values: Iterable[float], delta: float = 0.002) -> list[int]:
    """After how many values a change of the mean was noticed, each time.

    `delta` bounds how likely a false alarm is. Noticed is later than happened.

    >>> changes([0.0, 1.0] * 500), changes([0.0, 1.0] * 250 + [1.0, 2.0] * 250)
    ([], [544])
    """
    window = ADWIN(delta=delta)
    found: list[int] = []
    for i, value in enumerate(values, 1):
        window.update(value)
        if window.drift_detected:
            found.append(i)
    return found


def context_changes(
    contexts: Sequence[Mapping[str, str | float | bool]], delta: float = 0.002
) -> dict[str, list[int]]:
    """The same for each value of a context, over the requests in their order.

    Of words it is the share of the most common one; where a name is missing, that counts as 0.

    >>> contexts = [{"page": "home" if n < 500 else "shop", "hour": n % 24} for n in range(1000)]
    >>> context_changes(contexts)
    {'page': [512], 'hour': []}
    """
    names = Counter(name for context in contexts for name in context).most_common(MOST_NAMES)
    found: dict[str, list[int]] = {}
    for name, _ in names:
        values = [context.get(name, 0.0) for context in contexts]
        words = Counter(value for value in values if isinstance(value, str)).most_common(1)
        common = words[0][0] if words else None
        found[name] = changes(
            (float(value == common) if words else float(value) for value in values), delta
        )
    return found
