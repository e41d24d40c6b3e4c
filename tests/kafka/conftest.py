"""A real Kafka broker for every test in this folder, and topic names that no other test uses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from pipeline.runtime.broker import Broker, BrokerError, start_broker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Apache Kafka, one for all tests of the session; a test that kills it starts it again.

    Where it cannot be had the tests fail: what they claim can be shown on nothing else.
    """
    try:
        running = start_broker("kafka", announce=print)
    except BrokerError as error:
        pytest.fail(f"these tests need Apache Kafka, and it cannot be started: {error}", pytrace=False)
    with running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A prefix for topics, groups and transactional ids that is this test's alone."""
    return f"test-{uuid.uuid4().hex[:12]}"
