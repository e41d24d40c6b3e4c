"""Arenas, ids and users against plain dictionaries and lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.learning.arena import Ids, grown, names
from pipeline.learning.batch import NO_ITEM, Interactions, consumes_of, kind_of, level_of, liked_of, pack_code
from pipeline.learning.users import NEVER, Users, to_seconds

UNTIMED = hypothesis_settings(deadline=None)

HISTORY = 5
MS = 1_700_000_000_000
name = st.text("abcé蓝", min_size=1, max_size=3)


def batch(events: list[tuple[int, int, int, bool]]) -> Interactions:
    """(user, item, code, consumes), a second apart."""
    count = len(events)
    user, item, code, consumes = zip(*events, strict=True) if events else ((), (), (), ())
    return Interactions(
        torch.tensor(user, dtype=torch.int64),
        torch.tensor(item, dtype=torch.int64),
        torch.tensor(code, dtype=torch.int16),
        MS + 1000 * torch.arange(count),
        torch.tensor([c & 1 for c in code], dtype=torch.bool),
        torch.tensor(consumes, dtype=torch.bool),
        torch.ones(count),
        torch.zeros(count),
    )


def users_of(count: int) -> Users:
    """As many users, rows 0, 1, …"""
    users = Users(HISTORY, 3, 0)
    for n in range(count):
        assert users.row(f"u{n}") == n
    return users


def chain(users: Users, row: int, items: int = 12) -> set[int]:
    """Items consumed."""
    _, consumed = users.windows(torch.tensor([row]), items)
    return set(torch.nonzero(consumed.whole(items)[0]).flatten().tolist())


def history(users: Users, row: int) -> list[int]:
    """Items of a user's window, latest first."""
    found, _ = users.windows(torch.tensor([row]), 0)
    return [item for item in found.item_QL[0].tolist() if item != NO_ITEM]


@UNTIMED
@given(st.lists(st.tuples(st.sampled_from(["row", "release", "restore"]), name), max_size=40))
def test_ids_against_a_dictionary(actions: list[tuple[str, str]]) -> None:
    ids, rows = Ids(), dict[str, int]()
    for what, who in actions:
        if what == "row":
            row = ids.row(who)
            assert rows.setdefault(who, row) == row
            assert ids.name(row) == who
        elif what == "release":
            assert ids.release(who) == rows.pop(who, -1)
        else:
            state = {key: tensor.clone() for key, tensor in ids.state("x").items()}
            ids = Ids()
            ids.load("x", state)
        assert len(set(rows.values())) == len(rows) == ids.used
        assert all(ids.find(known) == row for known, row in rows.items())
        assert names(ids, rows.values()) == list(rows)
        assert len(ids) <= len(actions)


def test_released_rows_are_given_out_again_also_after_a_restore() -> None:
    ids = Ids()
    for who in "abcd":
        ids.row(who)
    ids.release("b")
    ids.release("d")
    other = Ids()
    other.load("x", ids.state("x"))
    assert [ids.row(who) for who in "efg"] == [other.row(who) for who in "efg"] == [3, 1, 4]


def test_a_hundred_thousand_ids_take_what_is_said_and_a_released_one_leaves_no_trace() -> None:
    ids = Ids()
    for n in range(100_000):
        assert ids.row(f"visitor-{n:08}") == n
    assert ids.nbytes / 100_000 <= 16 + 32
    for n in range(0, 100_000, 2):
        assert ids.release(f"visitor-{n:08}") == n
    raw = bytes(ids.state("x")["x.bytes"].numpy())
    assert b"00031234" not in raw
    assert b"visitor-00031235" in raw
    assert ids.nbytes / 50_000 <= 2 * (16 + 32)
    assert [ids.find("visitor-00031235"), ids.find("visitor-00031234"), ids.used, len(ids)] == [
        31_235, -1, 50_000, 100_000,
    ]  # fmt: skip


@pytest.mark.parametrize(("have", "want", "rows"), [(4, 4, 4), (4, 5, 8), (4, 100, 100), (0, 3, 3), (3, 0, 3)])
def test_arenas_grow_by_doubling_at_least(have: int, want: int, rows: int) -> None:
    before = torch.arange(have * 2).view(have, 2)
    after = grown(before, want, -7)
    assert after.shape == (rows, 2)
    assert torch.equal(after[:have], before)
    assert (after[have:] == -7).all()
    assert after.dtype == before.dtype


