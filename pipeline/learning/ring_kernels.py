"""The loops over rings of growing room: where an entry lies, room for one more, and a block given back.

A ring is a tuple of arrays (`rings.Ring`). Entry n of a slot lies at `begin_S[slot] + n % room_S[slot]`: as long as
the room has not reached the length, no entry has been overwritten, and n is below it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

from numba import njit

LEAST = 8
"""Entries of the first block; each next one has twice as many, the last the ring's whole length."""


@njit(cache=True, nogil=True)
def next_room(room, length):
    """How many entries the block after one of `room` has."""
    return min(max(2 * room, LEAST), length)


@njit(cache=True, nogil=True)
def class_of(room):
    """The number of a block's class: blocks of a class are alike."""
    number = 0
    while (LEAST << number) < room:
        number += 1
    return number


@njit(cache=True, nogil=True)
def give_back(ring, slot):
    """Empty a slot; nothing of what it held remains."""
    room, begin = ring.room_S[slot], ring.begin_S[slot]
    if room == 0:
        return
    ring.word_NW[begin : begin + room] = 0
    ring.half_NH[begin : begin + room] = 0
    free = class_of(room)
    ring.word_NW[begin, 0] = ring.free_C[free]
    ring.free_C[free] = begin
    ring.room_S[slot] = 0
    ring.begin_S[slot] = 0


@njit(cache=True, nogil=True)
def take_room(ring, slot, room):
    """Have the slot's entries in a block of that room. There is a free one, or the arrays reach far enough."""
    free = class_of(room)
    begin = ring.free_C[free]
    if begin >= 0:
        ring.free_C[free] = ring.word_NW[begin, 0]
    else:
        begin = ring.extent_1[0]
        if begin + room > ring.word_NW.shape[0]:
            raise IndexError("room for an entry was not reserved")
        ring.extent_1[0] += room
    old, had = ring.begin_S[slot], ring.room_S[slot]
    ring.word_NW[begin : begin + had] = ring.word_NW[old : old + had]
    ring.half_NH[begin : begin + had] = ring.half_NH[old : old + had]
    ring.word_NW[begin + had : begin + room] = 0
    give_back(ring, slot)
    ring.begin_S[slot] = begin
    ring.room_S[slot] = room


@njit(cache=True, nogil=True)
def place_for(ring, slot, n):
    """Where entry n goes, with room made for it."""
    length = ring.length
    room = ring.room_S[slot]
    if room <= n and room < length:
        while room <= n and room < length:
            room = next_room(room, length)
        take_room(ring, slot, room)
    return ring.begin_S[slot] + n % room


@njit(cache=True, nogil=True)
def place_of(ring, slot, n):
    """Where entry n lies; it is among the latest `length`."""
    return ring.begin_S[slot] + n % ring.room_S[slot]
