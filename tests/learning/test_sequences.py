"""Histories as sequences, the network that reads them, and the trainer under it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.learning.batch import NO_ITEM, History
from pipeline.learning.catalogue import PROJECTED
from pipeline.learning.optimise import Trainer
from pipeline.learning.sequences import GAP_BUCKETS, Tokens, moved_back, shuffled_pages, tokens
from pipeline.learning.transformer import Dropout, interests, items_of, start_weights

UNTIMED = hypothesis_settings(deadline=None)

LENGTH = 10


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Histories with texts, shared seconds and every length; latest first."""
    rows = draw(st.lists(st.lists(st.tuples(st.integers(-4, 9), st.integers(0, 3)), max_size=LENGTH), max_size=5))
    item, code, time = [], [], []
    for row in rows:
        kept = [(i, gap) for i, gap in row if i != NO_ITEM]
        pad = LENGTH - len(kept)
        now, times = 2**31 - 1, []
        for _, gap in kept:
            times.append(now)
            now -= gap * 10**8
        item.append([i for i, _ in kept] + [NO_ITEM] * pad)
        code.append([1 + n for n in range(len(kept))] + [0] * pad)
        time.append(times + [0] * pad)
    count = torch.tensor([LENGTH - row.count(NO_ITEM) for row in item], dtype=torch.int32)
    shape = (-1, LENGTH)
    return History(
        torch.tensor(item, dtype=torch.int32).view(shape), torch.tensor(code, dtype=torch.int16).view(shape),
        torch.tensor(time, dtype=torch.int32).view(shape), count,
    )  # fmt: skip


@UNTIMED
@given(histories(), st.integers(1, LENGTH))
def test_tokens_are_the_last_entries_oldest_first(history: History, length: int) -> None:
    seen = tokens(history, length)
    assert torch.equal(seen.item_QT, history.item_QL[:, :length].flip(1).long())
    assert torch.equal(seen.here_QT, seen.item_QT != NO_ITEM)
    assert ((seen.gap_QT >= 0) & (seen.gap_QT < GAP_BUCKETS)).all()
    assert (seen.gap_QT[~seen.here_QT] == 0).all()
    for q, t in torch.nonzero(seen.here_QT).tolist():
        gap = int(seen.page_QT[q, t] - seen.page_QT[q, t - 1]) if t and seen.here_QT[q, t - 1] else 0
        assert int(seen.gap_QT[q, t]) == min(GAP_BUCKETS - 1, int(1 + math.log2(1 + gap) / 2))


@UNTIMED
@given(histories(), st.integers(0, 2**31), st.data())
def test_shuffling_only_permutes_what_shares_a_second(history: History, seed: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.booleans(), min_size=len(history.count_Q), max_size=len(history.count_Q)))
    mixed = shuffled_pages(history, torch.Generator().manual_seed(seed), torch.tensor(chosen, dtype=torch.bool))
    assert torch.equal(mixed.time_QL, history.time_QL)
    assert torch.equal(mixed.count_Q, history.count_Q)
    for q, one in enumerate(chosen):
        before = list(
            zip(history.time_QL[q].tolist(), history.item_QL[q].tolist(), history.code_QL[q].tolist(), strict=True)
        )
        after = list(zip(mixed.time_QL[q].tolist(), mixed.item_QL[q].tolist(), mixed.code_QL[q].tolist(), strict=True))
        assert sorted(after) == sorted(before)
        if not one:
            assert after == before


def test_shuffling_does_shuffle() -> None:
    item = torch.arange(LENGTH, dtype=torch.int32)[None]
    same = History(item, item.short(), torch.full((1, LENGTH), 5, dtype=torch.int32), torch.tensor([LENGTH]))
    orders = {
        tuple(shuffled_pages(same, torch.Generator().manual_seed(s), torch.tensor([True])).item_QL[0].tolist())
        for s in range(20)
    }
    assert len(orders) > 15


