"""The seams: what the core needs from the outside, as Protocols. Every implementation runs tests/conformance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import Manifest, Message, Output, Range, Record, TopicPartition

if TYPE_CHECKING:
    # Whoever only publishes needs not wait for Torch to load.
    import torch

Positions = Mapping[TopicPartition, int]


class LogGap(RuntimeError):
    """The log no longer holds, or holds otherwise, what a manifest's range names."""


class Fenced(RuntimeError):
    """Another instance has taken over; this one must stop for good."""


class CommitUnknown(RuntimeError):
    """The transaction may or may not have committed: drop all state and recover."""


Decoder = Callable[[Record], Message]
"""Record → message; raises `messages.Undecodable` with a reason a person can read."""


class Clock(Protocol):
    """Wall clock."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...


class Stream(Protocol):
    """The part of a `Source` that reads on: all that a stateless stage needs, whoever assigns its partitions."""

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """As `Source.poll`."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """As `Source.positions`, of the partitions owned now."""
        ...

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """As `Source.high_watermarks`, of the partitions owned now of which an end was heard."""
        ...


class Source(Protocol):
    """Where records come from. Offsets are the log's own; only committed records are seen.

    Not thread-safe.
    """

    def partitions(self) -> list[TopicPartition]:
        """The input partitions that exist now, sorted."""
        ...

    def starts(self) -> dict[TopicPartition, int]:
        """The first offset that each of `partitions` still holds: where a first start begins."""
        ...

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets: exactly these partitions, nothing else."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records` next records, each partition's in offset order; [] after `timeout_s` without any.

        Raises `LogGap` where a position lies outside what the log still holds.
        """
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to read of each assigned partition: past transaction markers, never past an unread record."""
        ...

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """The end of each assigned partition, as last heard; for measuring lag."""
        ...

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The records of these ranges again, range by range, in offset order.

        Leaves `positions` as they were. Raises `LogGap`, naming the range,
        where a range starts before what the log holds or ends after it.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class Sink(Protocol):
    """Where results go: one transaction per epoch. Not thread-safe."""

    def start(self) -> None:
        """Fence any predecessor and abort what it left open. Must come before `manifests`."""
        ...

    def manifests(self, start: int = 0) -> Iterator[Manifest]:
        """The committed manifests of this shard from an offset of the epochs topic on, oldest first."""
        ...

    def commit(self, outputs: Sequence[Output], manifest: Manifest | None, positions: Positions) -> int:
        """Write outputs, manifest and consumed positions in one transaction; returns the manifest's offset or -1.

        On return all of it is committed, and every record was acknowledged.
        Raises `Fenced`, or `CommitUnknown` for anything else that leaves doubt;
        after either the sink is of no more use: close it, make a new one.
        """
        ...

    def close(self) -> None:
        """Let go of connections; an open transaction is left to be fenced. Idempotent."""
        ...


class Encoder(Protocol):
    """Text → embedding."""

    @property
    def identity(self) -> str:
        """Hash of the model and all that shapes its vectors; changes when they would."""
        ...

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), width] float32, each row of unit length; the empty text gives zeros."""
        ...


class Snapshot(Protocol):
    """A loaded snapshot."""

    @property
    def header(self) -> Mapping[str, Any]:
        """What was given as header to `save`."""
        ...

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What was given as tensors to `save`, bit for bit."""
        ...


class SnapshotStore(Protocol):
    """Where the learner's state is kept between runs: a cache of the log."""

    def save(self, epoch: int, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Durable and whole on return, or an OSError and nothing changed."""
        ...

    def epochs(self) -> list[int]:
        """The epochs of which a snapshot is kept, oldest first (not yet verified)."""
        ...

    def load(self, epoch: int) -> Snapshot:
        """Verified snapshot of `epoch`.

        Raises `SnapshotDamaged` where a byte is not as it was written,
        `SnapshotTooNew` where a later version wrote it.
        """
        ...


class ColdStore(Protocol):
    """Where what is paged out of the learner's state lies: blocks that never change, beside the snapshots."""

    def write(self, name: str, block: bytes) -> None:
        """Keep a block; durable once a snapshot that names it is. Raises OSError."""
        ...

    def read(self, name: str, start: int, size: int) -> bytes:
        """At most `size` bytes of a block from `start` on; raises ColdDamaged where they cannot be had."""
        ...

    def released(self, name: str) -> None:
        """The state needs the block no more; a snapshot may."""
        ...


class ColdDamaged(RuntimeError):
    """What was paged out is not there as it was written: this state is lost, the log and the snapshots have it."""


class SnapshotTooNew(RuntimeError):
    """A snapshot in a format that this version does not know yet."""


class SnapshotDamaged(RuntimeError):
    """A snapshot whose bytes are not those that were written."""
