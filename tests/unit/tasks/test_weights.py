"""One tensor is one weight, whatever names it has; and what is neither one nor two is refused."""

import copy
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_model
from torch import nn
from torch.utils.dlpack import from_dlpack, to_dlpack

from fedtrain.errors import TaskError
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.tasks import Task, build_model, load_weights, move_model, shared_names, trainable_names, weights_of
from fedtrain.tasks import weights as of_weights
from fedtrain.tasks.weights import drained, forget_weights, second_names

ROOT = Path(__file__).parents[3]


class Of(Task):
    """A task of nothing but a model, and of what it shares of it."""

    def __init__(self, model, shared=None):
        self._model, self._shared = model, shared

    def model(self):
        return self._model

    def collate(self, records, generator): ...

    def losses(self, outputs, batch): ...

    def metrics(self): ...

    def shared(self, model):
        return super().shared(model) if self._shared is None else self._shared


def three():
    return nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5), nn.Linear(3, 5))


def tied():
    net = three()
    net[2].weight = net[0].weight
    return net


def on_the_same_memory():
    net = three()
    net[2].weight = nn.Parameter(net[0].weight.data)
    return net


def under_three_names():
    net = three()
    net[1].weight = nn.Parameter(net[0].weight.data)
    net[2].weight = net[1].weight
    return net


def one_layer_twice():
    net = three()
    net[2] = net[1]
    return net


def one_buffer_twice():
    net = three()
    net[0].register_buffer("scale", torch.ones(3))
    net[2].register_buffer("scale", net[0].scale)
    return net


def buffers_on_the_same_memory():
    net = one_buffer_twice()
    net[2].scale = net[0].scale.view(3)
    return net


MODELS = {
    tied: {"2.weight": "0.weight"},
    on_the_same_memory: {"2.weight": "0.weight"},
    under_three_names: {"1.weight": "0.weight", "2.weight": "0.weight"},
    one_layer_twice: {"2.weight": "1.weight", "2.bias": "1.bias"},
    one_buffer_twice: {"2.scale": "0.scale"},
    buffers_on_the_same_memory: {"2.scale": "0.scale"},
    three: {},
}


@pytest.mark.parametrize("make", MODELS)
def test_a_weight_goes_by_its_first_name_and_is_loaded_into_all(make):
    built = build_model(Of(make()))
    assert second_names(built) == MODELS[make]
    assert set(weights_of(built)) == set(built.state_dict()) - set(MODELS[make])
    assert sum(value.numel() for value in weights_of(built).values()) == len(
        {(value.data_ptr(), place) for value in built.state_dict().values() for place in range(value.numel())}
    )
    # Each client trains a copy.
    for model in (copy.deepcopy(built), move_model(copy.deepcopy(built), torch.device("cpu"))):
        weights = {name: torch.rand_like(value) for name, value in weights_of(model).items()}
        load_weights(model, weights)
        state = model.state_dict()
        for name, first in {**{name: name for name in weights}, **MODELS[make]}.items():
            assert torch.equal(state[name], weights[first])
            assert state[name].data_ptr() == state[first].data_ptr()


def test_a_model_on_another_device_has_a_buffer_of_two_names_once():
    model = build_model(Of(one_buffer_twice()))
    move_model(model, torch.device("meta"))  # torch moves the buffer of each name by itself
    assert model[0].scale is model[2].scale
    assert second_names(model) == {"2.scale": "0.scale"}


def test_what_is_trained_and_shared_is_named_once():
    model = build_model(Of(tied()))
    assert trainable_names(model) == {"0.weight", "1.weight", "1.bias", "2.bias"}
    assert shared_names(Of(model), model) == trainable_names(model)
    assert shared_names(Of(model, {"2.weight", "2.bias"}), model) == {"0.weight", "2.bias"}
    with pytest.raises(TaskError, match=r"shares 3\.weight, which is no trainable parameter"):
        shared_names(Of(model, {"3.weight"}), model)


def test_weights_under_a_second_name_are_refused():
    model = build_model(Of(tied()))
    weights = weights_of(model)
    with pytest.raises(TaskError, match=r"^2\.weight is the same tensor as 0\.weight, and goes by that name$"):
        load_weights(model, {**weights, "2.weight": weights["0.weight"]})
    with pytest.raises(TaskError, match=r"^9 is none of the model's weights$"):
        load_weights(model, {**weights, "9": weights["0.weight"]})
    del weights["0.weight"]
    with pytest.raises(TaskError, match=r"^the weights 0\.weight of the model are missing$"):
        load_weights(model, weights)


def a_part(net):
    net[1].weight = nn.Parameter(net[0].weight.data[1:3])


def transposed(net):
    net[1].weight = nn.Parameter(net[0].weight.data.t())


def another_type(net):
    net[1].register_buffer("bits", net[0].weight.data.view(torch.int32))


def a_part_through_numpy(net):
    net[1].register_buffer("row", torch.from_numpy(net[0].weight.detach().numpy()[1]))


