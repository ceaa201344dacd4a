"""Scripts of the simulations as modules."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def script(monkeypatch):
    """Import a script of the simulations as it is when it is run."""
    monkeypatch.syspath_prepend(str(ROOT / "simulations"))
    known = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(ROOT / "simulations"):
            del sys.modules[name]
