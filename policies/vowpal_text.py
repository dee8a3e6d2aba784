"""The text of a Vowpal Wabbit example: numbers only, so that no string from outside can steer it.

Ids, tags, column names and context become 32-bit CRCs; the text then holds digits, signs, points
and our own namespace letters, whatever they were. Namespaces: U user, C context (shared by all
actions), x scalars, t tags, e projected text. Capitals sort first, so that Vowpal Wabbit, which
sorts the letters of an interaction, keeps the shared side in front.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from zlib import crc32

from models.candidates import Candidates
from models.events import Features, InvalidMessageError
from models.fields import EXACT

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
            bounded = finite(value, f"context {key!r}", EXACT)
            pairs.append((number(key), math.asinh(bounded)))
    return {"U": [(crc32(user.encode("utf-8", "surrogatepass")), 1.0)], "C": pairs}


@lru_cache(maxsize=256)
def namespace(letter: str, names: tuple[str, ...]) -> str:
    """A namespace of named numbers, waiting for its values."""
    return " ".join([f"|{letter}", *(f"{number(name)}:%.6f" for name in names)])


@lru_cache(maxsize=8)
def dimensions(count: int) -> tuple[str, ...]:
    """The names of a text's projected dimensions.

    >>> dimensions(2)
    ('text 0', 'text 1')
    """
    return tuple(f"text {i}" for i in range(count))


def item(names: tuple[str, ...], features: Features) -> str:
    """What a candidate is judged on. Empty namespaces stay: a line without any is the end of an
    example to Vowpal Wabbit, and its action would be lost.

    >>> item(("knn",), Features((0.5,), (), (0.25,)))
    '|x 3937925029:0.500000 |t |e 1049447096:0.250000'
    """
    x, text = features.x, features.text
    if len(x) not in (0, len(names)):
        raise InvalidMessageError(f"x must have one value for each of {names}, got {len(x)}")
    finite(sum(map(abs, x)) + sum(map(abs, text)), "the size of x and text together")
    return " ".join(
        (
            namespace("x", names if x else ()) % x,
            "|t",
            *(str(number(tag)) for tag in features.tags),
            namespace("e", dimensions(len(text))) % text,
        )
    )


def finite(value: float, what: str, largest: float = LARGEST) -> float:
    """`value`, if Vowpal Wabbit can live with it: one NaN would spoil every weight it meets."""
    if not abs(value) <= largest:
        raise InvalidMessageError(
            f"{what} must be finite and at most {largest:,.0f} in size, got {value}"
        )
    return value


def label(reward: float, propensity: float, weigh: bool) -> str:
    """The shown action's label: cost is the negative reward; with `weigh`, of weight 1/propensity.

    >>> label(1.0, 0.25, weigh=False)
    '0:-1.000000:1.000000'
    """
    if not 0.0 < propensity <= 1.0:
        raise InvalidMessageError(f"propensity must be in (0, 1], got {propensity}")
    chance = max(propensity, 1e-6) if weigh else 1.0
    return f"0:{-finite(reward, 'reward'):.6f}:{chance:.6f}"


def head(who: Mapping[str, Pairs]) -> str:
    """The line that all actions of an example share.

    >>> head({"U": [(7, 1.0)], "C": [(8, 0.5)]})
    'shared |U 7:1.000000 |C 8:0.500000'
    """
    spaces = (f"|{a} " + " ".join(f"{i}:{v:.6f}" for i, v in pairs) for a, pairs in who.items())
    return "shared " + " ".join(spaces)


def example(user: str, context: Context, candidates: Candidates) -> list[str]:
    """All candidates of a request, as lines to predict from."""
    every = map(candidates.features, range(len(candidates.items)))
    return [head(shared(user, context)), *(item(candidates.names, one) for one in every)]
