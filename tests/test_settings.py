"""Settings: where they come from, which win, and what is said of those that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline.settings import EventType, Learning, Settings, SettingsError, load_settings

SHIPPED = Path(__file__).parents[1] / "config" / "headrace.yaml"


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a settings file."""

    def write(text: str) -> Path:
        path = tmp_path / "headrace.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


def refused(path: Path | None, environment: dict[str, str] | None = None, flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environment=environment or {}, flags=flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


def keys(model: BaseModel, prefix: str = "") -> set[str]:
    """Every key, sections and the entries of mappings included."""
    found: set[str] = set()
    for name in type(model).model_fields:
        value = getattr(model, name)
        found.add(prefix + name)
        if isinstance(value, BaseModel):
            found |= keys(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for entry, inner in value.items():
                found |= {f"{prefix}{name}.{entry}"} | keys(inner, f"{prefix}{name}.{entry}.")
    return found


def named(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in tree.items():
        found.add(prefix + name)
        if isinstance(value, dict):
            found |= named(value, f"{prefix}{name}.")
    return found


def test_the_shipped_file_holds_every_key_and_the_defaults() -> None:
    assert load_settings(SHIPPED, environment={}) == Settings()
    assert named(yaml.safe_load(SHIPPED.read_text("utf-8"))) == keys(Settings())


def test_every_key_of_the_shipped_file_has_a_comment() -> None:
    lines = SHIPPED.read_text("utf-8").splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        key = re.match(r"\s*([a-z_]+):(.*)", line)
        if key is None or key[1] in ("kafka", "home", "categories", "attributes") or line.strip().endswith("}"):
            continue
        assert " # " in line or before.strip().startswith("#"), line


def test_defaults_then_file_then_environment_then_flags(written: Any) -> None:
    path = written("kafka: {bootstrap: 'file:1', partitions: 2}\nseed: 2\n")
    environment = {"HEADRACE__KAFKA__BOOTSTRAP": "env:1", "HEADRACE__SEED": "3", "OTHER": "x"}
    assert load_settings(environment={}).kafka.bootstrap == "localhost:9092"
    assert load_settings(path, environment={}).kafka.bootstrap == "file:1"
    with_env = load_settings(path, environment=environment)
    assert (with_env.kafka.bootstrap, with_env.kafka.partitions, with_env.seed) == ("env:1", 2, 3)
    flags = {"kafka.bootstrap": "flag:1", "seed": None}
    with_flags = load_settings(path, environment=environment, flags=flags)
    assert (with_flags.kafka.bootstrap, with_flags.kafka.partitions, with_flags.seed) == ("flag:1", 2, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafak: {}", "unknown key kafak; did you mean kafka?"),
        ("kafka: {Bootstrap: 'a:1'}", "unknown key kafka.Bootstrap; did you mean kafka.bootstrap?"),
        ("learning: {event_types: {buy: {signl: 1}}}", "did you mean learning.event_types.buy.signal?"),
        ("publishing: {lists: {home: {sise: 1}}}", "did you mean publishing.lists.home.size?"),
        (
            "publishing: {lists: {home: {exclude: {categorys: [a]}}}}",
            "did you mean publishing.lists.home.exclude.categories?",
        ),
        ("metrics: {zzz: 1}", "unknown key metrics.zzz; known here: host, port, peers"),
    ],
)
def test_an_unknown_key_is_refused_by_name_with_the_nearest_known_one(written: Any, text: str, said: str) -> None:
    path = written(text)
    assert said in (found := refused(path))
    assert str(path) in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: {partitions: 0}", "kafka.partitions: must be at least 1 (given: 0"),
        ("kafka: {partitions: true}", "kafka.partitions: must be a number (given: True"),
        ("kafka: {partitions: few}", "kafka.partitions: must be a whole number (given: 'few'"),
        ("kafka: {create_topics: maybe}", "kafka.create_topics: must be true or false (given: 'maybe'"),
        ("instance: 0", "instance: must be text; in YAML put it in quotes (given: 0"),
        ("namespace: true", "namespace: must be text; in YAML put it in quotes (given: True"),
        ("namespace: 'a b'", "namespace: must match "),
        ("encoding: {pooling: max}", "encoding.pooling: must be one of 'auto', 'mean', 'cls' or 'last'"),
        ("encoding: {device: gpu}", "encoding.device: must be auto, cpu, cuda or cuda:NUMBER (given: 'gpu'"),
        ("learning: {device: 'cuda:x'}", "learning.device: must be auto, cpu, cuda or cuda:NUMBER"),
        ("learning: {allowed_lateness_s: 1e999}", "learning.allowed_lateness_s: must be a number"),
        ("learning: {event_types: {rating: {positive: maybe}}}", "rating.positive: must be true or false or a number"),
        ("learning: {event_types: {'': {}}}", "learning.event_types.: an event type must be 1 to 256 bytes"),
        ("learning: {event_types: [view]}", "learning.event_types: must be a section"),
        ("publishing: {segments: country}", "publishing.segments: must be a list, such as [a, b] (given: 'country'"),
        ("publishing: {segments: [7]}", "publishing.segments.0: must be text"),
        ("publishing: {lists: {'a:b': {}}}", "publishing.lists.a:b: a list's name must be 1 to 64 bytes"),
        ("publishing: {lists: {'': {}}}", "publishing.lists.: a list's name must be 1 to 64 bytes"),
        ("publishing: {lists: {trending: {}}}", "a list cannot be named trending"),
        ("kafka: 7", "kafka: must be a section"),
        ("seed: 1\nseed: 2", "not YAML: seed is there twice"),
        ("kafka: [", "not YAML: "),
        ("- seed", "must be a mapping of sections, found list"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_may_stand_there(written: Any, text: str, said: str) -> None:
    assert said in refused(written(text))


@pytest.mark.parametrize(
    "bootstrap", ["localhost", "localhost:", ":9092", "a:0", "a:65536", "http://a:1", "a:1,", "", "a b:1"]
)
def test_bootstrap_must_be_hosts_and_ports(bootstrap: str) -> None:
    said = refused(None, flags={"kafka.bootstrap": bootstrap})
    assert said.startswith("settings: kafka.bootstrap: must be HOST:PORT, or several with commas (given: ")
    assert "by --bootstrap" in said


@pytest.mark.parametrize(
    "bootstrap", ["localhost:9092", "a.b-c:1,d:65535", "10.0.0.1:9092, 10.0.0.2:9092", "[::1]:9092"]
)
def test_one_bootstrap_server_or_several(bootstrap: str) -> None:
    assert load_settings(environment={}, flags={"kafka.bootstrap": bootstrap}).kafka.bootstrap == bootstrap.replace(
        " ", ""
    )


def test_keys_that_must_fit_together(written: Any) -> None:
    assert refused(written("learning: {allowed_lateness_s: 604801}")).startswith(
        "settings: learning.dedupe_window_s must be at least learning.allowed_lateness_s"
    )
    assert refused(written("learning: {candidates: 20}\npublishing: {lists: {a: {size: 21}, b: {}}}")).startswith(
        "settings: learning.candidates must be at least the size of the largest list, 21"
    )
    many = ", ".join(f"t{n}: {{}}" for n in range(40))
    assert "learning.event_types: at most 48" in refused(written(f"learning: {{event_types: {{{many}}}}}"))
    few = ", ".join(f"t{n}: {{}}" for n in range(39))
    assert (
        len(load_settings(written(f"learning: {{event_types: {{{few}}}}}"), environment={}).learning.event_types) == 48
    )


def test_given_event_types_extend_the_default_ones() -> None:
    defaults = Learning().event_types
    given = Learning.model_validate({"event_types": {"buy": {"consumes": True}, "purchase": {"signal": 2}}}).event_types
    assert given == {
        **defaults,
        "buy": EventType(consumes=True),
        "purchase": EventType(signal=2, consumes=True),
    }
    assert Learning(event_types={"rating": EventType(positive=3.0)}).event_types["rating"] == EventType(positive=3.0)
    assert Settings.model_validate(Settings().model_dump()) == Settings()
    assert Settings.model_validate_json(Settings().model_dump_json()) == Settings()


def test_lists_given_replace_the_default_ones(written: Any) -> None:
    assert list(load_settings(written("publishing: {lists: {cart: {size: 3}}}"), environment={}).publishing.lists) == [
        "cart"
    ]


def test_yaml_means_what_it_says(written: Any) -> None:
    path = written(
        "publishing:\n  variant: no\n  segments: [on, 'off', 1:30]\n  ttl_s: 1e3\n"
        "seed: 010\ninstance: '0'\nkafka:\nepochs: {snapshots: ~/x}\n"
        "learning:\n  event_types:\n    wish:\n    rating: {positive: 4}\n"
    )
    settings = load_settings(path, environment={})
    assert settings.publishing.variant == "no"
    assert settings.publishing.segments == ("on", "off", "1:30")
    assert (settings.publishing.ttl_s, settings.seed, settings.epochs.snapshots) == (1000, 10, Path("~/x"))
    assert settings.kafka == Settings().kafka
    assert settings.learning.event_types["wish"] == EventType()
    positive = settings.learning.event_types["rating"].positive
    assert (positive, type(positive)) == (4.0, float)


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeffseed: 1\n", "{}"])
def test_a_file_may_be_empty(written: Any, text: str) -> None:
    assert load_settings(written(text), environment={}) == Settings()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: No such file or directory"
    assert "Is a directory" in refused(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"namespace: caf\xe9")
    assert "not YAML" in refused(tmp_path / "latin.yaml")


def test_the_environment_knows_what_a_key_holds() -> None:
    environment = {
        "HEADRACE__INSTANCE": "0",
        "HEADRACE__NAMESPACE": "true",
        "HEADRACE__PUBLISHING__SEGMENTS": "[country, device]",
        "HEADRACE__METRICS__PEERS": "false",
        "HEADRACE__LEARNING__EVENT_TYPES__RATING__POSITIVE": "3",
        "HEADRACE__EPOCHS__SNAPSHOTS": "123",
        "HEADRACE__PUBLISHING__LISTS": "{a: {size: 3}}",
        "HEADRACE__ENCODING__POOLING": "cls",
    }
    settings = load_settings(environment=environment)
    assert (settings.instance, settings.namespace, settings.metrics.peers) == ("0", "true", False)
    assert settings.publishing.segments == ("country", "device")
    assert settings.learning.event_types["rating"] == EventType(positive=3.0, consumes=True)
    assert settings.epochs.snapshots == Path("123")
    assert settings.publishing.lists["a"].size == 3
    assert settings.encoding.pooling == "cls"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HEADRACE__KAFAK__BOOTSTRAP", "a:1", "unknown key kafak; did you mean kafka? (by HEADRACE__KAFAK__BOOTSTRAP)"),
        ("HEADRACE__KAFKA__BOOTSTRP", "a:1", "did you mean kafka.bootstrap? (by HEADRACE__KAFKA__BOOTSTRP)"),
        ("HEADRACE__KAFKA", "x", "kafka: must be a section, keys with values (given: 'x', by HEADRACE__KAFKA)"),
        ("HEADRACE__SEED", "x", "seed: must be a whole number (given: 'x', by HEADRACE__SEED)"),
        ("HEADRACE__SEED__X", "1", "seed: must be a whole number (by HEADRACE__SEED__X)"),
        ("HEADRACE__", "1", "unknown key ; known here: namespace"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str, said: str) -> None:
    assert said in refused(None, {name: value})


def test_a_variable_cannot_make_a_section_of_a_value(written: Any) -> None:
    environment = {"HEADRACE__KAFKA__PARTITIONS": "3", "HEADRACE__KAFKA__PARTITIONS__X": "1"}
    assert "HEADRACE__KAFKA__PARTITIONS__X: partitions is not a section" in refused(None, environment)
