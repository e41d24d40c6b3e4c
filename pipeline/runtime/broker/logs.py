"""What a broker has written to its log."""

from __future__ import annotations

from pathlib import Path

TAIL_BYTES = 32_768


def written_since(log: Path, since: int) -> str:
    """What was written after byte `since`; all of it where the log has been started anew meanwhile."""
    try:
        with log.open("rb") as content:
            content.seek(since if since <= content.seek(0, 2) else 0)
            return content.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def last_lines(log: Path, count: int, since: int = 0) -> str:
    """The last `count` lines written after byte `since`, without the frames of stack traces."""
    lines = written_since(log, since)[-TAIL_BYTES:].splitlines()
    telling = [line.rstrip() for line in lines if line.strip() and not line.startswith("\tat ")]
    return "\n".join(telling[-count:]) or f"({log} is empty)"
