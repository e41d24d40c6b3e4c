"""CloudEvents 1.0 on Kafka, binary and structured, into the plain JSON that they carry.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from consumers.diagnosis import malformed, mistyped
from pipeline.messages import Headers, Undecodable

_REQUIRED = ("specversion", "id", "source", "type")
_FILLS = (("event_type", "type"), ("event_id", "id"), ("timestamp", "time"))
_SPECVERSION = "1.0"


class _Envelope(msgspec.Struct):
    specversion: str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: bytes | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


def is_cloudevent(headers: Headers) -> bool:
    """Whether a record's headers make it a CloudEvent, of any mode or version."""
    for name, value in headers:
        lower = name.lower()
        if lower == "ce_specversion" or (lower == "content-type" and _is_structured(value)):
            return True
    return False


def unwrap(headers: Headers, value: bytes) -> bytes:
    """The plain JSON object inside a CloudEvent.

    Its `type`, `id` and `time` become event_type, event_id and timestamp where
    the data has none (or null); subject, partitionkey and extensions are left alone.
    Raises Undecodable with the reason.
    """
    attributes = {name.lower(): given for name, given in headers}
    content_type = attributes.get("content-type", b"")
    if _is_structured(content_type):
        return _structured(_media_type("content-type", _text("content-type", content_type)), value)
    return _binary(attributes, value)


def _binary(headers: dict[str, bytes], value: bytes) -> bytes:
    names = {name.removeprefix("ce_"): given for name, given in headers.items() if name.startswith("ce_")}
    attributes = {name: _text(f"ce_{name}", names[name]) for name in (*_REQUIRED, "time") if name in names}
    _check(attributes, "ce_")
    if "content-type" in headers:
        _check_json("content-type", _text("content-type", headers["content-type"]))
    return _fill(value, attributes, "value")


def _structured(media_type: str, value: bytes) -> bytes:
    if media_type.startswith("application/cloudevents-batch"):
        raise Undecodable("content-type: CloudEvents batches are not accepted; send one event in each record")
    if media_type not in ("application/cloudevents", "application/cloudevents+json"):
        raise Undecodable(f"content-type: must be application/cloudevents+json, found {media_type[:80]}")
    try:
        envelope = _decode_envelope(value)
    except msgspec.ValidationError as error:
        raise Undecodable(f"CloudEvent: {mistyped(error, value)}") from None
    except (ValueError, RecursionError):
        raise Undecodable(malformed(value)) from None
    attributes = {name: getattr(envelope, name) for name in (*_REQUIRED, "time")}
    _check({name: given for name, given in attributes.items() if given is not None}, "")
    if envelope.datacontenttype is not None:
        _check_json("datacontenttype", envelope.datacontenttype)
    data = bytes(envelope.data)
    if data != b"null" and envelope.data_base64 is not None:
        raise Undecodable("data: must not stand beside data_base64")
    if envelope.data_base64 is not None:
        return _fill(envelope.data_base64, attributes, "data_base64")
    if data == b"null":
        raise Undecodable("data: missing; required")
    return _fill(data, attributes, "data")


def _fill(data: bytes, attributes: Mapping[str, str | None], where: str) -> bytes:
    try:
        fields: dict[str, Any] = dict(_decode_fields(data))
    except msgspec.ValidationError as error:
        raise Undecodable(mistyped(error, data, where)) from None
    except (ValueError, RecursionError):
        raise Undecodable(malformed(data, where)) from None
    for field, attribute in _FILLS:
        given = attributes.get(attribute)
        present = fields.get(field)
        if given is not None and (present is None or bytes(present) == b"null"):
            fields[field] = given
    return _encode(fields)


def _check(attributes: dict[str, Any], prefix: str) -> None:
    for name in _REQUIRED:
        if not attributes.get(name):
            raise Undecodable(f"{prefix}{name}: missing; a CloudEvent needs {', '.join(_REQUIRED)}")
    version = attributes["specversion"]
    if version != _SPECVERSION:
        raise Undecodable(f"{prefix}specversion: must be {_SPECVERSION}, found {version[:20]}")


def _check_json(field: str, content_type: str) -> None:
    media_type = _media_type(field, content_type)
    if media_type not in ("application/json", "text/json") and not media_type.endswith("+json"):
        raise Undecodable(f"{field}: must be application/json, found {media_type[:80]}")


def _media_type(field: str, content_type: str) -> str:
    """The type without its parameters; of those, only a charset other than UTF-8 matters."""
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    for parameter in parameters:
        name, _, given = parameter.partition("=")
        if name.strip() == "charset" and given.strip(' "') not in ("utf-8", "utf8", "us-ascii"):
            raise Undecodable(f"{field}: charset must be utf-8, found {given[:40]}")
    return media_type


def _is_structured(content_type: bytes) -> bool:
    return content_type.strip().lower().startswith(b"application/cloudevents")


def _text(field: str, given: bytes) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError:
        raise Undecodable(f"{field}: must be UTF-8") from None
