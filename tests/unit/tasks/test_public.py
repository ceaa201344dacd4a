import pytest
import torch
from torch import nn

from fedtrain.errors import TaskError
from fedtrain.tasks import PublicWeights, build_model, digest_of_frozen, held_by, load_weights, move_model, weights_of
from fedtrain.tasks.weights import second_names


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(False)
        self.tied = self.frozen
        self.head = nn.Linear(4, 2)
        self.register_buffer("counted", torch.zeros(1))


class Declaring:
    def __init__(self, declared):
        self.declared = declared

    def model(self):
        torch.manual_seed(0)
        return Net()

    def public_weights(self, model):
        return self.declared(model) if callable(self.declared) else self.declared


def right(model):
    return PublicWeights(origin="a public book", digest=digest_of_frozen(model))


def test_public_weights_never_travel_and_stay_as_they_are():
    model = build_model(Declaring(right))
    assert list(weights_of(model)) == ["counted", "head.weight", "head.bias"]
    assert held_by(model).names == ("frozen.weight", "frozen.bias")
    assert (held_by(model).numbers, held_by(model).size) == (16, 64)
    assert second_names(model) == {}
    before = model.frozen.weight.clone()
    load_weights(model, {name: torch.ones_like(value) for name, value in weights_of(model).items()})
    assert model.head.weight.eq(1).all()
    assert torch.equal(model.frozen.weight, before)


def test_a_moved_or_copied_model_keeps_them_back():
    from copy import deepcopy

    model = build_model(Declaring(right))
    assert list(weights_of(deepcopy(model))) == list(weights_of(model))
    assert list(weights_of(move_model(model, torch.device("cpu")))) == ["counted", "head.weight", "head.bias"]


def test_without_a_declaration_frozen_weights_travel_as_before():
    class Plain:
        model = Declaring(None).model

    for task in (Plain(), Declaring(None)):
        model = build_model(task)
        assert set(weights_of(model)) == {"frozen.weight", "frozen.bias", "head.weight", "head.bias", "counted"}
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
    ],
)
def test_what_is_declared_wrongly_is_refused(declared, problem):
    with pytest.raises(TaskError, match=problem):
        build_model(Declaring(declared))
