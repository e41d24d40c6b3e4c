"""Why bytes could not be decoded, in words that let a person find the cause; runs only after a failure."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_MAGIC = (
    (b"\x00", "starts with a zero byte: looks like Confluent schema-registry framing"),
    (b"\x1f\x8b", "is gzip: compress with the producer's compression.type, not in the value"),
    (b"\x28\xb5\x2f\xfd", "is zstd: compress with the producer's compression.type, not in the value"),
    (b"\x04\x22\x4d\x18", "is lz4: compress with the producer's compression.type, not in the value"),
    (b"\x82SNAPPY\x00", "is snappy: compress with the producer's compression.type, not in the value"),
    (b"\xef\xbb\xbf", "starts with a byte-order mark; plain UTF-8 has none"),
    (b"\xff\xfe", "is UTF-16; must be UTF-8"),
    (b"\xfe\xff", "is UTF-16; must be UTF-8"),
    (b"Obj\x01", "is an Avro file; must be JSON"),
)
_EXPECTED = re.compile(r"Expected `(.+?)`, got `(.+?)`(?: - at `\$\.?(.*)`)?$")
_MISSING = re.compile(r"Object missing required field `(.+?)`(?: - at `\$\.?(.*)`)?$")
_RANGE = re.compile(r"Number out of range(?: - at `\$\.?(.*)`)?$")
_BASE64 = re.compile(r"Invalid base64 encoded string(?: - at `\$\.?(.*)`)?$")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_A_NUMBER = re.compile(rb"[:\[,]\s*[-+]?(NaN|Infinity|nan|inf)\b")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
    "bytes": "base64",
}


def malformed(value: bytes, name: str = "value") -> str:
    """What is wrong with bytes that are no JSON at all; `name` is what the reason calls them."""
    if not value:
        return f"{name} is empty; must be a JSON object"
    for magic, meaning in _MAGIC:
        if value.startswith(magic):
            return f"{name} {meaning}"
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return f"{name} is not UTF-8: byte 0x{value[error.start]:02x} at {error.start}"
    if found := _NOT_A_NUMBER.search(value):
        return f"{name} holds {found[1].decode()}; numbers must be finite"
    try:
        json.loads(text)
    except RecursionError:
        return f"{name} is nested too deep"
    except ValueError as error:
        return f"{name} is not JSON: {error}"
    if _SURROGATE.search(value):
        return f"{name} holds an unpaired UTF-16 surrogate (\\ud800 to \\udfff); strings must be Unicode"
    return f"{name} is not JSON that can be used"


def mistyped(error: msgspec.ValidationError, value: bytes, name: str = "value") -> str:
    """What msgspec found at odds with the message's type, naming the field."""
    text = str(error)
    if found := _MISSING.match(text):
        where = f"{found[2]}." if found[2] else ""
        return f"{where}{found[1]}: missing; required{_cloudevent_hint(value)}"
    if found := _RANGE.match(text):
        where = _path(found[1], value) if found[1] else name
        return f"{where}: number out of range; must be finite in IEEE 754 double precision"
    if found := _BASE64.match(text):
        return f"{found[1] or name}: must be base64"
    if found := _EXPECTED.match(text):
        accepted, seen = _words(found[1]), _words(found[2])
        if not found[3]:
            return f"{name} must be {accepted}, found {seen}"
        path = _path(found[3], value)
        return f"{path}: must be {accepted}, found {seen}{_hint(path, seen)}"
    return text


_NUMBERS = (_WORDS["int"], _WORDS["float"])


def _hint(path: str, seen: str) -> str:
    if (path.endswith("_id") or path.startswith("items[")) and seen in _NUMBERS:
        return " (ids are strings; numbers are not converted)"
    if path in ("timestamp", "expires_at") and seen == _WORDS["float"]:
        return " (whole milliseconds since 1970: seconds with a fraction are to be multiplied by 1000)"
    return ""


def _words(types: str) -> str:
    names = [_WORDS.get(name, name) for name in types.split(" | ") if name != "null" or types == "null"]
    return " or ".join(names)


def _path(path: str, value: bytes) -> str:
    """msgspec writes `context[...]` for any key; find the key that is at fault."""
    if not path.endswith("[...]"):
        return path
    field = path.removesuffix("[...]")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        # msgspec stops at the first fault; behind it there may be no JSON at all.
        return field
    scalars: Any = document.get(field) if isinstance(document, dict) else None
    if isinstance(scalars, dict):
        for key, scalar in scalars.items():
            if isinstance(scalar, dict | list) or scalar in (float("inf"), float("-inf")):
                return f"{field}.{key[:80]}"
    return field


def _cloudevent_hint(value: bytes) -> str:
    if b'"specversion"' in value:
        return "; a structured CloudEvent needs the header content-type: application/cloudevents+json"
    return ""
