"""The item arena: what is known of each item, its vector, whether it may be shown."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.arena import Ids, grown
from pipeline.learning.nearest import Nearest
from pipeline.learning.showable import NO_EXPIRY, Showable
from pipeline.learning.traits import Traits
from pipeline.messages import Item, Vector
from pipeline.settings import Filter, ListSettings

PROJECTED = 64
UNIT_WITHIN = 0.01
FITTED = 1 << 16
"""Principal components are estimated from so many vectors at most, evenly spaced; so many are projected at once."""
MOST_TAGS = 256
"""Attributes, categories and tags kept of an item for lists to be filtered by; all rows are as wide as the widest."""


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def tag_of(kind: str, value: object) -> int:
    """64-bit hash under which an item's category or attribute value is kept; 9 and 9.0 are one value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _hash(f"{kind}={value}")


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A vector that is not of unit length, though it should be, brought to it: one giant would drown the others.

    >>> unit(np.array([3e38, 0.0], dtype=np.float32)).tolist()
    [1.0, 0.0]
    """
    length = float(np.linalg.norm(values.astype(np.float64)))
    if length == 0 or abs(length - 1) < UNIT_WITHIN:
        return values.copy()
    return (values / length).astype(np.float32)


class Catalogue:
    """One row per item ever named in an item record, a vector or an event.

    `projected_IP` holds each item's text vector on the first 64 principal
    components of the catalogue, re-estimated whenever it has doubled and turned
    to fit the components before (orthogonal Procrustes), centred, unit length.
    """

    def __init__(self) -> None:
        self.ids = Ids()
        self.traits = Traits()
        self.described_I = torch.zeros(64, dtype=torch.bool)
        self.available_I = torch.ones(64, dtype=torch.bool)
        self.expires_I = torch.full((64,), NO_EXPIRY, dtype=torch.int64)
        self.has_vector_I = torch.zeros(64, dtype=torch.bool)
        self.count_I = torch.zeros(64, dtype=torch.float32)
        self.tags_IG = torch.zeros(64, 8, dtype=torch.int64)
        self.source_I2 = torch.full((64, 2), -1, dtype=torch.int64)
        self.vector_IE = torch.zeros(64, 0)
        self.projected_IP = torch.zeros(64, PROJECTED)
        self.nearest = Nearest(PROJECTED)
        self._showable = Showable(self)
        self.mean_E = torch.zeros(0)
        self.basis_EP = torch.zeros(0, PROJECTED)
        self.fitted_at = torch.zeros(1, dtype=torch.int64)

    _ROWS: ClassVar[dict[str, int]] = {
        "described_I": 0, "available_I": 1, "expires_I": NO_EXPIRY, "has_vector_I": 0, "count_I": 0,
        "tags_IG": 0, "source_I2": -1, "vector_IE": 0, "projected_IP": 0,
    }  # fmt: skip
    _WHOLE = ("mean_E", "basis_EP", "fitted_at")

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, item_id: str) -> int:
        """The item's row, made if there is none."""
        row = self.ids.row(item_id)
        if row >= self.count_I.shape[0]:
            for name, fill in self._ROWS.items():
                setattr(self, name, grown(getattr(self, name), row + 1, fill))
        return row

    def describe(self, item: Item) -> int:
        """Take an item record; returns its row."""
        row = self.row(item.item_id)
        self.described_I.numpy()[row] = True
        self.available_I.numpy()[row] = item.available
        self.expires_I.numpy()[row] = NO_EXPIRY if item.expires_at is None else item.expires_at
        tags = [tag_of("category", c) for c in (*item.categories, *item.tags)]
        tags += [tag_of(f"attribute:{k}", v) for k, v in sorted(item.attributes.items())]
        if len(tags) > MOST_TAGS:
            # Of attributes the decoder admits few: those are all kept.
            tags = (tags[len(tags) - len(item.attributes) :] + list(dict.fromkeys(tags)))[:MOST_TAGS]
        if len(tags) > self.tags_IG.shape[1]:
            width = min(max(len(tags), 2 * self.tags_IG.shape[1]), MOST_TAGS)
            wider = torch.zeros(self.tags_IG.shape[0], width, dtype=torch.int64)
            wider[:, : self.tags_IG.shape[1]] = self.tags_IG
            self.tags_IG = wider
        self._showable.changed(row)
        self.tags_IG.numpy()[row] = 0
        self.tags_IG.numpy()[row, : len(tags)] = tags
        self.traits.take(row, (*item.categories, *item.tags), item.attributes)
        return row

    def withdraw(self, item_id: str) -> int:
        """An item's tombstone: keep what was learned, show it no more; returns its row."""
        row = self.row(item_id)
        self.described_I[row] = False
        self.available_I[row] = False
        self._showable.changed(row)
        return row

    def is_withdrawn(self, row: int) -> bool:
        """Whether the item's last record was a tombstone."""
        return not self.not_withdrawn([row])

    def not_withdrawn(self, rows: list[int]) -> list[int]:
        """Those of these rows whose last record was no tombstone."""
        kept_N = self.described_I.numpy()[rows] | self.available_I.numpy()[rows]
        return [row for row, kept in zip(rows, kept_N.tolist(), strict=True) if kept]

    def unusable(self, values: NDArray[np.float32], encoder: str) -> str | None:
        """Why a vector cannot join the catalogue; None if it can. The first one decides the width."""
        if len(values) == 0 or not np.isfinite(values).all():
            return "vector is empty or not finite"
        if self.vector_IE.shape[1] == 0:
            self._set_width(len(values))
        if len(values) != self.vector_IE.shape[1]:
            have = self.vector_IE.shape[1]
            return f"vector of {len(values)} numbers by encoder {encoder}; the catalogue's have {have}"
        return None

    def take_vectors(self, vectors: list[Vector]) -> None:
        """Take embeddings that are not `unusable`; one made from an older record than the present one's is ignored."""
        for vector in vectors:
            values = np.frombuffer(vector.vector, dtype="<f4")
            row = self.row(vector.item_id)
            partition, offset = self.source_I2.numpy()[row].tolist()
            if partition == vector.source.partition and offset > vector.source.offset:
                continue
            self.source_I2.numpy()[row] = vector.source.partition, vector.source.offset
            self.vector_IE.numpy()[row] = unit(values)
            self.has_vector_I.numpy()[row] = True
        if vectors:
            rows = torch.tensor([self.ids.find(v.item_id) for v in vectors])
            self.projected_IP[rows] = self.project(self.vector_IE[rows])
            self.nearest.moved(rows, self.projected_IP[rows])
            self._maybe_fit()

    def project(self, vector_NE: Tensor) -> Tensor:
        """[N, P] unit rows: text vectors on the catalogue's principal components; zeros stay zero."""
        if vector_NE.shape[1] != self.mean_E.shape[0]:
            return torch.zeros(vector_NE.shape[0], PROJECTED)
        present = (vector_NE != 0).any(1, keepdim=True)
        projected = (vector_NE - self.mean_E) @ self.basis_EP
        return torch.nn.functional.normalize(projected, dim=1) * present

    def showable(self, watermark: int, undescribed: bool) -> Tensor:
        """[I] whether each item may be recommended at event time `watermark`; to be read, until something changes."""
        return self._showable.at(watermark, undescribed)

    def expired(self, before: int, until: int) -> Tensor:
        """Rows of the items whose time ran out after `before` and by `until`, in order."""
        return self._showable.expired(before, until)

    def admitted(self, wanted: ListSettings) -> Tensor | None:
        """[I] whether a list's settings admit each item; None where they admit all."""
        plain = wanted.include == wanted.exclude == Filter() and not wanted.exclude_items
        if plain:
            return None
        admitted = torch.ones(len(self), dtype=torch.bool)
        if wanted.include != Filter():
            admitted &= self._has(wanted.include)
        admitted &= ~self._has(wanted.exclude)
        for item_id in wanted.exclude_items:
            if (row := self.ids.find(item_id)) >= 0:
                admitted[row] = False
        return admitted

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        own = {f"items.{n}": getattr(self, n) for n in (*self._ROWS, *self._WHOLE)}
        own |= {f"items.traits.{n}": tensor for n, tensor in self.traits.state().items()}
        own["items.centre_CP"] = self.nearest.clusters.centre_CP
        return own | self.ids.state("items.ids")

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in (*self._ROWS, *self._WHOLE):
            setattr(self, name, tensors[f"items.{name}"].clone())
        of_traits = "items.traits."
        self.traits.load({n.removeprefix(of_traits): t for n, t in tensors.items() if n.startswith(of_traits)})
        self.ids.load("items.ids", tensors)
        self.nearest.clusters.centre_CP = tensors["items.centre_CP"].clone()
        self.nearest.all_moved(self.projected_IP[: len(self)])
        self._showable.follow()

    def _has(self, wanted: Filter) -> Tensor:
        """[I] whether each item has one of the categories, or for some attribute one of the values."""
        tags = [tag_of("category", c) for c in wanted.categories]
        tags += [tag_of(f"attribute:{k}", v) for k, values in wanted.attributes.items() for v in values]
        if not tags:
            return torch.zeros(len(self), dtype=torch.bool)
        return torch.isin(self.tags_IG[: len(self)], torch.tensor(tags)).any(1)

    def _set_width(self, width: int) -> None:
        self.vector_IE = torch.zeros(self.count_I.shape[0], width)
        self.mean_E = torch.zeros(width)
        generator = torch.Generator().manual_seed(width)
        random = torch.randn(width, max(PROJECTED, width), generator=generator)
        self.basis_EP = torch.linalg.qr(random).Q[:, :PROJECTED].contiguous()
        if width < PROJECTED:
            self.basis_EP = torch.nn.functional.pad(self.basis_EP, (0, PROJECTED - self.basis_EP.shape[1]))

    def _maybe_fit(self) -> None:
        have = int(self.has_vector_I.sum())
        if have < 2 * PROJECTED or have < 2 * int(self.fitted_at):
            return
        rows = torch.nonzero(self.has_vector_I).flatten()
        if have > FITTED:
            rows = rows[torch.linspace(0, have - 1, FITTED).long()]
        known_NE = self.vector_IE[rows].double()
        mean_E = known_NE.mean(0)
        centred = known_NE - mean_E
        components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :PROJECTED]
        left, _, right = torch.linalg.svd(components.T @ self.basis_EP[:, : components.shape[1]].double())
        turned = components @ (left @ right)
        self.basis_EP = torch.nn.functional.pad(turned, (0, PROJECTED - turned.shape[1])).float()
        self.mean_E = mean_E.float()
        self.fitted_at[0] = have
        for start in range(0, len(self), FITTED):
            part = slice(start, min(start + FITTED, len(self)))
            self.projected_IP[part] = self.project(self.vector_IE[part])
        self.nearest.fit(self.projected_IP[: len(self)])
