"""Text as unit vectors without a model: words and their parts, hashed."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby
from typing import Any

import numpy as np

from models.base import Floats

_HASH_RULES = "hash2"  # change with anything that changes HashEncoder's vectors
# Letters and symbols that show nothing (Hangul fillers, the blank Braille cell), or that stand for
# something lost (the object and the replacement character).
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufffc\ufffd")
# Written without spaces: kana, Han.
_HAN = (("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"))


def says_nothing(text: str) -> bool:
    """Whether no letter, digit or symbol is in a text that one can see.

    Blanks, zero widths, controls, private use, punctuation, and marks without a letter say nothing.

    >>> [says_nothing(text) for text in ("", " \u200b\ufeff", "...!", "\u3164", "7", "🎉")]
    [True, True, True, True, False, False]
    """
    normal = unicodedata.normalize("NFKC", text)
    return not any(
        unicodedata.category(character)[0] in "LNS" and character not in _BLANK
        for character in normal
    )


class HashEncoder:
    """Words and character n-grams hashed into signed places: no model, no download.

    Texts that share words or parts of words are near; meaning is not known. Chinese, Japanese and
    symbols run by characters and pairs. The same bits in every process and on every machine.

    >>> a, b, c = HashEncoder().encode(["a red fox", "red foxes", "tax law"])
    >>> bool(a @ b > a @ c)
    True
    """

    def __init__(self, dimensions: int = 64) -> None:
        if not 8 <= dimensions <= 4_096:
            raise ValueError(f"dimensions must be in 8 to 4,096, got {dimensions}")
        self.dimensions = dimensions
        self.version = f"{_HASH_RULES}/numpy/float32/{dimensions}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """One unit vector a text, shape (len(texts), dimensions)."""
        counts = np.zeros((len(texts), self.dimensions))
        for row, text in zip(counts, texts, strict=True):
            for part, weight in _parts(text):
                self._add(row, part, weight)
            salted = text
            while not row.any():  # nothing to go by, or everything cancelled
                self._add(row, salted, 1)
                salted += " "
        return (counts / np.sqrt((counts * counts).sum(axis=1, keepdims=True))).astype(np.float32)

    def _add(self, row: Any, part: str, weight: int) -> None:
        code = blake2b(part.encode("utf-8", "replace"), digest_size=8).digest()
        for half in (code[:4], code[4:]):  # two places: few short texts then fall together
            place = int.from_bytes(half, "little")
            row[(place >> 1) % self.dimensions] += weight if place & 1 else -weight


def _parts(text: str) -> Iterator[tuple[str, int]]:
    for kind, characters in groupby(unicodedata.normalize("NFKC", text).lower(), _kind):
        run = "".join(characters)
        if kind == "single":
            yield from ((character, 1) for character in run)
            yield from ((run[i : i + 2], 2) for i in range(len(run) - 1))
        elif kind == "word" and not says_nothing(run):
            yield run, 3
            edged = f"<{run}>"
            yield from ((edged[i : i + 3], 1) for i in range(len(edged) - 2))


@lru_cache(1 << 14)
def _kind(character: str) -> str:
    """`word`, `single` or nothing; marks belong to words: in Thai they are the vowels."""
    if character in _BLANK:
        return ""
    group = unicodedata.category(character)[0]
    if group == "S" or any(first <= character <= last for first, last in _HAN):
        return "single"
    return "word" if group == "M" or character.isalnum() else ""
