"""Text as unit vectors without a model: words and their parts, hashed."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from models.base import Floats

_HAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: kana too
_RUNS = re.compile(rf"(?P<han>[{_HAN}]+)|[^\W_{_HAN}]+")
_HASH_RULES = "hash1"  # change with anything that changes HashEncoder's vectors


class HashEncoder:
    """Words and character n-grams hashed into signed places: no model, no download.

    Texts that share words or parts of words are near; meaning is not known. Chinese and
    Japanese run by characters and pairs. The same bits in every process and on every machine.

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
            if not row.any():  # nothing to go by, or everything cancelled
                self._add(row, "", 1)
        return (counts / np.sqrt((counts * counts).sum(axis=1, keepdims=True))).astype(np.float32)

    def _add(self, row: Any, part: str, weight: int) -> None:
        code = blake2b(part.encode("utf-8", "replace"), digest_size=8).digest()
        for half in (code[:4], code[4:]):  # two places: few short texts then fall together
            place = int.from_bytes(half, "little")
            row[(place >> 1) % self.dimensions] += weight if place & 1 else -weight


def _parts(text: str) -> Iterator[tuple[str, int]]:
    for match in _RUNS.finditer(unicodedata.normalize("NFKC", text).lower()):
        run = match.group()
        if match.lastgroup:
            yield from ((character, 1) for character in run)
            yield from ((run[i : i + 2], 2) for i in range(len(run) - 1))
        else:
            yield run, 3
            edged = f"<{run}>"
            yield from ((edged[i : i + 3], 1) for i in range(len(edged) - 2))
