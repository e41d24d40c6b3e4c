"""Snapshots as an operator sees them: files to list, to verify and to go back to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.epochs.disk import Folder
from pipeline.epochs.snapshot import HEADER_BYTES, LoadedSnapshot, epochs_among, name_of, saved_at, verified, whole
from pipeline.ports import SnapshotDamaged, SnapshotTooNew

ASIDE = ".aside"


@dataclass(frozen=True)
class Found:
    """A snapshot file.

    `saved_at` in ms, None if unknown. `checked` once every byte was read; `problem` is then what is wrong with it.
    """

    path: Path
    epoch: int
    size: int
    saved_at: int | None
    checked: bool = False
    problem: str | None = None

    def verified(self) -> Found:
        """The same, read and checked."""
        try:
            snapshot = verified(self.path.read_bytes(), self.epoch, str(self.path))
            whole(snapshot, str(self.path), lambda name: (self.path.parent / name).read_bytes())
        except (SnapshotDamaged, SnapshotTooNew, OSError) as error:
            return replace(self, checked=True, problem=str(error))
        return replace(self, checked=True)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"epoch": self.epoch, "bytes": self.size, "saved_at": self.saved_at}
        row["path"] = str(self.path)
        return row | ({"problem": self.problem} if self.checked else {})


class ReadSnapshots:
    """The snapshots of a folder for reading alone, whoever owns it: a `ports.SnapshotStore` that saves nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Raises OSError."""
        raise OSError("these snapshots are for reading")

    def epochs(self) -> list[int]:
        """Epochs of which there is a file, oldest first; none where there is no folder."""
        return epochs_among(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []

    def load(self, epoch: int) -> LoadedSnapshot:
        """A snapshot, verified; raises SnapshotDamaged, also where it was let go meanwhile, or SnapshotTooNew."""
        path = self._folder / name_of(epoch)
        try:
            return verified(path.read_bytes(), epoch, str(path))
        except OSError as error:
            raise SnapshotDamaged(f"{path}: {error.strerror}") from error


def found_in(folder: Path, epochs: Iterable[int] | None = None) -> list[Found]:
    """The snapshots of a folder, oldest first, or those of some epochs; raises ValueError where one is not there."""
    there = epochs_among(path.name for path in folder.iterdir())
    wanted = there if epochs is None else sorted(set(epochs))
    if missing := [epoch for epoch in wanted if epoch not in there]:
        raise ValueError(f"{folder}: no snapshot of epoch {missing[0]}")
    return [_found(folder / name_of(epoch), epoch) for epoch in wanted]


def restore(folder: Path, epoch: int) -> list[Path]:
    """Set newer snapshots aside, so that a start begins with this one, which is verified first.

    Raises FolderInUse while a learner runs, SnapshotDamaged, SnapshotTooNew.
    """
    disk = Folder(folder)
    try:
        found_in(folder, [epoch])
        path = str(folder / name_of(epoch))
        whole(verified(disk.read(name_of(epoch)), epoch, path), path, disk.read)
        newer = [name_of(other) for other in epochs_among(disk.names()) if other > epoch]
        for name in newer:
            disk.rename(name, name + ASIDE)
        disk.sync_names()
    finally:
        disk.close()
    return [folder / (name + ASIDE) for name in newer]


def told(found: Sequence[Found], as_json: bool = False) -> str:
    """A table, a line each, or JSON."""
    if as_json:
        return json.dumps([one.row() for one in found])
    if not found:
        return "there is no snapshot"
    lines = [f"{'epoch':>12}  {'saved (UTC)':20}{'MB':>9}"]
    for one in found:
        when = "unknown"
        if one.saved_at is not None:
            when = f"{datetime.fromtimestamp(one.saved_at / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        state = "" if not one.checked else "  whole" if one.problem is None else f"  {one.problem}"
        lines.append(f"{one.epoch:12}  {when:20}{one.size / 1e6:9.1f}{state}")
    return "\n".join(lines)


def _found(path: Path, epoch: int) -> Found:
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    return Found(path, epoch, path.stat().st_size, saved_at(start))
