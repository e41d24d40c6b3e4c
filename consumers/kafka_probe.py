"""Why Kafka cannot be reached, found by one connection made step by step; runs only after a failure.

kafka-python 3.0.12 tries a connection that fails again until its time is over,
and then says that it timed out, whatever the cause was: each step here, TCP,
TLS, the first request, SASL, has causes of its own.
"""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return"
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

from kafka.errors import KafkaError, for_code
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

STEP_S = 3.0
"""Waited for each step of a connection, at most."""
MOST_BROKERS = 5
_TLS_ALERT = b"\x15\x03"
_X509 = {9: "is not valid yet", 10: "has expired", 23: "was revoked"}
_OTHER_HOST = (62, 63, 64)
# What kafka-python raises on bytes that are no answer to what was asked.
_GARBLED = (OSError, KafkaError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error)
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class _Cause(Exception):
    """Why a broker cannot be used, to stand behind its address."""


class _Unanswered(Exception):
    """Nobody listens, the host is not known, or no answer comes in time."""


def why_unreachable(bootstrap: str, options: Mapping[str, Any]) -> str | None:
    """One line: the broker, the cause and the setting to look at; None where there is nothing to say.

    That is, where nobody answers at any address, or a whole connection could be
    made: the failure has passed, or is of another kind.
    """
    told = None
    for server in bootstrap.split(","):
        host, _, port = server.rpartition(":")
        try:
            announced = _Attempt(host.strip("[]"), int(port), options).made()
        except _Cause as cause:
            told = told or f"{server} {cause}"
        except _Unanswered:
            continue
        else:
            wrong = _announced(announced, bootstrap, options)
            return wrong and f"{server} {wrong}"
    return told


def _announced(brokers: list[tuple[str, int]], bootstrap: str, options: Mapping[str, Any]) -> str | None:
    """Clients go on with the addresses that the brokers announce, which can be wrong in their turn."""
    for host, port in brokers[:MOST_BROKERS]:
        if f"{host}:{port}" in bootstrap.split(","):
            continue
        try:
            _Attempt(host, port, options).made()
        except _Cause as cause:
            return f"announces a broker as {host}:{port}, which {cause}"
        except _Unanswered:
            return f"announces a broker as {host}:{port}, where nobody answers; see its advertised.listeners"
    return None


