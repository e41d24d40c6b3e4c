"""A real broker with TLS and SASL listeners, good ones and faulty ones, and the settings that fit each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certificates import ELSEWHERE, SUBJECTS, Authority
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from pipeline.runtime.broker import Broker, start_broker
from pipeline.runtime.broker.ports import free_port

USER = "alice"
PASSWORD = "pass-4f1c9e-canary"
KEY_PASSWORD = "key-b82d07-canary"
LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "ELSEWHERE": "SSL",
    "EXPIRED": "SSL",
    "SECURED": "SASL_SSL",
    "SCRAMONLY": "SASL_SSL",
    "INCLEAR": "SASL_PLAINTEXT",
    "WANDERING": "SSL",
}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass
class Secured:
    """The broker, its listeners' ports by name, and the certificates."""

    broker: Broker
    ports: dict[str, int]
    authority: Authority
    other: Authority
    client: Path
    strange_client: Path

    def at(self, listener: str, host: str = "127.0.0.1") -> str:
        """HOST:PORT of a listener."""
        return f"{host}:{self.ports[listener]}"

    def settings(self, listener: str, **changed: Any) -> dict[str, Any]:
        """The section `kafka` for a listener, without secrets; None takes a key away."""
        section: dict[str, Any] = {"bootstrap": self.at(listener), "security_protocol": LISTENERS[listener].lower()}
        if "SSL" in LISTENERS[listener]:
            section["ca_file"] = str(self.authority.pem)
        if "SASL" in LISTENERS[listener]:
            section |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER}
        if listener == "MUTUAL":
            section["cert_file"] = str(self.client)
        return {key: value for key, value in (section | changed).items() if value is not None}

    def set_password(self, password: str, user: str = USER) -> None:
        """Of a SCRAM user, made if need be."""
        with closing(KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)) as admin:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                change = UserScramCredentialUpsertion(user, mechanism, password)
                refused = admin.alter_user_scram_credentials([change])
                assert not any(refused.values()), refused


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Running, with the user `USER` for PLAIN and SCRAM alike."""
    authority, other = Authority(folder / "authority"), Authority(folder / "other-authority")
    good = authority.issue("broker", SUBJECTS)
    keystores = dict.fromkeys(LISTENERS, good) | {
        "ELSEWHERE": authority.issue("elsewhere", ELSEWHERE),
        "EXPIRED": authority.issue("expired", SUBJECTS, expired=True),
        "WANDERING": authority.issue("wandering", "IP:127.0.0.1"),
    }
    ports: dict[str, int] = {}
    for name in LISTENERS:
        port = free_port()
        while port in ports.values():
            port = free_port()
        ports[name] = port
    properties = _properties(ports, keystores, authority)
    with start_broker("kafka", announce=print, properties=properties) as broker:
        made = Secured(
            broker, ports, authority, other,
            authority.issue("client", "DNS:client", password=KEY_PASSWORD), other.issue("stranger", "DNS:stranger"),
        )  # fmt: skip
        made.set_password(PASSWORD)
        yield made


def _properties(ports: dict[str, int], keystores: dict[str, Path], authority: Authority) -> dict[str, str]:
    listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    # Its certificate is good for the address that clients start from, not for the one that it sends them on to.
    announced = listeners | {"WANDERING": f"WANDERING://localhost:{ports['WANDERING']}"}
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | LISTENERS
    found = {
        "listeners": ",".join(listeners.values()),
        "advertised.listeners": ",".join(announced.values()),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
    }
    for name, protocol in LISTENERS.items():
        prefix = f"listener.name.{name.lower()}."
        if "SSL" in protocol:
            found[f"{prefix}ssl.keystore.type"] = "PEM"
            found[f"{prefix}ssl.keystore.location"] = str(keystores[name])
        if "SASL" in protocol:
            mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-512"] + ["PLAIN"] * (name != "SCRAMONLY")
            found[f"{prefix}sasl.enabled.mechanisms"] = ",".join(mechanisms)
            for mechanism in mechanisms:
                login = f'{_PLAIN} required user_{USER}="{PASSWORD}"' if mechanism == "PLAIN" else f"{_SCRAM} required"
                found[f"{prefix}{mechanism.lower()}.sasl.jaas.config"] = f"{login};"
    found |= {
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.truststore.type": "PEM",
        "listener.name.mutual.ssl.truststore.location": str(authority.pem),
    }
    return found
