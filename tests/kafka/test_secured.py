"""TLS and SASL to a real Kafka: whole runs through them, and every way in which they fail, closed, in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crashing import World, wait_for, wait_until_read
from oracle import Report
from secured import KEY_PASSWORD, PASSWORD, Secured, secured_broker
from service import ROOT, Service, environment, small_settings, write_settings
from traffic import demo

from consumers.dump import read_dumped
from consumers.kafka import KafkaSource
from consumers.kafka_connection import connection_options
from pipeline.messages import Record
from pipeline.settings import Settings, load_settings
from producers.kafka_topics import create_topics

LIMIT_S = 30.0
# A first life may be in the middle of compiling its kernels; how fast one stops is for other tests to say.
STOP_S = 90.0
EVENTS = 200


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_broker(tmp_path_factory.mktemp("certificates") / "made") as running:
        yield running


def settings_of(secured: Secured, listener: str, namespace: str, password: str = PASSWORD, **changed: Any) -> Settings:
    section = secured.settings(listener, **changed)
    if section["security_protocol"].startswith("sasl"):
        section["sasl_password"] = password
    if section.get("cert_file") == str(secured.client):
        section.setdefault("key_password", KEY_PASSWORD)
    return Settings.model_validate({"namespace": namespace, "kafka": section})


def reached(settings: Settings) -> set[str]:
    """Topics made and found through the listener."""
    options = connection_options(settings.kafka)
    create_topics(settings.kafka.bootstrap, settings, options)
    source = KafkaSource(settings.kafka.bootstrap, [settings.topic("events")], options=options)
    try:
        return {partition.topic for partition in source.partitions()}
    finally:
        source.close()


@pytest.mark.parametrize(
    ("listener", "changed"),
    [
        ("TLS", {}),
        ("TLS", {"bootstrap": "localhost"}),
        ("MUTUAL", {}),
        ("SECURED", {"sasl_mechanism": "PLAIN"}),
        ("SECURED", {"sasl_mechanism": "SCRAM-SHA-256"}),
        ("SECURED", {}),
        ("INCLEAR", {}),
        ("SECURED", {"bootstrap": "127.0.0.1:1,"}),
    ],
)
def test_every_way_in_is_open_to_the_right_settings(
    secured: Secured, namespace: str, listener: str, changed: dict[str, str]
) -> None:
    given = dict(changed)
    if given.get("bootstrap") == "localhost":
        given["bootstrap"] = secured.at(listener, "localhost")
    elif "bootstrap" in given:
        given["bootstrap"] += secured.at(listener)
    settings = settings_of(secured, listener, namespace, **given)
    assert reached(settings) == {settings.topic("events")}


FAULTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("wrong-ca", "TLS", {"ca_file": "OTHER"}, "has a certificate that is not signed by an authority of kafka.ca_file"),
    ("no-ca", "TLS", {"ca_file": None}, "has a certificate that is not signed by an authority of kafka.ca_file"),
    ("wrong-host", "ELSEWHERE", {}, "has a certificate for another host name than 127.0.0.1; kafka.bootstrap"),
    ("announced-host", "WANDERING", {}, "announces a broker as localhost:PORT, which has a certificate for another"),
    ("expired", "EXPIRED", {}, "has a certificate that has expired"),
    ("no-client-certificate", "MUTUAL", {"cert_file": None}, "asks for a client's certificate, and got none"),
    ("strange-client", "MUTUAL", {"cert_file": "STRANGE"}, "asks for a client's certificate, and got none"),
    ("wrong-password-plain", "SECURED", {"sasl_mechanism": "PLAIN", "sasl_password": "no"}, "refuses kafka.sasl_user"),
    ("wrong-password-scram", "SECURED", {"sasl_password": "no"}, "refuses kafka.sasl_username with this kafka.sasl_pa"),
    ("wrong-password-in-clear", "INCLEAR", {"sasl_password": "no"}, "refuses kafka.sasl_username with this kafka.sasl"),
    ("wrong-user", "SECURED", {"sasl_username": "bob"}, "refuses kafka.sasl_username with this kafka.sasl_password"),
    ("wrong-mechanism", "SCRAMONLY", {"sasl_mechanism": "PLAIN"}, "must be one of its own: SCRAM-SHA-256, SCRAM-SHA-5"),
    ("tls-to-plaintext", "TLS", {"bootstrap": "PLAINTEXT"}, "does not speak TLS; kafka.security_protocol is ssl"),
    ("plaintext-to-tls", "TLS", {"security_protocol": "plaintext", "ca_file": None}, "speaks TLS; kafka.security_pro"),
    ("ssl-to-sasl", "TLS", {"bootstrap": "SECURED"}, "asks for SASL; kafka.security_protocol is ssl, not sasl_ssl"),
    ("sasl-to-ssl", "SECURED", {"bootstrap": "TLS"}, "does not ask for SASL; kafka.security_protocol is sasl_ssl"),
]


def faulty(secured: Secured, listener: str, changed: dict[str, Any], folder: Path) -> tuple[Path, dict[str, str]]:
    """The settings of a fault as a file, and its secrets as variables."""
    section = secured.settings(listener, **{key: value for key, value in changed.items() if key != "sasl_password"})
    section |= {"ca_file": str(secured.other.pem)} if changed.get("ca_file") == "OTHER" else {}
    section |= {"cert_file": str(secured.strange_client)} if changed.get("cert_file") == "STRANGE" else {}
    if wanted := changed.get("bootstrap"):
        section["bootstrap"] = secured.broker.bootstrap if wanted == "PLAINTEXT" else secured.at(wanted)
    variables = {}
    if section["security_protocol"].startswith("sasl"):
        variables["HEADRACE__KAFKA__SASL_PASSWORD"] = changed.get("sasl_password", PASSWORD)
    config = folder / "headrace.yaml"
    return write_settings(config, {"kafka": section, "metrics": {"port": 0}}), variables


def check_told(stderr: str, code: int, seconds: float, said: str) -> None:
    lines = stderr.strip().splitlines()
    assert code == 1, stderr
    assert re.fullmatch(
        r"headrace: Kafka at 127\.0\.0\.1:\d+ .*" + re.escape(said).replace("PORT", r"\d+") + ".*", lines[-1]
    ), stderr
    assert [line for line in lines[:-1] if not re.search(" (INFO|WARNING) pipeline", line)] == []
    assert seconds < LIMIT_S


@pytest.fixture(scope="module")
def dumped(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, float]]:
    """What `dump` comes to at each fault, four at a time: most of it is waiting."""
    folders = {name: tmp_path_factory.mktemp("fault") for name, *_ in FAULTS}

    def met(fault: Any) -> tuple[int, str, float]:
        name, listener, changed, _ = fault
        config, variables = faulty(secured, listener, changed, folders[name])
        return ended(["dump", "--out", str(folders[name] / "out"), "--config", str(config)], variables)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(folders, pool.map(met, FAULTS), strict=True))


@pytest.mark.parametrize(("name", "said"), [(f[0], f[3]) for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_ends_dump_in_one_line_that_names_it(
    dumped: dict[str, tuple[int, str, float]], name: str, said: str
) -> None:
    code, stderr, seconds = dumped[name]
    check_told(stderr, code, seconds, said)


@pytest.mark.parametrize("command", ["run", "publish"])
@pytest.mark.parametrize(
    ("fault", "create"),
    [("wrong-ca", True), ("wrong-host", True), ("tls-to-plaintext", True), ("wrong-password-scram", False)],
)
def test_a_fault_ends_run_and_publish_too(
    secured: Secured, tmp_path: Path, command: str, fault: str, create: bool
) -> None:
    listener, changed, said = next(each[1:] for each in FAULTS if each[0] == fault)
    config, variables = faulty(secured, listener, changed, tmp_path)
    events = tmp_path / "events.jsonl"
    events.write_text('{"user_id":"u"}\n')
    arguments = [command, *([str(events)] if command == "publish" else []), "--config", str(config)]
    variables["HEADRACE__KAFKA__CREATE_TOPICS"] = str(create).lower()
    code, stderr, seconds = ended(arguments, variables)
    check_told(stderr, code, seconds, said)


def ended(arguments: list[str], variables: dict[str, str]) -> tuple[int, str, float]:
    """A command's exit code and what it said, and how long it took once Python had loaded."""
    script = "import sys, time, pipeline.runtime.service, pipeline.runtime.cli as c; print(time.time()); c.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT, check=False, timeout=180,
        env=environment() | variables,
    )  # fmt: skip
    return done.returncode, done.stderr, time.time() - float(done.stdout.split("\n", 1)[0])


