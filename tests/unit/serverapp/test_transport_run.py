"""Whole runs in this process with sealed messages and masked updates, in every mode."""

import json

import numpy as np
import pytest
from flwr.app import Error

from fedtrain.config import from_flat, to_flat
from fedtrain.errors import AggregationError, BudgetError, ClientError, ConfigError, KeyFileError, StorageError
from fedtrain.serverapp.channel import Transport, checked_summing
from fedtrain.serverapp.preparation import prepare
from tests.fakes import NODES, digits_experiment, federation, private_experiment
from tests.runs import finished, runner

SEALED = {"transport__sealed": True}
MASKED = {"transport__secagg__enabled": True}
BOTH = {**SEALED, **MASKED}
CLIENT = {
    "kind": digits_experiment,
    "privacy__mode": "client",
    "privacy__cohorts": "capped",
    "privacy__delta": 1e-2,
    "privacy__clip_norm": 0.5,
}
MODES = {
    "none": {"kind": digits_experiment},
    "record": {},
    "secure": {"privacy__noise": "secure"},
    "capped": CLIENT,
    "correlated": {
        **CLIENT,
        "privacy__mechanism": "banded",
        "privacy__separation": 2,
        "federation__cohort": 2,
    },
    "adaptive": {**CLIENT, "privacy__adaptive_clipping": True, "privacy__clipping_noise": 0.6},
}


@pytest.fixture
def run(cache, tmp_path):
    """Run an experiment in a folder, and return its report after an audit, and its model."""
    return runner(cache, tmp_path, federation__cohort=3)


def held(report):
    return [(entry.sealed, entry.secagg is not None) for entry in report.round_log]


