"""Rows of a few numbers for each of many users, as bytes: four a number, the latest last."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.base import Arrays


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


def joined(rows: Sequence[bytes], width: int = 1) -> Arrays:
    """All rows one after the other, and where each ends, in cells of `width` numbers."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    cells = np.frombuffer(b"".join(rows), "<i4")
    return {
        "cells": cells.reshape(-1, width) if width > 1 else cells,
        "ends": np.cumsum(lengths) // (4 * width),
    }


def split(state: Arrays, rows: int, most: int) -> list[bytes]:
    """What `joined` made one; refuses another number of rows, and rows above `most` cells."""
    cells = np.ascontiguousarray(state["cells"], "<i4")
    bounds = starts(state["ends"], rows, len(cells), most)
    data = cells.tobytes()
    width = len(data) // max(len(cells), 1)
    return [data[a:b] for a, b in pairwise((bounds * width).tolist())]


def starts(ends: NDArray[np.int64], rows: int, cells: int, most: int) -> NDArray[np.int64]:
    """Where each row starts and the last one ends; refuses what does not add up."""
    bounds = np.concatenate([np.zeros(1, np.int64), ends])
    lengths = np.diff(bounds)
    if len(ends) != rows or bounds[-1] != cells:
        raise ValueError(f"{len(ends)} rows up to {bounds[-1]} are not {rows} of {cells} cells")
    if rows and not 0 <= lengths.min() <= lengths.max() <= most:
        raise ValueError(f"a row has from 0 to {most} cells, and not {lengths.min()}")
    return bounds
