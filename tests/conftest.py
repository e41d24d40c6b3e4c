"""What tests of more than one folder need: a real broker, names that no other test uses, Torch on one thread."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from pipeline.runtime.broker import Broker, BrokerError, start_broker

# On shared machines an example takes what it takes: how fast is for benchmarks to say.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

WITH_KAFKA = ("kafka", "test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a broker are marked `kafka`: they have time limits, and are run alone."""
    for item in items:
        where = {*item.path.relative_to(item.config.rootpath).parts}
        if "broker" in getattr(item, "fixturenames", ()) or where & {*WITH_KAFKA}:
            item.add_marker("kafka")


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch with one thread and deterministic algorithms, and then as it was.

    Tiny tensors are fastest so, and bits depend on it. Tests that do without
    need not wait for Torch to load.
    """
    import torch

    threads, exact = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(exact)
