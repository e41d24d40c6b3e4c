"""The end of a log, for an error message."""

from __future__ import annotations

from pathlib import Path

TAIL_BYTES = 32_768


def last_lines(log: Path, count: int, since: int = 0) -> str:
    """The last `count` lines written to `log` after byte `since`, without the frames of stack traces."""
    try:
        with log.open("rb") as content:
            end = content.seek(0, 2)
            content.seek(max(since, end - TAIL_BYTES))
            lines = content.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"{log}: {error.strerror}"
    telling = [line.rstrip() for line in lines if line.strip() and not line.startswith("\tat ")]
    return "\n".join(telling[-count:]) or f"{log} is empty"
