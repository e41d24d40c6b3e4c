"""river's ADWIN and Page-Hinkley, without the rest of `river.drift`.

That package imports its data sets as well, and with them scikit-learn,
scipy.stats and pandas, which nothing here needs: a second of every start. So
the two modules are imported beneath a stand-in that has the package's path and
none of its contents, and is gone again afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

PACKAGE = "river.drift"


@contextmanager
def _its_path_alone() -> Iterator[None]:
    """Its modules can be imported without it; where it is imported already, or is not there, all is as ever."""
    river = find_spec("river")
    if PACKAGE in sys.modules or river is None:
        yield
        return
    stand_in = ModuleType(PACKAGE)
    stand_in.__path__ = [f"{folder}/drift" for folder in river.submodule_search_locations or ()]
    sys.modules[PACKAGE] = stand_in
    try:
        yield
    finally:
        del sys.modules[PACKAGE]


with _its_path_alone():
    from river.drift.adwin import ADWIN
    from river.drift.page_hinkley import PageHinkley

__all__ = ["ADWIN", "PageHinkley"]
