from copy import deepcopy

import pytest
import torch
from torch import nn

from fedtrain.errors import TaskError
from fedtrain.tasks import (
    PublicWeights,
    build_model,
    digest_of_frozen,
    held_by,
    load_weights,
    move_model,
    refuse_changed,
    weights_of,
)
from fedtrain.tasks.weights import second_names


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(False)
        self.tied = self.frozen
        self.head = nn.Linear(4, 2)
        self.head.register_buffer("counted", torch.zeros(1))


class Declaring:
    def __init__(self, declared):
        self.declared = declared

    def model(self):
        torch.manual_seed(0)
        return Net()

    def public_weights(self, model):
        return self.declared(model) if callable(self.declared) else self.declared


def right(model):
    """Give the digest as it would be written down, whatever the model at hand has."""
    return PublicWeights(origin="a public book", digest=digest_of_frozen(Declaring(None).model()))


def test_public_weights_never_travel_and_stay_as_they_are():
    model = build_model(Declaring(right))
    assert list(weights_of(model)) == ["head.weight", "head.bias", "head.counted"]
    assert held_by(model).names == ("frozen.weight", "frozen.bias")
    assert (held_by(model).numbers, held_by(model).size) == (16, 64)
    assert second_names(model) == {}
    before = model.frozen.weight.clone()
    load_weights(model, {name: torch.ones_like(value) for name, value in weights_of(model).items()})
    assert model.head.weight.eq(1).all()
    assert torch.equal(model.frozen.weight, before)


def test_a_moved_or_copied_model_keeps_them_back():
    model = build_model(Declaring(right))
    assert list(weights_of(deepcopy(model))) == list(weights_of(model))
    assert list(weights_of(move_model(model, torch.device("cpu")))) == ["head.weight", "head.bias", "head.counted"]


def test_without_a_declaration_frozen_weights_travel_as_before():
    class Plain:
        model = Declaring(None).model

    for task in (Plain(), Declaring(None)):
        model = build_model(task)
        assert set(weights_of(model)) == {"frozen.weight", "frozen.bias", "head.weight", "head.bias", "head.counted"}
        assert held_by(model) is None


def test_a_message_cannot_bring_public_weights():
    model = build_model(Declaring(right))
    with pytest.raises(TaskError, match=r"frozen\.weight is a public weight, .* taken from nobody"):
        load_weights(model, weights_of(model) | {"frozen.weight": torch.zeros(4, 3)})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda model: None, True),
        (lambda model: model.head.weight.data.add_(1), True),
        (lambda model: model.frozen.weight.data[0, 0].add_(1e-6), False),
        (lambda model: model.frozen.bias.data.neg_(), False),
        (lambda model: setattr(model, "frozen", model.frozen.double()), False),
    ],
)
def test_the_digest_is_of_each_frozen_value_and_of_no_other(change, same):
    model, other = Declaring(None).model(), Declaring(None).model()
    change(other)
    assert (digest_of_frozen(model) == digest_of_frozen(other)) == same


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        (
            PublicWeights(origin="a book", digest="0" * 64),
            "other ones than its task declares: their digest is [0-9a-f]",
        ),
        (lambda model: PublicWeights(origin=" ", digest=digest_of_frozen(model)), "declares no origin"),
        ("a book", "is to return fedtrain.tasks.PublicWeights, or None where all weights travel, and returned a str"),
        (lambda model: right(model.requires_grad_()), "has no frozen parameter"),
        (lambda model: 1 // 0, "public_weights of the task raised ZeroDivisionError"),
        (
            lambda model: PublicWeights(origin="a book", digest=digest_of_frozen(model)),
            r"computes its digest from the model .* Write the digest down in the task: here it is [0-9a-f]{64}$",
        ),
    ],
)
def test_what_is_declared_wrongly_is_refused(declared, problem):
    with pytest.raises(TaskError, match=problem):
        build_model(Declaring(declared))


def test_a_declaration_that_was_tried_leaves_the_weights_as_they_are():
    before = Declaring(None).model().state_dict()
    model = build_model(Declaring(right))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Numbers(Declaring):
    """A model whose frozen weights are of unusual forms."""

    def model(self):
        net = super().model()
        net.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        net.none = nn.Parameter(torch.zeros(0, 3), requires_grad=False)
        net.mask = nn.Parameter(torch.tensor([-torch.inf, 0.0]), requires_grad=False)
        net.unknown = nn.Parameter(torch.tensor([torch.nan]), requires_grad=False)
        net.places = nn.Parameter(torch.arange(4), requires_grad=False)
        net.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t(), requires_grad=False)
        return net


