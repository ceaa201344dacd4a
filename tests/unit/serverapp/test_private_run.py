"""Whole private runs in this process: budgets that end, kills, secure noise, secret cohorts, what leaves a client."""

import base64
import json
import math
import os
import struct
import time
from collections import Counter

import pytest
from flwr.app import Error
from flwr.common.serde import message_to_proto

from fedtrain.audit import audit
from fedtrain.audit.verdict import render_audit
from fedtrain.errors import BudgetError, TooFewResultsError
from fedtrain.report import Report
from fedtrain.report.statements import statements
from fedtrain.serverapp.run import run_experiment
from fedtrain.status import Follower
from fedtrain.trust import Roster
from tests.fakes import NODES, digits_experiment, federation, private_experiment


@pytest.fixture
def make(cache, tmp_path):
    def make(folder="run", kind=private_experiment, **settings):
        fixed = {"output__directory": str(tmp_path / folder), "output__screen": "none"}
        return kind(cache, **(fixed | settings))

    return make


@pytest.fixture
def finished(tmp_path):
    """Give a function that returns the report of a run, after an audit with its roster."""

    def finished(folder="run"):
        report = Report.model_validate_json((tmp_path / folder / "report.json").read_text())
        verdict = audit(report, roster=Roster.read(tmp_path / folder / "roster.json"))
        assert [f"{check.name}: {check.detail}" for check in verdict.checks if check.status == "fails"] == []
        return report

    return finished


def site(tmp_path, client, epsilon, delta=1e-3, more=""):
    folder = tmp_path / "run" / "clients" / f"client-{client:04d}"
    folder.mkdir(parents=True)
    (folder / "site.toml").write_text(f"[budget]\nepsilon = {epsilon}\ndelta = {delta}\n{more}")


CLIENT = {"kind": digits_experiment, "privacy__mode": "client", "privacy__delta": 1e-2, "privacy__clip_norm": 0.5}
MODES = {
    "record": {},
    "secure": {"privacy__noise": "secure"},
    "augmented": {"training__physical_batch_size": 7},
    "secret cohorts": CLIENT,
    "capped": {**CLIENT, "privacy__cohorts": "capped", "privacy__max_participations": 2},
    "correlated": {
        **CLIENT,
        "privacy__cohorts": "capped",
        "privacy__mechanism": "banded",
        "privacy__separation": 2,
    },
    "adaptive": {**CLIENT, "privacy__adaptive_clipping": True, "privacy__clipping_noise": 0.6},
    "secure and secret": {**CLIENT, "privacy__noise": "secure"},
}


@pytest.mark.parametrize("mode", MODES)
def test_an_honest_run_passes_an_audit(make, finished, mode):
    experiment = make(**MODES[mode])
    run_experiment(federation(experiment), experiment)
    report = finished()
    assert report.status == "completed"
    assert 0 < report.privacy.epsilon <= experiment.privacy.epsilon
    assert report.model.gradients == (None if "kind" in MODES[mode] else "book-keeping")
    assert all(not client.unanswered for client in report.privacy.clients)


def test_a_client_that_refuses_is_left_out_and_the_run_goes_on(make, finished, tmp_path):
    site(tmp_path, 2, epsilon=1.4)
    experiment = make(federation__cohort=4, federation__min_results=2)
    run_experiment(federation(experiment), experiment)
    report = finished()
    assert [len(entry.completed) for entry in report.round_log] == [4, 3, 3]
    assert [drop.client for entry in report.round_log for drop in entry.dropped] == [2, 2]
    assert "beyond this client's budget of 1.4" in report.round_log[1].dropped[0].reason
    # It says, signed, that it did not train, and is not charged for what it was asked.
    assert [client.rounds for client in report.privacy.clients] == [(1, 2, 3), (1, 2, 3), (1,), (1, 2, 3)]


def test_clients_that_refuse_are_not_asked_while_others_are_enough(make, finished, tmp_path):
    site(tmp_path, 2, epsilon=0.1)
    experiment = make(federation__cohort=3, federation__min_results=2)
    run_experiment(federation(experiment), experiment)
    asked = Counter(client for entry in finished().round_log for client in entry.cohort)
    assert asked[2] == 1
    assert sum(asked.values()) == 9


def test_budgets_that_end_the_run_keep_the_model_and_have_an_exit_status(make, finished, tmp_path):
    for client in range(4):
        site(tmp_path, client, epsilon=1.4)
    experiment = make(federation__cohort=4, federation__min_results=4)
    with pytest.raises(
        BudgetError, match=r"(?s)0 usable results of 4 clients.*client 0: refused by the client"
    ) as caught:
        run_experiment(federation(experiment), experiment)
    assert caught.value.exit_status == 3
    report = finished()
    assert (report.status, report.rounds) == ("failed", 1)
    assert (tmp_path / "run" / report.model.final.file).is_file()
    assert [client.rounds for client in report.privacy.clients] == [(1,)] * 4


