"""Secrets among the settings: how they are given, that they cannot be given otherwise, and that nothing shows them."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from consumers.kafka_connection import Connection, connection_options
from pipeline.epochs.digest import config_hash
from pipeline.settings import Settings, SettingsError, load_settings
from pipeline.settings_secrets import Hidden, secret_keys

CANARY = "canary-5a2e8c01f7"
SASL = {"HEADRACE__KAFKA__SECURITY_PROTOCOL": "sasl_ssl", "HEADRACE__KAFKA__SASL_USERNAME": "alice"}
PASSWORD = {"HEADRACE__KAFKA__SASL_PASSWORD": CANARY}


def refused(environment: dict[str, str], path: Path | None = None, flags: dict[str, Any] | None = None) -> str:
    """What is said of settings that cannot be used: never a secret, not even with the traceback."""
    with pytest.raises(SettingsError) as caught:
        connection_options(load_settings(path, environment=environment, flags=flags).kafka)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_secrets_are_these() -> None:
    assert {".".join(keys) for keys in secret_keys(Settings)} == {
        "kafka.key_password", "kafka.sasl_password", "metrics.token",
    }  # fmt: skip


@pytest.mark.parametrize("text", [CANARY, "123456", "true", "null", "~", "a: b", "{x", "ключ é 東", " with spaces "])
def test_a_password_is_taken_from_the_environment_as_it_stands(text: str) -> None:
    options = connection_options(load_settings(environment=SASL | {"HEADRACE__KAFKA__SASL_PASSWORD": text}).kafka)
    assert options["sasl_plain_password"].encode() == text.encode()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_or_from_a_file_of_one_line_which_is_read_anew(tmp_path: Path, end: str, caplog: Any) -> None:
    file = tmp_path / "password"
    file.write_bytes(CANARY.encode() + end.encode())
    connection = Connection(load_settings(environment=SASL | {"HEADRACE__KAFKA__SASL_PASSWORD_FILE": str(file)}).kafka)
    assert connection.options()["sasl_plain_password"].encode() == CANARY.encode()
    file.write_text("another")
    assert connection.options()["sasl_plain_password"].encode() == b"another"
    file.unlink()
    with caplog.at_level(logging.WARNING):
        assert connection.options()["sasl_plain_password"].encode() == b"another"
    assert "kafka.sasl_password_file" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"a\nb\n", b"a\0b", b"x" * (1 << 17), None])
def test_a_file_that_holds_no_password_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(CANARY.encode() + content if content[:1] in (b"\xff", b"a") else content)
    said = refused(SASL | {"HEADRACE__KAFKA__SASL_PASSWORD_FILE": str(file)})
    assert said.startswith(f"settings: kafka.sasl_password_file: {file}: ")


@pytest.mark.parametrize(
    ("section", "key"), [("kafka", "sasl_password"), ("kafka", "key_password"), ("metrics", "token")]
)
def test_in_a_file_of_settings_it_is_refused_by_name_with_the_ways_to_give_it(
    tmp_path: Path, section: str, key: str
) -> None:
    path = tmp_path / "headrace.yaml"
    path.write_text(f"{section}: {{{key}: {CANARY}}}\n")
    said = refused({}, path)
    assert said == (
        f"settings: {section}.{key}: must not stand in a file of settings; give it as "
        f"HEADRACE__{section.upper()}__{key.upper()}, or name a file that holds it in {section}.{key}_file (by {path})"
    )
    assert "not on a command line; give it as" in refused({}, None, {f"{section}.{key}": CANARY})


@pytest.mark.parametrize("option", [["--sasl-password", CANARY], [f"--key-password={CANARY}"], [f"--token={CANARY}"]])
def test_on_the_command_line_it_is_refused_with_the_ways_to_give_it(option: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.runtime.cli", "run", *option], capture_output=True, text=True, cwd=tmp_path,
        check=False, timeout=120, env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"headrace: {option[0].partition('=')[0]}: a command line is no place for a secret; ")
    assert "HEADRACE__" in done.stderr
    assert CANARY not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"kafka: {{sasl_password: {CANARY}", "line "),
        (f"kafka:\n  sasl_password: '{CANARY}\n", "line "),
        (f"kafka:\n\tsasl_password: {CANARY}\n", "line 2"),
    ],
)
def test_a_file_that_is_no_yaml_is_not_quoted(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "headrace.yaml"
    path.write_text(text)
    assert said in refused({}, path)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (PASSWORD, "kafka.sasl_password: kafka.security_protocol plaintext would not use it; it must be sasl_ssl"),
        (SASL, "kafka.sasl_password: needed by kafka.security_protocol sasl_ssl; give it as HEADRACE__KAFKA__SASL_PAS"),
        (SASL | PASSWORD | {"HEADRACE__KAFKA__SASL_PASSWORD_FILE": "/x"}, "only one of them can be given"),
        (SASL | {"HEADRACE__KAFKA__SASL_PASSWORD": ""}, "kafka.sasl_password: must be text, and not empty"),
        (SASL | {"HEADRACE__KAFKA__SASL_PASSWORD": f"{CANARY}\0"}, "kafka.sasl_password: must be text, and not empty"),
        (SASL | PASSWORD | {"HEADRACE__KAFKA__SASL_PASSWORD__X": CANARY}, "is not a section"),
        (
            SASL | PASSWORD | {"HEADRACE__KAFKA__SASL_MECHANISM": "GSSAPI"},
            "'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'",
        ),
        ({"HEADRACE__KAFKA__SASL_PASWORD": CANARY}, "did you mean kafka.sasl_password?"),
        ({"HEADRACE__KAFKA__SECURITY_PROTOCOL": "tls"}, "'plaintext', 'ssl', 'sasl_plaintext' or 'sasl_ssl'"),
        ({"HEADRACE__KAFKA__CA_FILE": "/ca.pem"}, "kafka.ca_file: kafka.security_protocol plaintext would not use it"),
        (
            {"HEADRACE__KAFKA__SECURITY_PROTOCOL": "sasl_plaintext", "HEADRACE__KAFKA__CERT_FILE": "/c"},
            "kafka.cert_file: kafka.security_protocol sasl_plaintext would not use it; it must be ssl or sasl_ssl",
        ),
        ({"HEADRACE__KAFKA__BOOTSTRAP": f"alice:{CANARY}@kafka:9092"}, "kafka.bootstrap: must be HOST:PORT"),
        ({"HEADRACE__KAFKA__SECURITY_PROTOCOL": "ssl", "HEADRACE__KAFKA__KEY_FILE": "/k"}, "without kafka.cert_file"),
        ({"HEADRACE__METRICS__TOKEN": CANARY, "HEADRACE__METRICS__TOKEN_FILE": "/x"}, "only one of them can be given"),
    ],
)
def test_what_does_not_fit_together_is_named_and_fails_closed(environment: dict[str, str], said: str) -> None:
    assert said in refused(environment)


def test_a_secret_says_nothing_and_can_still_be_sent() -> None:
    hidden = Hidden(CANARY)
    told = [f"{hidden}", f"{hidden!r}", "%s %r" % (hidden, [hidden]), str({"p": hidden}), format(hidden, ">30")]  # noqa: UP031
    assert not any(CANARY in each for each in told)
    assert hidden.encode() == CANARY.encode()
    assert "\0".join(["a", hidden]).encode() == b"a\0" + CANARY.encode()


def test_settings_show_no_secret_and_manifests_do_not_know_how_kafka_is_spoken_to() -> None:
    settings = load_settings(environment=SASL | PASSWORD | {"HEADRACE__METRICS__TOKEN": CANARY})
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert CANARY not in shown
    assert CANARY not in repr(connection_options(settings.kafka))
    assert config_hash(settings) == config_hash(Settings())
    assert config_hash(Settings(seed=2)) != config_hash(Settings())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "authority")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Path:
    return authority.issue("client", "DNS:client", password=CANARY)


def test_tls_checks_the_certificate_and_the_host_name(authority: Authority) -> None:
    import ssl

    environment = {"HEADRACE__KAFKA__SECURITY_PROTOCOL": "ssl", "HEADRACE__KAFKA__CA_FILE": str(authority.pem)}
    context = connection_options(load_settings(environment=environment).kafka)["ssl_context"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"CA_FILE": "/nowhere.pem"}, "kafka.ca_file: /nowhere.pem: No such file or directory"),
        ({"CA_FILE": __file__}, "holds no certificate in PEM"),
        ({"CERT_FILE": "/nowhere.pem"}, "kafka.cert_file: /nowhere.pem: No such file or directory"),
        ({"KEY_FILE": "/nowhere.key"}, "kafka.key_file: /nowhere.key: No such file or directory"),
        ({"KEY_PASSWORD": "another"}, "or another password"),
        ({"KEY_PASSWORD": None}, "or another password"),
        ({"KEY_FILE": __file__}, "no certificate with its private key"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    authority: Authority, client: Path, changed: dict[str, str | None], said: str
) -> None:
    given = {"CA_FILE": str(authority.pem), "CERT_FILE": str(client), "KEY_PASSWORD": CANARY}
    connection_options(load_settings(environment=variables(given)).kafka)
    assert said in refused(variables(given | changed))


def variables(given: dict[str, Any]) -> dict[str, str]:
    named = {f"HEADRACE__KAFKA__{key}": value for key, value in given.items() if value is not None}
    return named | {"HEADRACE__KAFKA__SECURITY_PROTOCOL": "ssl"}


def test_every_client_of_kafka_is_given_the_connections_options() -> None:
    """Those of the demo alone are not: its broker is its own, on loopback."""
    import ast

    clients = {"KafkaConsumer", "KafkaProducer", "KafkaAdminClient"}
    ours = {"KafkaSource", "KafkaGroupSource", "KafkaSink", "KafkaReplay", "create_topics", "publish_lines"}
    root, seen = Path(__file__).parents[1], []
    for path in (
        found for package in ("pipeline", "consumers", "producers") for found in (root / package).rglob("*.py")
    ):
        if path.name == "demo.py" or path.parent.name == "broker":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in clients | ours:
                given = ast.unparse(node)
                assert "options" in given, f"{path}:{node.lineno}: {given}"
                assert "**" in given or name in ours, f"{path}:{node.lineno}: {given}"
                seen.append(name)
    assert set(seen) == clients | ours
