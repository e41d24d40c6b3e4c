"""Snapshots on disk: whole or absent, checksummed over every byte, the newest few kept."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipeline.ports import SnapshotDamaged

MAGIC = b"HEADRACE"
FORMAT = 2
_NAME = re.compile(r"^epoch-(\d{12})\.snapshot$")
_HEAD = struct.Struct("<8sIQQ")
_SUM = hashlib.sha256().digest_size


class SnapshotFolderInUse(RuntimeError):
    """Another process writes to the snapshot folder."""


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
    crash it is there whole or not at all.
    """

    def __init__(self, folder: Path, kept: int = 2) -> None:
        """Takes the folder, made with mode 0700 if need be; raises SnapshotFolderInUse if another process has it."""
        self._folder = folder
        self._kept = kept
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SnapshotFolderInUse(f"{folder}: another process writes its snapshots here") from None
        for leftover in folder.glob("*.partial"):
            leftover.unlink()

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a snapshot and let the oldest go; raises OSError where it cannot, and then nothing changed."""
        text = json.dumps(header, sort_keys=True).encode()
        body = safetensors.torch.save(_unshared(tensors))
        head = _HEAD.pack(MAGIC, FORMAT, epoch, len(text))
        final = self._path(epoch)
        partial = final.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                digest = hashlib.sha256()
                for part in (head, text, body):
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())
            partial.rename(final)
            os.fsync(self._lock)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        for old in self.epochs()[: -self._kept]:
            self._path(old).unlink()

    def epochs(self) -> list[int]:
        """Epochs of which there is a file, oldest first."""
        found = (_NAME.match(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def load(self, epoch: int) -> LoadedSnapshot:
        """A snapshot, every byte verified; raises SnapshotDamaged."""
        path = self._path(epoch)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise SnapshotDamaged(f"{path}: {error.strerror}") from error
        if len(raw) < _HEAD.size + _SUM or hashlib.sha256(raw[:-_SUM]).digest() != raw[-_SUM:]:
            raise SnapshotDamaged(f"{path}: its checksum does not match: it was cut or changed")
        magic, version, of_epoch, length = _HEAD.unpack_from(raw)
        if magic != MAGIC or version != FORMAT:
            raise SnapshotDamaged(f"{path}: format {version}, this version reads format {FORMAT}")
        if of_epoch != epoch:
            raise SnapshotDamaged(f"{path}: holds epoch {of_epoch}")
        body = raw[_HEAD.size + length : -_SUM]
        return LoadedSnapshot(json.loads(raw[_HEAD.size : _HEAD.size + length]), safetensors.torch.load(body))

    def close(self) -> None:
        """Give the folder up."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _path(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:012d}.snapshot"


def _unshared(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each in memory of its own: safetensors refuses any two that share some."""
    own: dict[str, torch.Tensor] = {}
    storages = set()
    for name, tensor in tensors.items():
        whole = tensor.contiguous()
        storage = whole.untyped_storage().data_ptr()
        own[name] = whole.clone() if storage in storages else whole
        storages.add(storage)
    return own


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
