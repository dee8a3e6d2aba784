"""Where files of snapshots lie: a local folder, or any fsspec URL. A name is there whole or not."""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from uuid import uuid4

PART = ".part"  # of a file being written; what a killed worker left is removed after an hour
STALE_SECONDS = 3600


class ObjectStore(Protocol):
    """A few files with names, no folders in it."""

    where: str

    def names(self) -> list[str]:
        """All names there are, in order."""
        ...

    def open(self, name: str) -> Any:
        """A context that gives (file, size)."""
        ...

    def put(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a file, replacing one of that name; nobody ever sees half of it."""
        ...

    def move(self, name: str, new: str) -> None:
        """Rename a file."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        ...


def object_store(url: str) -> ObjectStore:
    """The store at a path, a file:// URL, or another URL that fsspec knows."""
    if "://" not in url and "::" not in url:
        return LocalStore(Path(url))
    if url.startswith("file://"):
        return LocalStore(Path(url.removeprefix("file://")))
    return FsspecStore(url)


class LocalStore:
    """A local folder, made when it is first written to; files are for their owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        # Neither through a link to elsewhere nor from a pipe that never ends.
        handle = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{self.path / name} is not a plain file")
            yield file, found.st_size

    def put(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tidy()
        part = self.path / f".{name}.{uuid4().hex}{PART}"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(handle)
            part.replace(self.path / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._sync()

    def move(self, name: str, new: str) -> None:
        (self.path / name).rename(self.path / new)
        self._sync()

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def _sync(self) -> None:
        """A rename lasts once its folder is on disk."""
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _tidy(self) -> None:
        for part in self.path.glob(f".*{PART}"):
            with suppress(FileNotFoundError):
                if part.lstat().st_mtime < time.time() - STALE_SECONDS:
                    part.unlink()


class FsspecStore:
    """Any other file system of fsspec: s3://, gs://, memory:// ...; its package must be installed.

    There a file is written under another name, then moved.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._files, self._path = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"snapshot_url: nothing here opens {url.partition('://')[0]}:// ({error}); install "
                "its fsspec package, or use a folder"
            ) from None
        self.where = f"{url.partition('://')[0]}://{self._path.lstrip('/')}"

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.isdir(self._path):
            return []
        found = self._files.ls(self._path, detail=True)
        return sorted(str(e["name"]).rpartition("/")[2] for e in found if e["type"] == "file")

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        size = int(self._files.size(self._at(name)) or 0)
        with self._files.open(self._at(name), "rb") as file:
            yield file, size  # pyright: ignore[reportReturnType] - fsspec's files are binary here

    def put(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        self._files.makedirs(self._path, exist_ok=True)
        part = self._at(f".{name}.{uuid4().hex}{PART}")
        try:
            with self._files.open(part, "wb") as file:
                for piece in pieces:
                    file.write(bytes(piece))  # pyright: ignore[reportArgumentType]
            self._files.mv(part, self._at(name))
        except BaseException:
            with suppress(Exception):
                self._files.rm(part)
            raise

    def move(self, name: str, new: str) -> None:
        self._files.mv(self._at(name), self._at(new))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"
