"""When what is earned changed: ADWIN (Bifet & Gavaldà 2007, "Learning from time-changing data")."""

from collections.abc import Iterable

from river.drift import ADWIN


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
