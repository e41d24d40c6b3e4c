"""The loops that pack users' histories and consumed items into records of int32 words, and unpack them again.

A record is [row, entries, consumed, extra, checksum], then the entries' items, codes
and times, the latest first, then the consumed items, the latest first, then
so many extra words: the user's rows of other tensors (`paging.Slotted`).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

from numba import njit

from pipeline.learning.kernels import CODE, ITEM, TIME, consume
from pipeline.learning.ring_kernels import place_for, place_of

HEAD = 5
ENTRIES, CONSUMED, EXTRA, CHECK = 1, 2, 3, 4


@njit(cache=True, nogil=True)
def measure(rows_N, length, count_U, head_U, node_next, words_N):
    """How many words each user's record takes."""
    for n in range(rows_N.shape[0]):
        row = rows_N[n]
        consumed = 0
        node = head_U[row]
        while node >= 0:
            consumed += 1
            node = node_next[node]
        words_N[n] = HEAD + 3 * min(count_U[row], length) + consumed


@njit(cache=True, nogil=True)
def pack(rows_N, start_N, ring, slot_U, count_U, head_U, node_item, node_next, words):
    """Write each user's record from word start_N[n] on, its checksum left 0."""
    for n in range(rows_N.shape[0]):
        row, at = rows_N[n], start_N[n]
        slot, entries = slot_U[row], min(count_U[row], ring.length)
        words[at] = row
        words[at + 1] = entries
        for lag in range(entries):
            place = place_of(ring, slot, count_U[row] - 1 - lag)
            words[at + HEAD + lag] = ring.word_NW[place, ITEM]
            words[at + HEAD + entries + lag] = ring.half_NH[place, CODE]
            words[at + HEAD + 2 * entries + lag] = ring.word_NW[place, TIME]
        consumed, first = 0, at + HEAD + 3 * entries
        node = head_U[row]
        while node >= 0:
            words[first + consumed] = node_item[node]
            consumed += 1
            node = node_next[node]
        words[at + 2] = consumed


@njit(cache=True, nogil=True)
def unpack(words, row, ring, slot_U, count_U, head_U, node_item, node_next, nodes):
    """Put one record back: the same ring, the same chain."""
    slot, entries, consumed = slot_U[row], words[1], words[2]
    for lag in range(entries):
        place = place_for(ring, slot, count_U[row] - 1 - lag)
        ring.word_NW[place, ITEM] = words[HEAD + lag]
        ring.half_NH[place, CODE] = words[HEAD + entries + lag]
        ring.word_NW[place, TIME] = words[HEAD + 2 * entries + lag]
    for n in range(consumed - 1, -1, -1):
        consume(head_U, node_item, node_next, nodes, row, words[HEAD + 3 * entries + n])