def through(secured: Secured, folder: Path, namespace: str, listener: str = "SECURED") -> World:
    """A world whose headrace knows this listener alone; the password is in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "password").write_text(PASSWORD + "\n")
    kafka = secured.settings(listener, sasl_password_file=str(folder / "password"))
    keys = small_settings(kafka["bootstrap"], namespace, folder / "snapshots", kafka=kafka)
    config = write_settings(folder / "headrace.yaml", keys)
    return World(secured.broker.bootstrap, folder, config, load_settings(config, environment={}))


def finished(world: World, service: Service) -> Report:
    """All is read, it stops, and the oracle judges."""
    service.wait_ready()
    wait_until_read(world, service, 120)
    assert service.stop_within(STOP_S) == 0, service.said
    return world.judge()


def published(world: World) -> None:
    for kind, most in (("items", 100_000), ("events", EVENTS)):
        path = world.folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in demo(kind)[:most]), "utf-8")
        code, stderr, _ = ended(["publish", str(path), "--config", str(world.config)], {})
        assert code == 0, stderr


@pytest.mark.timeout(400)
def test_a_whole_run_through_sasl_ssl_with_scram(secured: Secured, tmp_path: Path, namespace: str) -> None:
    world = through(secured, tmp_path, namespace)
    published(world)
    with world.run() as service:
        service.wait_ready()
        wait_until_read(world, service, 120)
        service.kill()
    with world.run() as service:
        report = finished(world, service)
    assert (report.events, report.claims) == (EVENTS, 2)
    assert report.lists > 0
    code, stderr, _ = ended(["dump", "--out", str(tmp_path / "log"), "--config", str(world.config)], {})
    assert code == 0, stderr
    code, stderr, _ = ended(["evaluate", "--plan", str(tmp_path / "log"), "--config", str(world.config)], {})
    assert code == 0, stderr


@pytest.mark.timeout(400)
def test_a_password_gone_bad_is_waited_for_and_a_new_one_taken_up(
    secured: Secured, tmp_path: Path, namespace: str
) -> None:
    world = through(secured, tmp_path, namespace)
    published(world)
    try:
        with world.run() as service:
            service.wait_ready()
            wait_until_read(world, service, 120)
            secured.set_password("another-one")
            secured.broker.restart()
            wait_for(lambda: "refuses kafka.sasl_username with" in service.said, 90, "the reason is told")
            assert service.process.poll() is None
            (tmp_path / "password").write_text("another-one\n")
            wait_for(service.ready, 90, "ready again")
            assert finished(world, service).events == EVENTS
            assert "another-one" not in service.said
    finally:
        secured.set_password(PASSWORD)


@pytest.mark.timeout(400)
def test_the_secrets_are_seen_nowhere(secured: Secured, tmp_path: Path, namespace: str) -> None:
    """Nowhere in what any command says, not even with --debug, in a metric, a manifest, a snapshot or `ps`."""
    canaries = {
        "HEADRACE__KAFKA__SASL_PASSWORD": PASSWORD,
        "HEADRACE__KAFKA__KEY_PASSWORD": KEY_PASSWORD,
        "HEADRACE__METRICS__TOKEN": "token-93ae15-canary",
    }
    kafka = secured.settings("SECURED", cert_file=str(secured.client))
    keys = small_settings(kafka["bootstrap"], namespace, tmp_path / "snapshots", kafka=kafka)
    config = str(write_settings(tmp_path / "headrace.yaml", keys))
    settings = load_settings(Path(config), environment=canaries)
    seen = [repr(settings), str(settings), settings.model_dump_json(), repr(connection_options(settings.kafka))]
    events = tmp_path / "events.jsonl"
    events.write_text("".join(json.dumps(line) + "\n" for line in demo("events")[:50]), "utf-8")
    faults = ({}, {"HEADRACE__KAFKA__BOOTSTRAP": secured.at("ELSEWHERE")}, {"HEADRACE__KAFKA__KEY_FILE": config})
    seen += commanded(["publish", str(events), "--config", config], canaries, faults)
    seen += lived(Path(config), tmp_path / "run.log", canaries)
    seen += commanded(["dump", "--out", str(tmp_path / "log"), "--config", config], canaries, faults)
    seen += commanded(["snapshot", "verify", "--config", config], canaries, ({},))
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert any("headrace_epoch" in text for text in seen)
    records = [read_dumped(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    manifests = [each.value.decode() for each in records if isinstance(each, Record) and "epochs" in each.topic]
    assert any("config_hash" in each for each in manifests)
    seen += manifests
    for secret in canaries.values():
        assert len(secret) > 15
        assert [text[:200] for text in seen if secret in text] == []


def commanded(arguments: list[str], variables: dict[str, str], faults: Sequence[dict[str, str]]) -> list[str]:
    """What a command says, with --debug: where all is well, and with a traceback where it fails."""
    said = []
    for fault in sorted(faults, key=bool, reverse=True):
        code, stderr, _ = ended([*arguments, "--debug"], variables | fault)
        assert (code == 0) == (not fault), stderr
        assert not fault or "Traceback" in stderr, stderr
        said.append(stderr)
    return said


def lived(config: Path, log: Path, variables: dict[str, str]) -> list[str]:
    """What a run shows of itself: its log, its pages, its command line."""
    with Service(config, log, "--debug", variables=variables) as service:
        service.wait_ready()
        time.sleep(3)
        command = Path(f"/proc/{service.process.pid}/cmdline").read_bytes().decode()
        assert "--debug" in command
        assert service.get("/metrics")[0] == 401
        pages = [service.get(path)[1] for path in ("/", "/metrics", "/livez", "/readyz")]
        pages.append(service.get("/metrics", variables["HEADRACE__METRICS__TOKEN"])[1])
        assert service.stop_within(STOP_S) == 0, service.said
    return [command, service.said, *pages]
