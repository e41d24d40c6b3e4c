"""Taking a bad period back: what is left out leaves no trace, everybody concerned is told, crashes change nothing."""

from __future__ import annotations

import json
import random
from itertools import islice
from typing import Any

import pytest
from oracle import Report, judge
from shard import Shard, WholeLog, shop, tiny_settings

from consumers.memory import Crash
from pipeline.epochs.recovery import Recovered, RecoveryRefused
from pipeline.epochs.snapshot import MemorySnapshotStore
from pipeline.messages import Rewind, TopicPartition, Without
from pipeline.runtime.console import UsageError
from pipeline.runtime.rewinding import filter_of, rewound, survey
from pipeline.runtime.runner import Parts, Runner
from producers.memory import Fault

ALL = (Without(),)
BOT = (Without(user_id="bot"),)


def shop_with_a_bot(before: int = 14, bad: int = 14, after: int = 8, seed: int = 1) -> tuple[Shard, int]:
    """A shop that a bot floods for a while; gives the last epoch before that."""
    shard = Shard(tiny_settings(epochs={"max_events": 5}))
    stream = shop(shard, random.Random(seed), items=5)
    shard.run(islice(stream, before))
    base = shard.manifests()[-1].epoch
    bot = random.Random(seed + 1)

    def poison() -> None:
        shard.event("bot", f"i{bot.randrange(5)}", "purchase", event_id=f"bad{bot.random()}")
        if bot.random() < 0.2:
            shard.event("bot", "only-the-bot", "purchase")
        next(stream)()

    shard.run([poison] * bad)
    shard.run(islice(stream, after))
    return shard, base


def parts_of(shard: Shard, instance: str = "operator", **changed: Any) -> Parts:
    runner = shard.runner(instance=instance, **changed)
    return runner._parts


def take_back(shard: Shard, base: int, without: tuple[Without, ...] = BOT, **more: Any) -> Recovered:
    instance = more.pop("instance", f"operator-{shard.lives}")
    accept_gap = more.pop("accept_gap", False)
    return rewound(parts_of(shard, instance, accept_gap=accept_gap), Rewind(base, without, **more))


def judged(shard: Shard) -> Report:
    return judge(WholeLog(shard), shard.settings)[0]


def settled(shard: Shard) -> Runner:
    """A life that goes on until nothing is due any more."""
    return shard.run([lambda: None] * 150)


def every_list(shard: Shard) -> dict[str, list[Any]]:
    """All values of each key of the recommendations topic, in order."""
    found: dict[str, list[Any]] = {}
    for record in shard.log.records(shard.settings.topic("recommendations")):
        value = None if record.value is None else json.loads(record.value)
        found.setdefault((record.key or b"").decode(), []).append(value)
    return found


def last_lists(shard: Shard) -> dict[str, Any]:
    """The last value of each key of the recommendations topic."""
    return {key: values[-1] for key, values in every_list(shard).items()}


def test_what_is_left_out_leaves_no_trace_and_a_clean_replay_agrees() -> None:
    shard, base = shop_with_a_bot()
    assert last_lists(shard)["home:bot"] is not None
    recovered = take_back(shard, base)
    assert recovered.processor.learner.users.ids.find("bot") < 0
    assert recovered.processor.learner.catalogue.ids.find("only-the-bot") < 0
    runner = settled(shard)
    assert last_lists(shard)["home:bot"] is None
    similar = {r.key: r.value for r in shard.log.records(shard.settings.topic("similar"))}
    assert similar.get(b"only-the-bot") is None
    report = judged(shard)
    assert report.rewinds == 1
    assert runner.standing.past.rewinds == 1
    assert runner.standing.past.left_out == shard.manifests()[-3].rewind.left_out > 10  # type: ignore[union-attr]


def test_the_state_is_that_of_a_shop_in_which_it_never_happened() -> None:
    shard, base = shop_with_a_bot()
    found = take_back(shard, base).processor
    clean = shard.processor()
    for manifest in shard.manifests():
        if manifest.kind == "epoch":
            records = [r for r in shard.source().read(manifest.ranges) if b'"bot"' not in (r.value or b"")]
            clean.apply(manifest.epoch, records, manifest.clock, manifest.effort)
    mine, other = found.state(), clean.state()
    differing = [name for name in mine if mine[name].numpy().tobytes() != other[name].numpy().tobytes()]
    owed = {"users.due_U", "audience.orphans", "audience.trending_stale", "audience.similar_due_I"}
    assert set(differing) <= owed


def test_everybody_published_to_in_the_period_gets_a_list_again_or_a_tombstone() -> None:
    shard, base = shop_with_a_bot()
    before = every_list(shard)
    bad = {key for key, values in before.items() if any(v is not None and v["epoch"] > base for v in values)}
    take_back(shard, base)
    at = shard.manifests()[-1].epoch
    settled(shard)
    for key, values in every_list(shard).items():
        again = values[len(before.get(key, ())) :]
        assert again or key not in bad, f"{key} is as it was published in the bad period"
        assert all(value is None or value["epoch"] > at for value in again)
    assert len(bad) > 5


