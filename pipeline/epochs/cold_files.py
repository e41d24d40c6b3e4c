"""The cold store on disk: what is paged out, in files beside the snapshots that name them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.epochs.disk import PARTIAL, Disk
from pipeline.learning.paging import MemoryColdStore
from pipeline.ports import ColdDamaged

_NAME = re.compile(r"^cold-(\d{12})-([0-9a-f]{32})\.segment$")


class FileColdStore:
    """Segments in a snapshot folder. A `ports.ColdStore`.

    A segment is written beside and renamed, and waited for by the snapshot that
    names it first (`FileSnapshotStore.save`), which also removes those that no
    snapshot names any more: until then it is no more than what a replay makes again.
    """

    def __init__(self, disk: Disk) -> None:
        """Shares the folder of a snapshot store, which owns it."""
        self._disk = disk

    def write(self, name: str, block: bytes) -> None:
        """Write a segment, unless it is there already. Raises OSError."""
        if name not in self._disk.names() or is_damaged(self._disk.read, name):
            self._disk.write(f"{name}{PARTIAL}", [block])
            self._disk.rename(f"{name}{PARTIAL}", name)

    def read(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a segment; raises ColdDamaged where it cannot be read."""
        try:
            return self._disk.read_at(name, start, size)
        except OSError as error:
            raise ColdDamaged(f"{self._disk}/{name}: {error.strerror}") from error

    def released(self, name: str) -> None:
        """Snapshots may name it yet."""


class ReadColdStore(MemoryColdStore):
    """For whoever only reads beside the learner: what it pages out itself stays in memory. A `ports.ColdStore`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(keeps=True)
        self._folder = folder

    def read(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a segment; raises ColdDamaged where it cannot be read."""
        if name in self.blocks:
            return super().read(name, start, size)
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise ColdDamaged(f"{self._folder / name}: {error.strerror}") from error


def is_damaged(read: Callable[[str], bytes], name: str) -> bool:
    """Whether a segment's bytes, as `read` gives them, are not those that its name says, or cannot be read."""
    named = _NAME.match(name)
    try:
        return named is None or not hashlib.sha256(read(name)).hexdigest().startswith(named[2])
    except OSError:
        return True


def unneeded(names: Iterable[str], needed: Iterable[str], next_number: int) -> list[str]:
    """The segments among files that no snapshot needs and that are older than what was written since the newest."""
    found = [(name, _NAME.match(name)) for name in set(names) - set(needed)]
    return sorted(name for name, named in found if named and int(named[1]) < next_number)
