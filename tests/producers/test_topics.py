"""The plan of topics keeps what the design promises of them."""

from __future__ import annotations

from pipeline.settings import Settings
from producers.kafka_topics import planned_topics

PLANS = planned_topics(Settings(namespace="n"))


def test_every_topic_has_a_plan() -> None:
    kinds = {"events", "items", "users", "vectors", "event-vectors", "recommendations", "similar", "epochs"}
    read = {"events", "items", "users", "vectors", "event-vectors"}
    assert set(PLANS) == {f"n.{kind}.v1" for kind in kinds} | {f"n.{kind}.v1.dlq" for kind in read}


def test_what_is_kept_by_key_is_compacted_and_nothing_else() -> None:
    compacted = {name for name, plan in PLANS.items() if plan.options["cleanup.policy"] == "compact"}
    assert compacted == {f"n.{kind}.v1" for kind in ("items", "users", "vectors", "recommendations", "similar")}


def test_an_erasure_outlives_the_events_it_erases() -> None:
    events, users = PLANS["n.events.v1"].options, PLANS["n.users.v1"].options
    assert int(users["delete.retention.ms"]) >= int(events["retention.ms"]) > 0
    assert users["message.timestamp.type"] == events["message.timestamp.type"] == "LogAppendTime"


def test_manifests_are_kept_for_ever_in_one_partition() -> None:
    epochs = PLANS["n.epochs.v1"]
    assert (epochs.partitions, epochs.options["retention.ms"]) == (1, "-1")


def test_a_wrong_clock_does_not_make_brokers_refuse_what_headrace_writes() -> None:
    written = {
        name for name in PLANS if name.split(".")[1] not in ("events", "items", "users") or name.endswith(".dlq")
    }
    times = {name: PLANS[name].options.get("message.timestamp.type") for name in written}
    assert set(times.values()) == {"LogAppendTime"}, times


def test_every_promise_is_about_a_setting_of_the_plan() -> None:
    assert all(plan.promises.keys() <= plan.config.keys() for plan in PLANS.values())
