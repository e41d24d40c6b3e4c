"""An index of a large catalogue's vectors: rows by the nearest of some centres, of which a question looks into few.

An inverted file (Sivic & Zisserman 2003; Jégou, Douze & Schmid 2011) without
compression beyond whole numbers, over spherical k-means (Dhillon & Modha 2001).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import cluster_kernels as kernels
from pipeline.learning.arena import grown
from pipeline.learning.banned import Banned
from pipeline.learning.batch import top

LEVELS = 127.0
PROBES = 32
"""Clusters that a question looks into."""
SAMPLE = 64
"""Vectors of a cluster, in the mean, that centres are learned from."""
STEPS = 8
BLOCK = 64
AT_ONCE = 8192


class Clusters:
    """Which rows are in which cluster, and their vectors, block by block. Rows without a vector are in none.

    Centres are learned when there are twice as many vectors as before (`fit`)
    and are state; all else follows from them and the vectors.
    """

    def __init__(self, width: int) -> None:
        self.centre_CP = torch.zeros(0, width)
        self._cluster_I = torch.full((64,), kernels.NOWHERE, dtype=torch.int32)
        self._place_I = torch.zeros(64, dtype=torch.int64)
        self._clear()

    def __len__(self) -> int:
        """Clusters; 0 before the first fit."""
        return len(self.centre_CP)

    def fit(self, whole_IP: Tensor) -> None:
        """Learn centres from these vectors [I, P] of whole numbers, evenly spaced ones: the same give the same."""
        rows = torch.nonzero((whole_IP != 0).any(1)).flatten()
        clusters = int(2 * math.sqrt(len(rows)))
        sample = rows[torch.linspace(0, len(rows) - 1, min(len(rows), SAMPLE * clusters)).long()]
        vector_NP = whole_IP[sample].float()
        self.centre_CP = vector_NP[torch.linspace(0, len(sample) - 1, clusters).long()].clone()
        for _ in range(STEPS):
            cluster_N = torch.from_numpy(self._nearest_centre(vector_NP))
            sum_CP = torch.zeros(clusters, vector_NP.shape[1], dtype=torch.float64)
            sum_CP.index_add_(0, cluster_N, vector_NP.double())
            moved_CP = (torch.nn.functional.normalize(sum_CP, dim=1) * LEVELS).round().float()
            self.centre_CP = torch.where((sum_CP != 0).any(1, keepdim=True), moved_CP, self.centre_CP)

    def fill(self, whole_IP: Tensor) -> None:
        """Put all of these vectors [I, P] into their clusters, whatever was in them."""
        self._cluster_I = torch.full((max(64, len(whole_IP)),), kernels.NOWHERE, dtype=torch.int32)
        self._place_I = torch.zeros(max(64, len(whole_IP)), dtype=torch.int64)
        self._clear()
        for start in range(0, len(whole_IP), AT_ONCE):
            self.move(torch.arange(start, min(start + AT_ONCE, len(whole_IP))), whole_IP)

    def move(self, rows: Tensor, whole_IP: Tensor) -> None:
        """These rows have (other) vectors now."""
        self._cluster_I = grown(self._cluster_I, len(whole_IP), kernels.NOWHERE)
        self._place_I = grown(self._place_I, len(whole_IP))
        rows = torch.unique(rows)
        kernels.take_out(
            rows.numpy(), self._cluster_I.numpy(), self._place_I.numpy(), self._head_C, self._next_B, self._size_B,
            self._row_BS, self._vector_BSP, self._blocks,
        )  # fmt: skip
        rows = rows[(whole_IP[rows] != 0).any(1)]
        self._reserve(len(rows))
        kernels.put(
            rows.numpy(), self._nearest_centre(whole_IP[rows].float()), whole_IP.numpy(), self._cluster_I.numpy(),
            self._place_I.numpy(), self._head_C, self._next_B, self._size_B, self._row_BS, self._vector_BSP,
            self._blocks,
        )  # fmt: skip

    def nearest(self, whole_QP: Tensor, banned: Banned, n: int) -> tuple[Tensor, Tensor]:
        """[Q, n] rows of the greatest products with these whole numbers, of equals the first; -1 past the last.

        And the products, as float32, 0 past the last.
        """
        found_QN = torch.empty(len(whole_QP), n, dtype=torch.int64)
        product_QN = torch.empty(len(whole_QP), n)
        cluster_QN = top(whole_QP.float() @ self.centre_CP.T, PROBES)
        kernels.nearest(
            whole_QP.to(torch.int8).numpy(), cluster_QN.numpy(), self._head_C, self._next_B, self._size_B,
            self._row_BS, self._vector_BSP, banned.arrays(), found_QN.numpy(), product_QN.numpy(),
        )  # fmt: skip
        return found_QN, product_QN

    def _nearest_centre(self, vector_NP: Tensor) -> NDArray[np.int64]:
        """[N] the cluster of the greatest product, of equals the first: exact, as sums stay below 2^24."""
        parts = [(part @ self.centre_CP.T).numpy().argmax(1) for part in torch.split(vector_NP, AT_ONCE)]
        return np.concatenate([*parts, np.zeros(0, np.int64)])

    def _clear(self) -> None:
        width = self.centre_CP.shape[1]
        self._head_C = np.full(len(self), -1, np.int64)
        self._next_B = np.zeros(0, np.int64)
        self._size_B = np.zeros(0, np.int32)
        self._row_BS = np.zeros((0, BLOCK), np.int32)
        self._vector_BSP = np.zeros((0, BLOCK, width), np.int8)
        self._blocks = np.array([0, -1], np.int64)

    def _reserve(self, more: int) -> None:
        """Room for so many rows: in the worst case each begins a block of its own, but not more than clusters do."""
        extent = int(self._blocks[0]) + more // BLOCK + min(more, len(self)) + 1
        if extent > len(self._size_B):
            extent = max(extent, 5 * len(self._size_B) // 4)
            for name in ("_next_B", "_size_B", "_row_BS", "_vector_BSP"):
                held = getattr(self, name)
                wider = np.zeros((extent, *held.shape[1:]), held.dtype)
                wider[: len(held)] = held
                setattr(self, name, wider)
