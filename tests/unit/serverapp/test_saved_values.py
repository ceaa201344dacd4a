"""What is saved and sent has the values that were computed, whatever the layout of the arrays in memory is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from safetensors.numpy import load, load_file
from torch import nn

from fedtrain.errors import StorageError
from fedtrain.flower.messages import protocol
from fedtrain.flower.messages.records import c_ordered, from_content, npy_header, state_record, to_content
from fedtrain.flower.totals import Sums, Total
from fedtrain.secagg import Parameters
from fedtrain.serverapp import checkpoint
from fedtrain.serverapp.channel import Channel
from fedtrain.serverapp.checkpoint import RunState, arrays_digest
from fedtrain.serverapp.preparation import prepare
from fedtrain.serverapp.rounds import Rounds, evaluate, initial_state
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.tasks import build_task
from tests.fakes import InProcessGrid, digits_experiment

CONTIGUOUS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LAYOUTS = {
    "contiguous": CONTIGUOUS,
    "transposed": CONTIGUOUS.reshape(6, 4).T,
    "channels last": np.moveaxis(np.ascontiguousarray(np.moveaxis(CONTIGUOUS[None], 1, -1)), -1, 1),
    "every second": np.arange(10, dtype=np.int64)[::2],
    "backwards": np.arange(5, dtype=np.float16)[::-1],
    "broadcast": np.broadcast_to(np.float64(3), (2, 2)),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float32).T,
}


@pytest.fixture
def folder(cache, tmp_path):
    return RunFolder.open(digits_experiment(cache, output__directory=str(tmp_path / "run")))


def test_a_model_file_has_the_values_of_every_layout(folder):
    saved = folder.save_model("final", LAYOUTS)
    found = load_file(folder.path / saved.file)
    assert found.keys() == LAYOUTS.keys()
    for name, value in LAYOUTS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert arrays_digest(found) == arrays_digest(LAYOUTS)


def test_a_checkpoint_has_the_values_of_every_layout(folder, make_state):
    folder.save_checkpoint(make_state(model=LAYOUTS, strategy={"m_t/w": LAYOUTS["transposed"]}))
    found = folder.load_checkpoint()
    assert arrays_digest(found.model) == arrays_digest(LAYOUTS)
    np.testing.assert_array_equal(found.strategy["m_t/w"], LAYOUTS["transposed"])


def memory_order(arrays, metadata=None):
    """Write as safetensors does: an array's memory in the place of its values."""
    return checkpoint.save(dict(arrays), metadata)


def test_a_writer_that_saves_memory_is_caught(folder, make_state, monkeypatch):
    monkeypatch.setattr(checkpoint, "_save", memory_order)
    with pytest.raises(StorageError, match=r"model-final.safetensors was written, and cannot be used: .*: turned diff"):
        folder.save_model("final", {"turned": LAYOUTS["transposed"], "plain": CONTIGUOUS})
    folder.save_model("best", {"plain": CONTIGUOUS})
    with pytest.raises(StorageError, match="its content has changed since it was written"):
        folder.save_checkpoint(make_state(model={"turned": LAYOUTS["transposed"]}))
    # One that cannot be used is not the newest that a resumed run begins from.
    assert folder.load_checkpoint() is None


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_model_file_that_cannot_be_read_back(folder, monkeypatch, damage):
    write = {"cut": lambda path, data: path.write_bytes(data[:-1]), "missing": lambda path, data: None}[damage]
    monkeypatch.setattr("fedtrain.serverapp.run_folder.write_atomic", write)
    with pytest.raises(StorageError, match=r"model-final.safetensors was written, and cannot be used"):
        folder.save_model("final", {"plain": CONTIGUOUS})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_messages_have_one_encoding_and_one_digest_of_the_same_values(layout):
    value = LAYOUTS[layout]
    here = ArrayRecord({"w": Array(value)})
    there = from_content(to_content({"arrays": here}))["arrays"]
    assert c_ordered(here["w"]) == Array(np.array(value, order="C")).data
    # A client's commitment and the server's digest are of the same update, sealed or not.
    assert protocol.arrays_digest(here) == protocol.arrays_digest(there)
    np.testing.assert_array_equal(there["w"].numpy(), value)


