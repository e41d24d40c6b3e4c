"""The core of Headrace; start reading at `pipeline.step`. `from pipeline import Headrace` learns inside a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.runtime.inside import Headrace

__all__ = ["Headrace"]


def __getattr__(name: str) -> Any:
    """Headrace, imported when it is asked for: torch takes a second that no other module here should wait for."""
    if name == "Headrace":
        from pipeline.runtime.inside import Headrace

        return Headrace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
