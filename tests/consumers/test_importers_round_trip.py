"""A shop's history written as each system exports its own and imported again is the history, as far as it can be said.

What a format cannot say is told by the exporters' `said`, which takes it away.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from exporters import EXPORTERS, MAPPING, Exporter, Message, Native, shop

from consumers.importers.importing import Tally, imported, importer_of
from consumers.importers.rows import rows_of

NATIVE = shop()
GIVES_IDS = ("gorse", "ga4")
"""Whose events have no ids of their own: the importer makes them."""


def imported_from(exporter: Exporter, folder: Path, native: Native) -> tuple[Native, Tally]:
    tally = Tally()
    importer = importer_of(exporter.name, lambda: 0, MAPPING if exporter.name == "table" else None)
    made: Native = []
    for path in exporter.write(folder, native):
        made += [(kind, json.loads(value)) for kind, value in imported(rows_of(path), importer, tally)]
    return made, tally


def comparable(messages: Native, exporter: Exporter) -> Counter[str]:
    """Each message as text, and how often it was said; of events whose ids the importer makes, without them."""
    told: Counter[str] = Counter()
    for kind, message in messages:
        if message.get("user_id") == "catalogue":
            continue
        if exporter.name in GIVES_IDS:
            message = {field: value for field, value in message.items() if field != "event_id"}
        told[json.dumps([kind, json.loads(json.dumps(message), parse_float=_plain)], sort_keys=True)] += 1
    return told


def _plain(number: str) -> float:
    """4.0 is 4."""
    return int(float(number)) if float(number).is_integer() else float(number)


def said(exporter: Exporter, native: Native) -> Native:
    kept: list[tuple[str, Message | None]] = [(kind, exporter.said(kind, message)) for kind, message in native]
    return [(kind, message) for kind, message in kept if message is not None]


def test_the_history_has_what_is_to_be_tried() -> None:
    assert Counter(kind for kind, _ in NATIVE) == {"items": 176, "users": 167, "events": 350}


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda exporter: exporter.write.__name__.strip("_"))
def test_a_round_trip(exporter: Exporter, tmp_path: Path) -> None:
    made, tally = imported_from(exporter, tmp_path, NATIVE)
    assert (tally.reasons, dict(tally.left_out)) == ([], {})
    assert comparable(made, exporter) == comparable(said(exporter, NATIVE), exporter)
    ids = [message["event_id"] for kind, message in made if kind == "events" and "event_id" in message]
    assert len(set(ids)) == len(ids)


def test_what_each_format_can_say() -> None:
    """Messages by kind, of the history's 176 items, 167 users and 350 events."""
    counts = [
        (exporter.write.__name__.strip("_"), dict(Counter(kind for kind, _ in said(exporter, NATIVE))))
        for exporter in EXPORTERS
    ]
    assert counts == [
        ("gorse", {"items": 176, "users": 167, "events": 300}),
        ("gorse_csv", {"items": 176, "users": 167, "events": 300}),
        ("metarank", {"items": 176, "users": 167, "events": 350}),
        ("segment", {"items": 176, "users": 167, "events": 350}),
        ("ga4", {"items": 176, "events": 300}),
        ("table_files", {"events": 350}),
    ]
