"""Lets the tests here import the scripts beside them, as running a script does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