@UNTIMED
@given(histories(), st.data())
def test_moved_back_is_the_history_as_it_was(history: History, data: st.DataObject) -> None:
    steps = [data.draw(st.integers(0, int(count))) for count in history.count_Q]
    back = moved_back(history, torch.tensor(steps, dtype=torch.int64))
    for q, step in enumerate(steps):
        assert back.item_QL[q].tolist() == history.item_QL[q, step:].tolist() + [NO_ITEM] * step
        assert back.code_QL[q].tolist() == history.code_QL[q, step:].tolist() + [0] * step
        assert back.time_QL[q].tolist() == history.time_QL[q, step:].tolist() + [0] * step
        assert int(back.count_Q[q]) == int(history.count_Q[q]) - step


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A small network over ten items, its zeros replaced so that every term counts."""
    generator = torch.Generator().manual_seed(1)
    made = start_weights(16, LENGTH, generator) | {"item_ID": torch.randn(10, 16, generator=generator)}
    return {
        name: tensor if tensor.any() else torch.randn(tensor.shape, generator=generator)
        for name, tensor in made.items()
    }


def tokens_of(seed: int, here: int = LENGTH) -> tuple[Tokens, Tensor]:
    """One random sequence and its contents [1, T, P]."""
    generator = torch.Generator().manual_seed(seed)
    item = torch.randint(0, 10, (1, LENGTH), generator=generator, dtype=torch.int32)
    item[:, here:] = NO_ITEM
    code = torch.randint(0, 2048, (1, LENGTH), generator=generator, dtype=torch.int16)
    time = torch.randint(0, 9, (1, LENGTH), generator=generator, dtype=torch.int32).sort(1, descending=True).values
    seen = tokens(History(item, code, time, torch.tensor([here])), LENGTH)
    return seen, torch.randn(1, LENGTH, PROJECTED, generator=generator) * seen.here_QT[:, :, None]


def run(weights: dict[str, Tensor], seen: Tokens, content: Tensor) -> Tensor:
    """[T+1, D] interests."""
    asked = torch.ones(1, seen.item_QT.shape[1] + 1, dtype=torch.int64)
    return interests(weights, seen, content, asked, Dropout(0, None))[0]


def test_no_position_sees_what_comes_after_it(weights: dict[str, Tensor]) -> None:
    (one, first), (other, second) = tokens_of(1), tokens_of(2)
    for past in range(LENGTH):
        names = ("item_QT", "code_QT", "gap_QT", "page_QT", "here_QT")
        joined = Tokens(*(torch.cat([getattr(one, n)[:, :past], getattr(other, n)[:, past:]], 1) for n in names))
        content = torch.cat([first[:, :past], second[:, past:]], 1)
        found = run(weights, joined, content)
        torch.testing.assert_close(found[: past + 1], run(weights, one, first)[: past + 1])
        assert (found[past + 1 :] - run(weights, one, first)[past + 1 :]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("here", [0, 1, 4, LENGTH])
def test_padding_says_nothing(weights: dict[str, Tensor], here: int) -> None:
    seen, content = tokens_of(3, here)
    found = run(weights, seen, content)
    assert found.isfinite().all()
    scrambled = Tokens(
        seen.item_QT, torch.where(seen.here_QT, seen.code_QT, 77), seen.gap_QT,
        torch.where(seen.here_QT, seen.page_QT, 10**6), seen.here_QT,
    )  # fmt: skip
    again = run(weights, scrambled, content + 5.0 * ~seen.here_QT[:, :, None])
    torch.testing.assert_close(again[LENGTH - here + 1 :], found[LENGTH - here + 1 :])


@pytest.mark.parametrize(("here", "cut"), [(0, 2), (1, 2), (7, 2), (8, 0), (LENGTH, 0)])
def test_without_leading_padding_the_interests_are_the_same(weights: dict[str, Tensor], here: int, cut: int) -> None:
    seen, content = tokens_of(3, here)
    trimmed = seen.trimmed()
    assert trimmed.cut == cut
    found, whole = run(weights, trimmed, content[:, cut:]), run(weights, seen, content)
    torch.testing.assert_close(found, torch.cat([whole[:1], whole[1 + cut :]]))


def test_the_longest_history_decides_what_padding_is_left_out() -> None:
    item = torch.full((3, 40), NO_ITEM, dtype=torch.int32)
    item[0, :3], item[1, :12] = 1, 1
    seen = tokens(History(item, item.short(), item, torch.tensor([3, 12, 0])), 40)
    assert seen.trimmed().item_QT.shape == (3, 16)
    assert seen.trimmed().cut == 24
    assert torch.equal(seen.trimmed().item_QT, seen.item_QT[:, 24:])
    assert seen.trimmed().until(-1).cut == seen.trimmed().trimmed().cut == 24
    assert tokens(History(item[:0], item[:0].short(), item[:0], torch.tensor([])), 40).trimmed().cut == 32


def test_dropout_keeps_the_mean_and_touches_no_global_randomness() -> None:
    before = torch.get_rng_state()
    kept = Dropout(0.3, torch.Generator().manual_seed(1))(torch.ones(10_000))
    assert torch.equal(torch.get_rng_state(), before)
    assert float(kept.mean()) == pytest.approx(1, abs=0.05)
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_some_items_are_as_all_items(weights: dict[str, Tensor]) -> None:
    projected = torch.randn(8, PROJECTED)
    rows = torch.tensor([7, 0, 3])
    torch.testing.assert_close(items_of(weights, projected, rows), items_of(weights, projected)[rows])


def trainer_of(rows: int = 3) -> Trainer:
    """One matrix, one vector."""
    start = {"rows": torch.arange(rows * 2.0).view(rows, 2), "bias": torch.ones(2)}
    return Trainer(start, rate=0.1, decay=0.0, average=0.9, beta2=0.99)


def loss_of(trainer: Trainer) -> Tensor:
    """Draws every parameter towards 10; the first three rows alone."""
    return (trainer.live["rows"][:3] - 10).square().sum() + (trainer.live["bias"] - 10).square().sum()


def test_grown_rows_leave_the_others_as_they_would_have_been() -> None:
    grown, plain = trainer_of(), trainer_of()
    for n in range(6):
        if n == 3:
            grown.grow("rows", torch.full((2, 2), 7.0))
        for trainer in (grown, plain):
            trainer.step(loss_of(trainer))
    assert torch.equal(grown.live["rows"][:3], plain.live["rows"])
    assert torch.equal(grown.served["rows"][:3], plain.served["rows"])
    assert grown.live["rows"][3:].tolist() == [[7, 7], [7, 7]]
    moments = grown.moments["rows"]
    assert torch.equal(moments.mean[:3], plain.moments["rows"].mean)
    assert moments.mean.shape == moments.square.shape == (5, 2)
    (grown.live["rows"][4].sum() * 3).backward()
    assert grown.live["rows"].grad is not None


def test_the_served_weights_are_the_average() -> None:
    trainer, expected = trainer_of(), trainer_of().served["rows"].clone()
    for n in range(1, 121):
        trainer.step(loss_of(trainer))
        share = max(0.1, 9 / (10 + n))
        expected = (1 - share) * expected + share * trainer.live["rows"].detach()
    torch.testing.assert_close(trainer.served["rows"], expected)


def test_what_was_there_at_first_is_soon_out_of_the_average() -> None:
    trainer = Trainer({"rows": torch.full((1, 1), 5.0)}, rate=0.1, decay=0.0, average=0.99, beta2=0.99)
    for _ in range(5):
        trainer.step(trainer.live["rows"].sum() * 0)
        trainer.live["rows"].data.zero_()
    assert abs(float(trainer.served["rows"])) < 0.1


def test_some_parameters_are_learned_more_slowly_and_a_reaction_speeds_up_all() -> None:
    start = {"base": torch.zeros(1), "gate": torch.zeros(1)}
    for factor in (1.0, 2.0):
        trainer = Trainer(start, rate=0.1, decay=0.0, average=0.9, beta2=0.99, slower={"gate": 0.3})
        trainer.rate(factor)
        trainer.step((trainer.live["base"] + trainer.live["gate"]).sum())
        moved = [float(trainer.live[name]) for name in start]
        assert moved == pytest.approx([-0.1 * factor, -0.03 * factor], rel=1e-3)


def test_a_trainer_goes_on_where_its_state_was_taken() -> None:
    one, other = trainer_of(), trainer_of()
    for n in range(4):
        one.step(loss_of(one))
        if n == 1:
            one.grow("rows", torch.full((1, 2), 7.0))
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    for trainer in (one, other):
        trainer.grow("rows", torch.zeros(2, 2))
        trainer.step(loss_of(trainer))
    assert one.state().keys() == other.state().keys()
    assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())
