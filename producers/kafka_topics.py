"""Creates the topics of config/topics.yaml, and says which existing ones cannot keep Headrace's promises."""

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from typing import Any

import msgspec
import yaml
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from consumers.kafka_client import BOOTSTRAP_TIMEOUT_MS, unreachable
from pipeline.settings import Settings

_DEAD_LETTERS = "dead-letters"


class TopicPlan(msgspec.Struct, frozen=True):
    """How one topic should be; `promises` maps a key of `config` to what breaks without it."""

    config: dict[str, str | int]
    promises: dict[str, str] = {}
    partitions: int | None = None
    dead_letters: bool = False

    @property
    def options(self) -> dict[str, str]:
        """`config` as Kafka takes it."""
        return {key: str(value) for key, value in self.config.items()}


def planned_topics(settings: Settings) -> dict[str, TopicPlan]:
    """Every topic by its full name, those for dead letters included."""
    text = resources.files("config").joinpath("topics.yaml").read_text("utf-8")
    kinds = msgspec.convert(yaml.safe_load(text), dict[str, TopicPlan])
    dead_letters = kinds.pop(_DEAD_LETTERS)
    plans = {settings.topic(kind): plan for kind, plan in kinds.items()}
    for name, plan in list(plans.items()):
        if plan.dead_letters:
            plans[f"{name}.dlq"] = dead_letters
    return plans


def create_topics(bootstrap: str, settings: Settings, options: Mapping[str, Any] | None = None) -> list[str]:
    """Create the topics that are missing; existing ones are left as they are.

    Returns a warning, in plain words, for each existing topic's setting that
    breaks a promise. `options` are further ones of kafka-python. Raises
    ConnectionError if Kafka cannot be reached or refuses.
    """
    plans = planned_topics(settings)
    with administering(bootstrap, options or {}) as admin:
        existing = set(admin.list_topics()) & plans.keys()
        missing = {name: plan for name, plan in plans.items() if name not in existing}
        if missing:
            existing |= _create(admin, missing, settings)
        return topic_warnings(admin, {name: plans[name] for name in sorted(existing)})


@contextmanager
def administering(bootstrap: str, options: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    """An admin client, closed in the end. Raises ConnectionError, which names the cause, where Kafka fails."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, **{"bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS} | dict(options)
        )
        try:
            yield admin
        finally:
            admin.close()
    except KafkaError as error:
        raise unreachable(bootstrap, error, options) from error


def _create(admin: KafkaAdminClient, missing: Mapping[str, TopicPlan], settings: Settings) -> set[str]:
    """Create topics and wait until they can be used; gives those that somebody else made meanwhile."""
    answer = admin.create_topics(
        {
            name: {
                "num_partitions": plan.partitions or settings.kafka.partitions,
                "replication_factor": settings.kafka.replication_factor or -1,
                "configs": plan.options,
            }
            for name, plan in missing.items()
        },
        raise_errors=False,
    )
    overtaken = set()
    for topic in answer["topics"]:
        failure = for_code(topic["error_code"])
        if failure is TopicAlreadyExistsError:
            overtaken.add(topic["name"])
        elif topic["error_code"]:
            raise failure(f"{topic['name']}: {topic['error_message']}")
    admin.wait_for_topics(list(missing))
    return overtaken


def topic_warnings(admin: KafkaAdminClient, existing: Mapping[str, TopicPlan]) -> list[str]:
    """What breaks a promise in how existing topics are set up, in plain words."""
    if not existing:
        return []
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in existing]
    found = admin.describe_configs(asked, config_filter="all").get("topic", {})
    warnings = []
    for name, plan in existing.items():
        for key, harm in plan.promises.items():
            wanted, actual = plan.options[key], _value(found, name, key)
            if actual is not None and not _keeps(wanted, actual):
                warnings.append(f"topic {name}: {key} is {actual}, should be {wanted}: {harm}")
    return warnings


def _value(found: Mapping[str, Any], topic: str, key: str) -> str | None:
    entry = found.get(topic, {}).get(key)
    return None if entry is None else entry.get("value")


def _keeps(wanted: str, actual: str) -> bool:
    return {part.strip() for part in actual.split(",")} == {wanted}
