import pytest
from flwr.app import ConfigRecord, Context, Error, RecordDict
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY

from clients.app import app
from fedtrain.config import from_flat, to_flat
from fedtrain.crypto import Identity
from fedtrain.errors import ClientError, ConfigError, LedgerError, RunError
from fedtrain.serverapp.channel import Transport
from fedtrain.serverapp.enrollment import clients_of, enroll_simulated
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.trust import Roster
from tests.fakes import NODES, RUN_ID, InProcessGrid, digits_experiment, federation, private_experiment

PARTITIONS = {831: 2, 17: 0, 990: 1}


def ask_the_app(message):
    """Answer as a node of another runtime does: through our ClientApp."""
    node = message.metadata.dst_node_id
    config = {PARTITION_ID_KEY: PARTITIONS[node], NUM_PARTITIONS_KEY: len(PARTITIONS)}
    run_config = to_flat(from_flat({"federation.clients": len(PARTITIONS), "federation.cohort": 1}))
    context = Context(RUN_ID, node, config, RecordDict(), run_config)
    return app(message, context)


def test_nodes_of_another_runtime_are_asked_who_they_are():
    grid = InProcessGrid(ask_the_app, PARTITIONS)
    assert clients_of(grid, clients=3, timeout=10) == PARTITIONS
    assert [message.metadata.message_type for message in grid.sent] == ["query"] * 3


@pytest.mark.parametrize("clients", [2, 4])
def test_another_number_of_nodes_than_clients(clients):
    with pytest.raises(ConfigError, match=rf"3 nodes answered and federation.clients = {clients}; make them equal"):
        clients_of(InProcessGrid(ask_the_app, PARTITIONS), clients=clients, timeout=10)


def test_no_nodes():
    with pytest.raises(ConfigError, match="0 nodes answered"):
        clients_of(InProcessGrid(ask_the_app, []), clients=3, timeout=10)


def test_a_node_that_does_not_answer():
    grid = InProcessGrid(
        lambda message: None if message.metadata.dst_node_id == 17 else ask_the_app(message), PARTITIONS
    )
    with pytest.raises(ConfigError, match="2 nodes answered"):
        clients_of(grid, clients=3, timeout=0.1)


def test_a_node_that_fails_is_named_with_its_reason():
    grid = InProcessGrid(lambda _: Error(1, "no partition-id"), PARTITIONS)
    with pytest.raises(RunError, match="node 17 failed: no partition-id"):
        clients_of(grid, clients=3, timeout=10)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"client": ConfigRecord()},
        {"client": ConfigRecord({"client": "0"})},
        {"client": ConfigRecord({"client": [0]})},
        {"client": ConfigRecord({"client": -1})},
        {"client": ConfigRecord({"client": True})},
    ],
)
def test_a_node_that_says_nothing_of_use(content):
    with pytest.raises(RunError, match="node 17 does not say which client it is"):
        clients_of(InProcessGrid(lambda _: RecordDict(dict(content)), PARTITIONS), clients=3, timeout=10)


@pytest.mark.parametrize("claims", [(0, 0, 1), (0, 1, 3)])
def test_two_nodes_that_claim_one_client_or_one_that_does_not_exist(claims):
    claimed = dict(zip(sorted(PARTITIONS), claims, strict=True))

    def answer(message):
        return RecordDict({"client": ConfigRecord({"client": claimed[message.metadata.dst_node_id]})})

    with pytest.raises(ConfigError, match="make them equal"):
        clients_of(InProcessGrid(answer, PARTITIONS), clients=3, timeout=10)


@pytest.fixture
def begin(cache, tmp_path):
    """Give a function that opens the audit trail of a run, in one run folder, again and again."""

    def begin(answer=None, *, kind=private_experiment, **settings):
        experiment = kind(cache, **settings, output__directory=str(tmp_path / "run"), output__resume=True)
        preparation = prepare(experiment)
        grid = federation(experiment)
        if answer is not None:
            real = grid._answer
            grid._answer = lambda message: answer(message, real)
        folder, transport = RunFolder.open(experiment), Transport(sealed=False, secagg=False)
        enrollment = enroll_simulated(grid, NODES, preparation, transport, None, folder, done=0)
        return enrollment.trail, enrollment.channel.clients

    return begin


