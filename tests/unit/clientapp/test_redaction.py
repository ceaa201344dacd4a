import sys
import traceback

import pytest
from flwr.app import Message

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.redaction import redact_errors
from fedtrain.clientapp.training import train
from fedtrain.crypto import Identity
from fedtrain.errors import ClientError, DataError, FedtrainError, KeyFileError, TaskError, TransportError
from fedtrain.flower.messages import protocol
from tests.fakes import InProcessGrid

SECRET = "patient 4711 has label 3"


class AwkwardError(FedtrainError):
    """Cannot be made from its text."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


@pytest.fixture
def message(request_of, private):
    InProcessGrid(None, [])  # sets who this process is
    return Message(request_of(private), 1000, "train")


def raising(error):
    def call_next(_message, _context):
        raise error

    return call_next


def told(private, node, message, call_next):
    """Return all that the engine would send of the exception."""
    with pytest.raises(ClientError) as caught:
        redact_errors(message, node(private, 0).context, call_next)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        SystemExit(SECRET),
        KeyboardInterrupt(SECRET),
        BaseException(SECRET),
        DataError(f"row 7: {SECRET}"),
        TaskError(SECRET),
        TransportError(SECRET),
        AwkwardError("patient 4711", "has label 3"),
        type("Patient4711", (Exception,), {})(),
    ],
    ids=repr,
)
def test_what_an_exception_says_of_the_records_stays_at_the_client(private, node, message, error):
    assert "4711" not in told(private, node, message, raising(error))
    log = ClientContext(experiment=private, client=0).folder / "errors.log"
    assert "4711" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_task_that_leaves_by_exit_is_silent_too(private, node, message):
    assert "4711" not in told(private, node, message, lambda *_: sys.exit(SECRET))


def test_a_log_that_cannot_be_written_changes_nothing(private, node, message):
    folder = ClientContext(experiment=private, client=0).folder
    (folder / "errors.log").mkdir(parents=True)
    text = told(private, node, message, raising(ValueError(SECRET)))
    assert "4711" not in text
    assert "ValueError" in text


def test_the_librarys_own_errors_are_passed_on(private, node, message, tmp_path):
    with pytest.raises(KeyFileError, match="there is no key file"):
        redact_errors(message, node(private, 0).context, lambda *_: Identity.load(tmp_path / "none"))


def test_without_privacy_exceptions_are_the_authors(plain, node, message):
    with pytest.raises(ValueError, match="4711"):
        redact_errors(message, node(plain, 0).context, raising(ValueError(SECRET)))


def test_answers_are_passed_on(private, node, message):
    assert redact_errors(message, node(private, 0).context, lambda given, _: given) is message


def test_what_is_malformed_in_a_request_is_passed_on(private, node, message):
    del message.content[protocol.CONFIG][protocol.NOISE_MULTIPLIER]
    client = node(private, 0)
    with pytest.raises(TransportError, match="'noise-multiplier' in its record 'config' is missing"):
        redact_errors(message, client.context, lambda *_: train(message.content, client.opened, client.site))


def test_a_mode_that_is_not_known_is_taken_for_a_private_one(private, node, message):
    context = node(private, 0).context
    context.run_config["privacy.mode"] = "unheard of"
    with pytest.raises(ClientError, match="training failed with ValueError"):
        redact_errors(message, context, raising(ValueError(SECRET)))
