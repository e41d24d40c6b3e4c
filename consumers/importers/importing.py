"""Importing: rows of a file through an importer, each message checked as the learner will check it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from consumers.decoding import JsonDecoder
from consumers.importers.base import Importer, LeftOut, Unmapped
from consumers.importers.ga4 import Ga4
from consumers.importers.gorse import Gorse
from consumers.importers.metarank import metarank
from consumers.importers.segment import Segment
from consumers.importers.table import Table, read_mapping
from pipeline.messages import Record, Undecodable

FORMATS = ("gorse", "metarank", "segment", "ga4", "table")
KINDS = ("events", "items", "users")
REPORTED = 20
_encode = msgspec.json.Encoder().encode


@dataclass
class Tally:
    """What became of rows: made messages by kind, rows left out by their sort, the first 20 that could not be used."""

    made: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    unmapped: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)


def importer_of(name: str, now: Callable[[], int], mapping: str | None = None) -> Importer:
    """The importer of a format; `mapping` is a table's YAML. Raises ValueError."""
    if (name == "table") != (mapping is not None):
        raise ValueError("a table needs a mapping, and nothing else takes one")
    if name == "gorse":
        return Gorse(now)
    if name == "metarank":
        return metarank
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
    for number, row in rows:
        try:
            if isinstance(row, Unmapped):
                raise row
            for kind, message in importer(row):
                value = _encode(message)
                decode(Record(kind, 0, 0, 0, None, value))
                tally.made[kind] += 1
                yield kind, value
        except LeftOut as sort:
            tally.left_out[str(sort)[:80]] += 1
        except (Unmapped, Undecodable) as error:
            tally.unmapped += 1
            if len(tally.reasons) < REPORTED:
                tally.reasons.append((number, str(error)))