def distance(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize("mode", MODES)
def test_sealing_changes_no_result(run, mode):
    plain, model = run("plain", **MODES[mode])
    sealed, same = run("sealed", **MODES[mode], **SEALED)
    assert held(plain) == [(False, False)] * 3
    assert held(sealed) == [(True, False)] * 3
    if mode != "secure":
        assert distance(model, same) == 0
        assert plain.privacy.epsilon == sealed.privacy.epsilon


@pytest.mark.parametrize("mode", MODES)
def test_masked_updates_make_the_same_model_but_for_rounding(run, mode):
    plain, model = run("plain", **MODES[mode])
    masked, close = run("masked", **MODES[mode], **MASKED, transport__secagg__bits=24)
    both, same = run("both", **MODES[mode], **BOTH, transport__secagg__bits=24)
    assert held(masked) == [(False, True)] * 3
    assert held(both) == [(True, True)] * 3
    assert plain.privacy.epsilon == masked.privacy.epsilon == both.privacy.epsilon
    if mode == "adaptive":  # a count that three clients cannot have is brought down, where it only has noise
        assert 0 < distance(model, close) < 0.1
    elif mode != "secure":
        assert 0 < distance(model, close) < 1e-4
    if mode != "secure":
        assert distance(close, same) == 0
    entry = masked.round_log[0].secagg
    others = len(masked.round_log[0].cohort) - 1
    assert (entry.threshold, entry.neighbours, entry.bits) == (2, others, 24)
    assert (entry.lost_masking, entry.lost_unmasking) == (0, 0)


def test_numbers_of_records_weigh_only_if_that_is_asked_for(run):
    mode = {"kind": digits_experiment, "data__partition__kind": "dirichlet"}
    _, model = run("plain", **mode)
    _, other = run("unweighted", **mode, **BOTH, transport__secagg__bits=24)
    assert distance(model, other) > 1e-3
    _, close = run("masked", **mode, **BOTH, transport__secagg__bits=24, transport__secagg__max_weight=1000)
    assert distance(model, close) < 1e-4


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedProx"])
def test_strategies_that_average_work_unmodified(run, strategy):
    settings = {"server__strategy": strategy, "federation__rounds": 2, "training__learning_rate": 0.01}
    _, model = run("plain", **settings)
    _, close = run("masked", **settings, **BOTH, transport__secagg__bits=26)
    # Adaptive strategies divide by the root of what may be nearly nothing.
    assert distance(model, close) < 1e-2 if strategy.startswith(("FedA", "FedY")) else 1e-5


def test_a_run_that_is_stopped_goes_on_to_the_same_model(run):
    def stopping(experiment):
        grid = federation(experiment)
        push, calls = grid.push_messages, []

        def push_messages(messages):
            messages = list(messages)
            if messages[0].metadata.message_type == "train":
                calls.append(messages)
                if len(calls) == 2:
                    raise KeyboardInterrupt
            return push(messages)

        grid.push_messages = push_messages
        return grid

    _, model = run("whole", **BOTH)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", grid=stopping, **BOTH)
    report, same = run("stopped", output__resume=True, **BOTH)
    assert distance(model, same) == 0
    assert held(report) == [(True, True)] * 3


def without(*clients, kind, error="gone"):
    """Return what makes a grid where some clients fail to answer one kind of the messages of secure aggregation."""

    def make(experiment):
        grid = federation(experiment)
        whole = grid._answer

        def answer(message):
            if (
                "secagg" in message.content
                and message.metadata.message_type == kind
                and NODES[message.metadata.dst_node_id] in clients
            ):
                return Error(code=1, reason=error)
            return whole(message)

        grid._answer = answer
        return grid

    return make


LARGE = {"federation__cohort": 4, "federation__min_results": 2}


def test_the_report_says_who_was_lost_at_which_exchange(run):
    report, _ = run("masking", grid=without(2, kind="train"), **LARGE, **MASKED)
    assert [(e.secagg.lost_masking, e.secagg.lost_unmasking) for e in report.round_log] == [(1, 0)] * 3
    assert [drop.client for e in report.round_log for drop in e.dropped] == [2, 2, 2]
    report, _ = run("unmasking", grid=without(2, kind="query"), **LARGE, **MASKED)
    assert [(e.secagg.lost_masking, e.secagg.lost_unmasking) for e in report.round_log] == [(0, 1)] * 3
    assert all(2 in entry.completed for entry in report.round_log)


def test_a_round_that_cannot_be_unmasked_ends_the_run_and_it_can_be_resumed(run, tmp_path):
    with pytest.raises(AggregationError, match=r"round 1 was aborted: .*client"):
        run(grid=without(1, 2, kind="query"), **LARGE, **MASKED)
    report, _ = finished(tmp_path / "run")
    assert (report.status, report.rounds) == ("failed", 0)
    assert "client 1: gone" in report.reason
    report, _ = run(output__resume=True, **LARGE, **MASKED)
    assert report.status == "completed"


def test_a_client_that_refuses_is_left_out(run, tmp_path):
    folder = tmp_path / "run" / "clients" / "client-0002"
    folder.mkdir(parents=True)
    (folder / "site.toml").write_text("[budget]\nepsilon = 0.1\ndelta = 1e-3\n")
    report, _ = run(**LARGE, **BOTH)
    assert "refused by the client" in report.round_log[0].dropped[0].reason
    assert "beyond this client's budget of 0.1" in report.round_log[0].dropped[0].reason


def test_budgets_end_a_run_as_without_masks(run, tmp_path):
    for client in range(4):
        folder = tmp_path / "run" / "clients" / f"client-{client:04d}"
        folder.mkdir(parents=True)
        (folder / "site.toml").write_text("[budget]\nepsilon = 1.4\ndelta = 1e-3\n")
    with pytest.raises(BudgetError, match="0 usable results of 4 clients"):
        run(**LARGE, **BOTH)


def test_the_keys_of_a_session_are_gone_when_the_run_is_complete(run, tmp_path):
    run("one", **BOTH)
    clients = tmp_path / "one" / "clients"
    assert list(clients.glob("client-*/identity.pem"))
    assert list(clients.rglob("secret")) == []


def test_a_site_that_insists_gets_it_or_takes_no_part(run, tmp_path):
    site = "[budget]\nepsilon = 9\ndelta = 1e-3\n[transport]\nsealed = true\nsecagg = true\nminimum_cohort = {}\n"
    folder = tmp_path / "sites"
    folder.mkdir()
    settings = {"federation__sites": str(folder)}
    (folder / "site.toml").write_text(site.format(3))
    report, _ = run("good", **settings, **BOTH)
    assert report.status == "completed"
    for name, wanted, reason in (
        ("clear", {}, "answers sealed messages only"),
        ("single", SEALED, "sends masked updates only"),
    ):
        with pytest.raises(Exception, match=reason):
            run(name, **settings, **wanted)
    (folder / "site.toml").write_text(site.format(5))
    with pytest.raises(Exception, match="this site's minimum is 5"):
        run("small", **settings, **BOTH)


def test_a_roster_of_the_operator_is_kept_to(run, tmp_path):
    run("one", federation__sites=str(tmp_path / "sites"), **BOTH)
    pinned = tmp_path / "sites" / "client-0001" / "roster.json"
    pinned.write_bytes((tmp_path / "one" / "roster.json").read_bytes())
    with pytest.raises(Exception, match="names other identities than"):
        run("two", federation__sites=str(tmp_path / "sites"), federation__cohort=4, **BOTH)


def test_too_few_in_a_session_end_the_run(run):
    def silent(experiment):
        grid = federation(experiment)
        whole = grid._answer

        def answer(message):
            offered = "fedtrain.session" in message.content.config_records
            if offered and NODES[message.metadata.dst_node_id] in {1, 2}:
                return Error(code=1, reason="gone")
            return whole(message)

        grid._answer = answer
        return grid

    with pytest.raises(ClientError, match=r"(?s)2 clients announced keys.*client 1: gone\nclient 2: gone"):
        run(grid=silent, **SEALED)


def test_a_run_without_ledgers_keeps_the_keys_of_its_first_start(run, tmp_path):
    mode = {"kind": digits_experiment, **SEALED}
    run(federation__rounds=1, **mode)
    roster = tmp_path / "run" / "roster.json"
    assert set(json.loads(roster.read_text())["clients"]) == {"0", "1", "2", "3"}
    (tmp_path / "run" / "keys" / "server.pem").unlink()
    with pytest.raises(KeyFileError, match=r"server\.pem is gone, the server's key"):
        run(federation__rounds=1, output__resume=True, **mode)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"transport__secagg__neighbours": 1}, "1 neighbours in a cohort of 3"),
        ({"transport__secagg__threshold": 4}, "federation.cohort = 3: a threshold of 4"),
        ({"transport__secagg__threshold": 2, "federation__cohort": 4}, "federation.cohort = 4: a threshold of 2"),
        ({**CLIENT, "transport__secagg__bits": 4}, "rounding 650 parameters can move an update by more than"),
        ({**CLIENT, "transport__secagg__bits": 22, "privacy__epsilon": 0.05}, "does not fit into 3 bytes; lower it"),
        ({"kind": digits_experiment, "transport__secagg__max_weight": 40000}, "max_weight = 40000 is more than"),
    ],
)
def test_what_cannot_be_summed_is_refused_before_there_is_a_run_folder(run, tmp_path, settings, reason):
    with pytest.raises(ConfigError, match=reason):
        run(**MASKED, **settings)
    assert not (tmp_path / "run").exists()