def test_a_spent_ledger_bounds_the_next_run(make, finished, tmp_path):
    first = make("one", federation__sites=str(tmp_path / "sites"), federation__cohort=4)
    run_experiment(federation(first), first)
    second = make("two", federation__sites=str(tmp_path / "sites"), federation__cohort=4)
    with pytest.raises(BudgetError):
        run_experiment(federation(second), second)
    report = finished("two")
    assert report.privacy.epsilon <= 2.0
    assert all(client.run_epsilon == 0 < client.epsilon for client in report.privacy.clients)
    # Who watches it is told from the first line on what was spent before.
    shown = Follower(tmp_path / "two" / "events.jsonl").status()
    assert shown.begun.spent == pytest.approx(dict.fromkeys(range(4), 1.7), abs=0.3)
    assert shown.begun.reached == max(shown.begun.spent.values()) >= report.privacy.epsilon
    assert shown.spent == {client.client: client.epsilon for client in report.privacy.clients}
    assert shown.epsilon == report.privacy.epsilon


def test_a_round_that_is_repeated_with_secure_noise_is_charged_again(make, finished, tmp_path):
    site(tmp_path, 0, epsilon=50)
    settings = {"privacy__noise": "secure", "federation__cohort": 4, "privacy__max_participations": 3}
    for client in (1, 2, 3):
        site(tmp_path, client, epsilon=50)
    first = make(**settings)
    stopped = []

    def stop(message):
        if message.content["config"]["server-round"] == 2:
            stopped.append(message.metadata.dst_node_id)
            if len(stopped) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(first, stop), first)
    # The round that was lost is in what was spent.
    follower, interrupted = Follower(tmp_path / "run" / "events.jsonl"), finished()
    shown = follower.status()
    assert shown.spent == {client.client: client.epsilon for client in interrupted.privacy.clients}
    assert shown.epsilon == interrupted.privacy.epsilon > shown.history[-1].epsilon > 0
    again = make(**settings, output__resume=True)
    # Every client has been asked twice, and the plan allows three times: one round fits, and the next does not.
    with pytest.raises(BudgetError, match="only 0 clients are left"):
        run_experiment(federation(again), again)
    report = finished()
    assert report.rounds == 2
    trained_twice = {NODES[node] for node in stopped[:2]}
    for client in report.privacy.clients:
        rounds = [event.round for event in report.privacy.events if event.client == client.client]
        # Two had trained before the stop; the others state that they had not.
        assert rounds.count(2) == (2 if client.client in trained_twice else 1)
        assert client.unanswered == ()


def test_a_failing_client_is_charged_until_it_says_what_it_did(make, finished):
    experiment = make(federation__cohort=4, federation__min_results=2)
    grid = federation(experiment)
    real = grid._answer

    def losing(message):
        reply = real(message)
        lost = NODES[message.metadata.dst_node_id] == 1 and message.metadata.message_type == "train"
        return Error(1, "the answer was lost") if lost else reply

    grid._answer = losing
    run_experiment(grid, experiment)
    client = finished().privacy.clients[1]
    # It trained in every round; its ledger, shown at the end, says so.
    assert (client.rounds, client.unanswered, client.entries) == ((1, 2, 3), (), 6)


def messages_of(experiment):
    """Return all that clients send in a run, as bytes."""
    grid, sent = federation(experiment), []
    real = grid._answer

    def listening(message):
        reply = real(message)
        sent.append(message_to_proto(reply).SerializeToString())
        return reply

    grid._answer = listening
    run_experiment(grid, experiment)
    return sent


def leaks(sent, experiment):
    """Say which private facts are in the messages: names of measurements, and the clients' numbers of records."""
    found = set()
    for data in sent:
        found |= {name for name in (b"train_loss", b"accuracy") if name in data}
        for size in sizes(experiment):
            if struct.pack("<d", float(size)) in data:
                found.add(size)
    return found


def sizes(experiment):
    from fedtrain.clientapp.site import open_site
    from fedtrain.config import to_flat

    site = open_site(to_flat(experiment))
    return {len(site.records(client)) for client in range(4)}


UNEVEN = {"data__partition.kind": "dirichlet", "data__partition.alpha": 0.5}


@pytest.mark.parametrize("mode", ["record", "secret cohorts", "capped", "correlated"])
def test_counts_losses_and_accuracies_are_in_no_message_of_a_private_run(make, mode):
    private = make(**{**MODES[mode], **UNEVEN})
    assert leaks(messages_of(private), private) == set()