class _Attempt:
    """One connection to one broker."""

    def __init__(self, host: str, port: int, options: Mapping[str, Any]) -> None:
        self._host, self._port, self._options = host, port, options
        self._protocol = str(options.get("security_protocol", "PLAINTEXT"))
        self._kafka = KafkaProtocol(client_id="headrace", receive_message_max_bytes=10_000_000)

    def made(self) -> list[tuple[str, int]]:
        """Go all the way; gives the addresses that the broker announces. Raises _Cause, _Unanswered."""
        with closing(self._connected()) as plain:
            tls = "SSL" in self._protocol
            with closing(self._handshaken(plain) if tls else plain) as channel:
                try:
                    self._asked(channel, ApiVersionsRequest(version=0))
                    self._logged_in(channel)
                    answer = self._asked(channel, MetadataRequest(version=1, topics=[]))
                except TimeoutError as error:
                    raise _Unanswered from error
                except _GARBLED as error:
                    raise self._refused(error) from error
        return [(broker.host, broker.port) for broker in answer.brokers]

    def _connected(self) -> socket.socket:
        try:
            return socket.create_connection((self._host, self._port), STEP_S)
        except (OSError, UnicodeError) as error:
            raise _Unanswered from error

    def _handshaken(self, plain: socket.socket) -> ssl.SSLSocket:
        try:
            return self._options["ssl_context"].wrap_socket(plain, server_hostname=self._host)
        except TimeoutError as error:
            raise _Unanswered from error
        except ssl.SSLCertVerificationError as error:
            raise _Cause(self._untrusted(error)) from error
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                raise _Cause(_alert(error)) from error
            raise self._no_tls() from error
        except OSError as error:
            raise self._no_tls() from error

    def _no_tls(self) -> _Cause:
        return _Cause(f"does not speak TLS; kafka.security_protocol is {self._protocol.lower()}")

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> str:
        if error.verify_code in _OTHER_HOST:
            return (
                f"has a certificate for another host name than {self._host}; kafka.bootstrap, and the broker's "
                "advertised.listeners, must name it as its certificate does"
            )
        if error.verify_code in _X509:
            return f"has a certificate that {_X509[error.verify_code]}"
        trusted = "an authority of kafka.ca_file (without it, of this system)"
        return f"has a certificate that is not signed by {trusted}: {error.verify_message}"

    def _asked(self, channel: socket.socket, request: Any) -> Any:
        """The answer to one request."""
        self._kafka.send_request(request)
        channel.sendall(self._kafka.send_bytes())
        while True:
            heard = channel.recv(1 << 16)
            if not heard:
                raise ConnectionResetError
            if "SSL" not in self._protocol and heard.startswith(_TLS_ALERT):
                raise _Cause(self._wants_tls())
            if answers := self._kafka.receive_bytes(heard):
                return answers[0][1]

    def _logged_in(self, channel: socket.socket) -> None:
        asked = self._protocol.startswith("SASL")
        mechanism = str(self._options.get("sasl_mechanism") or "PLAIN")
        answer = self._asked(channel, SaslHandshakeRequest(version=1, mechanism=mechanism))
        failure = for_code(answer.error_code).__name__
        # A listener without SASL says so and goes on; one with it does not wait to be asked.
        if not asked and failure == "IllegalSaslStateError":
            return
        if not asked:
            raise _Cause(f"asks for SASL; kafka.security_protocol is {self._protocol.lower()}, not {self._sasl()}")
        if failure == "IllegalSaslStateError":
            raise _Cause(f"does not ask for SASL; kafka.security_protocol is {self._protocol.lower()}")
        if mechanism not in answer.mechanisms:
            known = [name for name in _MECHANISMS if name in answer.mechanisms]
            raise _Cause(f"does not know {mechanism}; kafka.sasl_mechanism must be one of its own: {', '.join(known)}")
        for token in self._tokens(mechanism):
            answer = self._asked(channel, SaslAuthenticateRequest(token, version=0))
            if answer.error_code:
                raise _Cause("refuses kafka.sasl_username with this kafka.sasl_password")
            self._sasl_mechanism.receive(answer.auth_bytes)

    def _tokens(self, mechanism: str) -> Iterator[bytes]:
        self._sasl_mechanism = get_sasl_mechanism(mechanism)(host=self._host, **self._options)
        while not self._sasl_mechanism.is_done():
            yield self._sasl_mechanism.auth_bytes()

    def _sasl(self) -> str:
        return "sasl_ssl" if "SSL" in self._protocol else "sasl_plaintext"

    def _refused(self, error: Exception) -> _Cause:
        """What an end of the connection after the handshake means."""
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return _Cause(_alert(error))
        if "SSL" not in self._protocol and self._speaks_tls():
            return _Cause(self._wants_tls())
        return _Cause(f"does not answer as a Kafka does ({type(error).__name__}); kafka.bootstrap says where it is")

    def _wants_tls(self) -> str:
        wanted = "sasl_ssl" if self._protocol.startswith("SASL") else "ssl or sasl_ssl"
        return f"speaks TLS; kafka.security_protocol is {self._protocol.lower()}, must be {wanted}"

    def _speaks_tls(self) -> bool:
        """Whether a TLS handshake gets as far as a certificate, which is not trusted: nothing more is said."""
        with suppress(_Unanswered), closing(self._connected()) as plain:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(plain, server_hostname=self._host).close()
            except ssl.SSLCertVerificationError:
                return True
            except OSError:
                return False
        return False


def _alert(error: ssl.SSLError) -> str:
    reason = str(error.reason)
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return f"asks for a client's certificate, and got none that it trusts; see kafka.cert_file ({reason})"
    return f"has no TLS in common with this client ({reason})"
