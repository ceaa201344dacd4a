"""Ports of loopback for programs that a test starts, each handed out once."""

import os
import socket
from itertools import chain

# Below those that Linux gives to outgoing connections and to whoever asks for any, so that nobody is given one between
# its choice and its use. Tests that run side by side have ranges of their own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_FIRST, _COUNT = 10_000 + 2_000 * (_WORKER % 10), 2_000
_START = os.getpid() % _COUNT
_PORTS = chain(range(_FIRST + _START, _FIRST + _COUNT), range(_FIRST, _FIRST + _START))


def free_port():
    """Return a port on which nobody listens."""
    return next(port for port in _PORTS if not is_open(port))


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
