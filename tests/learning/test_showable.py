"""Which items may be shown, kept from one time to the next, is what looking at every item would say."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.learning.catalogue import Catalogue
from pipeline.learning.showable import NO_EXPIRY
from pipeline.messages import Item


def looked_at(catalogue: Catalogue, watermark: int, undescribed: bool) -> list[bool]:
    """Item by item."""
    rows = range(len(catalogue))
    return [
        (undescribed or bool(catalogue.described_I[i])) and bool(catalogue.available_I[i])
        and int(catalogue.expires_I[i]) > watermark
        for i in rows
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_items_and_to_time(seed: int) -> None:
    chance, catalogue, watermark = random.Random(seed), Catalogue(), -1_000
    undescribed = seed % 2 == 0
    for _ in range(400):
        name = f"i{chance.randrange(90)}"
        what = chance.random()
        if what < 0.4:
            expires = chance.choice([None, None, watermark + chance.randrange(-20, 60)])
            catalogue.describe(Item(name, available=chance.random() < 0.8, expires_at=expires))
        elif what < 0.5:
            catalogue.withdraw(name)
        elif what < 0.6:
            catalogue.row(name)
        elif what < 0.62:
            watermark -= 30  # a state that is gone back to
        before, watermark = watermark, watermark + chance.choice([0, 0, 1, 25])
        if chance.random() < 0.7:
            assert catalogue.showable(watermark, undescribed).tolist() == looked_at(catalogue, watermark, undescribed)
        expires_I = catalogue.expires_I[: len(catalogue)]
        gone = torch.nonzero((expires_I > before) & (expires_I <= watermark)).flatten()
        assert torch.equal(catalogue.expired(before, watermark), gone)
    twin = Catalogue()
    twin.load(catalogue.state())
    assert torch.equal(twin.showable(watermark, undescribed), catalogue.showable(watermark, undescribed))
    assert int(catalogue.expires_I.max()) == NO_EXPIRY
