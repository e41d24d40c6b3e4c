"""A folder on disk that one process owns, as the few operations that a crash can come between."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""After the name of a file that is not whole yet."""


class FolderInUse(RuntimeError):
    """Another process owns the folder."""


class Disk(Protocol):
    """What `FileSnapshotStore` needs of a folder. Any call may raise OSError.

    After a crash there is what was synced: the bytes of a file after `sync`,
    names (made, changed or removed) after `sync_names`. Of the rest any part may be there.
    """

    def names(self) -> list[str]:
        """The files, in no order."""
        ...

    def read(self, name: str, most: int = -1) -> bytes:
        """All bytes of a file, or the first few."""
        ...

    def read_at(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes of a file from `start` on."""
        ...

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Make or replace a file; its bytes may still be in memory."""
        ...

    def sync(self, name: str) -> None:
        """Wait until a file's bytes are on disk."""
        ...

    def rename(self, name: str, to: str) -> None:
        """Give a file another name; one that has it is replaced, all at once."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def sync_names(self) -> None:
        """Wait until the folder's names are on disk."""
        ...

    def close(self) -> None:
        """Give the folder up. Idempotent."""
        ...


class Folder:
    """A `Disk` on a file system. Made with mode 0700, its files 0600; owned through flock until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises FolderInUse if another process has it."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # a umask takes away more than is meant, never less
        except FileExistsError:
            _warn_if_open(path)
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise FolderInUse(f"{path}: another process writes its snapshots here") from None

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> list[str]:
        """The files, in no order."""
        return os.listdir(self._path)

    def read(self, name: str, most: int = -1) -> bytes:
        """All bytes of a file, or the first few."""
        with (self._path / name).open("rb") as file:
            return file.read(most)

    def read_at(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes of a file from `start` on."""
        handle = os.open(self._path / name, os.O_RDONLY)
        try:
            return os.pread(handle, size, start)
        finally:
            os.close(handle)

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Make or replace a file, readable by its owner alone."""
        handle = os.open(self._path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)  # whatever the umask, and the mode of a file that was there
            file.writelines(parts)

    def sync(self, name: str) -> None:
        """fsync of a file."""
        handle = os.open(self._path / name, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, name: str, to: str) -> None:
        """Atomic, within the folder."""
        (self._path / name).rename(self._path / to)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def sync_names(self) -> None:
        """fsync of the folder."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Give the folder up."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class FileNote:
    """A `poison.Note` in a file, readable by its owner alone; not waited for: a crash of the machine may lose it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1
        self._failing = False

    def read(self) -> bytes:
        """What was written last; empty if nothing was, or it cannot be read."""
        try:
            return self._path.read_bytes()
        except OSError:
            return b""

    def write(self, text: bytes) -> None:
        """Replace it; a disk that cannot take it is told of once."""
        try:
            if self._handle < 0:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(self._handle, text, 0)
            os.ftruncate(self._handle, len(text))
            self._failing = False
        except OSError as error:
            if not self._failing:
                log.warning("%s: %s: attempts that end the process are not counted", self._path, error.strerror)
            self._failing = True
            self.close()

    def close(self) -> None:
        """Let the file go. Idempotent."""
        if self._handle >= 0:
            with suppress(OSError):
                os.close(self._handle)
        self._handle = -1


def _warn_if_open(path: Path) -> None:
    """Who made a folder chose who may look into it; snapshots hold what users did."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        log.warning("%s: others on this machine can get at the snapshots (mode %04o); chmod 700 ends that", path, mode)
