import pytest
from flwr.app import ConfigRecord, RecordDict

from fedtrain.clientapp.context import ClientContext
from fedtrain.clientapp.joining import introduce
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.ledger import read_chain, read_statement
from fedtrain.serverapp.preparation import prepare
from tests.fakes import digits_experiment


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
