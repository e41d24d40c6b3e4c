"""What every importer shares: rows in, messages of a kind out, or the reason why not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from consumers.validation import MAX_SCALARS, epoch_ms
from pipeline.messages import MAX_ID_BYTES, Scalar, Undecodable

Row = Mapping[str, Any]
Made = tuple[str, dict[str, Any]]
"""A kind of message (events, items, users) and its fields, empty ones left out."""
TRUE, FALSE = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n", "f")

_GO_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d+)?) ?([+-]\d\d):?(\d\d)(?: [A-Z]+)?")
_PLAIN = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?")
_NO_TIME_MS = -62_135_596_800_000
_SECONDS_READ_AS_MS = range(10**8, 10**10)
_MEANING_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Unmapped(ValueError):
    """A row that cannot become a message though it should; the text says why."""


class LeftOut(Exception):
    """A row of a sort that says nothing about users and items; the text names the sort."""


class Importer(Protocol):
    """One system's rows, one at a time. It may remember what it has made, so rows are to come in their order."""

    def rows(self, row: Row) -> Iterable[Any]:
        """What lies in a row that holds several, such as a batch of calls; else the row itself. May raise LeftOut."""
        ...

    def __call__(self, row: Row) -> Iterator[Made]:
        """The messages that a row makes; raises Unmapped or LeftOut."""
        ...


def filled(**fields: Any) -> dict[str, Any]:
    """Those fields that mean something.

    >>> filled(user_id="u", title="", tags=[], position=0)
    {'user_id': 'u', 'position': 0}
    """
    return {name: value for name, value in fields.items() if value not in _MEANING_NOTHING}


def text(row: Row, *names: str) -> str | None:
    """The first of these fields that holds a string or a finite number, as a string; None if none does.

    >>> text({"id": None, "sku": 9714107479.0}, "id", "sku"), text({"id": float("nan")}, "id")
    ('9714107479', None)
    """
    for name in names:
        found = row.get(name)
        if isinstance(found, str) and found.strip():
            return found.strip()
        if isinstance(found, float) and found - found == 0:
            return str(int(found)) if found.is_integer() else repr(found)
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
    return None


def needed(row: Row, *names: str) -> str:
    """The same; raises Unmapped where there is none."""
    found = text(row, *names)
    if found is None:
        raise Unmapped(f"{names[0]}: missing")
    return found


def number(row: Row, *names: str) -> float | None:
    """The first of these fields that holds a finite number, or a string that is one."""
    for name in names:
        found = row.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float | str):
            continue
        try:
            value = float(found)
        except ValueError:
            continue
        if value - value == 0:
            return value
    return None


def several(row: Row, name: str, nothing: str) -> list[Any] | None:
    """The list that a row holds several in; None where the field is none. An empty one is LeftOut as `nothing`."""
    found = row.get(name)
    if not isinstance(found, list):
        return None
    if not found:
        raise LeftOut(nothing)
    return found


def position(row: Row, name: str) -> int | None:
    """A place in a list, from 0 or 1 as the system counts; None where the field is no such number."""
    at = number(row, name)
    return int(at) if at is not None and at >= 0 else None


def instant(given: Any, field: str = "timestamp", per_second: int = 1000) -> int | None:
    """Milliseconds since 1970, of a time as systems write it; None where it is none, or Go's zero time.

    Numbers, and strings of digits, count 1/`per_second` seconds. A time without an offset is UTC.
    Raises Unmapped for what is no time, and for seconds where milliseconds are to be: they would be of 1970.

    >>> instant("2020-01-01 01:01:01.000000001 +0000 UTC"), instant("1599391467000"), instant("2020-01-01")
    (1577840461000, 1599391467000, 1577836800000)
    """
    if given in (None, ""):
        return None
    if isinstance(given, datetime):
        moment = given if given.tzinfo else given.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    written = str(given).strip()
    if isinstance(given, float | int) and not isinstance(given, bool):
        return _counted(given, field, per_second)
    if re.fullmatch(r"-?\d+(\.0*)?", written):
        return _counted(int(written.partition(".")[0]), field, per_second)
    if found := _GO_TIME.fullmatch(written):
        written = f"{found[1]}T{found[2]}{found[3]}:{found[4]}"
    elif _PLAIN.fullmatch(written):
        day, _, hour = written.replace(" ", "T").partition("T")
        written = f"{day}T{hour or '00:00:00'}{':00' if len(hour) == 5 else ''}Z"
    try:
        ms = epoch_ms(field, written)
    except Undecodable as error:
        raise Unmapped(str(error)) from None
    return None if ms == _NO_TIME_MS else ms


def _counted(given: float, field: str, per_second: int) -> int | None:
    if given - given != 0:
        return None
    if per_second == 1000 and int(given) in _SECONDS_READ_AS_MS:
        raise Unmapped(f"{field}: {given:.0f} would be of 1970 in milliseconds; is it in seconds?")
    return round(given * 1000 / per_second)


def identity(*parts: Any) -> str | None:
    """An event's id of these parts; None if that is longer than an id may be."""
    made = ":".join(map(str, parts))
    return made if len(made.encode("utf-8", "replace")) <= MAX_ID_BYTES else None


def described(fields: Row) -> tuple[dict[str, Scalar], list[str]]:
    """Attributes and tags of arbitrary fields: what is a scalar is an attribute, a list's strings are tags.

    What lies in a mapping is named with dots. At most as many attributes as a message may have.
    """
    attributes: dict[str, Scalar] = {}
    tags: list[str] = []
    _describe("", fields, attributes, tags)
    return dict(list(attributes.items())[:MAX_SCALARS]), list(dict.fromkeys(tags))


def _describe(prefix: str, fields: Row, attributes: dict[str, Scalar], tags: list[str]) -> None:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _describe(f"{prefix}{name}.", value, attributes, tags)
        elif isinstance(value, list | tuple):
            tags += [each for each in value if isinstance(each, str) and each]
        elif isinstance(value, str | int | float | bool) and value != "":
            attributes[prefix + str(name)] = value
