"""A trace goes from an event's header to its list, and an epoch's spans are linked to it."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shard import Shard, tiny_settings

from pipeline.messages import Output
from pipeline.runtime.runner import Runner
from pipeline.runtime.spans import OpenTelemetrySpans
from producers.memory import Fault

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def traced(shard: Shard, user: str, item: str, header: str = "traceparent", trace: bytes = TRACE) -> None:
    value = b'{"event_type":"like","user_id":"%b","item_id":"%b","timestamp":%d}' % (
        user.encode(), item.encode(), shard.clock.at,
    )  # fmt: skip
    shard.log.append(Output(shard.settings.topic("events"), user.encode(), value, ((header, trace),)))


def steps(shard: Shard) -> list[Any]:
    found: list[Any] = [lambda n=n: shard.item(f"i{n}") for n in range(6)]
    return [*found, lambda: traced(shard, "u1", "i1"), lambda: shard.event("u2", "i2")]


def headers(shard: Shard, user: str) -> list[Any]:
    topic = shard.settings.topic("recommendations")
    return [record.headers for record in shard.log.records(topic) if record.key == f"home:{user}".encode()]


def test_a_list_carries_the_trace_of_the_event_that_brought_it_about() -> None:
    shard = Shard(tiny_settings(), partitions=1)
    shard.run(steps(shard))
    assert headers(shard, "u1")[-1] == (("traceparent", TRACE),)
    assert headers(shard, "u2")[-1] == ()


@pytest.mark.parametrize("wrong", [b"", b"00-00", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"\xff" * 55])
def test_what_is_no_trace_is_not_carried(wrong: bytes) -> None:
    shard = Shard(tiny_settings(), partitions=1)
    shard.run([lambda: shard.item("i1"), lambda: shard.item("i2"), lambda: traced(shard, "u1", "i1", trace=wrong)])
    assert headers(shard, "u1")[-1] == ()


def spanned(shard: Shard) -> tuple[Runner, InMemorySpanExporter]:
    exported, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    runner = shard.runner()
    object.__setattr__(runner._parts, "spans", OpenTelemetrySpans(provider))
    return Runner(runner._parts), exported


def test_an_epoch_is_a_span_with_its_stages_linked_to_its_events() -> None:
    shard = Shard(tiny_settings(), partitions=1)
    runner, exported = spanned(shard)
    runner.run(shard.script(steps(shard)))
    spans = exported.get_finished_spans()
    epochs = [span for span in spans if span.name == "headrace.epoch"]
    linked = [span for span in epochs if span.links]
    assert [f"{link.context.trace_id:032x}" for link in linked[0].links] == [TRACE.decode().split("-")[1]]
    committed = {manifest.epoch for manifest in shard.manifests() if manifest.kind == "epoch"}
    assert {span.attributes["headrace.epoch"] for span in epochs} == committed
    for epoch in epochs:
        inside = [span.name for span in spans if span.parent and span.parent.span_id == epoch.context.span_id]
        assert inside == ["headrace.step", "headrace.commit"]
    assert sum(span.attributes["headrace.lists"] for span in epochs) == sum(m.counts.lists for m in shard.manifests())


def test_an_epoch_in_doubt_is_a_span_with_an_error() -> None:
    shard = Shard(tiny_settings(), partitions=1)
    shard.run(steps(shard))
    shard.faults += [Fault.NONE, Fault.UNKNOWN_COMMITTED]
    runner, exported = spanned(shard)
    runner.run(shard.script([lambda: shard.event("u1", "i3")]))
    told = [span.status.description for span in exported.get_finished_spans() if span.name == "headrace.epoch"]
    assert "in doubt: recovered from the log" in told