def test_frozen_weights_of_any_form_are_public():
    digest = digest_of_frozen(Numbers(None).model())
    model = build_model(Numbers(PublicWeights(origin="a book", digest=digest)))
    assert set(weights_of(model)) == {"head.counted", "head.weight", "head.bias"}
    refuse_changed(model, deepcopy(model))


def unfrozen(model):
    model.frozen.requires_grad_()


def written(model):
    model.frozen.bias.data.mul_(0.9).add_(0.1)


def replaced(model):
    model.frozen.weight.data = model.frozen.weight.data + model.head.weight.sum().detach()


@pytest.mark.parametrize("change", [unfrozen, written, replaced])
def test_public_weights_that_are_trained_or_written_are_refused(change):
    model = build_model(Declaring(right))
    trained = deepcopy(model)
    trained.head.weight.data.add_(1)
    trained.head.counted.add_(1)
    refuse_changed(model, trained)
    change(trained)
    with pytest.raises(TaskError, match=r"weights that its task declares public: frozen\.(weight|bias)"):
        refuse_changed(model, trained)


class Normalised(Net):
    """A frozen part with statistics, and one without parameters; a trained part with statistics of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("computed", torch.ones(2), persistent=False)
        self.norm = nn.BatchNorm1d(4).requires_grad_(False)
        self.bare = nn.BatchNorm1d(4, affine=False)
        self.last = nn.BatchNorm1d(2)


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
OF_FROZEN = {"scale"} | {f"{part}.{name}" for part in ("norm", "bare") for name in STATISTICS}


class Buffered(Declaring):
    def model(self):
        torch.manual_seed(0)
        return Normalised()


@pytest.fixture
def buffered():
    digest = digest_of_frozen(Buffered(None).model())
    return build_model(Buffered(PublicWeights(origin="a book", digest=digest)))


def test_buffers_of_what_is_frozen_never_travel_and_those_beside_trained_parameters_do(buffered):
    assert set(held_by(buffered).names) == {"frozen.weight", "frozen.bias", "norm.weight", "norm.bias", *OF_FROZEN}
    assert {f"last.{name}" for name in STATISTICS} < set(weights_of(buffered))
    assert "head.counted" in weights_of(buffered)
    for name in OF_FROZEN:
        with pytest.raises(TaskError, match=f"{name} is a public weight, .* taken from nobody"):
            load_weights(buffered, weights_of(buffered) | {name: torch.zeros(4)})


@pytest.mark.parametrize("name", sorted(OF_FROZEN))
def test_a_machine_with_another_buffer_of_the_frozen_part_is_refused(name):
    digest = digest_of_frozen(Buffered(None).model())

    class Changed(Buffered):
        def model(self):
            model = super().model()
            model.get_buffer(name).add_(1)
            return model

    with pytest.raises(TaskError, match="other ones than its task declares"):
        build_model(Changed(PublicWeights(origin="a book", digest=digest)))


def test_statistics_of_a_frozen_part_that_training_writes_are_refused(buffered):
    trained = deepcopy(buffered)
    trained.last(torch.randn(5, 2))
    trained.eval().norm(torch.randn(5, 4))
    refuse_changed(buffered, trained)
    trained.train().norm(torch.randn(5, 4))
    with pytest.raises(TaskError, match=r"norm\.running_mean, .* frozen batch normalisation, which is to stay in eval"):
        refuse_changed(buffered, trained)


def test_what_the_code_computes_is_in_no_digest():
    model = Buffered(None).model()
    before = digest_of_frozen(model)
    model.computed.add_(1)
    model.last.running_mean.add_(1)
    assert digest_of_frozen(model) == before


def test_without_a_declaration_nothing_is_compared():
    model = build_model(Declaring(None))
    trained = deepcopy(model)
    written(trained)
    refuse_changed(model, trained)


class Hidden(Net):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.endswith(".bias") or name.startswith("head")}


def without_bias(module, state, prefix, local):
    for name in ("frozen.bias", "tied.bias"):
        del state[name]


class Removing(Net):
    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(without_bias)


@pytest.mark.parametrize("net", [Hidden, Removing])
def test_frozen_weights_that_no_digest_is_of_are_refused(net):
    class Declares(Declaring):
        def model(self):
            torch.manual_seed(0)
            return net()

    task = Declares(None)
    task.declared = PublicWeights(origin="a book", digest=digest_of_frozen(task.model()))
    with pytest.raises(TaskError, match=r"frozen parameter frozen\.bias of its model is not in the state dict"):
        build_model(task)
