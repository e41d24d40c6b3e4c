"""Checksums of what an epoch read and did, chained from epoch to epoch."""

from __future__ import annotations

import hashlib
import platform
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import crc32c
import msgspec
import torch

from pipeline.messages import Range, Record, TopicPartition, encode
from pipeline.settings import Settings

START = "0" * 64
LEARNS = 4
"""Raised with every change after which the same events teach other bits: a start then says so (`digest-reset`)."""
TOGETHER = 1024
_OFFSET_LENGTH, _LENGTH = struct.Struct(">qi").pack, struct.Struct(">i").pack


def record_crc(records: Iterable[Record], crc: int = 0) -> int:
    """CRC-32C over offset, key and value of each record, as `messages.Range` defines it."""
    # Not one by one: what it costs to ask is more than what it costs to add a record up.
    rest = iter(records)
    while framed := b"".join(map(_framed, islice(rest, TOGETHER))):
        crc = crc32c.crc32c(framed, crc)
    return crc


def _framed(record: Record) -> bytes:
    key, value = record.key, record.value
    return b"%b%b%b%b" % (
        _OFFSET_LENGTH(record.offset, -1 if key is None else len(key)), key or b"",
        _LENGTH(-1 if value is None else len(value)), value or b"",
    )  # fmt: skip


def ranges_of(
    records: Sequence[Record], before: Mapping[TopicPartition, int], after: Mapping[TopicPartition, int]
) -> tuple[Range, ...]:
    """The ranges read between two sets of positions; a partition that did not move has none."""
    by_partition: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        by_partition.setdefault((record.topic, record.partition), []).append(record)
    ranges = []
    for tp, stop in sorted(after.items()):
        start = before.get(tp, 0)
        if stop > start:
            read = by_partition.get((tp.topic, tp.partition), [])
            ranges.append(Range(tp.topic, tp.partition, start, stop, len(read), record_crc(read)))
    return tuple(ranges)


def chained_input(previous: str, ranges: Sequence[Range]) -> str:
    """Hex SHA-256 of the previous input digest and this epoch's ranges."""
    return hashlib.sha256(bytes.fromhex(previous) + encode(ranges)).hexdigest()


class StateDigest:
    """Hex SHA-256 over the previous state digest, every loss's bits and every published byte of this epoch."""

    def __init__(self, previous: str) -> None:
        self._hash = hashlib.sha256(bytes.fromhex(previous))

    def loss(self, value: float) -> None:
        """Add a loss, bit for bit."""
        self._hash.update(struct.pack("<d", value))

    def published(self, key: bytes, value: bytes | None) -> None:
        """Add a published record."""
        self._hash.update(struct.pack("<i", len(key)) + key)
        self._hash.update(struct.pack("<i", -1 if value is None else len(value)) + (value or b""))

    def hex(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def config_hash(settings: Settings) -> str:
    """16 hex digits over every setting that changes what is learned or published; where it runs or lies does not.

    Each manifest says its epoch's effort for itself.
    """
    relevant = settings.model_dump(mode="json", include={"seed", "learning", "publishing"})
    for key in ("device", "threads", "effort", "users_in_memory"):
        relevant["learning"].pop(key)
    relevant["encoder"] = settings.encoding.model
    return hashlib.sha256(msgspec.json.encode(relevant, order="sorted")).hexdigest()[:16]


def fingerprint(device: torch.device, threads: int) -> str:
    """What the bits of a result depend on beside the input: software, processor features, device, threads."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    software = f"learns-{LEARNS} torch-{torch.__version__} python-{platform.python_version()}"
    return f"{software} {platform.machine()} {_processor()} {chip} threads-{threads}"


def _processor() -> str:
    """Vendor, family and model: numerical libraries choose their kernels by it, beyond what features tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    said = {key.strip(): value.strip() for key, value in known.items()}
    return "-".join(said.get(key, "?") for key in ("vendor_id", "cpu family", "model"))


def threads_of(fingerprint: str) -> int:
    """The number of threads that a fingerprint names.

    >>> threads_of("torch-2 python-3.11 x86_64 AVX512 threads-2")
    2
    """
    return int(fingerprint.rsplit("threads-", 1)[1])
