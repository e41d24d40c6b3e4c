"""The loops over vectors kept by cluster: rows in blocks, taken in and out, and the nearest of a few clusters' rows.

Vectors are whole numbers of -127 to 127: their products are exact, so that what is found depends on the vectors, the
clusters' centres and which cluster each row is in, not on where in its cluster it lies.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.learning.banned_kernels import is_banned, lift, stamp
from pipeline.learning.kernels import free_node

NOWHERE = -1


@njit(cache=True, nogil=True)
def put(row_N, cluster_N, whole_IP, cluster_I, place_I, head_C, next_B, size_B, row_BS, vector_BSP, blocks):
    """Put rows that are in no cluster into theirs; `blocks` is [extent, first free]. There is room for them."""
    room = row_BS.shape[1]
    for n in range(row_N.shape[0]):
        row, cluster = row_N[n], cluster_N[n]
        block = head_C[cluster]
        if block < 0 or size_B[block] == room:
            block = free_node(next_B, blocks)
            next_B[block] = head_C[cluster]
            size_B[block] = 0
            head_C[cluster] = block
        at = size_B[block]
        row_BS[block, at] = row
        vector_BSP[block, at] = whole_IP[row]
        size_B[block] += 1
        cluster_I[row] = cluster
        place_I[row] = block * room + at


@njit(cache=True, nogil=True)
def take_out(row_N, cluster_I, place_I, head_C, next_B, size_B, row_BS, vector_BSP, blocks):
    """Take rows out of their clusters; the last one of a cluster moves into the gap."""
    room = row_BS.shape[1]
    for row in row_N:
        cluster = cluster_I[row]
        if cluster < 0:
            continue
        block, at = place_I[row] // room, place_I[row] % room
        head = head_C[cluster]
        last = size_B[head] - 1
        moved = row_BS[head, last]
        row_BS[block, at] = moved
        vector_BSP[block, at] = vector_BSP[head, last]
        place_I[moved] = place_I[row]
        size_B[head] = last
        if last == 0:
            head_C[cluster] = next_B[head]
            next_B[head] = blocks[1]
            blocks[1] = head
        cluster_I[row] = NOWHERE


@njit(cache=True, nogil=True)
def nearest(vector_QP, cluster_QN, head_C, next_B, size_B, row_BS, vector_BSP, ban, found_QN, product_QN):
    """Per question the rows of the greatest products in these clusters that are not banned, of equals the first.

    Returns nothing; places without one have row -1 and product 0, which are last.
    """
    wanted, width = found_QN.shape[1], vector_QP.shape[1]
    key = np.empty(wanted, np.int64)
    for q in range(vector_QP.shape[0]):
        n = 0
        mine = vector_QP[q]
        stamp(ban, q)
        for cluster in cluster_QN[q]:
            block = head_C[cluster]
            while block >= 0:
                for at in range(size_B[block]):
                    other = vector_BSP[block, at]
                    product = np.int32(0)
                    for p in range(width):
                        product += np.int32(mine[p]) * np.int32(other[p])
                    row = row_BS[block, at]
                    mark = (np.int64(product) << 32) | np.int64(0x7FFFFFFF - row)
                    if n == wanted and mark <= key[n - 1]:
                        continue
                    if row >= ban[0].shape[0] or is_banned(ban, row):
                        continue
                    place = n if n < wanted else n - 1
                    n = min(n + 1, wanted)
                    while place > 0 and key[place - 1] < mark:
                        key[place] = key[place - 1]
                        place -= 1
                    key[place] = mark
                block = next_B[block]
        lift(ban, q)
        for place in range(wanted):
            found_QN[q, place] = 0x7FFFFFFF - (key[place] & 0x7FFFFFFF) if place < n else NOWHERE
            product_QN[q, place] = key[place] >> 32 if place < n else 0