@pytest.mark.parametrize("without", [ALL, (Without(item_id="i1"), Without(event_type="purchase", user_id="u1"))])
def test_with_and_without_a_filter_the_oracle_agrees(without: tuple[Without, ...]) -> None:
    shard, base = shop_with_a_bot(seed=4)
    take_back(shard, base, without)
    shard.run([lambda: shard.event("u1", "i1"), lambda: shard.event("bot", "i1")])
    assert judged(shard).rewinds == 1


def test_erasures_and_the_catalogue_are_never_taken_back() -> None:
    shard = Shard(tiny_settings(epochs={"max_events": 5}), partitions=1)
    shard.run([lambda: shard.item("i1"), lambda: shard.event("u1", "i1"), lambda: shard.event("u2", "i1")])
    shard.clock.at += 1000
    shard.run([lambda: shard.append("users", "u1", None), lambda: shard.item("i2"), lambda: shard.event("u2", "i2")])
    processor = take_back(shard, 1, ALL).processor
    assert processor.learner.users.ids.find("u1") < 0
    assert processor.learner.catalogue.ids.find("i2") >= 0
    assert processor.ledger.is_erased("u1", shard.clock.at - 1000)
    settled(shard)
    assert last_lists(shard)["home:u1"] is None
    assert judged(shard).rewinds == 1


def test_what_was_left_out_can_be_sent_again_under_the_same_id() -> None:
    shard = Shard(tiny_settings(epochs={"max_events": 5}), partitions=1)
    shard.run([lambda: shard.item("i1"), lambda: shard.item("i2"), lambda: shard.event("u1", "i1", event_id="e")])
    take_back(shard, 0, ALL)
    runner = shard.run([lambda: shard.event("u1", "i2", event_id="e")])
    assert shard.manifests()[-1].counts.trained == 1
    assert runner.standing.past.left_out == 1
    assert judged(shard).rewinds == 1


def test_a_text_whose_event_is_left_out_waits_for_nobody() -> None:
    shard = Shard(tiny_settings(epochs={"max_events": 5}), partitions=1)
    steps = [lambda: shard.event("u1", "", "search", item_id=None, text="shoes", event_id="q")]
    shard.run([lambda: shard.item("i1"), *steps, lambda: shard.text_vector("u1", "q")])
    processor = take_back(shard, 0, ALL).processor
    assert processor.state()["joiner.vectors"].numpy().tobytes() == b"\x90", "an empty list"
    settled(shard)
    assert judged(shard).rewinds == 1


def _rewound_and_learned_on(shard: Shard, base: int) -> None:
    take_back(shard, base)
    shard.run([lambda: shard.event("u1", "i1"), lambda: shard.event("u2", "i1")])


