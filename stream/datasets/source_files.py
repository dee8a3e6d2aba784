"""Files of other data sets: where they lie, how they are encoded, and rows that know their line."""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

MAX_LINE = 1_000_000  # characters
MAX_ID = 2**63 - 1
BOM = b"\xef\xbb\xbf"
_SEPARATORS = ",;\t|"
_UTF16 = "is UTF-16, not UTF-8; save it as UTF-8, e.g. with iconv -f utf-16 -t utf-8"
_SIGNATURES = {
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"\x00": _UTF16,
    b"\x1f\x8b": "is compressed by gzip; unpack it (a log's name may end in .gz instead)",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is a Parquet file (a log's name must end in .parquet then)",
}


def foreign_signature(head: bytes) -> str | None:
    """What a file is that by its first four bytes is no UTF-8 text, and what to do about it.

    >>> foreign_signature(b"user"), foreign_signature(BOM + b"u")
    (None, None)
    >>> foreign_signature(b"PK\\x03\\x04")
    'is a zip archive; unpack it'
    """
    for signature, says in _SIGNATURES.items():
        if head.startswith(signature):
            return says
    return _UTF16 if b"\x00" in head[:4] else None


class Row(Struct, frozen=True):
    """A row of a table. Its cells are checked as they are asked for; errors name file and line."""

    path: Path
    line: int
    columns: Mapping[str, int]
    cells: Sequence[str]

    def text(self, column: str) -> str:
        """A cell without the blanks around it."""
        return self.cells[self.columns[column]].strip()

    def whole(self, column: str, least: int = 0, most: int = MAX_ID, hint: str = "") -> int:
        """A cell as a whole number; ids, too, are numbers in all data sets read here."""
        text = self.text(column)
        if text.isdigit() and text.isascii() and len(text) < 20:
            value = int(text)
            if least <= value <= most:
                return value
        limit = f"from {least} to {most}" if most < MAX_ID else f"of at least {least}"
        raise self.error(f"{column} must be a whole number {limit}, got {text[:80]!r}{hint}")

    def number(self, column: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A cell as a finite number."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and least <= value <= most:
            return value
        limit = f" from {least:g} to {most:g}" if math.isfinite(most) else ""
        raise self.error(f"{column} must be a number{limit}, got {text[:80]!r}")

    def error(self, says: object) -> ValueError:
        return ValueError(f"{self.path}:{self.line}: {says}")

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Name file and line in a ValueError raised within."""
        try:
            yield
        except ValueError as error:
            raise self.error(error) from None


def csv_rows(path: Path, *columns: str) -> Iterator[Row]:
    """The rows of a table whose first line names at least `columns`, in any order.

    Separated by commas, semicolons, tabs or bars, whichever the first line has.
    """
    lines = iter(_lines(path))
    number, header = next(((n, line) for n, line in lines if line.strip()), (0, ""))
    found = {separator: _names(header, separator) for separator in _SEPARATORS}
    separator = max(found, key=lambda separator: len(set(columns) & set(found[separator])))
    names = found[separator]
    if missing := sorted(set(columns) - set(names)):
        first = f"is {header.strip()[:200]!r}" if header else "is not there: the file is empty"
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}; its first line must name them, and "
            f"{first}"
        )
    if twice := [column for column in columns if names.count(column) > 1]:
        raise ValueError(f"{path}:{number}: the column {twice[0]} is there twice; rename one")
    rows = _parsed(path, number, (line for _, line in lines), separator)
    yield from _whole_rows(path, rows, names, separator, "; quote cells that hold a separator")


def separated_rows(path: Path, separator: str, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a table without header and quotation marks.

    Lines that are no UTF-8 are read as Latin-1: so old MovieLens files are written.
    """
    lines = ((n, line.rstrip("\r\n")) for n, line in _lines(path, latin1=True))
    rows = ((n, line.split(separator)) for n, line in lines)
    yield from _whole_rows(path, rows, columns, separator)


def find_folder(given: Path, holds: Callable[[Path], bool], wanted: str, name: str) -> Path:
    """`given`, or the one folder in it, that holds a data set."""
    if holds(given):
        return given
    inside = sorted(given.iterdir()) if given.is_dir() else []
    found = [path for path in inside if path.is_dir() and holds(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path) for path in found)
        raise ValueError(f"{given} holds more than one such data set; name one of {names}")
    packed = [path for path in inside if path.suffix in (".zip", ".gz", ".tgz", ".tar")]
    what = str(packed[0]) if packed else name
    raise FileNotFoundError(f"no {wanted} in {given} or a folder in it; unpack {what} there")


def _names(header: str, separator: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error:  # a field without end
        return []


def _parsed(
    path: Path, before: int, lines: Iterator[str], separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Rows of CSV, each with the number of its first line."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    first = before + 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}:{first}: {error}; is a quotation mark left open or not doubled?"
            ) from None
        if cells is None:
            return
        yield first, cells
        first = before + 1 + reader.line_num


def _whole_rows(
    path: Path,
    rows: Iterable[tuple[int, list[str]]],
    names: Sequence[str],
    separator: str,
    remedy: str = "",
) -> Iterator[Row]:
    """All but blank rows, which must be at least one and have a cell for each name."""
    columns = {name: i for i, name in enumerate(names)}
    empty = True
    for line, cells in rows:
        if len(cells) <= 1 and not any(map(str.strip, cells)):
            continue
        if len(cells) != len(names):
            few = "few" if len(cells) < len(names) else "many"
            raise ValueError(
                f"{path}:{line}: too {few} columns, {len(cells)} for {len(names)} separated by "
                f"{separator!r}{remedy}"
            )
        empty = False
        yield Row(path, line, columns, cells)
    if empty:
        raise ValueError(f"{path} holds no row; it was cut off, or its data are elsewhere")


def _lines(path: Path, *, latin1: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, without a byte order mark."""
    with path.open("rb") as file:
        if says := foreign_signature(file.read(4)):
            raise ValueError(f"{path} {says}")
    # Bytes that are no UTF-8 become lone surrogates, which tell their line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), 1):
            if len(line) == MAX_LINE:
                raise ValueError(f"{path}:{number}: a line has less than {MAX_LINE:,} characters")
            if line.isascii():
                yield number, line
                continue
            data = line.encode(errors="surrogateescape")
            try:
                yield number, data.decode()
            except UnicodeDecodeError as error:
                if latin1:
                    yield number, data.decode("latin-1")
                    continue
                raise ValueError(
                    f"{path}:{number}: byte 0x{data[error.start]:02x} is no UTF-8; save the file "
                    "as UTF-8, e.g. with iconv -f latin1 -t utf-8"
                ) from None
