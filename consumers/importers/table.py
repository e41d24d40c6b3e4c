"""Any table, CSV or Parquet, by a mapping of its columns.

A mapping is YAML: `kind` (events, items or users); `columns`, from fields to
columns; `constants`, fields that are the same in every row; `values`, by field,
from what the table has to what it means, null for rows to be left out; `split`,
by field, what separates several values in one; `per_second`, what a number in a
time counts (1 for seconds, 1000 for milliseconds, the default). Columns that are
not named are left alone but for those of `attributes`, a list of columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from consumers.importers.base import LeftOut, Made, Row, Unmapped, filled, instant, number, text

TIMES = ("timestamp", "expires_at")
NUMBERS = ("value", "position")
LISTS = ("categories", "tags", "items")
FIELDS = {
    "events": (
        "event_type", "timestamp", "user_id", "anonymous_id", "item_id", "items", "event_id", "value", "session_id",
        "request_id", "list", "position", "text",
    ),
    "items": ("item_id", "title", "description", "categories", "tags", "timestamp", "available", "expires_at"),
    "users": ("user_id",),
}  # fmt: skip
EXTRAS = {"events": "context", "items": "attributes", "users": "attributes"}
NO = ("0", "false", "no", "n", "f")


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a table's rows become messages of one kind."""

    kind: str
    columns: dict[str, str]
    constants: dict[str, str | int | float | bool] = {}
    values: dict[str, dict[str, str | None]] = {}
    split: dict[str, str] = {}
    attributes: tuple[str, ...] = ()
    per_second: int = 1000

    def check(self) -> None:
        """Raises ValueError that names what fits no kind."""
        if self.kind not in FIELDS:
            raise ValueError(f"kind: must be events, items or users, not {self.kind!r}")
        for name, given in (("columns", self.columns), ("constants", self.constants), ("values", self.values)):
            for field in given:
                if field not in FIELDS[self.kind]:
                    raise ValueError(f"{name}: {self.kind} have no field {field!r}; {', '.join(FIELDS[self.kind])}")
        if self.per_second < 1:
            raise ValueError("per_second: must be at least 1")


def read_mapping(text_of_it: str) -> Mapping:
    """A mapping from YAML; raises ValueError in one line."""
    try:
        mapping = msgspec.yaml.decode(text_of_it, type=Mapping)
    except msgspec.DecodeError as error:
        raise ValueError(" ".join(str(error).split())) from None
    mapping.check()
    return mapping


class Table:
    """An importer by a mapping."""

    def __init__(self, mapping: Mapping) -> None:
        """`mapping` as it was checked."""
        self._mapping = mapping

    def __call__(self, row: Row) -> Iterator[Made]:
        """One message a row."""
        mapping = self._mapping
        made: dict[str, Any] = dict(mapping.constants)
        for field, column in mapping.columns.items():
            if column not in row:
                raise Unmapped(f"no column {column!r}; it has {', '.join(map(repr, row))}"[:300])
            made[field] = self._value(field, row[column], row, column)
        extras = {column: row[column] for column in mapping.attributes if isinstance(row.get(column), Scalars)}
        yield mapping.kind, filled(**made) | filled(**{EXTRAS[mapping.kind]: filled(**extras)})

    def _value(self, field: str, given: Any, row: Row, column: str) -> Any:
        mapping = self._mapping
        if field in mapping.values:
            written = text(row, column) or ""
            if written not in mapping.values[field]:
                raise Unmapped(f"{column}: {written[:40]!r} is none of {', '.join(mapping.values[field])}")
            given = mapping.values[field][written]
            if given is None:
                raise LeftOut(f"{column} {written}")
            return given
        if field in TIMES:
            return instant(given, column, mapping.per_second)
        if field in LISTS:
            apart = mapping.split.get(field)
            parts = given if isinstance(given, list) else str(given or "").split(apart) if apart else [given]
            return [str(part).strip() for part in parts if part not in (None, "") and str(part).strip()]
        if field in NUMBERS:
            found = number(row, column)
            return int(found) if field == "position" and found is not None else found
        if field == "available":
            return False if str(given).strip().lower() in NO else None
        return text(row, column)


Scalars = (str, int, float, bool)
