"""What all tests share."""

import os
import signal

import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, settings

from fedtrain import progress

# Where CI is set Hypothesis draws the same examples each time, without a limit of time for each. Elsewhere it searches
# on, and how long an example takes says nothing on a machine that does other work as well.
if not os.environ.get("CI"):
    settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("local")

# A shell lets what runs in the background ignore Ctrl-C, and so would all programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of torch wait for one another where tests run beside each other. Workers of the engine have one too, and tests
# of what several do choose how many.
torch.set_num_threads(1)

# On a busy machine anything takes long, and what is said of it would be among what commands print.
progress.FIRST = 3600.0


@pytest.fixture(autouse=True)
def of_a_task():
    """Let each test make Flower's messages, whose sender is that of the process, and leave nothing of it to the next.

    What makes messages in a wider scope says whose they are by itself.
    """
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1
    yield
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = None