OWN = """
import torch
from torch import nn
from torch.nn import functional
from fedtrain.tasks import ClassificationMetrics, Task as Base

class Task(Base):
    def __init__(self, info):
        pass

    def model(self):
        return nn.Sequential(nn.Flatten(), {layers})

    def collate(self, records, generator):
        return {{"inputs": records.features.float(), "targets": records.targets}}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(10)

class Complex(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
        self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
"""


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """Give a function that makes a task of one's own, with layers, and returns the settings that name it."""

    def own_task(name, layers):
        (tmp_path / f"{name}.py").write_text(OWN.format(layers=layers))
        monkeypatch.syspath_prepend(str(tmp_path))
        return {"kind": digits_experiment, "task__name": f"{name}:Task", "task__model": ""}

    return own_task


def test_buffers_are_summed_with_a_bound_that_was_chosen_for_them(run, own_task):
    mode = own_task("statistics_task", "nn.BatchNorm1d(64), nn.Linear(64, 10)")
    with pytest.raises(ConfigError, match=r"buffers.*1\.running_mean, 1\.running_var"):
        run("refused", **mode, **MASKED)
    _, model = run("plain", **mode)
    _, close = run("masked", **mode, **MASKED, transport__secagg__bound=10000.0, transport__secagg__bits=30)
    # Batches are counted in whole numbers, which are not summed.
    assert close.pop("1.num_batches_tracked") == 0
    assert model.pop("1.num_batches_tracked") > 0
    assert distance(model, close) < 1e-2


