"""How every Kafka client here connects: TLS and SASL as kafka-python takes them, from the settings alone."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any

from pipeline.settings_kafka import Kafka
from pipeline.settings_reading import SettingsError
from pipeline.settings_secrets import secret

log = logging.getLogger(__name__)


def connection_options(kafka: Kafka) -> dict[str, Any]:
    """What kafka-python needs beside the address; files are read as they are now.

    TLS is 1.2 or newer, and always checks the broker's certificate and host
    name: nothing here turns that off. Raises SettingsError, naming the key.
    """
    options: dict[str, Any] = {"security_protocol": kafka.security_protocol.upper()}
    if kafka.encrypted:
        options["ssl_context"] = _context(kafka)
    if kafka.authenticated:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = secret(kafka.sasl_password, kafka.sasl_password_file, "kafka.sasl_password")
    return options


class Connection:
    """The options of the next connection: what changed on disk is taken up without a restart."""

    def __init__(self, kafka: Kafka) -> None:
        """Raises SettingsError, naming the key."""
        self._kafka = kafka
        self._options = connection_options(kafka)

    def options(self) -> Mapping[str, Any]:
        """As the files are now, or as they were where they cannot be used now."""
        try:
            self._options = connection_options(self._kafka)
        except SettingsError as error:
            log.warning("%s; going on with what was read before", error)
        return self._options


def _context(kafka: Kafka) -> ssl.SSLContext:
    # Not ssl.create_default_context: that writes session keys to a file where SSLKEYLOGFILE says so.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if kafka.ca_file is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(kafka.ca_file)
        except ssl.SSLError:
            raise SettingsError(f"settings: kafka.ca_file: {kafka.ca_file}: holds no certificate in PEM") from None
        except OSError as error:
            raise SettingsError(f"settings: kafka.ca_file: {kafka.ca_file}: {error.strerror}") from None
    if kafka.cert_file is not None:
        _load_certificate(context, kafka)
    return context


def _load_certificate(context: ssl.SSLContext, kafka: Kafka) -> None:
    assert kafka.cert_file is not None
    password = secret(kafka.key_password, kafka.key_password_file, "kafka.key_password")
    for key, path in (("cert_file", kafka.cert_file), ("key_file", kafka.key_file)):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise SettingsError(f"settings: kafka.{key}: {path}: {error.strerror}") from None
    try:
        # A function, even without a password: OpenSSL would ask for one at the terminal.
        context.load_cert_chain(kafka.cert_file, kafka.key_file, lambda: b"" if password is None else password.encode())
    except (ssl.SSLError, ValueError) as error:
        said = getattr(error, "reason", None) or "unusable"
        raise SettingsError(
            f"settings: kafka.cert_file, kafka.key_file, kafka.key_password: {kafka.key_file or kafka.cert_file}: "
            f"no certificate with its private key, or another password ({said})"
        ) from None
