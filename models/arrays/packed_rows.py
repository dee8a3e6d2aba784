"""Rows of a few numbers for each of many users, as bytes: four a number, the latest last."""

from array import array
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.arrays.lru_index import copied
from models.base import Arrays

TOGETHER = 8  # rows in one piece of memory


def cell(number: int) -> bytes:
    """A number below 2**32 as it stands in a row."""
    return number.to_bytes(4, "little")


def numbers(row: bytes) -> list[int]:
    """The numbers of a row.

    >>> numbers(cell(7) + cell(1))
    [7, 1]
    """
    return memoryview(row).cast("i").tolist()


def position(row: bytes, cell: bytes, width: int = 4) -> int:
    """Where in `row` the first cell of `width` bytes that begins with `cell` is, -1 if nowhere.

    >>> position(bytes(3) + b"a" + bytes(4) + b"a" + bytes(7), b"a" + bytes(3))
    8
    """
    at = row.find(cell)
    while at % width and at > 0:
        at = row.find(cell, at + 1)
    return at


class PackedRows:
    """Many rows of at most `most` numbers. Some share one piece of memory: alone each costs twice.

    Bound: some 10 bytes a row besides its numbers.

    >>> rows = PackedRows(most=2)
    >>> rows.append()
    >>> rows[0] = cell(7) + cell(1)
    >>> numbers(rows[0]), len(rows)
    ([7, 1], 1)
    """

    def __init__(self, most: int) -> None:
        if not 1 <= most < 2**16:
            raise ValueError(f"a row has from 1 to {2**16 - 1} numbers at most, got {most}")
        self.most = most
        self._blocks: list[bytes] = []  # of TOGETHER rows each, one after the other
        self._sizes = array("H")  # by row: its numbers

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, row: int) -> bytes:
        sizes, block = self._sizes, row // TOGETHER
        start = 4 * sum(sizes[block * TOGETHER : row])
        return self._blocks[block][start : start + 4 * sizes[row]]

    def __setitem__(self, row: int, cells: bytes) -> None:
        sizes, block = self._sizes, row // TOGETHER
        start, before = 4 * sum(sizes[block * TOGETHER : row]), self._blocks[block]
        self._blocks[block] = before[:start] + cells + before[start + 4 * sizes[row] :]
        sizes[row] = len(cells) // 4

    def append(self) -> None:
        """One more row, empty."""
        if len(self._sizes) % TOGETHER == 0:
            self._blocks.append(b"")
        self._sizes.append(0)

    def state(self, width: int = 1) -> Arrays:
        """All rows one after the other, and where each ends, in cells of `width` numbers."""
        cells = np.frombuffer(b"".join(self._blocks), "<i4")
        sizes = np.frombuffer(self._sizes, np.uint16)
        return {
            "cells": cells.reshape(-1, width) if width > 1 else cells,
            "ends": np.cumsum(sizes, dtype=np.int64) // width,
        }

    def load(self, state: Arrays, rows: int) -> None:
        """Replace all by what `state` returned; refuses another number of rows than `rows`."""
        cells = np.ascontiguousarray(state["cells"], "<i4")
        width = cells.size // max(len(cells), 1)
        bounds = starts(state["ends"], rows, len(cells), self.most // max(width, 1)) * width
        data, cuts = cells.tobytes(), [*(4 * bounds[:-1:TOGETHER]).tolist(), cells.nbytes]
        self._blocks = [data[a:b] for a, b in pairwise(cuts)]
        self._sizes = copied("H", np.diff(bounds).astype(np.uint16))


def starts(ends: NDArray[np.int64], rows: int, cells: int, most: int) -> NDArray[np.int64]:
    """Where each row starts and the last one ends; refuses what does not add up."""
    bounds = np.concatenate([np.zeros(1, np.int64), ends])
    lengths = np.diff(bounds)
    if len(ends) != rows or bounds[-1] != cells:
        raise ValueError(f"{len(ends)} rows up to {bounds[-1]} are not {rows} of {cells} cells")
    if rows and not 0 <= lengths.min() <= lengths.max() <= most:
        raise ValueError(f"a row has from 0 to {most} cells, and not {lengths.min()}")
    return bounds
