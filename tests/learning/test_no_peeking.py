"""No peeking: of the next event nothing but who asks may enter a prediction, and what is scored is what was published.

Two futures follow the same past: other times, items, kinds, values, pages and
contexts. Everything predicted for the next event's question must be equal, bit
for bit. A scorer that looks at what `admit` already knows of the event (the
user's last time, their history with the event in it) must be caught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.encoding.hashing import HashingEncoder
from pipeline.learning.batch import Questions
from pipeline.learning.learner import Learner
from pipeline.learning.lists import recommend
from pipeline.learning.scorer import DenseAnswer
from pipeline.learning.scorers.factorization import Factorization
from pipeline.messages import Event, Item, Source, Vector
from pipeline.settings import Learning, Metrics, Publishing, Settings
from pipeline.step import step

ENCODER = HashingEncoder(24)
START = 1_700_000_000_000
ITEMS = 24
SETTINGS = Settings(
    learning=Learning(width=16, sequence=8, history=16, candidates=20, neighbours=16, interest_steps=1, micro_batch=16),
    publishing=Publishing(lists={"home": {"size": 10}}),
    metrics=Metrics(peers=False),
)
FEW = hypothesis_settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))

Past = list[tuple[str, str, int, float, int]]
past = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cid"]),
        st.sampled_from(["click", "rating", "purchase", "dislike", "impression", "search"]),
        st.integers(0, ITEMS - 1),
        st.sampled_from([1.0, 5.0]),
        st.sampled_from([0, 0, 1, 600]),
    ),
    min_size=1,
    max_size=40,
)
moment = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["click", "like", "view"]),
        "gap": st.sampled_from([0, 1, 3_600, 40_000_000]),
        "item": st.sampled_from(["new", *(f"i{n}" for n in range(ITEMS))]),
        "value": st.sampled_from([None, 3.0, 900.0]),
        "page": st.sampled_from([None, "checkout", "start"]),
        "device": st.sampled_from([None, "phone"]),
    }
)
future = st.lists(moment, min_size=3, max_size=3)


class LastTime(Factorization):
    """A peeking scorer: by the user's last time, which the arena knows once the event is admitted."""

    users: Any = None

    def ask(self, questions: Questions) -> DenseAnswer:
        last_Q = self.users.last_time_U[questions.user_Q].double() / 1000
        rows_I = torch.arange(questions.shape[1])
        return DenseAnswer([torch.sin(last_Q[:, None] + rows_I).float()], len(questions))


class LastItem(Factorization):
    """A peeking scorer: by the last item of the user's history as the arena holds it, the event's own."""

    users: Any = None

    def ask(self, questions: Questions) -> DenseAnswer:
        history, _ = self.users.windows(questions.user_Q, 0)
        rows_I = torch.arange(questions.shape[1])
        return DenseAnswer([(history.item_QL[:, :1] == rows_I).float()], len(questions))


def learner_of(peeking: type[LastTime | LastItem] | None = None) -> Learner:
    """A learner that knows the catalogue; a peeking scorer sits where factorisation does."""
    learner = Learner(SETTINGS, torch.device("cpu"))
    if peeking is not None:
        cheat = peeking(SETTINGS.seed)
        cheat.users = learner.users
        learner.scorers = tuple(cheat if isinstance(s, Factorization) else s for s in learner.scorers)
    for n in range(ITEMS):
        learner.catalogue.describe(Item(f"i{n}"))
    rows = ENCODER.encode([f"thing of kind {n % 4} number {n}" for n in range(ITEMS)])
    assert learner.catalogue.unusable(rows[0], ENCODER.identity) is None
    vectors = [Vector(f"i{n}", row.astype("<f4").tobytes(), "", "", Source(0, n)) for n, row in enumerate(rows)]
    learner.catalogue.take_vectors(vectors)
    learner.resize()
    return learner


def events_of(told: Past) -> list[Event]:
    """The past, in order of time."""
    events, now = [], START
    for user, kind, item, value, gap in told:
        now += 1000 * gap
        named = None if kind == "search" else f"i{item}"
        context = {"device": ("phone", "desk", "watch")[item % 3], "items": item} if item % 4 else {}
        events.append(Event(kind, now, user, item_id=named, value=value, position=item % 5, context=context))
    return events


def next_of(moments: Sequence[dict[str, Any]], after: int) -> list[Event]:
    """What then happens: ann acts, then others."""
    events, now = [], after
    for user, told in zip(("ann", "bob", "zoe"), moments, strict=True):
        now += 1000 * told["gap"]
        context = {key: told[key] for key in ("page", "device") if told[key] is not None}
        events.append(Event(told["kind"], now, user, item_id=told["item"], value=told["value"], context=context))
    return events


