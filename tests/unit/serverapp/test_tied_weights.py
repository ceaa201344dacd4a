"""Whole runs of a model whose weights have several names: in every mode each weight is one, and stays one."""

import json

import pytest
import torch
from flwr.app import Array
from safetensors.torch import load_file, load_model

from fedtrain.api import load_run
from fedtrain.audit import audit
from fedtrain.flower.messages import protocol
from fedtrain.report import Report
from fedtrain.serverapp.run import run_experiment
from fedtrain.trust import Roster
from tests.fakes import digits_experiment, federation, private_experiment
from tests.tied import SECOND_NAMES, TiedNet

SUMMED = {"transport__sealed": True, "transport__secagg__enabled": True, "transport__secagg__bits": 24}
CLIENT = {
    "kind": digits_experiment,
    "privacy__mode": "client",
    "privacy__cohorts": "capped",
    "privacy__delta": 1e-2,
    "privacy__clip_norm": 0.5,
}
MODES = {
    "none": {"kind": digits_experiment},
    "none, summed": {"kind": digits_experiment, **SUMMED, "transport__secagg__bound": 4.0},
    "record": {},
    "record, summed": SUMMED,
    "client": CLIENT,
    "client, summed": {**CLIENT, **SUMMED},
    "client, adaptive, summed": {
        **CLIENT,
        **SUMMED,
        "privacy__adaptive_clipping": True,
        "privacy__clipping_noise": 0.6,
    },
}
NAMES = set(TiedNet(10).state_dict()) - set(SECOND_NAMES)


@pytest.fixture
def make(cache, tmp_path):
    def make(kind=private_experiment, **settings):
        fixed = {
            "output__directory": str(tmp_path / "run"),
            "output__screen": "none",
            "task__name": "tests.tied:TiedDigits",
            "federation__cohort": 3,
            "federation__rounds": 2,
            "federation__deadline": 10.0,
        }
        return kind(cache, **(fixed | settings))

    return make


@pytest.mark.parametrize("mode", MODES)
def test_each_weight_is_one_in_every_mode(make, tmp_path, mode):
    experiment, sent = make(**MODES[mode]), []
    run_experiment(federation(experiment, before=lambda message: sent.append(message.content)), experiment)
    report = Report.model_validate_json((tmp_path / "run" / "report.json").read_text())
    assert (report.status, report.rounds) == ("completed", 2)
    assert all(entry.dropped == () for entry in report.round_log)
    if report.privacy.mode != "none":
        verdict = audit(report, roster=Roster.read(tmp_path / "run" / "roster.json"))
        assert [f"{check.name}: {check.detail}" for check in verdict.checks if check.status == "fails"] == []
    if not experiment.transport.sealed:
        assert all(set(content[protocol.ARRAYS]) == NAMES for content in sent)
    net = TiedNet(10)
    assert report.model.parameters == sum(parameter.numel() for parameter in {*net.parameters()} - {net.back.weight})
    saved = tmp_path / "run" / "model-final.safetensors"
    assert set(load_file(saved)) == NAMES
    model, again = load_run(tmp_path / "run").model(), TiedNet(10)
    assert load_model(again, saved) == (set(), [])
    for loaded in (model, again):
        state = loaded.state_dict()
        assert all(torch.equal(state[second], state[first]) for second, first in SECOND_NAMES.items())
        assert not torch.equal(state["encoder.weight"], net.state_dict()["encoder.weight"])


def forging(name):
    """Return what puts an array under another name into the reply to the first message of training."""

    def forge(experiment):
        grid = federation(experiment)
        whole, forged = grid._answer, []

        def answer(message):
            reply = whole(message)
            if message.metadata.message_type == "train" and not forged:
                forged.append(message)
                arrays = reply.content[protocol.ARRAYS]
                arrays[name] = Array(-arrays[SECOND_NAMES[name]].numpy())
            return reply

        grid._answer = answer
        return grid

    return forge


NEVER_SENT = "unusable update: the arrays ['again.weight'] are missing or were never sent"
NOT_COMMITTED = "the client's ledger has no entry for this update"


@pytest.mark.parametrize(
    ("mode", "reason"), [("none", NEVER_SENT), ("record", NOT_COMMITTED), ("client", NOT_COMMITTED)]
)
def test_a_client_that_sends_a_second_name_is_dropped(make, tmp_path, mode, reason):
    experiment = make(**MODES[mode], federation__min_results=2)
    run_experiment(forging("again.weight")(experiment), experiment)
    log = json.loads((tmp_path / "run" / "report.json").read_text())["round_log"]
    (dropped,), nobody = (entry["dropped"] for entry in log)
    assert dropped["reason"] == reason
    assert nobody == []


def test_a_server_that_sends_a_second_name_is_refused(make):
    experiment = make(kind=digits_experiment)
    grid, replies = federation(experiment), []
    push, whole = grid.push_messages, grid._answer

    def push_messages(messages):
        messages = list(messages)
        for message in messages:
            if message.metadata.message_type == "train":
                arrays = message.content[protocol.ARRAYS]
                arrays["again.weight"] = Array(-arrays["encoder.weight"].numpy())
        return push(messages)

    def answer(message):
        replies.append(whole(message))
        return replies[-1]

    grid.push_messages, grid._answer = push_messages, answer
    with pytest.raises(Exception, match=r"again\.weight is the same tensor as encoder\.weight, and goes by that name"):
        run_experiment(grid, experiment)
