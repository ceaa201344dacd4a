import pytest

from fedtrain.deployment.printed import AppLines

STREAM = """\
Using SuperLink: fedtrain (127.0.0.1:9091)
\x1b[92mINFO \x1b[0m:      Starting Flower ServerApp
Successfully installed fedtrain to run/flwr/apps/fedtrain.fedtrain.0.1.0.491d5b04.
digits: 4 rounds, 3 of 3 clients a round
round 1/4  clients 3/3  accuracy 0.5000
WARNING :   something of Flower's
a warning of the app
Traceback (most recent call last):
  File "app.py", line 1, in step
    step()
ValueError: caught, and printed by the app

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "app.py", line 2, in step
KeyError: 'again'
round 2/4  clients 3/3  accuracy 0.6000
\x1b[91mERROR\x1b[0m :     ServerApp raised an exception
Traceback (most recent call last):
  File "server.py", line 1, in main
fedtrain.errors.ClientError: 2 members take part, and federation.cohort = 3:
client 1, hospital-b, is not in the session
client 2, hospital-c, is not in the session
\x1b[91mERROR\x1b[0m :     Exit Code: 201

An unhandled exception occurred in the ServerApp.

For more information, visit: <https://flower.ai/docs/framework/1.41/en/ref-exit-codes/201.html>
12/01/2026 00:16:01:ERROR:Exit Code: 201

An unhandled exception occurred in the ServerApp.
INFO :      the end
"""


def test_what_is_flowers_and_tracebacks_are_left_out():
    lines = AppLines()
    assert [line for text in STREAM.splitlines() if (line := lines.take(text)) is not None] == [
        "digits: 4 rounds, 3 of 3 clients a round",
        "round 1/4  clients 3/3  accuracy 0.5000",
        "a warning of the app",
        "",
        "round 2/4  clients 3/3  accuracy 0.6000",
    ]


@pytest.mark.parametrize("line", ["", "INFORMATION: of the app", "  indented", "Traceback of the app", "ERROR"])
def test_a_line_of_the_app_is_given(line):
    assert AppLines().take(line) == line
