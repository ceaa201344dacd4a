"""How the threads of torch wait for one another in a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from contextlib import suppress
from fedtrain.cli import main

sys.argv = ["fedtrain", "--version"]
with suppress(SystemExit):
    main()
import torch
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another library of threads")
@pytest.mark.parametrize(("chosen", "spins"), [({}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")])
def test_threads_of_torch_wait_asleep_unless_the_user_says_otherwise(chosen, spins):
    # The library says so itself when torch is imported: for how many turns a thread waits awake.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, **chosen, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