def without(client, reason="gone"):
    """Let one client fail."""
    return lambda message, real: Error(1, reason) if NODES[message.metadata.dst_node_id] == client else real(message)


def test_the_keys_that_clients_show_at_the_first_start_are_pinned(begin, tmp_path):
    trail, joined = begin()
    assert joined == NODES
    assert Roster.read(tmp_path / "run" / "roster.json") == trail.roster
    assert sorted(trail.roster.clients) == [0, 1, 2, 3]
    assert trail.log.records[0].roster == trail.roster.digest
    again, _ = begin()
    assert (again.run, again.roster) == (trail.run, trail.roster)
    assert len(again.log.records) == 1


def test_another_key_later_is_not_accepted(begin, tmp_path):
    trail, _ = begin()
    key = tmp_path / "run" / "clients" / "client-0002" / "identity.pem"
    key.unlink()
    Identity.load_or_create(key)
    again, _ = begin()
    assert again.roster == trail.roster
    assert list(again.refused) == [2]
    assert "key" in again.refused[2]


def test_a_client_that_does_not_join_takes_no_part(begin):
    trail, joined = begin(without(3))
    assert sorted(joined.values()) == [0, 1, 2]
    assert sorted(trail.roster.clients) == [0, 1, 2]


def test_too_few_clients_end_the_run_with_their_reasons(begin, tmp_path):
    with pytest.raises(ClientError, match=r"3 clients joined, and federation.cohort = 4:\nclient 3: gone"):
        begin(without(3), federation__cohort=4)
    assert not (tmp_path / "run" / "roster.json").exists()


def test_a_reason_of_several_lines_is_told_whole(begin):
    told = ["the site file cannot be used:", "  budget: missing", "it has [budget]"]
    reason = "\n".join(["Traceback", "  here", f"fedtrain.errors.SiteError: {told[0]}", *told[1:]])
    with pytest.raises(ClientError) as caught:
        begin(without(3, reason=reason), federation__cohort=4)
    assert str(caught.value).splitlines()[1:] == [f"client 3: {told[0]}", *told[1:]]


def test_a_client_that_is_gone_when_a_run_is_resumed_keeps_its_place(begin):
    trail, _ = begin()
    again, joined = begin(without(3))
    assert again.roster == trail.roster
    assert joined == NODES


def test_a_record_that_was_changed_stops_the_run(begin, tmp_path):
    begin()
    record = tmp_path / "run" / "record.jsonl"
    data = bytearray(record.read_bytes())
    data[100] ^= 1
    record.write_bytes(data)
    with pytest.raises(LedgerError, match=r"record.jsonl is damaged"):
        begin()


def test_with_secret_cohorts_every_client_reserves_the_run_when_it_joins(begin):
    client_mode = {"privacy__mode": "client", "privacy__delta": 1e-2}
    trail, _ = begin(kind=digits_experiment, **client_mode)
    assert [trail.copies.length(client) for client in range(4)] == [1] * 4
    assert {entry.event for client in range(4) for entry in trail.copies.entries(client)} == {trail.plan.event(3)}
    assert trail.withheld
    assert all(trail.copies.stated(client).time.endswith("T00:00:00Z") for client in range(4))
    again, _ = begin(kind=digits_experiment, **client_mode)
    assert [again.copies.length(client) for client in range(4)] == [1] * 4


def test_a_client_whose_budget_does_not_allow_the_run_is_left_out(begin, tmp_path):
    sites = tmp_path / "run" / "clients" / "client-0001"
    sites.mkdir(parents=True)
    (sites / "site.toml").write_text("[budget]\nepsilon = 0.1\ndelta = 1e-2\n")
    trail, _ = begin(kind=digits_experiment, privacy__mode="client", privacy__delta=1e-2)
    assert list(trail.refused) == [1]
    assert "budget of 0.1" in trail.refused[1]
