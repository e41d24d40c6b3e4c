"""Who a learner is in its manifests: a name of its own, and what its results depend on."""

from __future__ import annotations

from importlib.metadata import version

import torch

from pipeline.epochs.digest import fingerprint, threads_of
from pipeline.runtime.composition import identity

CPU = torch.device("cpu")


def test_two_lives_have_two_names_and_one_fingerprint() -> None:
    one, other = identity(CPU, 3), identity(CPU, 3)
    assert one.instance != other.instance
    assert one.fingerprint == other.fingerprint != identity(CPU, 2).fingerprint


def test_the_fingerprint_names_this_version_and_what_is_below_it_and_tells_the_threads() -> None:
    told = identity(CPU, 3).fingerprint
    assert told == f"headrace-{version('headrace')} {fingerprint(CPU, 3)}"
    assert threads_of(told) == 3
