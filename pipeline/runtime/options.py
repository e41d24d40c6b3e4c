"""The command line's options that several commands share, and the settings that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.runtime.console import UsageError
from pipeline.settings import Settings, load_settings


def option(*names: str, help: str) -> Any:
    """An option whose default speaks for itself."""
    return typer.Option(*names, help=help, show_default=False)


ConfigOption = Annotated[Path | None, option("--config", help="Settings as YAML; by default headrace.yaml, if there.")]
BootstrapOption = Annotated[str | None, option("--bootstrap", help="Kafka, as HOST:PORT.")]
NamespaceOption = Annotated[str | None, option("--namespace", help="Prefix of topics and groups.")]
SnapshotsOption = Annotated[Path | None, option("--snapshots", help="Folder for snapshots.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")]


def settings_of(config: Path | None, bootstrap: str | None, namespace: str | None, flags: dict[str, Any]) -> Settings:
    """The settings of a command: `flags` by key, None where one was not given."""
    path = config or (Path("headrace.yaml") if Path("headrace.yaml").is_file() else None)
    flags = {"kafka.bootstrap": bootstrap, "namespace": namespace, **flags}
    return load_settings(path, flags={k: str(v) if isinstance(v, Path) else v for k, v in flags.items()})


def must_exist(*paths: Path | None) -> None:
    """Raises UsageError where one is no file; - is standard input."""
    for path in paths:
        if path is not None and str(path) != "-" and not path.exists():
            raise UsageError(f"{path}: no such file")
