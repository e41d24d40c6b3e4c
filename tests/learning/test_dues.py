"""Who is due: what walking all rows finds, whatever was done before."""

from __future__ import annotations

import random

import pytest
import torch

from pipeline.learning.dues import Dues
from pipeline.learning.users import NEVER, Users


@pytest.mark.parametrize("seed", range(12))
def test_as_if_all_rows_were_walked(seed: int) -> None:
    chance, users = random.Random(seed), Users(4, 2, 0)
    dues, names = Dues(users), 0
    for _ in range(300):
        match chance.randrange(7):
            case 0 | 1:
                for _ in range(chance.randrange(90)):
                    users.row(f"u{names}")
                    names += 1
            case 2 | 3 if names:
                rows = torch.tensor(chance.sample(range(len(users.due_U)), chance.randint(1, 40)))
                dues.lower(rows, torch.tensor([chance.choice([5, 7, 50, NEVER - 1]) for _ in rows]))
            case 4 if names:
                dues.never(torch.tensor(chance.sample(range(len(users.due_U)), chance.randint(0, 40))).long())
            case 5 if names:
                users.forget(f"u{chance.randrange(names)}")
            case 6 if chance.random() < 0.2:
                users.due_U = torch.where(users.due_U == 7, 9, users.due_U)
                dues.follow()
        due_U = users.due_U
        for time in (4, 5, 9, 60, NEVER - 1):
            assert torch.equal(dues.until(time), torch.nonzero(due_U <= time).flatten())
            assert torch.equal(dues.exactly(time), torch.nonzero(due_U == time).flatten())
            assert dues.any_exactly(time) == bool((due_U == time).any())
        assert dues.earliest() == int(due_U.min())
