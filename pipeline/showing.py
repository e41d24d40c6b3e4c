"""How text that came from outside is shown to people: it can neither forge a line nor drive a terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SEPARATE = re.compile(r"[^\x20-\x7e]")


def shown(text: object) -> str:
    r"""Text on one line; what cannot be printed (control and format characters, bidi overrides) as escapes.

    Backslashes stay as they are: an escape that was there before looks like one of ours.

    >>> print(shown("a\nb\x1b[2J\u202ec é 東"))
    a\x0ab\x1b[2J\u202ec é 東
    """
    string = text if isinstance(text, str) else str(text)
    return string if string.isprintable() else _SEPARATE.sub(_escaped, string)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def utc(ms: int) -> str:
    """A time in Unix milliseconds, for a person.

    >>> utc(1_700_000_000_000)
    '2023-11-14 22:13:20 UTC'
    """
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
