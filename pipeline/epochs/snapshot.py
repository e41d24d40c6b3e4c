"""Snapshots on disk: whole or absent, checksummed over every byte, the newest few kept."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.epochs.cold_files import is_damaged, unneeded
from pipeline.epochs.disk import PARTIAL, Disk, Folder
from pipeline.epochs.ladder import Ladder
from pipeline.epochs.tensors import ALIGNED, packed, unpacked
from pipeline.ports import SnapshotDamaged, SnapshotStore, SnapshotTooNew

MAGIC = b"HEADRACE"
FORMAT = 6
HEADER_BYTES = 1 << 18
"""Of a file, to find its header in."""
_NAME = re.compile(r"^epoch-(\d{12})\.snapshot$")
_ANY_NAME = re.compile(r"^epoch-\d{12}\.snapshot(\.aside)?$")
_HEAD = struct.Struct("<8sIQQ")
_SUM = hashlib.sha256().digest_size


@dataclass(frozen=True)
class LoadedSnapshot:
    """A verified snapshot: see `ports.Snapshot`."""

    header: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


class FileSnapshotStore:
    """A folder of files `epoch-N.snapshot`.

    A file is the magic, the format's version, the epoch, the header's length,
    the header as JSON, the tensors as safetensors, and the SHA-256 of all that. It is
    written beside, flushed to disk, renamed, and the folder flushed: after a
    crash it is there whole or not at all. Which old ones stay, by the time
    `saved_at` in their headers, is the ladder's to say.
    """

    def __init__(self, folder: Path | Disk, ladder: Ladder | int = 2) -> None:
        """Takes the folder, made with mode 0700 if need be; raises FolderInUse if another process has it.

        A number in place of a ladder keeps so many of the newest.
        """
        self._disk = Folder(folder) if isinstance(folder, Path) else folder
        self._ladder = ladder if isinstance(ladder, Ladder) else Ladder(ladder)
        self._saved_at: dict[int, int | None] = {}
        self._durable: set[str] = set()
        for name in self._disk.names():
            if name.endswith(PARTIAL):
                self._disk.remove(name)

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a snapshot, let go what the ladder does; raises OSError where it cannot, and then nothing changed."""
        text = json.dumps(header, sort_keys=True).encode()
        text += b" " * (-(_HEAD.size + len(text)) % ALIGNED)
        parts = [_HEAD.pack(MAGIC, FORMAT, epoch, len(text)), text, *packed(tensors)]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        disk, final = self._disk, name_of(epoch)
        partial = f"{final}{PARTIAL}"
        try:
            self._settle(header.get("segments", ()))
            disk.write(partial, [*parts, digest.digest()])
            disk.sync(partial)
            disk.rename(partial, final)
            disk.sync_names()
        except OSError:
            with suppress(OSError):
                disk.remove(partial)
            raise
        self._saved_at[epoch] = header.get("saved_at")
        self._prune()
        self._let_go(header.get("next_segment", 0))

    def epochs(self) -> list[int]:
        """Epochs of which there is a file, oldest first."""
        return epochs_among(self._disk.names())

    def load(self, epoch: int) -> LoadedSnapshot:
        """A snapshot, every byte verified; raises SnapshotDamaged, SnapshotTooNew."""
        path = f"{self._disk}/{name_of(epoch)}"
        try:
            raw = self._disk.read(name_of(epoch))
        except OSError as error:
            raise SnapshotDamaged(f"{path}: {error.strerror}") from error
        self._durable.clear()
        return whole(verified(raw, epoch, path), path, self._disk.read)

    def close(self) -> None:
        """Give the folder up."""
        self._disk.close()

    def _settle(self, segments: Iterable[str]) -> None:
        """Have segments on disk for good, before a snapshot names them."""
        if fresh := [name for name in segments if name not in self._durable]:
            for name in fresh:
                self._disk.sync(name)
            self._disk.sync_names()
            self._durable.update(fresh)

    def _let_go(self, next_number: int) -> None:
        """Remove the segments that no snapshot, set aside or not, names any more."""
        names = self._disk.names()
        if not unneeded(names, (), next_number):
            return
        snapshots = [header_of(self._disk.read(name, HEADER_BYTES)) for name in names if _ANY_NAME.match(name)]
        needed = {name for header in snapshots for name in header.get("segments", ())}
        if gone := unneeded(names, needed, next_number):
            # A removed snapshot must not come back after a crash when its segments do not.
            self._disk.sync_names()
            for name in gone:
                self._disk.remove(name)
                self._durable.discard(name)

    def _prune(self) -> None:
        epochs = self.epochs()
        if len(epochs) <= self._ladder.newest:
            return
        kept = self._ladder.kept({epoch: self._time(epoch) for epoch in epochs})
        for epoch in epochs:
            if epoch not in kept:
                self._disk.remove(name_of(epoch))
                self._saved_at.pop(epoch, None)

    def _time(self, epoch: int) -> int | None:
        if epoch not in self._saved_at:
            try:
                self._saved_at[epoch] = saved_at(self._disk.read(name_of(epoch), HEADER_BYTES))
            except OSError:
                return None
        return self._saved_at[epoch]


