"""Simulated clients are asked who they are when they are first drawn, and nobody else leaves a file."""

from pathlib import Path

import pytest
from flwr.app import Context, Error, RecordDict

from clients.app import app
from fedtrain import Experiment, simulate
from fedtrain.audit import audit
from fedtrain.config import to_flat
from fedtrain.crypto import Identity
from fedtrain.engine.worker import FIRST_NODE_ID
from fedtrain.errors import ClientError, LedgerError
from fedtrain.ledger import Asked, Enrolled, RunLog
from fedtrain.report import Report
from fedtrain.serverapp import enrollment
from fedtrain.serverapp.run import run_experiment
from fedtrain.trust import Roster
from tests.fakes import RUN_ID, InProcessGrid, private_experiment

CLIENTS = 12


class Engine(InProcessGrid):
    """A grid that answers in this process, and numbers its nodes as the local engine does."""

    def __init__(self, experiment, answer=lambda message, real: real(message)):
        def real(message):
            node = message.metadata.dst_node_id
            config = {"partition-id": node - FIRST_NODE_ID, "num-partitions": CLIENTS}
            return app(message, Context(RUN_ID, node, config, RecordDict(), to_flat(experiment)))

        super().__init__(lambda message: answer(message, real), [FIRST_NODE_ID + each for each in range(CLIENTS)])


@pytest.fixture(autouse=True)
def local(monkeypatch):
    """Let the grid above be known for the local engine."""
    monkeypatch.setattr(enrollment, "LocalGrid", Engine)


@pytest.fixture
def start(cache, tmp_path):
    def run(folder="run", *, grid=Engine, on_event=None, **settings):
        fixed = {
            "federation__clients": CLIENTS,
            "federation__cohort": 2,
            "federation__rounds": 2,
            "federation__deadline": 10.0,
            "output__directory": str(tmp_path / folder),
            "output__screen": "none",
            "task__model": "linear",
        }
        experiment = private_experiment(cache, **(fixed | settings))
        engine = grid(experiment)
        run_experiment(engine, experiment, on_event=on_event)
        return tmp_path / folder, engine

    return run


def told(folder):
    report = Report.model_validate_json((folder / "report.json").read_text())
    verdict = audit(report, roster=Roster.read(folder / "roster.json"))
    assert [f"{check.name}: {check.detail}" for check in verdict.of("fails")] == []
    return report


def drawn(report):
    return sorted({client for entry in report.round_log for client in entry.cohort})


def asked(engine):
    return sorted({message.metadata.dst_node_id - FIRST_NODE_ID for message in engine.sent})


def test_only_drawn_clients_are_asked_and_leave_files(start):
    folder, engine = start()
    report = told(folder)
    members = drawn(report)
    assert 2 <= len(members) <= 4
    assert asked(engine) == members
    assert sorted(path.name for path in (folder / "clients").iterdir()) == [f"client-{each:04d}" for each in members]
    assert sorted(path.stem for path in (folder / "ledgers").iterdir()) == [f"client-{each:04d}" for each in members]
    assert sorted(Roster.read(folder / "roster.json").clients) == members
    assert [client.client for client in report.privacy.clients] == members
    assert report.data.clients == CLIENTS
    # One question and one answer for who they are, one for each round, and one at the end.
    rounds = sum(len(entry.cohort) for entry in report.round_log)
    assert len(engine.sent) == 2 * len(members) + rounds


def test_who_has_spent_before_is_accounted_for_though_not_drawn(start, tmp_path):
    sites = str(tmp_path / "sites")
    first = told(start("first", federation__rounds=4, federation__sites=sites)[0])
    second = told(start("second", federation__sites=sites, privacy__noise_multiplier=50.0)[0])
    before = set(drawn(first)) - set(drawn(second))
    assert before
    spent = {client.client: client for client in second.privacy.clients}
    assert set(spent) == set(drawn(first)) | set(drawn(second))
    for client in before:
        assert (spent[client].run_epsilon, spent[client].rounds) == (0.0, ())
        assert spent[client].epsilon > 0
    assert second.privacy.epsilon == max(client.epsilon for client in second.privacy.clients)
    assert max(spent[client].run_epsilon for client in drawn(second)) < second.privacy.epsilon


def test_who_spends_elsewhere_meanwhile_is_accounted_for_at_the_end(start, tmp_path):
    sites = str(tmp_path / "sites")

    def during(event):
        if type(event).__name__ == "RoundDone" and event.round == 2:
            start("other", federation__rounds=4, federation__sites=sites)

    report = told(start("run", federation__sites=sites, on_event=during)[0])
    other = told(tmp_path / "other")
    assert set(drawn(other)) - set(drawn(report))
    assert {client.client for client in report.privacy.clients} == set(drawn(other)) | set(drawn(report))


def spent_before(start, tmp_path):
    """Give the folder of all clients after a run, the clients that it drew, and those that a run of this file draws."""
    sites = str(tmp_path / "sites")
    first = drawn(told(start("first", federation__rounds=4, federation__sites=sites)[0]))
    return sites, first, drawn(told(start("probe")[0]))


