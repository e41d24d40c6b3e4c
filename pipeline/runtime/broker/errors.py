"""What can go wrong with the development broker."""

from __future__ import annotations


class BrokerError(RuntimeError):
    """The broker cannot be started or has died; the text tells a person why."""


class BrokerUnavailable(BrokerError):
    """This machine cannot run a broker of the kind asked for: something it needs is not there."""


class PortTaken(BrokerError):
    """Another program listens on the port."""
