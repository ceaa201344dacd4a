"""Whole runs of a model whose frozen part has buffers: they are public weights like its parameters."""

import pytest
from safetensors.torch import load_file

from fedtrain.api import load_run
from fedtrain.errors import TaskError
from fedtrain.flower.messages import protocol
from fedtrain.serverapp.run import run_experiment
from tests.fakes import digits_experiment, federation, private_experiment
from tests.frozen import FrozenNet, Shift

TRAINED = 16 * 10 + 10
FROZEN = 64 * 16 + 16 + 16


def made(kind, cache, folder, **settings):
    fixed = {"output__directory": str(folder), "output__screen": "none", "federation__rounds": 1}
    return kind(cache, **fixed, **settings)


@pytest.mark.parametrize("kind", [digits_experiment, private_experiment])
def test_neither_parameters_nor_buffers_of_the_frozen_part_travel(kind, cache, tmp_path):
    experiment, sent = made(kind, cache, tmp_path / "run", task__name="tests.frozen:FrozenDigits"), []
    run_experiment(federation(experiment, before=lambda message: sent.append(message.content)), experiment)
    run = load_run(tmp_path / "run")
    assert (run.report.status, run.report.model.parameters) == ("completed", TRAINED)
    public = run.report.model.public
    assert (public.parameters, public.sent_bytes, public.whole_bytes) == (FROZEN, 4 * TRAINED, 4 * (TRAINED + FROZEN))
    assert all(set(content[protocol.ARRAYS]) == {"head.weight", "head.bias"} for content in sent)
    assert set(load_file(tmp_path / "run" / "model-final.safetensors")) == {"head.weight", "head.bias"}
    loaded, own = run.model().state_dict(), FrozenNet(10, Shift()).state_dict()
    assert all(loaded[name].equal(own[name]) for name in own if name.startswith("frozen."))


def test_a_frozen_part_with_a_buffer_that_follows_the_records_is_refused_before_anything_is_trained(cache, tmp_path):
    experiment = made(digits_experiment, cache, tmp_path / "run", task__name="tests.frozen:FollowingDigits")
    with pytest.raises(TaskError, match=r"weights that its task declares public: frozen\.1\.mean\."):
        run_experiment(federation(experiment), experiment)
    assert not (tmp_path / "run" / "clients").exists()
