"""`headrace doctor`: the command."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from pipeline.runtime.console import telling
from pipeline.runtime.options import (
    BootstrapOption,
    ConfigOption,
    DebugOption,
    NamespaceOption,
    SnapshotsOption,
    settings_of,
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, a line each.")] = False,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    debug: DebugOption = False,
) -> None:
    """Try what a learner will need here: processors, model, disk, port, Kafka with its topics, rights and clock.

    In Kafka it writes one record in a transaction that it aborts: nobody who
    reads committed sees it. Exit 1 where something would keep a learner from running.

    Example: headrace doctor --bootstrap localhost:9092
    """
    with telling(debug, quiet=True):
        settings = settings_of(config, bootstrap, namespace, {"epochs.snapshots": snapshots})
        from pipeline.runtime.checkup import FAIL, checkup, told

        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        failed = 0
        for finding in checkup(settings):
            failed += finding.how == FAIL
            typer.echo(json.dumps(finding.row()) if as_json else told(finding, colours))
        if failed:
            raise RuntimeError(f"{failed} of these would keep a learner from running")

