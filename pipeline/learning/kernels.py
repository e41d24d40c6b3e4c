"""The loops that no tensor operation can say: histories advanced in order, matrix factorisation.

Single-threaded and without fast-math, so that the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.learning.ring_kernels import place_for, place_of

ITEM, TIME = 0, 1
"""An entry's words in a history's ring; its one half is the code."""
CODE = 0


@njit(cache=True, nogil=True)
def emit(ring, slot_U, count, user, row, out_item, out_code, out_time):
    """Write one user's history to row `row` of the outputs, lag 0 first; nothing where the user has no slot."""
    at = slot_U[user]
    held = min(count[user], ring.length) if at >= 0 else 0
    for lag in range(held):
        place = place_of(ring, at, count[user] - 1 - lag)
        out_item[row, lag] = ring.word_NW[place, ITEM]
        out_code[row, lag] = ring.half_NH[place, CODE]
        out_time[row, lag] = ring.word_NW[place, TIME]
    out_item[row, held:] = -1
    out_code[row, held:] = 0
    out_time[row, held:] = 0


@njit(cache=True, nogil=True)
def measure_chains(node_item, node_next, head_Q, items, start_Q, stop_Q):
    """Where each chain's rows below `items` will stand, one chain after the other; returns how many there are."""
    end = 0
    for q in range(head_Q.shape[0]):
        start_Q[q] = end
        node = head_Q[q]
        while node >= 0:
            end += node_item[node] < items
            node = node_next[node]
        stop_Q[q] = end
    return end


@njit(cache=True, nogil=True)
def read_chains(node_item, node_next, head_Q, items, start_Q, row_T):
    """Each chain's rows below `items`."""
    for q in range(head_Q.shape[0]):
        at = start_Q[q]
        node = head_Q[q]
        while node >= 0:
            if node_item[node] < items:
                row_T[at] = node_item[node]
                at += 1
            node = node_next[node]


@njit(cache=True, nogil=True)
def has_consumed(head, node_item, node_next, user, item):
    """Whether the user has consumed the item."""
    node = head[user]
    while node >= 0:
        if node_item[node] == item:
            return True
        node = node_next[node]
    return False


@njit(cache=True, nogil=True)
def free_node(node_next, nodes):
    """Take the first free node, or one more at the end; nodes is [extent, first free]."""
    node = nodes[1]
    if node >= 0:
        nodes[1] = node_next[node]
    else:
        node = nodes[0]
        nodes[0] += 1
    return node


@njit(cache=True, nogil=True)
def consume(head, node_item, node_next, nodes, user, item):
    """Add an item to the user's consumed chain; nodes is [extent, first free]."""
    node = free_node(node_next, nodes)
    node_item[node] = item
    node_next[node] = head[user]
    head[user] = node


@njit(cache=True, nogil=True)
def release_chain(head, node_next, nodes, user):
    """Give the user's consumed chain back to the free nodes."""
    node = head[user]
    while node >= 0:
        following = node_next[node]
        node_next[node] = nodes[1]
        nodes[1] = node
        node = following
    head[user] = -1


@njit(cache=True, nogil=True)
def push(ring, slot_U, count, user, item, code, time):
    """Append one entry to a user's history."""
    place = place_for(ring, slot_U[user], count[user])
    ring.word_NW[place, ITEM] = item
    ring.half_NH[place, CODE] = code
    ring.word_NW[place, TIME] = time
    count[user] += 1


@njit(cache=True, nogil=True)
def advance(
    ring, slot_U, count, head, node_item, node_next, nodes,
    user_B, item_B, code_B, time_B, consumes_B, question_B,
    out_item, out_code, out_time, out_count, out_seen, out_head,
):  # fmt: skip
    """Take events in order: note each user's history just before, then append the event to it.

    `out_head` is where a question's consumed chain begins: it only ever grows at its head.
    """
    for b in range(user_B.shape[0]):
        user = user_B[b]
        item = item_B[b]
        emit(ring, slot_U, count, user, b, out_item, out_code, out_time)
        out_count[b] = count[user]
        out_seen[b] = item >= 0 and has_consumed(head, node_item, node_next, user, item)
        if question_B[b] >= 0:
            out_head[question_B[b]] = head[user]
        if item >= 0:
            push(ring, slot_U, count, user, item, code_B[b], time_B[b])
            if consumes_B[b] and not out_seen[b]:
                consume(head, node_item, node_next, nodes, user, item)


@njit(cache=True, nogil=True)
def windows(ring, slot_U, count, user_Q, out_item, out_code, out_time):
    """Histories of users as they are now."""
    for q in range(user_Q.shape[0]):
        emit(ring, slot_U, count, user_Q[q], q, out_item, out_code, out_time)


@njit(cache=True, nogil=True)
def first_of_equals(score_QI, last_Q1, above_Q, found_QN):
    """Rows whose score is above the last that fits, and of those equal to it the first ones, in row order."""
    wanted = found_QN.shape[1]
    for q in range(score_QI.shape[0]):
        last = last_Q1[q, 0]
        equals = wanted - above_Q[q]
        n = 0
        for i in range(score_QI.shape[1]):
            score = score_QI[q, i]
            if score > last or (score == last and equals > 0):
                equals -= score == last
                found_QN[q, n] = i
                n += 1
                if n == wanted:
                    break


@njit(cache=True, nogil=True)
def factorise(user_UD, item_ID, user_B, item_B, weight_B, rate, shrink):
    """Incremental SGD on positives, one pass in order (Vinagre et al. 2014, ISGD)."""
    width = user_UD.shape[1]
    for b in range(user_B.shape[0]):
        u = user_B[b]
        i = item_B[b]
        if i < 0 or weight_B[b] <= 0:
            continue
        dot = np.float32(0.0)
        for d in range(width):
            dot += user_UD[u, d] * item_ID[i, d]
        error = np.float32(1.0) - dot
        step = rate * weight_B[b]
        for d in range(width):
            old = user_UD[u, d]
            user_UD[u, d] += step * (error * item_ID[i, d] - shrink * old)
            item_ID[i, d] += step * (error * old - shrink * item_ID[i, d])
