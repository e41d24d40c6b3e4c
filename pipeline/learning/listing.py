"""Lists as JSON, many at a time: the bytes that `messages.encode` gives of tuples of `Recommended`, without objects.

Numbers are put into figures all at once, and a kernel lays them out between the
names: one by one, as objects, they would take longer than the ranking.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.learning.arena import Ids
from pipeline.messages import encode

UNTOLD = -1

_PARTS = (b'{"item_id":"', b'","score":', b',"reasons":[', b'{"name":', b',"weight":', b',"contribution":')
_ITEM, _SCORE, _REASONS, _NAME, _WEIGHT, _SHARE = range(len(_PARTS))
_NAMES = len(_PARTS)
_COMMA, _OPEN, _CLOSE, _END = (np.uint8(byte) for byte in b",[]}")


@dataclass(frozen=True)
class Told:
    """What is said of each place N of Q lists, of which the first `shown_Q` are shown.

    R reasons each: `name_QNR` says which name (UNTOLD: there is no such reason),
    `number_QNR2` its weight and what it contributes.
    """

    shown_Q: NDArray[np.int64]
    row_QN: NDArray[np.int64]
    score_QN: NDArray[np.float64]
    name_QNR: NDArray[np.int64]
    number_QNR2: NDArray[np.float64]

    def numbers(self) -> NDArray[np.float64]:
        """Those that are told, in the order in which they are written."""
        shown_QN = np.arange(self.row_QN.shape[1]) < self.shown_Q[:, None]
        told_QNR2 = (shown_QN[:, :, None] & (self.name_QNR != UNTOLD))[..., None].repeat(2, axis=3)
        shape = (*self.row_QN.shape, 2 * self.name_QNR.shape[2])
        every_QNM = np.concatenate([self.score_QN[:, :, None], self.number_QNR2.reshape(shape)], axis=2)
        told: NDArray[np.float64] = every_QNM[np.concatenate([shown_QN[:, :, None], told_QNR2.reshape(shape)], axis=2)]
        return told


def written(told: Told, ids: Ids, names: Sequence[str]) -> list[bytes]:
    """Each list's items as a JSON array; `names` are those of the reasons."""
    phrase_T, phrase_at = _packed([*_PARTS, *map(encode, names)])
    id_T, id_at = _quoted(ids, told.row_QN.ravel())
    number_T = np.frombuffer(encode(told.numbers().tolist())[1:-1] + b",", dtype=np.uint8)
    longest, reasons = int(np.diff(phrase_at).max()), told.name_QNR.shape[2]
    of_place = len(b"".join(_PARTS)) * (1 + reasons) + reasons * longest + 8
    out_T = np.empty(len(id_T) + len(number_T) + told.row_QN.size * of_place + 2 * len(told.row_QN), dtype=np.uint8)
    end_Q = np.zeros(len(told.row_QN), dtype=np.int64)
    _write(told.shown_Q, id_T, id_at, told.name_QNR, number_T, phrase_T, phrase_at, out_T, end_Q)
    raw, ends = out_T[: end_Q.max(initial=0)].tobytes(), end_Q.tolist()
    return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _packed(texts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts one after the other, and where each begins and the last ends."""
    return np.frombuffer(b"".join(texts), dtype=np.uint8), np.cumsum([0, *map(len, texts)])


def _quoted(ids: Ids, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The rows' ids as they stand between the quotes of JSON."""
    raw_T, at = ids.gathered(rows)
    if not ((raw_T < 32) | (raw_T == ord('"')) | (raw_T == ord("\\"))).any():
        return raw_T, at
    return _packed([encode(ids.name(row))[1:-1] for row in rows.tolist()])


@njit(cache=True, nogil=True)
def _say(text_T, text_at, n, out_T, at):
    """Write the n-th text; returns where it ends."""
    for t in range(text_at[n], text_at[n + 1]):
        out_T[at] = text_T[t]
        at += 1
    return at


@njit(cache=True, nogil=True)
def _count(number_T, read, out_T, at):
    """Write the number that begins at `read`; returns where it ends, and where the next begins."""
    while number_T[read] != _COMMA:
        out_T[at] = number_T[read]
        at += 1
        read += 1
    return at, read + 1


@njit(cache=True, nogil=True)
def _reasons(name_R, number_T, read, phrase_T, phrase_at, out_T, at):
    """Write one place's reasons; returns where they end, and where the next number begins."""
    first = True
    for name in name_R:
        if name == UNTOLD:
            continue
        if not first:
            out_T[at] = _COMMA
            at += 1
        first = False
        at = _say(phrase_T, phrase_at, _NAME, out_T, at)
        at = _say(phrase_T, phrase_at, _NAMES + name, out_T, at)
        at = _say(phrase_T, phrase_at, _WEIGHT, out_T, at)
        at, read = _count(number_T, read, out_T, at)
        at = _say(phrase_T, phrase_at, _SHARE, out_T, at)
        at, read = _count(number_T, read, out_T, at)
        out_T[at] = _END
        at += 1
    return at, read


@njit(cache=True, nogil=True)
def _write(shown_Q, id_T, id_at, name_QNR, number_T, phrase_T, phrase_at, out_T, end_Q):
    """Lay out every list's array; `end_Q` is where it ends. Phrases are the parts, then names."""
    at, read = 0, 0
    for q in range(name_QNR.shape[0]):
        out_T[at] = _OPEN
        at += 1
        for n in range(shown_Q[q]):
            if n > 0:
                out_T[at] = _COMMA
                at += 1
            at = _say(phrase_T, phrase_at, _ITEM, out_T, at)
            at = _say(id_T, id_at, q * name_QNR.shape[1] + n, out_T, at)
            at = _say(phrase_T, phrase_at, _SCORE, out_T, at)
            at, read = _count(number_T, read, out_T, at)
            at = _say(phrase_T, phrase_at, _REASONS, out_T, at)
            at, read = _reasons(name_QNR[q, n], number_T, read, phrase_T, phrase_at, out_T, at)
            out_T[at], out_T[at + 1] = _CLOSE, _END
            at += 2
        out_T[at] = _CLOSE
        at += 1
        end_Q[q] = at