def test_seconds_are_clamped_to_what_32_bits_hold() -> None:
    times = torch.tensor([-62_167_219_200_000, 946_684_800_000, 946_684_799_999, MS, 253_402_300_799_999])
    seconds = to_seconds(times)
    assert seconds.dtype == torch.int32
    assert seconds.tolist() == [-(2**31) + 1, 0, -1, MS // 1000 - 946_684_800, 2**31 - 1]


@pytest.mark.parametrize("kind", [0, 5, 63])
def test_a_code_gives_back_what_was_packed(kind: int) -> None:
    for level in range(8):
        for liked in (False, True):
            for consumes in (False, True):
                code = torch.tensor(pack_code(kind, level, liked, consumes), dtype=torch.int16)
                found = (int(kind_of(code)), int(level_of(code)), bool(liked_of(code)), bool(consumes_of(code)))
                assert found == (kind, level, liked, consumes)


happened = st.tuples(st.integers(0, 3), st.integers(-1, 8), st.integers(0, 2047), st.booleans())


@UNTIMED
@given(st.lists(st.lists(happened, max_size=20), max_size=5), st.integers(1, 12))
def test_advance_against_lists(batches: list[list[tuple[int, int, int, bool]]], span: int) -> None:
    users = users_of(4)
    entries: list[list[tuple[int, int]]] = [[] for _ in range(4)]
    consumed: list[set[int]] = [set() for _ in range(4)]
    for events in batches:
        asked = torch.tensor([item >= 0 and code & 1 > 0 for _, item, code, _ in events], dtype=torch.bool)
        question_B = torch.where(asked, asked.cumsum(0) - 1, -1)
        before, seen_B, gone = users.advance(batch(events), question_B, span)
        mask_QI = gone.whole(span)
        assert mask_QI.shape == (int(asked.sum()), span)
        for b, (user, item, code, consumes) in enumerate(events):
            expected = entries[user][-HISTORY:][::-1]
            assert before.item_QL[b].tolist() == [i for i, _ in expected] + [NO_ITEM] * (HISTORY - len(expected))
            assert before.code_QL[b, : len(expected)].tolist() == [c for _, c in expected]
            assert int(before.count_Q[b]) == len(entries[user])
            assert bool(seen_B[b]) == (item in consumed[user])
            if asked[b]:
                banned = set(torch.nonzero(mask_QI[question_B[b]]).flatten().tolist())
                assert banned == {i for i in consumed[user] if i < span}
            if item >= 0:
                entries[user].append((item, code))
                if consumes:
                    consumed[user].add(item)
        assert [chain(users, row) for row in range(4)] == consumed
        assert int(users.nodes[0]) == sum(map(len, consumed))


@UNTIMED
@given(st.lists(happened, max_size=30), st.lists(st.integers(0, 3), max_size=4), st.lists(happened, max_size=30))
def test_the_chains_of_the_forgotten_are_used_again(first: list[Any], forgotten: list[int], then: list[Any]) -> None:
    users = users_of(4)
    for events in (first, then):
        users.advance(batch(events), torch.full((len(events),), -1), 12)
        if events is first:
            kept = {row: chain(users, row) for row in range(4)}
            nodes = int(users.nodes[0])
            for row in forgotten:
                found = users.forget(f"u{row}")
                assert found in (row, -1)
                kept[row] = set()
            assert {row: chain(users, row) for row in range(4)} == kept
            freed = nodes - sum(map(len, kept.values()))
    new = sum(len(chain(users, row)) for row in range(4)) - sum(map(len, kept.values()))
    assert int(users.nodes[0]) == nodes + max(0, new - freed)


def test_forgetting_clears_every_column_of_the_row() -> None:
    users = Users(HISTORY, 3, 2)
    blank = {column: getattr(users, column)[0].clone() for column in users._ROWS}
    users.row("ann")
    users.advance(batch([(0, 3, 5, True)]), torch.tensor([0]), 12)
    users.due_U[0], users.published_U[0] = 5, 6
    users.segment_UG[0], users.shown_UN[0] = 1, 4
    assert users.last_time_U[0] == MS
    assert users.forget("ann") == 0
    assert users.forget("ann") == -1
    assert [c for c in users._ROWS if not torch.equal(getattr(users, c)[0], blank[c])] == []
    assert users.due_U[0] == NEVER


def test_more_users_than_the_arena_held() -> None:
    users = users_of(300)
    users.advance(batch([(299, 3, 1, True)]), torch.tensor([-1]), 12)
    assert history(users, 299) == [3]
    assert chain(users, 298) == set()
    assert users.due_U[299] == NEVER


@pytest.mark.parametrize(("mine", "theirs"), [(0, 0), (2, 0), (0, 2), (3, 4), (9, 9), (5, 1), (1, 9)])
def test_a_merge_is_what_one_history_would_have_been(mine: int, theirs: int) -> None:
    events = [(0, n, 1, n % 2 == 0) for n in range(mine)] + [(1, 20 + n, 3, n % 3 == 0) for n in range(theirs)]
    order = torch.randperm(len(events), generator=torch.Generator().manual_seed(1)).tolist()
    mixed = [events[n] for n in order]
    users, one = users_of(2), users_of(1)
    users.advance(batch(mixed), torch.full((len(mixed),), -1), 30)
    one.advance(batch([(0, *rest) for _, *rest in mixed]), torch.full((len(mixed),), -1), 30)
    assert users.merge("u1", "u0") == (1, 0)
    assert users.ids.find("u1") == -1
    assert history(users, 0) == history(one, 0)
    assert users.count_U[0] == one.count_U[0]
    assert chain(users, 0, 30) == chain(one, 0, 30)
    assert users.last_time_U[0] == one.last_time_U[0]
    assert (history(users, 1), chain(users, 1, 30)) == ([], set())


def test_entries_that_share_a_second_keep_their_order_when_merged() -> None:
    users = users_of(2)
    events = batch([(1, item, 1, False) for item in (1, 2, 3)] + [(0, item, 1, False) for item in (4, 5)])
    events.time_B.fill_(MS)
    users.advance(events, torch.full((5,), -1), 12)
    users.merge("u1", "u0")
    merged = history(users, 0)
    assert [item for item in merged if item < 4] == [3, 2, 1]
    assert [item for item in merged if item > 3] == [5, 4]


def test_merges_that_change_nothing() -> None:
    users = users_of(1)
    users.advance(batch([(0, 3, 1, True)]), torch.tensor([-1]), 12)
    assert users.merge("nobody", "u0") == (-1, 0)
    assert users.merge("u0", "u0") == (-1, 0)
    assert users.merge("nobody", "new") == (-1, 1)
    assert (history(users, 0), chain(users, 0)) == ([3], {3})


def test_late_events_consume_once_and_leave_no_entry() -> None:
    users = users_of(2)
    users.consume_late(torch.tensor([0, 0, 1]), torch.tensor([3, 3, NO_ITEM]))
    assert (chain(users, 0), chain(users, 1), int(users.nodes[0])) == ({3}, set(), 1)
    assert history(users, 0) == []


def test_a_text_is_an_entry_that_is_no_item() -> None:
    users = users_of(1)
    users.append_text(0, 7, 42, MS)
    found, consumed = users.windows(torch.tensor([0]), 12)
    assert found.item_QL[0, 0] == -9
    assert found.code_QL[0, 0] == 42
    assert found.time_QL[0, 0] == MS // 1000 - 946_684_800
    assert not found.item_here_QL.any()
    assert not consumed.whole(12).any()


def test_state_and_load_give_the_same_users() -> None:
    users = users_of(70)
    users.advance(batch([(n % 70, n % 12, 1, True) for n in range(200)]), torch.full((200,), -1), 12)
    users.forget("u5")
    other = Users(HISTORY, 3, 0)
    other.load({key: tensor.clone() for key, tensor in users.state().items()})
    more = batch([(n % 70, (n + 5) % 12, 1, True) for n in range(100)])
    for one in (users, other):
        one.row("new")
        one.advance(more, torch.full((100,), -1), 12)
    assert all(torch.equal(a, b) for a, b in zip(users.state().values(), other.state().values(), strict=True))