def overlapping_buffers(net):
    whole = torch.arange(20.0).reshape(4, 5)
    net[0].register_buffer("left", whole[:, :3])
    net[1].register_buffer("right", whole[:, 2:])


PARTLY = {
    a_part: ("1.weight", "0.weight"),
    transposed: ("1.weight", "0.weight"),
    another_type: ("1.bits", "0.weight"),
    a_part_through_numpy: ("1.row", "0.weight"),
    overlapping_buffers: ("1.right", "0.left"),
}


@pytest.mark.parametrize("change", PARTLY)
def test_weights_that_are_one_in_part_are_refused_by_name(change):
    net = three()
    change(net)
    two, one = map(re.escape, PARTLY[change])
    with pytest.raises(TaskError, match=rf"{two} of the model is on a part of the memory of the \w+ {one}"):
        build_model(Of(net))


def as_a_buffer(net):
    net[1].register_buffer("held", net[0].weight.detach())


def itself_as_a_buffer(net):
    net[1].register_buffer("held", net[0].weight)


def as_a_buffer_that_is_not_saved(net):
    net[1].register_buffer("held", net[0].weight.detach(), persistent=False)


def frozen(net):
    net[1].held = nn.Parameter(net[0].weight.detach(), requires_grad=False)


@pytest.mark.parametrize("change", [as_a_buffer, itself_as_a_buffer, as_a_buffer_that_is_not_saved, frozen])
def test_a_weight_is_not_trained_under_one_name_and_constant_under_another(change):
    net = three()
    change(net)
    with pytest.raises(TaskError, match=r"1\.held of the model is on the memory of the parameter 0\.weight: "):
        build_model(Of(net))


def test_a_weight_that_overlaps_itself_is_refused():
    net = three()
    net[0].register_buffer("scale", torch.ones(1).expand(3))
    with pytest.raises(TaskError, match=r"the weight 0\.scale of the model has the same memory in several places"):
        build_model(Of(net))


def columns_of_one_matrix(net):
    whole = torch.arange(20.0).reshape(4, 5)
    net[0].register_buffer("left", whole[:, :3])
    net[1].register_buffer("right", whole[:, 3:])


def rows_of_one_vector(net):
    whole = torch.arange(8.0)
    net[0].weight, net[1].weight = nn.Parameter(whole[:4].view(2, 2)), nn.Parameter(whole[4:].view(2, 2))


def expanded_along_nothing(net):
    net[0].register_buffer("position", torch.arange(4).expand(1, -1))


def views_that_nobody_is_sent(net):
    net[0].register_buffer("table", torch.arange(8.0))
    net[1].register_buffer("start", net[0].table[:4], persistent=False)
    net[1].register_buffer("wide", torch.ones(1).expand(4), persistent=False)


def channels_last(net):
    net.append(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last))


def empty(net):
    net[0].register_buffer("none", torch.empty(0))
    net[1].register_buffer("nothing", torch.empty(0))


APART = [
    *(columns_of_one_matrix, rows_of_one_vector, expanded_along_nothing, views_that_nobody_is_sent),
    *(channels_last, empty),
]


@pytest.mark.parametrize("change", APART)
def test_weights_that_have_nothing_in_common_stay_apart(change):
    net = three()
    change(net)
    names = set(net.state_dict())
    assert second_names(build_model(Of(net))) == {}
    assert set(net.state_dict()) == names


def conjugated(net):
    net[0].register_buffer("turned", torch.tensor([1 + 2j, 3 - 1j]).conj())


def negated(net):
    net[0].register_buffer("turned", torch.tensor([1 + 2j, 3 - 1j]).conj().imag)


def a_negated_parameter(net):
    net[1].bias = nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]).conj().imag)


def a_number_and_its_conjugate(net):
    net[0].register_buffer("plain", torch.tensor([1 + 2j, 3 - 1j]))
    net[0].register_buffer("turned", net[0].plain.conj())


@pytest.mark.parametrize("change", [conjugated, negated, a_negated_parameter, a_number_and_its_conjugate])
def test_weights_that_torch_turns_when_it_reads_them_have_their_values(change):
    net = three()
    change(net)
    expected = {name: value.tolist() for name, value in net.state_dict().items()}
    model = build_model(Of(net))
    assert {name: value.numpy().tolist() for name, value in weights_of(model).items()} == expected
    assert [name for name, value in model.named_parameters() if value.requires_grad] == list(
        dict(net.named_parameters())
    )


def test_a_saved_model_is_loaded_into_all_names(tmp_path):
    model = build_model(Of(on_the_same_memory()))
    arrays = {name: value.numpy() for name, value in weights_of(model).items()}
    folder = RunFolder(path=tmp_path)
    folder.save_model("final", arrays, second_names(model))
    again = tied()
    assert load_model(again, tmp_path / "model-final.safetensors") == (set(), [])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(of_weights, "LARGE", 0)


