import signal

import pytest
from flwr.app import RecordDict
from flwr.common.constant import ErrorCode

from fedtrain.engine.codec import MAX_REASON
from fedtrain.errors import RunError

ONE_FAILS = """
@app.train()
def train(message, context):
    if context.node_config["partition-id"] == 1:
        {action}
    return Message(RecordDict(), reply_to=message)
"""


def run_with_one_failing(make_grid, messages, action):
    """Node 1 fails; all others, before and after it, and node 1's other messages, are answered."""
    grid = make_grid(ONE_FAILS.format(action=action), nodes=6)
    for _ in range(2):
        replies = grid.send_and_receive(messages(range(6)))
        assert [reply.has_error() for reply in replies] == [False, True, False, False, False, False]
    return replies[1].error


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("raise RuntimeError('planted')", "RuntimeError: planted"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return None", "returned a NoneType, not a Message"),
        ("return message", "not a reply to the one it received"),
        ("raise __import__('fedtrain.errors').errors.BudgetError('spent')", "BudgetError: spent"),
    ],
)
def test_what_a_client_raises_is_the_reason_with_its_traceback(make_grid, messages, action, text):
    error = run_with_one_failing(make_grid, messages, action)
    assert error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert text in error.reason
    assert "Traceback" in error.reason


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os._exit(7)", "exited with code 7"),
    ],
)
def test_a_crash_names_the_signal_or_the_exit_code(make_grid, messages, action, text):
    error = run_with_one_failing(make_grid, messages, action)
    assert error.code == ErrorCode.CLIENT_APP_CRASHED
    assert text in error.reason


def test_a_segmentation_fault_names_the_function(make_grid, messages):
    action = "import ctypes; ctypes.string_at(0)"
    error = run_with_one_failing(make_grid, messages, action)
    assert error.code == ErrorCode.CLIENT_APP_CRASHED
    assert "was killed by SIGSEGV" in error.reason
    assert "in train" in error.reason


def test_an_unserialisable_reply_is_an_error(make_grid, messages):
    action = "r = Message(RecordDict(), reply_to=message); r.content['c'] = ConfigRecord({'n': 2**70}); return r"
    error = run_with_one_failing(make_grid, messages, action)
    assert error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "out of range" in error.reason


def test_arrays_that_are_not_bytes_are_an_error(make_grid, messages):
    action = (
        "r = ArrayRecord([np.zeros(2)]); r['0'].data = bytearray(5); "
        "return Message(RecordDict({'r': r}), reply_to=message)"
    )
    error = run_with_one_failing(make_grid, messages, action)
    assert "array '0' in record 'r' must be bytes, not bytearray" in error.reason


def test_a_long_traceback_keeps_its_end(make_grid, messages):
    error = run_with_one_failing(make_grid, messages, "raise ValueError('x' * 100_000 + 'the end')")
    assert error.reason.endswith("the end\n")
    assert len(error.reason) < MAX_REASON + 100


@pytest.mark.parametrize(
    ("source", "client_app", "text"),
    [
        ("def broken(:", "client:app", "SyntaxError"),
        ("1 / 0", "client:app", "ZeroDivisionError"),
        ("from os import no_such_name", "client:app", "no_such_name"),
        ("import no_such_module", "client:app", "No module named 'no_such_module'"),
        ("sys.exit('stop')", "client:app", "SystemExit: stop"),
        ("", "client:missing", "Unable to load attribute missing"),
        ("", "absent:app", "No module named 'absent'"),
        ("app = 5", "client:app", "client:app is a int, not a ClientApp"),
        ("", "nonsense", "Missing attribute"),
    ],
)
def test_an_app_that_cannot_be_loaded_ends_the_run_with_its_traceback(make_grid, messages, source, client_app, text):
    grid = make_grid(source, client_app=client_app)
    with pytest.raises(RunError) as failed:
        grid.send_and_receive(messages(range(4)))
    assert str(failed.value).startswith(f"the ClientApp {client_app} cannot be loaded:\nTraceback")
    assert text in str(failed.value)
    for again in (lambda: grid.push_messages(messages([0])), lambda: grid.pull_messages([]), grid.check):
        with pytest.raises(RunError, match="cannot be loaded"):
            again()


@pytest.mark.parametrize(
    ("source", "text"),
    [("os._exit(9)", "exited with code 9"), ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL")],
)
def test_workers_that_cannot_start_end_the_run(make_grid, messages, source, text):
    grid = make_grid(source)
    with pytest.raises(RunError, match=rf"3 worker processes in a row .*{text}"):
        grid.send_and_receive(messages(range(4)))
    with pytest.raises(RunError, match="in a row"):
        grid.pull_messages([])


def test_a_crash_leaves_the_message_dispatched_ahead_to_another_worker(make_grid, messages, tmp_path):
    log = tmp_path / "runs"
    app = f"""
    @app.train()
    def train(message, context):
        partition = context.node_config["partition-id"]
        with open({str(log)!r}, "a") as file:
            file.write(f"{{partition}}\\n")
        if partition % 3 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return Message(RecordDict(), reply_to=message)
    """
    grid = make_grid(app, nodes=12)
    replies = grid.send_and_receive(messages(range(12)))
    assert [reply.has_error() for reply in replies] == [node % 3 == 0 for node in range(12)]
    assert sorted(map(int, log.read_text().split())) == list(range(12))  # each ran exactly once


def test_a_worker_that_is_killed_from_outside_is_replaced(make_grid, messages):
    import os

    app = """
    @app.train()
    def train(message, context):
        return Message(RecordDict({"m": MetricRecord({"pid": os.getpid()})}), reply_to=message)
    """
    grid = make_grid(app, workers=1)
    (reply,) = grid.send_and_receive(messages([0]))
    first = reply.content["m"]["pid"]
    os.kill(first, signal.SIGKILL)
    (reply,) = grid.send_and_receive(messages([0]))
    assert reply.content["m"]["pid"] != first


def test_a_push_that_cannot_be_encoded_pushes_nothing(make_grid, messages):
    from flwr.app import ConfigRecord

    from fedtrain.errors import UsageError

    grid = make_grid(ONE_FAILS.format(action="pass"))
    with pytest.raises(UsageError, match="node 1001 cannot be sent"):
        grid.push_messages([*messages([0]), *messages([1], RecordDict({"c": ConfigRecord({"n": 2**70})}))])
    assert not grid.send_and_receive(messages([0]))[0].has_error()
