"""Ports of loopback for programs that a test starts, each handed out once, whoever else tests on this machine."""

import os
import socket
from itertools import chain

# Below those that Linux gives to outgoing connections and to whoever asks for any, so that nobody is given one between
# its choice and its use.
_FIRST, _COUNT = 10_000, 20_000
_START = os.getpid() * 61 % _COUNT
_PORTS = chain(range(_FIRST + _START, _FIRST + _COUNT), range(_FIRST, _FIRST + _START))


def free_port():
    """Return a port on which nobody listens, and which no other process of tests is given while this one runs."""
    return next(port for port in _PORTS if _claimed(port) and not is_open(port))


def _claimed(port):
    """Take a name that only one process of the machine can have, until this one ends."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0fedtrain-tests-port-{port}")
    except OSError:
        name.close()
        return False
    name.detach()
    return True


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
