"""Trace context (W3C): what an event's headers say of the trace that it is part of, for the list that comes of it."""

from __future__ import annotations

import re

from pipeline.messages import Headers

TRACEPARENT = "traceparent"
_NAMES = (TRACEPARENT, f"ce_{TRACEPARENT}")
"""As it is, and as an extension of CloudEvents."""

_FORM = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(headers: Headers) -> bytes | None:
    """The traceparent among a record's headers; None where there is none, or none that is well-formed.

    >>> given = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    >>> trace_of((("x", b"1"), ("traceparent", given))) == given, trace_of((("traceparent", b"00-ff"),))
    (True, None)
    """
    for name, value in headers:
        if name in _NAMES and value is not None and _FORM.fullmatch(value):
            return bytes(value)
    return None