def unconsumed(told: Past, moments: Sequence[dict[str, Any]]) -> bool:
    """Whether each of the moments asks a question, so that both futures ask as many."""
    consumed = {(user, f"i{item}") for user, kind, item, _, _ in told if kind in ("rating", "purchase", "dislike")}
    return not any((user, m["item"]) in consumed for user, m in zip(("ann", "bob", "zoe"), moments, strict=True))


def asked(trained: Learner, fresh: Callable[[], Learner], batch: Sequence[Event], watermark: int) -> dict[str, Tensor]:
    """All that is predicted for a micro-batch's questions by a twin of the learner."""
    twin = fresh()
    twin.load({name: tensor.clone() for name, tensor in trained.state().items()})
    admitted = twin.admit(batch, [event.timestamp for event in batch], watermark)
    predicted = twin.predict(admitted.questions)
    history = admitted.questions.history
    return {
        "user": admitted.questions.user_Q, "banned": admitted.questions.banned.whole(), "rows": predicted.rows_QC,
        "score": predicted.score_QC, "feature": predicted.lists.feature_QCK, "context": predicted.lists.context_QX,
        "maturity": predicted.lists.maturity_QC, "present": predicted.lists.present_QC,
        "items": history.item_QL, "codes": history.code_QL, "times": history.time_QL, "count": history.count_Q,
    }  # fmt: skip


def differences(
    told: Past, one: list[dict[str, Any]], two: list[dict[str, Any]], peeking: type[LastTime | LastItem] | None = None
) -> list[str]:
    """What of the predictions, for the next question and those before it in its micro-batch, hangs on the future."""

    def fresh() -> Learner:
        return learner_of(peeking)

    learner, events = fresh(), events_of(told)
    learned, tail = events[: len(events) // 2], events[len(events) // 2 :]
    watermark = learned[-1].timestamp if learned else START
    if learned:
        step(learner, learned, [event.timestamp for event in learned], START)
    both = [asked(learner, fresh, [*tail, *next_of(moments, tail[-1].timestamp)], watermark) for moments in (one, two)]
    until = len(both[0]["user"]) - 2
    return [name for name in both[0] if not torch.equal(both[0][name][:until], both[1][name][:until])]


@FEW
@given(past, future, future)
def test_predictions_do_not_hang_on_the_next_event(
    told: Past, one: list[dict[str, Any]], two: list[dict[str, Any]]
) -> None:
    if unconsumed(told, one) and unconsumed(told, two):
        assert differences(told, one, two) == []


ONE = {"kind": "click", "gap": 0, "item": "i3", "value": None, "page": None, "device": None}
OTHER = {"kind": "view", "gap": 3_600, "item": "i9", "value": 900.0, "page": "checkout", "device": "phone"}
TOLD: Past = [("ann", "click", 1, 1.0, 0), ("bob", "click", 2, 1.0, 1), ("ann", "click", 5, 1.0, 1)] * 3


@pytest.mark.parametrize("peeking", [None, LastTime, LastItem])
def test_a_scorer_that_peeks_is_caught(peeking: type[LastTime | LastItem] | None) -> None:
    found = differences(TOLD, [ONE] * 3, [OTHER] * 3, peeking)
    assert ("score" in found) == (peeking is not None)
    assert ("feature" in found) == (peeking is not None)


@FEW
@given(past, moment)
def test_what_is_scored_is_what_was_published(told: Past, then: dict[str, Any]) -> None:
    """The list of before the event and the ranking that the event is scored against are one."""
    learner, events = learner_of(), events_of(told)
    step(learner, events, [event.timestamp for event in events], START)
    watermark = events[-1].timestamp
    [published] = recommend(learner, [learner.users.row("ann")], watermark)
    happened = next_of([then] * 3, watermark)[:1]
    batch = learner.admit(happened, [happened[0].timestamp], watermark)
    if len(batch.questions) == 0:
        return
    predicted = learner.predict(batch.questions)
    order = torch.argsort(predicted.score_QC[0], descending=True, stable=True)[:10]
    order = order[predicted.score_QC[0, order] > -torch.inf]
    assert predicted.rows_QC[0, order].tolist() == published.rows
    scores = [row.score for row in published.items]
    assert predicted.score_QC[0, order].tolist() == pytest.approx(scores, abs=1e-5)
