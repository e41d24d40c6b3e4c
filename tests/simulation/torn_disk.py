"""A disk that keeps its word and no more: after a crash, what was synced is there, and of the rest any part."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass
class _File:
    """`safe` is what a crash cannot take; None, before the first sync: not even that there are bytes."""

    data: bytes
    safe: bytes | None = None


class TornDisk:
    """A `Disk`. Each call is an effect: it may crash before it, or find the disk full.

    `promised` is the newest epoch of which a save has returned, `busy` says that one is under way.
    """

    def __init__(self, effect: Callable[[str], str | None], name: str) -> None:
        self._effect = effect
        self._name = name
        self.promised: int | None = None
        self.busy = False
        self._files: dict[str, _File] = {}
        self._safe_files: dict[str, _File] = {}
        self._changes: list[tuple[str, _File | None]] = []

    def __str__(self) -> str:
        return self._name

    def names(self) -> list[str]:
        return list(self._files)

    def read(self, name: str, most: int = -1) -> bytes:
        self._effect("read")
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        data = self._files[name].data
        return data if most < 0 else data[:most]

    def read_at(self, name: str, start: int, size: int) -> bytes:
        return self.read(name)[start : start + size]

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        data = b"".join(parts)
        full = self._effect("write") == "full"
        self._set(name, _File(data[: len(data) // 2] if full else data))
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", name)

    def sync(self, name: str) -> None:
        self._effect("sync")
        self._files[name].safe = self._files[name].data

    def rename(self, name: str, to: str) -> None:
        self._effect("rename")
        file = self._files[name]
        self._set(to, file)
        self._set(name, None)

    def remove(self, name: str) -> None:
        if name in self._files:
            self._effect("remove")
            self._set(name, None)

    def sync_names(self) -> None:
        self._effect("sync-names")
        self._safe_files = dict(self._files)
        self._changes = []

    def close(self) -> None:
        """Nothing to give up."""

    def crash(self, chance: random.Random) -> None:
        """The power goes: of names changed since the last sync any may be as before, of bytes any may be missing."""
        self.busy = False
        kept = dict(self._safe_files)
        for name, file in self._changes:
            if chance.random() < 0.5:
                if file is None:
                    kept.pop(name, None)
                else:
                    kept[name] = file
        for file in kept.values():
            file.data = file.safe = _torn(file, chance)
        self._files, self._safe_files, self._changes = dict(kept), kept, []

    def flip(self, chance: random.Random) -> str | None:
        """One bit of one file turns over; gives the file's name."""
        names = sorted(name for name, file in self._files.items() if file.data)
        if not names:
            return None
        file = self._files[chance.choice(names)]
        raw = bytearray(file.data)
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        file.data = bytes(raw)
        file.safe = None if file.safe is None else file.data
        return next(name for name in names if self._files[name] is file)

    def wipe(self) -> None:
        """Somebody empties the folder."""
        self._files, self._safe_files, self._changes = {}, {}, []

    def _set(self, name: str, file: _File | None) -> None:
        self._changes.append((name, file))
        if file is None:
            self._files.pop(name, None)
        else:
            self._files[name] = file


def _torn(file: _File, chance: random.Random) -> bytes:
    if file.safe == file.data:
        return file.data
    cut = chance.randrange(len(file.data) + 1)
    return chance.choice((file.safe or b"", file.data[:cut], file.data[:cut] + bytes(len(file.data) - cut), file.data))
