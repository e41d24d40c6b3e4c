"""The section `kafka` of the settings: where Kafka is, how it is spoken to, and how topics are made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.settings_reading import BETWEEN_KEYS, Section, wrong
from pipeline.settings_secrets import Secret, given_once, how_given


def _bootstrap(given: str) -> str:
    servers = [server.strip() for server in given.split(",")]
    for server in servers:
        port = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\]):([0-9]{1,5})", server)
        if port is None or not 1 <= int(port[1]) <= 65535:
            raise wrong("must be HOST:PORT, or several with commas")
    return ",".join(servers)


Bootstrap = Annotated[str, AfterValidator(_bootstrap)]


class Kafka(Section):
    """Connection and topics."""

    bootstrap: Bootstrap = "localhost:9092"
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: Secret = None
    key_password_file: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: Secret = None
    sasl_password_file: Path | None = None
    create_topics: bool = True
    partitions: int = Field(default=4, ge=1, le=10_000)
    replication_factor: int = Field(default=-1, ge=-1)
    transaction_timeout_s: float = Field(default=30, gt=0, le=900)

    @property
    def encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self.security_protocol in ("ssl", "sasl_ssl")

    @property
    def authenticated(self) -> bool:
        """Whether connections log in by SASL."""
        return self.security_protocol in ("sasl_plaintext", "sasl_ssl")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given_once(self, "kafka", "key_password")
        given_once(self, "kafka", "sasl_password")
        # What is given and not used is a connection taken to be safer than it is.
        if not self.encrypted:
            self._refuse("ssl or sasl_ssl", "ca_file", "cert_file", "key_file", "key_password", "key_password_file")
        if not self.authenticated:
            self._refuse("sasl_ssl", "sasl_username", "sasl_password", "sasl_password_file")
        needed = f"needed by kafka.security_protocol {self.security_protocol}"
        if self.authenticated and not self.sasl_username:
            raise wrong(f"kafka.sasl_username: {needed}", BETWEEN_KEYS)
        if self.authenticated and not (self.sasl_password or self.sasl_password_file):
            raise wrong(f"kafka.sasl_password: {needed}; {how_given(('kafka', 'sasl_password'))}", BETWEEN_KEYS)
        if self.cert_file is None and (self.key_file or self.key_password or self.key_password_file):
            raise wrong("kafka.key_file, kafka.key_password: of no use without kafka.cert_file", BETWEEN_KEYS)
        return self

    def _refuse(self, needed: str, *keys: str) -> None:
        for key in keys:
            if getattr(self, key) is not None:
                told = f"kafka.{key}: kafka.security_protocol {self.security_protocol} would not use it"
                raise wrong(f"{told}; it must be {needed}", BETWEEN_KEYS)
