import os
import subprocess
import sys

import pytest

# An app that needs longer than Flower allows it.
SCRIPT = """
import signal, sys, time
from flwr.supercore.exit import register_signal_handlers
from flwr.supercore.telemetry import EventType
from fedtrain.flower.endings import allow_last_word

sys.modules["flwr.supercore.exit.exit"].FORCE_EXIT_TIMEOUT_SECONDS = 0.2
register_signal_handlers(event_type=EventType.FLWR_SERVERAPP_RUN_LEAVE)
if sys.argv[1] == "allowed":
    allow_last_word()
try:
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)
finally:
    time.sleep(1.0)
    print("the last word", flush=True)
"""


@pytest.mark.parametrize(("how", "said"), [("allowed", True), ("as Flower has it", False)])
def test_an_app_that_is_asked_to_end_has_the_time_for_its_report(how, said):
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ("the last word" in done.stdout) == said, done.stderr
