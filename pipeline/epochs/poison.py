"""Poison: a record on which the step fails every time. It is found by halving the batch, and becomes a dead letter.

A step that fails takes the state with it, so each attempt starts from the log
again. What was tried and came of it is therefore written down outside the state
(`Note`): an attempt that took the whole process along is counted by the next one.
"""

from __future__ import annotations

import logging
import traceback
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


_Spot = tuple[TopicPartition, int]
"""An offset of a partition."""


class _Alone(msgspec.Struct):
    """A record that was tried alone in vain, and how often."""

    spot: _Spot
    failures: int = 0
    deaths: int = 0


class _Trial(msgspec.Struct):
    """The attempt under way, or the last: at `size` records, all before `ends`; at `record`, where it is one.

    `suspects` says where a batch that failed ends. Until all before it is learned,
    `vain` counts the attempts at several records that failed since the last
    halving, whatever is learned between them, and batches have at most `limit`
    records, if that is not 0. `alone` are of records not learned yet.
    """

    size: int = 0
    ends: tuple[_Spot, ...] = ()
    record: _Spot | None = None
    underway: bool = False
    reason: str = ""
    suspects: tuple[_Spot, ...] = ()
    vain: int = 0
    limit: int = 0
    alone: tuple[_Alone, ...] = ()
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
            self._trial.reason = "the process ended in it"
            self._conclude(deaths=1)

    @property
    def suspecting(self) -> bool:
        """Whether a batch has failed of which not all records are learned yet."""
        return bool(self._trial.suspects)

    @property
    def calm(self) -> bool:
        """Whether no record is suspected, and none that was set apart is still to come, or the last to be committed."""
        trial = self._trial
        return not (trial.suspects or trial.alone or trial.in_a_row or trial.condemned)

    @property
    def halving(self) -> bool:
        """Whether it failed so often that it is taken in parts: further starts are likely."""
        return self.suspecting and self._trial.limit > 0

    def most(self, usual: int) -> int:
        """How many records the next attempt takes, at most."""
        return min(usual, self._trial.limit) if self.halving else usual

    def begin(self, positions: Positions, records: Sequence[Record]) -> tuple[Poisoned, ...]:
        """An attempt at these records, from these positions of all partitions read; gives those that are poison."""
        trial = self._trial
        ends: dict[tuple[str, int], int] = {}
        for record in records:
            place = record.topic, record.partition
            ends[place] = max(ends.get(place, 0), record.offset + 1)
        trial.ends = tuple((TopicPartition(*place), end) for place, end in ends.items())
        trial.condemned = tuple(p for p in trial.condemned if p.offset >= positions.get(_spot(p)[0], 0))
        # A partition that is another's now is no suspect of this one's.
        self._learned({place: positions.get(place, end) for place, end in trial.suspects})
        trial.alone = tuple(one for one in trial.alone if one.spot[1] >= positions.get(one.spot[0], 0))
        condemned = {_spot(p): p for p in trial.condemned}
        # Next to always there are none, and then no record is looked up.
        tried = [record for record in records if _spot(record) not in condemned] if condemned else records
        trial.size, trial.record, trial.underway = len(tried), _spot(tried[0]) if len(tried) == 1 else None, True
        self._write()
        return tuple(condemned[spot] for spot in map(_spot, records) if spot in condemned) if condemned else ()

    def failed(self, error: Exception) -> None:
        """The step raised. Raises NotTheRecords where no record is to blame."""
        self._trial.reason = said(error)
        if self._trial.size == 0:
            self._trial.underway = False
            self._write()
            raise NotTheRecords(f"the step fails without any record: {self._trial.reason}") from error
        self._conclude(failures=1)

    def survived(self) -> None:
        """The step is done, or failed for what no record is to blame."""
        self._trial.underway = False
        self._write()

    def committed(self) -> None:
        """And its epoch is committed."""
        if self._trial.size:
            self._trial.in_a_row = 0
        self._learned(dict(self._trial.ends))

    def _learned(self, positions: Positions) -> None:
        """All records before these positions are learned, or another's."""
        trial = self._trial
        if trial.suspects:
            trial.suspects = tuple((place, end) for place, end in trial.suspects if positions.get(place, 0) < end)
            if not trial.suspects:
                trial.limit = trial.vain = 0
                log.info("the batch that failed is learned; batches are as large as before")

    def _conclude(self, failures: int = 0, deaths: int = 0) -> None:
        """From one more attempt in vain."""
        trial = self._trial
        trial.underway = False
        if trial.size:
            trial.suspects = trial.ends
        if trial.record is not None:
            trial.limit = 1
            before = next((one for one in trial.alone if one.spot == trial.record), _Alone(trial.record))
            others = tuple(one for one in trial.alone if one.spot != trial.record)
            now = _Alone(trial.record, before.failures + failures, before.deaths + deaths)
            trial.alone = (*others, now)
            if now.failures >= FAILURES or now.failures + now.deaths >= DEATHS:
                self._condemn(now)
        elif trial.size:
            trial.vain += 1
            if trial.limit or trial.vain >= PATIENCE:
                trial.limit, trial.vain = max(trial.size // 2, 1), 0
                log.warning("the step fails on %d records; taking %d at a time", trial.size, trial.limit)
        self._write()

    def _condemn(self, one: _Alone) -> None:
        trial = self._trial
        if trial.in_a_row >= MOST_IN_A_ROW:
            self._write()
            raise NotTheRecords(
                f"the step fails on every record, {MOST_IN_A_ROW} are set apart already: {trial.reason}"
            )
        trial.in_a_row += 1
        place, offset = one.spot
        reason = f"the step failed on it {one.failures + one.deaths} times: {trial.reason}"
        trial.condemned += (Poisoned(place.topic, place.partition, offset, reason),)
        trial.suspects, trial.limit, trial.vain = (), 0, 0
        trial.alone = tuple(other for other in trial.alone if other != one)
        log.error("%s-%d offset %d is set apart as a dead letter: %s", place.topic, place.partition, offset, reason)

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


def _spot(record: Record | Poisoned) -> _Spot:
    return TopicPartition(record.topic, record.partition), record.offset