def test_the_same_search_finds_them_where_privacy_is_off(make):
    plain = make(kind=digits_experiment, **UNEVEN)
    found = leaks(messages_of(plain), plain)
    assert found >= {b"train_loss"}
    assert any(isinstance(fact, int) for fact in found)


def test_secret_cohorts_are_not_in_the_report(make, finished, tmp_path):
    experiment = make(**CLIENT, federation__rounds=6)
    grid = federation(experiment)
    run_experiment(grid, experiment)
    report = finished()
    asked = Counter(NODES[m.metadata.dst_node_id] for m in grid.sent if m.metadata.message_type == "train")
    assert len(set(asked.values())) > 1
    assert {(entry.cohort, entry.completed, entry.dropped) for entry in report.round_log} == {(None, None, None)}
    # All clients are charged the same, whoever was drawn.
    assert {client.steps for client in report.privacy.clients} == {6}
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines if json.loads(line)["event"] not in {"run", "notice"}]
    # Neither who lost its result nor what one client of several spent is in a line: both fields are empty.
    facts = {key for line in told for key, value in line.items() if value not in ({}, [])}
    assert facts == {"event", "time", "round", "value", "epsilon", "status"}
    assert [line["event"] for line in told] == ["round", "done"] * 6 + ["end"]
    assert {line["time"] % 86400 for line in told} == {0}


def test_an_empty_cohort_is_a_noisy_round(make, finished):
    # One of four in expectation: among ten rounds some have none.
    experiment = make(**CLIENT, federation__cohort=1, federation__rounds=10)
    grid = federation(experiment)
    run_experiment(grid, experiment)
    rounds = {m.content["config"]["server-round"] for m in grid.sent if m.metadata.message_type == "train"}
    assert len(rounds) < 10
    report = finished()
    assert report.rounds == 10
    assert report.privacy.epsilon <= experiment.privacy.epsilon


class Stopped(BaseException):
    """Ends the process, as a kill does: nothing more is written."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["record", "secret cohorts", "correlated"])
def test_a_kill_at_any_sync_costs_no_privacy_and_changes_no_model(make, finished, tmp_path, monkeypatch, mode):
    small = {**MODES[mode], "federation__rounds": 2, "data__max_records": 80}
    whole = make("whole", **small)
    run_experiment(federation(whole), whole)
    expected = finished("whole")
    real, left = os.fsync, [math.inf]  # syncs until the kill; after it nothing is written

    def killing(descriptor):
        left[0] -= 1
        if left[0] <= 0:
            raise Stopped
        real(descriptor)

    def mortal(experiment):
        """Let a kill within a client end everything, whatever the client makes of the exception."""
        grid = federation(experiment)
        answer = grid._answer

        def dying(message):
            try:
                return answer(message)
            finally:
                if left[0] <= 0:
                    raise Stopped

        grid._answer = dying
        return grid

    monkeypatch.setattr(os, "fsync", killing)
    kills, step = 0, 7
    while True:
        name = f"killed-{kills}"
        left[0] = step * kills + 1
        try:
            first = make(name, **small)
            run_experiment(mortal(first), first)
            break
        except Stopped:
            kills += 1
        left[0] = math.inf
        again = make(name, **small, output__resume=True)
        run_experiment(federation(again), again)
        report = finished(name)
        assert report.model == expected.model
        assert [client.epsilon for client in report.privacy.clients] == [
            client.epsilon for client in expected.privacy.clients
        ]
    assert kills >= 10


def record_of(tmp_path, folder="run"):
    """Return the payloads of the server's record."""
    lines = (tmp_path / folder / "record.jsonl").read_text().splitlines()
    return [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in lines]


def test_the_times_of_the_record_do_not_tell_how_many_trained(make, tmp_path):
    def once():
        waits = iter([1.1])
        return lambda _message: time.sleep(next(waits, 0))

    secret = make(**CLIENT, federation__cohort=4, federation__rounds=1)
    run_experiment(federation(secret, once()), secret)
    assert len({record["time"] for record in record_of(tmp_path)}) == 1
    # Where cohorts are known, times are what they are.
    known = make("known", **MODES["capped"], federation__rounds=1)
    run_experiment(federation(known, once()), known)
    assert len({record["time"] for record in record_of(tmp_path, "known")}) > 1


