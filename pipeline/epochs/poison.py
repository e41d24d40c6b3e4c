"""Poison: a record on which the step fails every time. It is found by halving the batch, and becomes a dead letter.

A step that fails takes the state with it, so each attempt starts from the log
again. What was tried and came of it is therefore written down outside the state
(`Note`): an attempt that took the whole process along is counted by the next one.
"""

from __future__ import annotations

import logging
import traceback
import zlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Protocol

import msgspec

from pipeline.messages import Poisoned, Record, TopicPartition
from pipeline.ports import Positions

log = logging.getLogger(__name__)

PATIENCE = 2
"""Attempts in vain at a batch before it is halved: whatever passes by itself has passed by then."""
FAILURES = 3
"""Attempts in vain at one record alone before it is set apart."""
DEATHS = 5
"""The same, where some ended the process: that may have had another cause."""
MOST_IN_A_ROW = 10
"""Records set apart with none learned between them; one more, and it is not the records' fault."""


class StepFailed(RuntimeError):
    """The step raised on these records; `__cause__` is what it raised. The state is lost."""


class NotTheRecords(RuntimeError):
    """The step fails whatever it is given: going on would set every record apart."""


class Note(Protocol):
    """A few bytes that outlive the process, if not always the machine."""

    def read(self) -> bytes:
        """What was written last; empty if nothing was, or it cannot be read."""
        ...

    def write(self, text: bytes) -> None:
        """Replace it. Raises nothing: without a note an attempt that ends the process is not counted."""
        ...


class MemoryNote:
    """A note that lives as long as the process."""

    def __init__(self) -> None:
        self._text = b""

    def read(self) -> bytes:
        """What was written last."""
        return self._text

    def write(self, text: bytes) -> None:
        """Replace it."""
        self._text = text


class _Trial(msgspec.Struct):
    """The attempt under way or the last in vain: of `size` records, at `place` (a checksum of the positions).

    `suspects` records are left of a batch that failed; until they are learned,
    batches have at most `limit` records.
    """

    place: int = 0
    size: int = 0
    record: tuple[str, int, int] | None = None
    underway: bool = False
    failures: int = 0
    deaths: int = 0
    reason: str = ""
    suspects: int = 0
    limit: int = 0
    condemned: tuple[Poisoned, ...] = ()
    in_a_row: int = 0


class Trials:
    """Which records the next attempt may take, and which of them are known to be poison. Not thread-safe.

    For each attempt `begin`, then `failed` or `survived`, then `committed` once it is. While all is `calm` the
    next attempt may begin before that, and `committed` be left out.
    """

    def __init__(self, note: Note) -> None:
        """Goes on from what the note says. Raises NotTheRecords."""
        self._note = note
        try:
            self._trial = msgspec.json.decode(note.read(), type=_Trial)
        except msgspec.MsgspecError:
            self._trial = _Trial()
        if self._trial.underway:
            self._trial.deaths += 1
            self._trial.reason = "the process ended in it"
            self._conclude()

    @property
    def suspecting(self) -> bool:
        """Whether a batch has failed of which not all records are learned yet."""
        return self._trial.suspects > 0

    @property
    def calm(self) -> bool:
        """Whether no record is suspected, and none that was set apart is still to come, or the last to be committed."""
        return not (self._trial.suspects or self._trial.in_a_row or self._trial.condemned)

    @property
    def halving(self) -> bool:
        """Whether it failed so often that it is taken in parts: further starts are likely."""
        return self.suspecting and self._trial.limit > 0

    def most(self, usual: int) -> int:
        """How many records the next attempt takes, at most."""
        return min(usual, self._trial.limit) if self.halving else usual

    def begin(self, positions: Positions, records: Sequence[Record]) -> tuple[Poisoned, ...]:
        """An attempt at these records, from these positions; gives those of them that are poison."""
        trial = self._trial
        trial.condemned = tuple(p for p in trial.condemned if p.offset >= positions.get(_place(p), 0))
        condemned = {(p.topic, p.partition, p.offset): p for p in trial.condemned}
        tried = [key for key in map(_key, records) if key not in condemned]
        place, record = zlib.crc32(repr(sorted(positions.items())).encode()), tried[0] if len(tried) == 1 else None
        if (place, record) != (trial.place, trial.record):
            trial.failures = trial.deaths = 0
        trial.place, trial.record, trial.size, trial.underway = place, record, len(tried), True
        self._write()
        return tuple(condemned[key] for key in map(_key, records) if key in condemned)

    def failed(self, error: Exception) -> None:
        """The step raised. Raises NotTheRecords where no record is to blame."""
        trial = self._trial
        trial.failures += 1
        trial.reason = said(error)
        if trial.size == 0:
            trial.underway = False
            self._write()
            raise NotTheRecords(f"the step fails without any record: {trial.reason}") from error
        self._conclude()

    def survived(self) -> None:
        """The step is done, or failed for what no record is to blame."""
        self._trial.underway = False
        self._write()

    def committed(self) -> None:
        """And its epoch is committed."""
        trial = self._trial
        if trial.size:
            trial.in_a_row = 0
        if self.suspecting:
            trial.suspects = max(trial.suspects - trial.size, 0)
            if not trial.suspects:
                trial.limit = 0
                log.info("the batch that failed is learned; batches are as large as before")

    def _conclude(self) -> None:
        """From one more attempt in vain."""
        trial = self._trial
        trial.underway = False
        vain = trial.failures + trial.deaths
        if trial.size == 1:
            trial.suspects = trial.limit = 1
            if trial.failures >= FAILURES or vain >= DEATHS:
                self._condemn()
        elif trial.size > 1:
            trial.suspects = trial.size
            if trial.limit or vain >= PATIENCE:
                trial.limit = max(trial.size // 2, 1)
                trial.failures = trial.deaths = 0
                log.warning("the step fails on %d records; taking %d at a time", trial.size, trial.limit)
        self._write()

    def _condemn(self) -> None:
        trial = self._trial
        assert trial.record is not None
        if trial.in_a_row >= MOST_IN_A_ROW:
            self._write()
            raise NotTheRecords(
                f"the step fails on every record, {MOST_IN_A_ROW} are set apart already: {trial.reason}"
            )
        trial.in_a_row += 1
        topic, partition, offset = trial.record
        reason = f"the step failed on it {trial.failures + trial.deaths} times: {trial.reason}"
        trial.condemned += (Poisoned(topic, partition, offset, reason),)
        trial.failures = trial.deaths = trial.suspects = trial.limit = 0
        log.error("%s-%d offset %d is set apart as a dead letter: %s", topic, partition, offset, reason)

    def _write(self) -> None:
        self._note.write(msgspec.json.encode(self._trial))


def said(error: BaseException) -> str:
    """What an exception says, and where it was raised, in one line.

    >>> said(ValueError("too\\nlong"))
    'ValueError: too long'
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def _key(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _place(poisoned: Poisoned) -> TopicPartition:
    return TopicPartition(poisoned.topic, poisoned.partition)
