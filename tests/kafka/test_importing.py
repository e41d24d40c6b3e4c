"""`headrace publish --from` for each format: on the topics lies what the importer makes, and what was said of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from committed_log import CommittedLog
from crashing import World
from exporters import EXPORTERS, MAPPING, Exporter, shop
from service import headrace

from consumers.importers.importing import KINDS, Tally, imported, importer_of
from consumers.importers.rows import rows_of
from pipeline.runtime.broker import Broker

NATIVE = shop(60)
ONE_EACH = [exporter for n, exporter in enumerate(EXPORTERS) if exporter.name not in {e.name for e in EXPORTERS[:n]}]
KEYS = {"events": "user_id", "items": "item_id", "users": "user_id"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("exporter", ONE_EACH, ids=lambda exporter: exporter.name)
def test_what_is_said_to_be_published_is_there(
    exporter: Exporter, broker: Broker, namespace: str, tmp_path: Path
) -> None:
    world = World.make(broker.bootstrap, namespace, tmp_path)
    (path,) = exporter.write(tmp_path, NATIVE)
    (tmp_path / "mapping.yaml").write_text(MAPPING, "utf-8")
    by = ["--mapping", tmp_path / "mapping.yaml"] if exporter.name == "table" else []
    done = headrace("publish", path, "--from", exporter.name, *by, "--config", world.config)
    assert (done.returncode, done.stderr) == (0, "")

    tally = Tally()
    importer = importer_of(exporter.name, lambda: 0, MAPPING if by else None)
    expected = Counter((world.settings.topic(kind), value) for kind, value in imported(rows_of(path), importer, tally))
    topics = {world.settings.topic(kind): kind for kind in KINDS}
    log = CommittedLog(broker.bootstrap, list(topics))
    records = [record for place in log.places(topics) for record in log.partition(place)]
    assert Counter((record.topic, record.value) for record in records) == expected
    for record in records:
        assert record.key == json.loads(record.value or b"")[KEYS[topics[record.topic]]].encode()

    published = re.search(r": (\d+) lines to ", done.stdout)
    assert published is not None
    assert int(published[1]) == len(records)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.made.items()))
    assert f"{path}: {counts}, 0 rows that could not be used" in done.stdout