def held(model):
    return sum(each.untyped_storage().nbytes() for each in {id(value): value for value in model.parameters()}.values())


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("make", [three, tied, one_layer_twice])
def test_forgotten_weights_are_loaded_again_where_they_were(make):
    model = build_model(Of(make()))
    before = {name: value.clone() for name, value in weights_of(model).items()}
    state = {name: (value.data_ptr(), value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    seen = model[1].weight.detach().view(-1)
    forget_weights(model)
    assert [name for name, _ in model.named_parameters(remove_duplicate=False)] == list(state)
    load_weights(copied := copy.deepcopy(model), before)
    load_weights(model, before)
    for each in (model, copied):
        assert list(weights_of(each)) == list(before)
        assert all(torch.equal(value, before[name]) for name, value in weights_of(each).items())
    assert torch.equal(seen, model[1].weight.detach().view(-1))


def test_small_weights_and_those_that_numpy_sees_are_not_forgotten(monkeypatch):
    model = build_model(Of(three()))
    before = {name: value.clone() for name, value in weights_of(model).items()}
    forget_weights(model)
    monkeypatch.setattr(of_weights, "LARGE", 0)
    seen = {name: value.numpy() for name, value in weights_of(model).items()}
    forget_weights(model)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    assert all((seen[name] == value.numpy()).all() for name, value in before.items())


SEEN = {
    "a view": lambda weight: weight.detach()[:1],
    "the data": lambda weight: weight.data,
    "a tensor of another library": lambda weight: from_dlpack(to_dlpack(weight.detach())),
    "an array of another library": lambda weight: np.from_dlpack(weight.detach()),
}


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("see", SEEN.values(), ids=SEEN)
def test_what_something_else_sees_is_not_forgotten(see):
    model = build_model(Of(three()))
    before, place = model[1].weight.detach().clone(), model[1].weight.data_ptr()
    seen = see(model[1].weight)
    forget_weights(model)
    assert model[1].weight.data_ptr() == place
    assert torch.equal(model[1].weight.detach(), before)
    del seen


@pytest.mark.usefixtures("all_are_large")
def test_what_other_processes_see_is_not_forgotten():
    model = build_model(Of(three().share_memory()))
    before = [value.clone() for value in weights_of(model).values()]
    forget_weights(model)
    assert all(each.is_shared() for each in model.parameters())
    assert all(torch.equal(*each) for each in zip(weights_of(model).values(), before, strict=True))


class KeepsItsOwn(nn.Linear):
    def _load_from_state_dict(self, state_dict, prefix, *rest):
        super()._load_from_state_dict({**state_dict, f"{prefix}weight": self.weight.detach()}, prefix, *rest)


def keep_own(module, state_dict, prefix, *rest):
    state_dict[f"{prefix}weight"] = module.weight.detach()


def kept_by_a_hook():
    net = three()
    net[1].register_load_state_dict_pre_hook(keep_own)
    return net


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("make", [kept_by_a_hook, lambda: nn.Sequential(three()[0], KeepsItsOwn(3, 5))])
def test_what_a_model_keeps_when_it_loads_is_not_forgotten(make):
    model = build_model(Of(make()))
    before = model[1].weight.detach().clone()
    forget_weights(model)
    load_weights(model, {name: torch.ones_like(value) for name, value in weights_of(model).items()})
    assert model[0].weight.detach().eq(1).all()
    assert torch.equal(model[1].weight.detach(), before)


def test_large_weights_are_pages_that_nobody_has_written():
    # In a process of its own: one that has freed much hands that out, with what was in it.
    script = """
        import torch
        from torch import nn
        from fedtrain.tasks import load_weights
        from fedtrain.tasks.weights import forget_weights

        model = nn.Linear(2048, 4608, bias=False)
        forget_weights(model)
        assert not model.weight.detach().any()
        load_weights(model, {"weight": torch.ones(4608, 2048)})
        assert model.weight.detach().all()
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("make", [three, tied, one_layer_twice])
def test_a_model_is_drained_weight_by_weight(make):
    model = build_model(Of(make()))
    before = {name: value.clone() for name, value in weights_of(model).items()}
    sizes, found = [held(model)], {}
    for name, value in drained(model):
        found[name] = value
        sizes.append(held(model))
    assert list(found) == list(before)
    assert all(torch.equal(found[name], value) for name, value in before.items())
    assert sizes == [sum(value.nbytes for value in list(before.values())[place:]) for place in range(len(before) + 1)]


def test_columns_of_one_matrix_are_drained_whole(all_are_large):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    both = torch.arange(12.0).reshape(2, 6)
    model[0].weight, model[1].weight = nn.Parameter(both[:, :3]), nn.Parameter(both[:, 3:])
    model = build_model(Of(model))
    found = dict(drained(model))
    assert torch.equal(torch.cat([found["0.weight"], found["1.weight"]], dim=1), torch.arange(12.0).reshape(2, 6))