@pytest.mark.parametrize("how", ["silent", "the key of another"])
def test_who_has_spent_before_and_does_not_say_who_it_is_ends_the_run_before_it_trains(how, start, tmp_path):
    sites, before, chosen = spent_before(start, tmp_path)
    gone, other = next(each for each in before if each not in chosen), before[0]
    gone = gone if gone != other else before[-1]

    def without(message, real):
        return Error(1, "its key is gone") if message.metadata.dst_node_id - FIRST_NODE_ID == gone else real(message)

    grid = Engine
    if how == "silent":
        grid = lambda experiment: Engine(experiment, without)
    else:
        ours = Path(sites) / f"client-{gone:04d}" / "identity.pem"
        ours.write_bytes((Path(sites) / f"client-{other:04d}" / "identity.pem").read_bytes())
    with pytest.raises(
        ClientError, match=rf"1 clients have a ledger and do not say who they are, (?s:.*)client {gone}: "
    ):
        start("second", federation__sites=sites, grid=grid)
    log = RunLog.open(tmp_path / "second" / "record.jsonl", Identity.load(tmp_path / "second" / "keys" / "server.pem"))
    assert not any(isinstance(record, Asked) for record in log.records)


def test_who_spends_elsewhere_and_does_not_say_who_it_is_is_in_the_warnings(start, tmp_path):
    sites = str(tmp_path / "sites")
    chosen = drawn(told(start("probe")[0]))

    def but_chosen(message, real):
        return real(message) if message.metadata.dst_node_id - FIRST_NODE_ID in chosen else Error(1, "its key is gone")

    def during(event):
        if type(event).__name__ == "RoundDone" and event.round == 2:
            start("other", federation__rounds=4, federation__sites=sites)

    grid = lambda experiment: Engine(experiment, but_chosen)
    report = told(start("run", federation__sites=sites, on_event=during, grid=grid)[0])
    unheard = sorted(set(drawn(told(tmp_path / "other"))) - set(chosen))
    assert unheard
    assert [client.client for client in report.privacy.clients] == chosen
    found = [text for text in report.warnings if "it is not in epsilon" in text]
    assert len(found) == 1
    assert all(str(client) in found[0] for client in unheard)
    assert "its key is gone" in found[0]


class Stop(Exception):  # noqa: N818 - no error
    pass


def stop(event):
    if type(event).__name__ == "RoundDone" and event.round == 1:
        raise Stop


def test_a_resumed_run_gives_the_same_and_goes_on_with_its_keys(start):
    whole, _ = start("whole")
    with pytest.raises(Stop):
        start("halves", on_event=stop)
    folder = whole.with_name("halves")
    keys = Roster.read(folder / "roster.json").clients
    assert sorted(keys) == drawn(told(folder))
    (folder / "roster.json").write_bytes((folder / "roster.json").read_bytes())
    start("halves", output__resume=True)
    one, two = told(whole), told(folder)
    assert one.model.final.sha256 == two.model.final.sha256
    assert [entry.cohort for entry in one.round_log] == [entry.cohort for entry in two.round_log]
    assert keys.items() <= Roster.read(folder / "roster.json").clients.items()
    log = RunLog.open(folder / "record.jsonl", Identity.load(folder / "keys" / "server.pem"))
    named = [each.client for record in log.records if isinstance(record, Enrolled) for each in record.keys]
    assert sorted(named) == drawn(two)


class Killed(BaseException):
    """Nothing catches it, so that nothing is written after it."""


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("before", ["record", "message"])
def test_a_kill_between_enrollment_and_question_loses_nothing_and_charges_nobody(before, first, start, monkeypatch):
    """The folder is as a kill leaves it: with the newest record, with nothing that would follow it."""
    whole, _ = start("whole")
    append, times = RunLog.append, 1 if first else 2

    def killed(log, record):
        kind = Enrolled if before == "message" else Asked
        nonlocal times
        times -= isinstance(record, kind)
        if times or not isinstance(record, kind):
            return append(log, record)
        if before == "message":
            append(log, record)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "append", killed)
        with pytest.raises(Killed):
            start("halves")
    folder = whole.with_name("halves")
    log = RunLog.open(folder / "record.jsonl", Identity.load(folder / "keys" / "server.pem"))
    assert log.records[-1].kind == "enrolled"
    start("halves", output__resume=True)
    one, two = told(whole), told(folder)
    assert one.model.final.sha256 == two.model.final.sha256
    assert one.privacy.epsilon == two.privacy.epsilon
    assert [entry.cohort for entry in one.round_log] == [entry.cohort for entry in two.round_log]
    log = RunLog.open(folder / "record.jsonl", Identity.load(folder / "keys" / "server.pem"))
    named = [each.client for record in log.records if isinstance(record, Enrolled) for each in record.keys]
    assert sorted(named) == drawn(two)


