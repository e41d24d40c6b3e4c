"""`headrace snapshot`: look at a learner's snapshots, or go back to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.runtime.console import telling
from pipeline.runtime.options import (
    ConfigOption,
    DebugOption,
    JsonOption,
    NamespaceOption,
    SnapshotsOption,
    settings_of,
)

snapshot = typer.Typer(help="Look at a learner's snapshots, or go back to one.", no_args_is_help=True)


@snapshot.command("list")
def list_snapshots(
    config: ConfigOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Name the snapshots that there are: epoch, when, size. A learner may be running.

    Example: headrace snapshot list
    """
    with telling(debug):
        from pipeline.runtime.snapshot_files import found_in, told

        typer.echo(told(found_in(_folder(config, namespace, snapshots)), as_json))


@snapshot.command("verify")
def verify_snapshots(
    epochs: Annotated[list[int] | None, typer.Argument(help="Only these; all if none is named.")] = None,
    config: ConfigOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Read every byte and compare the checksums; exit 1 if one is damaged. A learner may be running.

    Example: headrace snapshot verify
    """
    with telling(debug):
        from pipeline.runtime.snapshot_files import found_in, told

        found = [one.verified() for one in found_in(_folder(config, namespace, snapshots), epochs or None)]
        typer.echo(told(found, as_json))
        if damaged := sum(one.problem is not None for one in found):
            raise RuntimeError(f"{damaged} of {len(found)} snapshots cannot be used")


@snapshot.command("restore")
def restore_snapshot(
    epoch: Annotated[int, typer.Argument(help="The epoch to start from.")],
    config: ConfigOption = None,
    namespace: NamespaceOption = None,
    snapshots: SnapshotsOption = None,
    debug: DebugOption = False,
) -> None:
    """Let the next start load this snapshot: newer ones are set aside. Stop the learner first.

    What was committed since is replayed from the log, so nothing is lost; it must still be there.

    Example: headrace snapshot restore 1200
    """
    with telling(debug):
        from pipeline.runtime.snapshot_files import restore

        aside = restore(_folder(config, namespace, snapshots), epoch)
        typer.echo(f"the next start begins with epoch {epoch}; {len(aside)} newer snapshots are set aside (*.aside)")


def _folder(config: Path | None, namespace: str | None, snapshots: Path | None) -> Path:
    """Where the snapshots lie; raises FileNotFoundError where there is no such folder."""
    folder = settings_of(config, None, namespace, {"epochs.snapshots": snapshots}).snapshot_folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; --snapshots and --namespace say where to look")
    return folder
