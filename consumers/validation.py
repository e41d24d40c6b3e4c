"""Checks on decoded values that the JSON decoder cannot make; each raises `Undecodable` naming the field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from pipeline.messages import MAX_ID_BYTES, MAX_NESTING, Scalar, Undecodable

MAX_SCALARS = 64
MAX_VECTOR = 8192
FLOAT32_MAX = 3.4028234663852886e38
FLOAT32_TINY = 1.1754943508222875e-38

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_0_MS = -62_167_219_200_000
_YEAR_10000_MS = 253_402_300_800_000
_YEAR_2000_MS = 946_684_800_000
_YEAR_2100_MS = 4_102_444_800_000
_FOUR_YEARS_MS = 1461 * 86_400_000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_Aware = Annotated[datetime, msgspec.Meta(tz=True)]


def check_id(field: str, text: str) -> None:
    """Refuse anything but 1 to 256 bytes of UTF-8 without control characters."""
    if text.isascii() and text.isprintable() and 0 < len(text) <= MAX_ID_BYTES:
        return
    if not text:
        raise Undecodable(f"{field}: must not be empty (leave the field out instead)")
    if found := _CONTROL.search(text):
        raise Undecodable(f"{field}: must not hold control characters, found U+{ord(found[0]):04X}")
    length = len(text.encode("utf-8", "surrogatepass"))
    if length > MAX_ID_BYTES:
        raise Undecodable(f"{field}: must be at most {MAX_ID_BYTES} bytes of UTF-8, found {length}")


def epoch_ms(field: str, given: int | str) -> int:
    """Milliseconds since the epoch, from themselves or from an RFC 3339 string; finer digits are cut off.

    >>> epoch_ms("timestamp", "1970-01-01T01:00:01.5+01:00")
    1500
    """
    ms = given if isinstance(given, int) else _rfc3339_ms(field, given)
    if not _YEAR_0_MS <= ms < _YEAR_10000_MS:
        raise Undecodable(f"{field}: must lie in the years 0 to 9999, found {str(given)[:40]}{_finer(ms)}")
    return ms


def _finer(ms: int) -> str:
    """A hint where a number would be of our time in a finer unit."""
    for unit, per_ms in (("microseconds", 1_000), ("nanoseconds", 1_000_000)):
        if _YEAR_2000_MS <= ms // per_ms < _YEAR_2100_MS:
            return f" (looks like {unit}: milliseconds are wanted)"
    return ""


def _rfc3339_ms(field: str, text: str) -> int:
    shift = 0
    if text.startswith("0000-"):
        # datetime knows no year 0; year 4 has the same days.
        text, shift = "0004" + text[4:], _FOUR_YEARS_MS
    try:
        if len(text) in (20, 24, 27) and text[4:17:3] == "--T::" and text[-1] == "Z" and text[19] in "Z.":
            moment = datetime.fromisoformat(text)
        else:
            moment = msgspec.convert(text, _Aware)
    except ValueError:
        raise Undecodable(
            f"{field}: must be an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z, "
            f"or integer milliseconds since 1970, found {text[:40]!r}"
        ) from None
    since = moment - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000 - shift


def check_integer(field: str, number: int) -> None:
    """Refuse what does not fit a signed 64-bit integer."""
    if not -(1 << 63) <= number < 1 << 63:
        raise Undecodable(f"{field}: must fit 64 bits, found an integer of {number.bit_length()} bits")


def check_scalars(field: str, scalars: Mapping[str, Scalar]) -> None:
    """Refuse too many keys, keys that are no ids, and integers past 64 bits."""
    if len(scalars) > MAX_SCALARS:
        raise Undecodable(f"{field}: must have at most {MAX_SCALARS} keys, found {len(scalars)}")
    for key, scalar in scalars.items():
        check_id(f"a key of {field}", key)
        if type(scalar) is int:
            check_integer(f"{field}.{key}", scalar)


def check_vector(field: str, vector: tuple[float, ...]) -> None:
    """Refuse vectors that are empty, too long or have no direction in float32."""
    if not 0 < len(vector) <= MAX_VECTOR:
        raise Undecodable(f"{field}: must have 1 to {MAX_VECTOR} numbers, found {len(vector)}")
    if not FLOAT32_TINY <= math.hypot(*vector) <= FLOAT32_MAX:
        raise Undecodable(f"{field}: must have a length that float32 can hold and that is not zero")


def check_nesting(value: bytes) -> None:
    """Refuse JSON nested deeper than 32, before a recursive parser sees it."""
    if value.count(b"{") + value.count(b"[") <= MAX_NESTING:
        return
    brackets = _STRINGS.sub(b"", value).translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(MAX_NESTING):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > MAX_NESTING:
        raise Undecodable(f"must be nested at most {MAX_NESTING} deep")
