import subprocess
import sys
import traceback

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn

from fedtrain.clientapp.app import introduce, redact_errors
from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.training import train
from fedtrain.config.sections import TaskConfig
from fedtrain.crypto import Identity
from fedtrain.errors import ClientError, DataError, FedtrainError, KeyFileError, TaskError, TransportError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.ledger import read_chain, read_statement
from fedtrain.serverapp.preparation import prepare
from fedtrain.tasks import build_model, build_task
from fedtrain.training.case import open_case
from tests.fakes import InProcessGrid, digits_experiment


def test_a_message_that_the_mods_answer_needs_no_torch():
    code = "import sys; import clients.app; print('torch' in sys.modules, 'flwr.clientapp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


@pytest.fixture
def secret(cache, tmp_path):
    """Return an experiment in client privacy with secret cohorts."""
    return digits_experiment(
        cache,
        privacy__mode="client",
        privacy__epsilon=8.0,
        privacy__delta=1e-2,
        federation__sites=str(tmp_path / "sites"),
    )


def question(number=0, known=0, **more):
    values = {protocol.RUN: "r", protocol.ROUND: number, protocol.KNOWN: known}
    values |= {key.replace("_", "-"): value for key, value in more.items()}
    return RecordDict({protocol.LEDGER: ConfigRecord(values)})


def ask(client, content):
    reply = introduce(content, client.opened, client.site)
    shown = ConsistencyProof.from_record(reply[protocol.LEDGER])
    return reply, read_chain(shown.entries, shown.key), read_statement(shown.statement, shown.key)


def test_without_privacy_a_client_says_its_number_and_nothing_else(plain, node):
    client = node(plain, 2)
    assert introduce(RecordDict(), client.opened, client.site) == RecordDict(
        {protocol.CLIENT: ConfigRecord({protocol.CLIENT: 2})}
    )


def test_a_private_client_shows_its_ledger_and_states_that_this_is_all(private, node):
    client = node(private, 1)
    reply, entries, statement = ask(client, question(4))
    assert reply[protocol.CLIENT] == {protocol.CLIENT: 1}
    assert (entries, statement.round, statement.sequence, statement.refusal) == ((), 4, 0, None)
    assert reply[protocol.LEDGER][protocol.KEY] == ClientContext(experiment=private, client=1).identity.public.encode()


def test_with_secret_cohorts_the_whole_run_is_reserved_once(secret, node):
    plan = prepare(secret).plan
    client = node(secret, 1)
    for _ in range(2):
        _, (entry,), statement = ask(client, question(noise_multiplier=plan.noise_multiplier))
    assert (entry.round, entry.event, entry.plan) == (0, plan.event(3), plan.digest)
    assert (statement.sequence, statement.refusal) == (1, None)


def test_to_be_asked_for_the_ledger_reserves_nothing(secret, node):
    _, entries, _ = ask(node(secret, 1), question())
    assert entries == ()


def test_a_second_run_is_reserved_too_until_the_budget_ends(secret, node):
    plan = prepare(secret).plan
    client = node(secret, 1)
    ask(client, question(noise_multiplier=plan.noise_multiplier))
    _, entries, statement = ask(client, question(run="second", noise_multiplier=plan.noise_multiplier))
    assert len(entries) == 1
    assert "beyond this client's budget of 8" in statement.refusal


def test_noise_that_does_not_keep_the_promise_is_refused(secret, node):
    _, entries, statement = ask(node(secret, 1), question(noise_multiplier=0.31))
    assert entries == ()
    assert "more than the budget" in statement.refusal


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


class Quoting:
    """Fails as a task of a client's own would that reads a file of the client's."""

    def __init__(self, info=None):
        if info is not None:
            raise ValueError(SECRET)

    def model(self):
        raise ValueError(SECRET)


def test_what_the_library_quotes_of_the_code_of_a_task_stays_too(private, node, message, tmp_path, monkeypatch):
    (tmp_path / "quoting_task.py").write_text(f"raise ValueError({SECRET!r})")
    monkeypatch.syspath_prepend(tmp_path)
    named, info = TaskConfig(name="quoting_task:build"), node(private, 0).site.info
    for build in (
        lambda: build_model(Quoting()),
        lambda: build_task(TaskConfig(name="object:Quoting"), info, Quoting),
        lambda: build_task(named, info),
    ):
        with pytest.raises(TaskError, match="4711"):
            build()
        text = told(private, node, message, lambda *_, build=build: build())
        assert "4711" not in text
        assert "training failed with ValueError" in text


class Remembering(nn.Linear):
    """Fails on synthetic records with what it may have kept of others."""

    def forward(self, _inputs):
        raise ValueError(SECRET)


def test_what_the_preflight_quotes_of_a_model_stays_too(private, node, message):
    site = node(private, 0).site
    text = told(private, node, message, lambda *_: open_case(Remembering(64, 10), site.task, site.info))
    assert "4711" not in text
    assert "training failed with ValueError" in text


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