def name_of(epoch: int) -> str:
    """The file that a snapshot of this epoch is."""
    return f"epoch-{epoch:012d}.snapshot"


def epochs_among(names: Iterable[str]) -> list[int]:
    """The epochs of those files that are snapshots by their names, in order."""
    return sorted(int(match[1]) for match in map(_NAME.match, names) if match)


def header_of(start: bytes) -> dict[str, Any]:
    """A snapshot's header by the file's first bytes, which nobody has verified; empty where they hold none."""
    try:
        *_, length = _HEAD.unpack_from(start)
        header = json.loads(start[_HEAD.size : _HEAD.size + length])
    except (struct.error, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def saved_at(start: bytes) -> int | None:
    """When a snapshot was saved (ms), by the file's first bytes; None where they do not tell."""
    at = header_of(start).get("saved_at")
    return at if isinstance(at, int) else None


def whole(snapshot: LoadedSnapshot, path: str, read: Callable[[str], bytes]) -> LoadedSnapshot:
    """A snapshot if the segments that it names are as they were written; raises SnapshotDamaged. Every byte is read."""
    if damaged := [name for name in snapshot.header.get("segments", ()) if is_damaged(read, name)]:
        raise SnapshotDamaged(f"{path}: what it has paged out is not as it was written: {', '.join(damaged)}")
    return snapshot


def verified(raw: bytes, epoch: int, path: str) -> LoadedSnapshot:
    """The snapshot of an epoch in a file's bytes; raises SnapshotDamaged, SnapshotTooNew, naming `path`."""
    if len(raw) < _HEAD.size + _SUM or hashlib.sha256(memoryview(raw)[:-_SUM]).digest() != raw[-_SUM:]:
        raise SnapshotDamaged(f"{path}: its checksum does not match: it was cut or changed")
    magic, version, of_epoch, length = _HEAD.unpack_from(raw)
    if magic == MAGIC and version > FORMAT:
        raise SnapshotTooNew(f"{path}: written by a later version of Headrace (format {version}, here {FORMAT})")
    if magic != MAGIC or version != FORMAT:
        raise SnapshotDamaged(f"{path}: format {version}, this version reads format {FORMAT}")
    if of_epoch != epoch:
        raise SnapshotDamaged(f"{path}: holds epoch {of_epoch}")
    body = memoryview(raw)[_HEAD.size + length : -_SUM]
    return LoadedSnapshot(json.loads(raw[_HEAD.size : _HEAD.size + length]), unpacked(body))


class MemorySnapshotStore:
    """Snapshots that live as long as the process: for tests and for running without a disk."""

    def __init__(self) -> None:
        self._held: dict[int, LoadedSnapshot] = {}

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep a copy."""
        copied = {name: tensor.clone() for name, tensor in tensors.items()}
        self._held[epoch] = LoadedSnapshot(json.loads(json.dumps(header)), copied)

    def epochs(self) -> list[int]:
        """Epochs kept, oldest first."""
        return sorted(self._held)

    def load(self, epoch: int) -> LoadedSnapshot:
        """The copy; raises SnapshotDamaged where there is none."""
        if epoch not in self._held:
            raise SnapshotDamaged(f"no snapshot of epoch {epoch}")
        held = self._held[epoch]
        return LoadedSnapshot(held.header, {name: tensor.clone() for name, tensor in held.tensors.items()})


class ChosenSnapshots(MemorySnapshotStore):
    """Those of a store's snapshots that are wanted, by epoch; what is saved here stays in memory."""

    def __init__(self, store: SnapshotStore, wanted: Callable[[int], bool]) -> None:
        super().__init__()
        self._store = store
        self._wanted = wanted

    def epochs(self) -> list[int]:
        """As the store has them, of those wanted."""
        return [epoch for epoch in self._store.epochs() if self._wanted(epoch)]

    def load(self, epoch: int) -> Any:
        """As the store does."""
        return self._store.load(epoch)
