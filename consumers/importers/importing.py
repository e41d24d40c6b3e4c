"""Importing: rows of a file through an importer, each message checked as the learner will check it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from consumers.decoding import JsonDecoder
from consumers.importers.base import Importer, LeftOut, Row, Unmapped
from consumers.importers.ga4 import Ga4
from consumers.importers.gorse import Gorse
from consumers.importers.metarank import Metarank
from consumers.importers.segment import Segment
from consumers.importers.table import Table, read_mapping
from pipeline.messages import Record, Undecodable

FORMATS = ("gorse", "metarank", "segment", "ga4", "table")
KINDS = ("events", "items", "users")
REPORTED, ALIKE, REASONS = 20, 3, 1_000
_encode = msgspec.json.Encoder().encode


@dataclass
class Tally:
    """What became of rows: made messages by kind, rows left out by their sort, those that could not be used.

    Of these the first are told with their line, at most 20 and three for the same
    reason; `alike` counts each of the first thousand reasons.
    """

    made: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    unmapped: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)
    alike: Counter[str] = field(default_factory=Counter)

    def refuse(self, line: int, reason: str) -> None:
        """One that could not be used."""
        self.unmapped += 1
        if reason in self.alike or len(self.alike) < REASONS:
            self.alike[reason] += 1
        if self.alike[reason] <= ALIKE and len(self.reasons) < REPORTED:
            self.reasons.append((line, reason))


def importer_of(name: str, now: Callable[[], int], mapping: str | None = None) -> Importer:
    """The importer of a format; `mapping` is a table's YAML. Raises ValueError."""
    if (name == "table") != (mapping is not None):
        raise ValueError("a table needs a mapping, and nothing else takes one")
    if name == "gorse":
        return Gorse(now)
    if name == "metarank":
        return Metarank()
    if name == "segment":
        return Segment()
    if name == "ga4":
        return Ga4(now)
    if name == "table" and mapping is not None:
        return Table(read_mapping(mapping))
    raise ValueError(f"must be one of {', '.join(FORMATS)}, not {name!r}")


def imported(
    rows: Iterable[tuple[int, dict[str, Any] | Unmapped]], importer: Importer, tally: Tally
) -> Iterator[tuple[str, bytes]]:
    """(kind, JSON) of every message that the rows make, in their order; `tally` is kept as they are drawn."""
    decode = JsonDecoder({kind: kind for kind in KINDS})
    for number, row in _apart(rows, importer):
        try:
            if isinstance(row, Unmapped | LeftOut):
                raise row
            for kind, message in importer(row):
                value = _encode(message)
                decode(Record(kind, 0, 0, 0, None, value))
                tally.made[kind] += 1
                yield kind, value
        except LeftOut as sort:
            tally.left_out[str(sort)[:80]] += 1
        except (Unmapped, Undecodable) as error:
            tally.refuse(number, str(error))


def _apart(
    rows: Iterable[tuple[int, dict[str, Any] | Unmapped]], importer: Importer
) -> Iterator[tuple[int, Row | Unmapped | LeftOut]]:
    """The rows that lie in each, with its number."""
    for number, row in rows:
        if isinstance(row, Unmapped):
            yield number, row
            continue
        try:
            for each in importer.rows(row):
                yield number, each if isinstance(each, Mapping) else Unmapped("holds what is no JSON object")
        except LeftOut as sort:
            yield number, sort
