"""A Kafka broker for development, demo and tests: `start_broker` gives a running one on loopback."""

from pipeline.runtime.broker.broker import Broker, start_broker
from pipeline.runtime.broker.errors import BrokerError, BrokerUnavailable

__all__ = ["Broker", "BrokerError", "BrokerUnavailable", "start_broker"]