CRASHES = [Fault.CRASH_BEFORE_SEND, Fault.CRASH_BEFORE_COMMIT, Fault.CRASH_AFTER_COMMIT]


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("fault", CRASHES)
def test_a_crash_at_any_step_leaves_all_of_it_or_nothing(fault: Fault, at: int) -> None:
    """Steps 0 and 1 are the claim's commit and the rewind's; those after are of the learner that publishes."""
    shard, base = shop_with_a_bot()
    shard.faults += [Fault.NONE] * at + [fault]
    with pytest.raises(Crash):
        _rewound_and_learned_on(shard, base)
    committed = any(m.kind == "rewind" for m in shard.manifests())
    assert committed == (at > 1 or (at == 1 and fault is Fault.CRASH_AFTER_COMMIT))
    if not committed:
        take_back(shard, base)
    settled(shard)
    assert last_lists(shard)["home:bot"] is None
    assert judged(shard).rewinds == 1


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_COMMITTED, Fault.UNKNOWN_NOT_COMMITTED])
@pytest.mark.parametrize("at", [0, 1])
def test_after_a_doubtful_commit_it_is_done_once(fault: Fault, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.rewinding.RETRY_S", 0)
    shard, base = shop_with_a_bot()
    shard.faults += [Fault.NONE] * at + [fault]
    take_back(shard, base)
    settled(shard)
    assert judged(shard).rewinds == 1


def test_a_crash_before_the_snapshot_costs_a_replay_and_nothing_else() -> None:
    shard, base = shop_with_a_bot()
    kept, shard.snapshots = shard.snapshots, MemorySnapshotStore()
    take_back(shard, base)
    shard.snapshots = kept
    runner = settled(shard)
    assert last_lists(shard)["home:bot"] is None
    assert judged(shard).rewinds == 1
    assert runner.standing.epoch in shard.snapshots.epochs()
    assert shard.manifests()[-1].kind != "digest-reset", "the snapshots from within the period were passed over"


def test_rewinds_of_rewinds() -> None:
    shard, base = shop_with_a_bot()
    take_back(shard, base, BOT)
    shard.run([lambda: shard.event("u1", "i1"), lambda: shard.event("mallory", "i2", "purchase")])
    after = shard.manifests()[-1].epoch
    take_back(shard, base + 4, (Without(user_id="mallory"),))
    shard.run([lambda: shard.event("u2", "i1"), lambda: shard.event("mallory", "i2", "purchase")])
    processor = take_back(shard, after + 3, (Without(user_id="mallory"),)).processor
    assert processor.learner.users.ids.find("mallory") < 0
    assert processor.learner.users.ids.find("bot") < 0
    shard.snapshots = MemorySnapshotStore()
    settled(shard)
    assert (last_lists(shard)["home:bot"], last_lists(shard)["home:mallory"]) == (None, None)
    assert judged(shard).rewinds == 3


def test_a_rewind_can_be_taken_back() -> None:
    shard, base = shop_with_a_bot()
    take_back(shard, base, ALL)
    settled(shard)
    found = take_back(shard, base, (), restore=True)
    assert found.processor.learner.users.ids.find("bot") >= 0
    runner = settled(shard)
    assert last_lists(shard)["home:bot"] is not None
    assert judged(shard).rewinds == 2
    assert runner.standing.past.rewinds == 2


def test_after_a_rewind_retention_may_take_what_it_read() -> None:
    shard, base = shop_with_a_bot()
    take_back(shard, base)
    settled(shard)
    for place in shard.log.topic_partitions(shard.settings.topic("events")):
        shard.log.delete_before(place, shard.log.end(place))
    runner = shard.run([lambda: shard.event("u1", "i1")])
    assert runner.standing.past.gaps == 0
    assert runner.standing.past.rewinds == 1


def test_what_the_log_no_longer_holds_is_named() -> None:
    shard, base = shop_with_a_bot()
    place = TopicPartition(shard.settings.topic("events"), 0)
    shard.log.delete_before(place, shard.log.end(place) - 2)
    parts, end = parts_of(shard), shard.log.end(place) - 2
    before = shard.manifests()
    with pytest.raises(RecoveryRefused, match=rf"events.v1-0 \[\d+, {end}\).*--accept-gap"):
        survey(parts, Rewind(base, BOT))
    with pytest.raises(RecoveryRefused, match=rf"events.v1-0 \[\d+, {end}\).*--accept-gap"):
        rewound(parts, Rewind(base, BOT))
    assert shard.manifests() == before
    take_back(shard, base, accept_gap=True)
    assert [m.kind for m in shard.manifests()[-3:]] == ["claim", "rewind", "digest-reset"]
    runner = settled(shard)
    assert last_lists(shard)["home:bot"] is None
    assert runner.standing.past.gaps == 1


def test_a_survey_counts_and_changes_nothing() -> None:
    shard, base = shop_with_a_bot()
    epochs = TopicPartition(shard.settings.topic("epochs"), 0)
    before, end = shard.manifests(), shard.log.end(epochs)
    found = survey(parts_of(shard), Rewind(base, BOT))
    assert shard.log.end(epochs) == end
    done = take_back(shard, base)
    assert found.left_out.total() == shard.manifests()[-1].rewind.left_out  # type: ignore[union-attr]
    assert found.users == {"bot"}
    events = sum(p.records for m in before for p in m.ranges if m.epoch > base and "events.v1" in p.topic)
    assert found.again + found.left_out.total() == events
    assert "purchase" in found.told(Rewind(base, BOT))
    assert done.replayed > 0


@pytest.mark.parametrize("base", [-1, 10_000])
def test_an_epoch_that_is_not_there_is_refused(base: int) -> None:
    shard, _ = shop_with_a_bot(5, 3, 0)
    with pytest.raises(RecoveryRefused, match=f"there is no epoch {base} to go back to"):
        survey(parts_of(shard), Rewind(base, BOT))


def test_an_overtaken_learner_ends_for_good() -> None:
    shard, base = shop_with_a_bot()
    sink = shard.sink()
    sink.start()
    take_back(shard, base)
    with pytest.raises(Exception, match="fenced"):
        sink.commit([], None, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=view,item=i9", Without(event_type="view", item_id="i9")),
        (r"user=a\,b", Without(user_id="a,b")),
        ("item=a=b", Without(item_id="a=b")),
        ("partition=1,from=5,to=9", Without(partition=1, start=5, stop=9)),
        ("since=1970-01-01T00:00:01Z,until=2000", Without(since=1000, until=2000)),
        ("anonymous=n", Without(anonymous_id="n")),
    ],
)
def test_filters_are_read(text: str, expected: Without) -> None:
    assert filter_of(text) == expected


@pytest.mark.parametrize("text", ["", "view", "kind=view", "type=", "partition=x", "from=5", "since=yesterday"])
def test_a_filter_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--without"):
        filter_of(text)