def test_what_is_not_a_real_number_is_refused_by_name(run, own_task):
    with pytest.raises(ConfigError, match=r"the model has complex ones: 1\.phase"):
        run(**own_task("complex_task", "Complex()"), **MASKED)


def test_a_run_without_a_record_has_one_id_over_its_starts(run, tmp_path):
    mode = {"kind": digits_experiment, **BOTH}
    first, _ = run(federation__rounds=1, **mode)
    again, _ = run(federation__rounds=1, output__resume=True, **mode)
    assert first.run == again.run
    assert json.loads((tmp_path / "run" / "starts.json").read_text()) == {"run": first.run, "starts": 2}
    (tmp_path / "run" / "starts.json").write_text("{}")
    with pytest.raises(StorageError, match="which counts the starts of the run"):
        run(federation__rounds=1, output__resume=True, **mode)


def test_a_client_that_cannot_show_a_key_is_named_and_can_come_later(run, tmp_path):
    mode = {"kind": digits_experiment, "federation__cohort": 4, **BOTH}

    def grid(experiment):
        inner = federation(experiment)
        whole = inner._answer
        inner._answer = lambda message: (
            Error(code=1, reason="KeyFileError: it is broken")
            if NODES[message.metadata.dst_node_id] == 1 and "key" in message.content
            else whole(message)
        )
        return inner

    with pytest.raises(ClientError, match=r"(?s)3 clients joined, and federation.cohort = 4:.client 1: it is broken"):
        run(grid=grid, **mode)
    assert not (tmp_path / "run" / "roster.json").exists()
    report, _ = run(output__resume=True, **mode)
    assert report.status == "completed"


def test_an_aborted_round_says_who_was_lost_and_why_in_a_line_each(run, tmp_path):
    long = "Traceback\n" + "  somewhere\n" * 500 + "ValueError: out of memory"
    with pytest.raises(AggregationError) as caught:
        run(grid=without(1, 2, kind="train", error=long), **LARGE, **MASKED)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("round 1 was aborted: round 1 has no sum: 2 of 4 masked vectors came")
    assert lines[1:] == ["client 1: out of memory", "client 2: out of memory"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"server__strategy": "Krum"}, "needs single updates or losses, and secure aggregation"),
        ({"federation__cohort": 1}, "the sum of one update is that update"),
        ({**CLIENT, "privacy__cohorts": "poisson"}, "relies on cohorts that nobody knows"),
        ({"transport__secagg__max_weight": 5}, "an access that no epsilon pays for"),
        ({**CLIENT, "transport__secagg__bound": 5.0}, "where the clipping norm is the bound"),
    ],
)
def test_what_secure_aggregation_cannot_do_is_refused_when_it_is_configured(cache, settings, reason):
    kind = settings.pop("kind", private_experiment)
    with pytest.raises(ConfigError, match=reason):
        kind(cache, **MASKED, **settings)


def test_cohorts_that_nobody_may_learn_are_not_summed_whatever_the_configuration_says(cache, tmp_path):
    settings = {"privacy__mode": "client", "privacy__delta": 1e-2, "output__directory": str(tmp_path / "run")}
    experiment = digits_experiment(cache, **settings)
    preparation = prepare(experiment)
    with pytest.raises(ConfigError, match="'client, Poisson cohorts' requires that nobody learns who takes part"):
        checked_summing(experiment, preparation.model, preparation.plan)


def test_both_layers_are_on_in_a_deployment_and_off_in_a_simulation_unless_something_is_said(cache):
    experiment = digits_experiment(cache)
    assert Transport.of(experiment, remote=True) == Transport(sealed=True, secagg=True)
    assert Transport.of(experiment, remote=False) == Transport(sealed=False, secagg=False)
    said = from_flat(to_flat(experiment) | {"transport.sealed": False, "transport.secagg.enabled": False})
    assert Transport.of(said, remote=True) == Transport(sealed=False, secagg=False)
    said = from_flat(to_flat(experiment) | {"transport.sealed": True, "transport.secagg.enabled": True})
    assert Transport.of(said, remote=False) == Transport(sealed=True, secagg=True)
    krum = from_flat(to_flat(experiment) | {"server.strategy": "Krum"})
    assert Transport.of(krum, remote=False) == Transport(sealed=False, secagg=False)
    with pytest.raises(ConfigError, match="needs single updates"):
        Transport.of(krum, remote=True)
