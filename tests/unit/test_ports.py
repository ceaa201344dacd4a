import json
import os
import subprocess
import sys

from tests import ports

CODE = """
import json, sys
from tests import ports
ports._PORTS = iter(range(int(sys.argv[1]), int(sys.argv[1]) + 50))
print(json.dumps([ports.free_port() for _ in range(5)]), flush=True)
sys.stdin.read()
"""


def test_no_two_processes_are_given_one_port_though_nobody_listens_yet():
    """One that waits a while before it listens would otherwise meet a stranger there."""
    first = ports.free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(first)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    found = [first, *(port for each in started for port in json.loads(each.stdout.readline()))]
    for each in started:
        each.communicate("")
        assert each.returncode == 0
    assert len(set(found)) == len(found) == 11