def test_a_start_that_left_no_record_goes_on_where_all_are_asked(start, tmp_path, monkeypatch):
    """A kill came between the roster, of nobody yet, and the first record."""

    def killed(log, record):
        raise Killed

    class Elsewhere(InProcessGrid):
        def __init__(self, experiment):
            engine = Engine(experiment)
            super().__init__(engine._answer, engine.get_node_ids())

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "append", killed)
        with pytest.raises(Killed):
            start()
    assert Roster.read(tmp_path / "run" / "roster.json").clients == {}
    folder, _ = start(grid=Elsewhere, output__resume=True)
    assert len(Roster.read(folder / "roster.json").clients) == CLIENTS
    assert len(told(folder).privacy.clients) == CLIENTS


def test_an_older_roster_is_brought_up_to_date_and_another_is_refused(start):
    with pytest.raises(Stop):
        start(on_event=stop)
    folder, _ = start("other")
    folder = folder.with_name("run")
    server = Identity.load(folder / "keys" / "server.pem").public
    whole = Roster.read(folder / "roster.json")
    client = min(whole.clients)
    Roster(server=server, clients={client: Identity.generate().public}).write(folder / "roster.json")
    with pytest.raises(LedgerError, match="does not hold the keys that the run was opened with"):
        start(output__resume=True)
    (folder / "roster.json").unlink()
    with pytest.raises(LedgerError, match="is gone"):
        start(output__resume=True)
    # As a kill leaves it before the first report.
    Roster(server=server, clients={}).write(folder / "roster.json")
    start(output__resume=True)
    assert whole.clients.items() <= Roster.read(folder / "roster.json").clients.items()
    told(folder)


def test_it_does_not_go_on_where_nobody_knows_who_was_asked(start):
    with pytest.raises(Stop):
        start(on_event=stop)

    class Elsewhere(InProcessGrid):
        def __init__(self, experiment):
            engine = Engine(experiment)
            super().__init__(engine._answer, engine.get_node_ids())

    with pytest.raises(LedgerError, match="begun by the local engine"):
        start(grid=Elsewhere, output__resume=True)


def test_who_does_not_say_who_it_is_is_not_drawn(start):
    chosen = drawn(told(start("all")[0]))
    gone = chosen[0]

    def without(message, real):
        return Error(1, "gone") if message.metadata.dst_node_id - FIRST_NODE_ID == gone else real(message)

    folder, engine = start("some", grid=lambda experiment: Engine(experiment, without))
    report = told(folder)
    assert gone not in drawn(report)
    assert [len(entry.completed) for entry in report.round_log] == [2, 2]
    assert gone in asked(engine)


def test_too_few_that_say_who_they_are_end_the_run_with_their_reasons(start, tmp_path):
    def nobody(message, real):
        return Error(1, "gone")

    with pytest.raises(ClientError, match=r"only \d clients are left for a cohort of 2; .*\nclient \d+: gone"):
        start(grid=lambda experiment: Engine(experiment, nobody))
    report = told(tmp_path / "run")
    assert (report.status, report.privacy.epsilon, report.privacy.clients) == ("failed", 0.0, ())


def test_two_clients_with_one_key_are_not_both_asked(start, tmp_path):
    chosen = drawn(told(start("all")[0]))
    sites = tmp_path / "sites"
    shared = Identity.load_or_create(sites / f"client-{chosen[0]:04d}" / "identity.pem")
    for client in range(CLIENTS):
        path = sites / f"client-{client:04d}" / "identity.pem"
        if client in chosen[1:]:
            path.parent.mkdir()
            path.write_bytes((sites / f"client-{chosen[0]:04d}" / "identity.pem").read_bytes())
            path.chmod(0o600)
    report = told(start("some", federation__sites=str(sites))[0])
    keys = Roster.read(tmp_path / "some" / "roster.json").clients
    assert sum(public == shared.public for public in keys.values()) == 1
    assert len([client for client in drawn(report) if client in chosen]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"transport__sealed": True},
        {"privacy__mode": "client", "privacy__cohorts": "poisson", "federation__cohort": 6, "privacy__epsilon": 50.0}
        | {"privacy__sampling_rate": ""},
    ],
)
def test_where_all_have_to_be_asked_they_are(settings, start):
    folder, engine = start(federation__rounds=1, **settings)
    assert asked(engine) == list(range(CLIENTS))
    assert len(Roster.read(folder / "roster.json").clients) == CLIENTS
    log = RunLog.open(folder / "record.jsonl", Identity.load(folder / "keys" / "server.pem"))
    assert not any(isinstance(record, Enrolled) for record in log.records)


def test_the_local_engine_does_it(monkeypatch, tmp_path):
    monkeypatch.undo()
    given = {"federation": {"clients": 20, "cohort": 2, "rounds": 1}, "data.max_records": 200, "output.screen": "none"}
    private = {"mode": "record", "epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.5}
    run = simulate(Experiment.from_dict({**given, "privacy": private}), out=tmp_path / "run", workers=1)
    assert len(list((tmp_path / "run" / "clients").glob("client-*"))) == 2
    assert len(run.report.privacy.clients) == 2
