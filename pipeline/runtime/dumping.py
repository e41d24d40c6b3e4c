"""Writes a learner's committed inputs and manifests to a file of records."""

from __future__ import annotations

from typing import BinaryIO

from consumers.dump import dumped
from consumers.kafka import KafkaSource
from consumers.kafka_connection import connection_options
from pipeline.runtime.composition import LEARNER_INPUTS
from pipeline.runtime.scanning import scanned
from pipeline.settings import Settings


def dump_log(settings: Settings, out: BinaryIO) -> int:
    """Every committed record of the input topics and of the epochs topic, up to now; returns how many."""
    topics = [settings.topic(kind) for kind in (*LEARNER_INPUTS, "epochs")]
    source = KafkaSource(settings.kafka.bootstrap, topics, options=connection_options(settings.kafka))
    count = 0
    try:
        for records in scanned(source):
            for record in records:
                out.write(dumped(record))
            count += len(records)
    finally:
        source.close()
    return count
