"""Kafka for development, demo and tests: `start_broker` gives a running broker on loopback, `start_cluster` several."""

from pipeline.runtime.broker.broker import Broker, start_broker
from pipeline.runtime.broker.cluster import Cluster, start_cluster
from pipeline.runtime.broker.errors import BrokerError, BrokerUnavailable

__all__ = ["Broker", "BrokerError", "BrokerUnavailable", "Cluster", "start_broker", "start_cluster"]