def test_only_clients_that_reserved_the_run_are_drawn(make, finished):
    experiment = make(**CLIENT, federation__cohort=3, federation__rounds=5)
    grid = federation(experiment)
    real, joins = grid._answer, []

    def losing(message):
        reply = real(message)
        asked = message.content.get("ledger", {})
        if NODES[message.metadata.dst_node_id] == 1 and "noise-multiplier" in asked:
            joins.append(message)
            return Error(1, "the answer was lost")
        return reply

    grid._answer = losing
    run_experiment(grid, experiment)
    assert joins
    trained = {NODES[m.metadata.dst_node_id] for m in grid.sent if m.metadata.message_type == "train"}
    assert trained == {0, 2, 3}
    # It reserved the run all the same, and says so at the end.
    assert {client.steps for client in finished().privacy.clients} == {5}


def test_a_round_with_secret_cohorts_is_not_released_twice(make, tmp_path):
    settings = {**MODES["secure and secret"], "federation__rounds": 3}
    whole = make(**settings)
    run_experiment(federation(whole), whole)
    (tmp_path / "run" / "checkpoints" / "round-000003.safetensors").unlink()
    again = make(**settings, output__resume=True)
    with pytest.raises(BudgetError, match=r"round 3 was completed, and the newest checkpoint is that of round 2"):
        run_experiment(federation(again), again)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"kind": digits_experiment, "privacy__mode": "client", "privacy__delta": 1e-3}, "whole clients"),
        ({"privacy__noise": "secure"}, "seeded"),
    ],
)
def test_charges_that_do_not_add_up_are_not_added(make, finished, tmp_path, second, reason):
    sites = tmp_path / "sites"
    sites.mkdir()
    (sites / "site.toml").write_text("[budget]\nepsilon = 50.0\ndelta = 1e-3\n")
    first = make("one", federation__sites=str(sites), federation__cohort=4)
    run_experiment(federation(first), first)
    other = make("two", federation__sites=str(sites), privacy__cohorts="capped", federation__cohort=4, **second)
    with pytest.raises(BudgetError, match=reason):
        run_experiment(federation(other), other)


def test_a_site_file_that_does_not_list_it_forbids_training_without_privacy(make, tmp_path):
    sites = tmp_path / "sites"
    sites.mkdir()
    (sites / "site.toml").write_text("[budget]\nepsilon = 1.0\ndelta = 1e-3\n")
    plain = make(kind=digits_experiment, federation__sites=str(sites))
    grid = federation(plain)
    real = grid._answer

    def answer(message):
        try:
            return real(message)
        except BudgetError as error:
            return Error(1, str(error))

    grid._answer = answer
    with pytest.raises(
        TooFewResultsError, match=r"does not train without privacy: its site file allows the modes record"
    ):
        run_experiment(grid, plain)
    (sites / "site.toml").write_text('[budget]\nepsilon = 1.0\ndelta = 1e-3\n[policy]\nmodes = ["none"]\n')
    allowed = make("allowed", kind=digits_experiment, federation__sites=str(sites))
    run_experiment(federation(allowed), allowed)


def test_with_secure_noise_nothing_is_counted(make, finished, capsys):
    experiment = make(privacy__noise="secure", output__screen="plain")
    run_experiment(federation(experiment), experiment)
    report = finished()
    assert (report.data.histogram, report.data.train_records) == (None, None)
    assert "training records" not in capsys.readouterr().out
    assert "histogram" not in " ".join(report.privacy.accesses_not_covered)
    seeded = make("seeded")
    run_experiment(federation(seeded), seeded)
    assert finished("seeded").data.histogram is not None


def test_a_site_is_called_by_the_name_that_it_allows_and_the_operator_is_quoted(make, finished, tmp_path):
    site(tmp_path, 1, epsilon=50, more='[site]\nname = "St. Mary\'s Hospital"\n')
    site(tmp_path, 3, epsilon=50)
    said = {"report__operator": "The consortium", "report__limits": "not for children"}
    experiment = make(federation__rounds=1, **said)
    run_experiment(federation(experiment), experiment)
    report = finished()
    assert [(named.client, named.name) for named in report.data.sites] == [(1, "St. Mary's Hospital")]
    assert statements(report) == [("operator", "“The consortium”"), ("limits", "“not for children”")]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "St. Mary&#39;s Hospital" in page
    assert page.count("allows no name") == 3
    assert "The consortium" in page
    roster = Roster.read(tmp_path / "run" / "roster.json")
    verdict = audit(report, roster=roster)
    shown = render_audit(verdict, report, digest="0" * 64, roster=roster.digest, files=0)
    assert "What is stated, and not verified" in shown
    assert "not for children" in shown
    forged = report.model_copy(update={"data": report.data.model_copy(update={"sites": ()})})
    assert {"closing", "clients"} <= {check.name for check in audit(forged, roster=roster).of("fails")}