def test_bytes_that_only_look_like_a_turned_array_are_taken_as_they_are():
    turned = Array(LAYOUTS["transposed"])
    for other in (
        replace(turned, data=turned.data[:-1]),
        replace(turned, dtype="no type"),
        replace(turned, shape=(3,)),
    ):
        assert c_ordered(other) == other.data


@pytest.mark.parametrize(
    ("dtype", "shape", "rest"),
    [
        ("object", (1,), b"\0" * 8),
        ("void", (2,), b""),
        ("str", (2,), b""),
        ("float32", (-1, -1), b"\0" * 4),
        ("float32", (0, 1 << 80), b""),
    ],
)
def test_bytes_of_which_no_array_can_be_made_are_taken_as_they_are(dtype, shape, rest):
    data = npy_header(np.dtype(dtype), shape, fortran_order=True) + rest
    assert c_ordered(Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)) == data


@pytest.mark.parametrize("dtype", ["(1,f4", "f4,(", "{'names':[", ""])
def test_a_type_that_a_client_names_is_not_parsed(dtype):
    turned = Array(LAYOUTS["transposed"])
    assert c_ordered(replace(turned, dtype=dtype)) == turned.data


def test_a_state_dict_is_sent_in_c_order():
    layer = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    layer.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
    for name, array in state_record(layer.state_dict()).items():
        assert b"'fortran_order': False" in array.data[:128]
        np.testing.assert_array_equal(array.numpy(), layer.state_dict()[name].numpy())


def test_the_average_of_a_sum_is_in_c_order():
    sent = ArrayRecord({"w": Array(LAYOUTS["transposed"])})
    plan = Parameters.plan(members=2, length=24, bits=9, bound=1.0)
    update = Sums({"w": np.ones((4, 6), np.uint32)}, parameters=plan)
    total = Total(update=update, counters={}, weight=2.0, modulus=1.0, counter_modulus=1)
    assert b"'fortran_order': False" in total.average(sent)["w"].data[:128]


class Turned(nn.Module):
    """A classifier whose weights lie transposed in memory."""

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
        self.bias = nn.Parameter(layer.bias.detach().clone())

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight.T + self.bias


def test_the_accuracy_of_a_report_is_that_of_the_file(cache, folder):
    preparation = prepare(digits_experiment(cache, federation__rounds=1))
    model = Turned(nn.Linear(64, 10))
    preparation = replace(preparation, model=model)
    clients = {100 + client: client for client in range(4)}

    def answer(message):
        state = message.content[protocol.ARRAYS].to_torch_state_dict()
        trained = {name: value.mul(1.1) for name, value in state.items()}
        trained["weight"] = trained["weight"].T.contiguous().T
        metrics = MetricRecord({protocol.WEIGHT: 1.0, protocol.LOSS: 1.0})
        return RecordDict({protocol.ARRAYS: ArrayRecord(trained), "metrics": metrics})

    rounds = Rounds(Channel(grid=InProcessGrid(answer, clients), clients=clients), preparation, None, done=0)
    state = rounds.next(initial_state(preparation), on_start=lambda *_: None, on_reply=lambda _: None)
    saved = folder.save_model("final", state.model)
    read = {name: torch.from_numpy(value) for name, value in load((folder.path / saved.file).read_bytes()).items()}
    fresh = Turned(nn.Linear(64, 10))
    fresh.load_state_dict(read)
    task = build_task(preparation.experiment.task, preparation.store.info)
    assert evaluate(fresh, task, preparation.store.test, round_number=1) == state.evaluations[-1]
    assert arrays_digest(RunState.decode(state.encode()).model) == arrays_digest(state.model)
