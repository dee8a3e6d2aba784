"""The text of a Vowpal Wabbit example: numbers only, so that no string from outside can steer it.

Ids, tags, column names and context become 32-bit CRCs; the text then holds digits, signs, points
and our own namespace letters, whatever they were. Namespaces: U user, C context (shared by all
actions), x scalars, t tags, e projected text. Capitals sort first, so that Vowpal Wabbit, which
sorts the letters of an interaction, keeps the shared side in front.
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from zlib import crc32

from models.candidates import Candidates
from models.events import Features, Invalid

SHARED = "UC"
ITEM = "xte"
LARGEST = 1e6  # of a feature or a reward, in size

Context = Mapping[str, str | float | bool]
Pairs = list[tuple[int, float]]  # feature number and value


@lru_cache(maxsize=4096)
def number(text: str) -> int:
    """A string as a feature: equal in every process, digits only.

    >>> number("|x injected:9 ")
    2407226071
    """
    return crc32(text.encode("utf-8", "surrogatepass"))


def shared(user: str, context: Context) -> dict[str, Pairs]:
    """Who asks and where: flags and words as one feature each, numbers squashed by asinh."""
    pairs: Pairs = []
    for key in sorted(context):
        value = context[key]
        if isinstance(value, bool | str):
            pairs.append((number(f"{key}\0{type(value).__name__}\0{value}"), 1.0))
        else:
            pairs.append((number(key), math.asinh(finite(value, f"context {key!r}"))))
    return {"U": [(crc32(user.encode("utf-8", "surrogatepass")), 1.0)], "C": pairs}


def item(names: tuple[str, ...], features: Features) -> dict[str, Pairs]:
    """What a candidate is judged on."""
    if len(features.x) not in (0, len(names)):
        raise Invalid(f"x must have one value for each of {names}, got {len(features.x)}")
    return {
        "x": [(number(name), finite(v, name)) for name, v in zip(names, features.x, strict=False)],
        "t": [(number(tag), 1.0) for tag in features.tags],
        "e": [(i, finite(v, "text")) for i, v in enumerate(features.text)],
    }


def finite(value: float, what: str) -> float:
    """`value`, if Vowpal Wabbit can live with it: one NaN would spoil every weight it meets."""
    if not abs(value) <= LARGEST:
        raise Invalid(f"{what} must be finite and at most {LARGEST:,.0f} in size, got {value}")
    return value


def line(namespaces: Mapping[str, Pairs]) -> str:
    """The namespaces as text. Zeros are left out, as Vowpal Wabbit itself would; empty namespaces
    are not: a line without any is the end of an example, and its action would be lost.

    >>> line({"x": [(7, 0.5), (8, 0.0)], "t": [(9, 1.0)], "e": []})
    '|x 7:0.500000 |t 9 |e'
    """
    return " ".join(f"|{letter}{_features(pairs)}" for letter, pairs in namespaces.items())


def _features(pairs: Iterable[tuple[int, float]]) -> str:
    return "".join(
        f" {i}" if value == 1.0 else f" {i}:{value:.6f}" for i, value in pairs if value != 0.0
    )


def label(reward: float, propensity: float) -> str:
    """The shown action's label: cost is the negative reward."""
    if not 0.0 < propensity <= 1.0:
        raise Invalid(f"propensity must be in (0, 1], got {propensity}")
    return f"0:{-finite(reward, 'reward'):.6f}:{max(propensity, 1e-6):.6f}"


def example(user: str, context: Context, candidates: Candidates) -> list[str]:
    """All candidates of a request, as lines to predict from."""
    items = (
        line(item(candidates.names, candidates.features(i))) for i in range(len(candidates.items))
    )
    return ["shared " + line(shared(user, context)), *items]
