from itertools import product

import pytest
import torch
from opacus import GradSampleModule
from torch import nn
from torch.nn import functional

from fedtrain.config import TaskConfig
from fedtrain.data.types import ClassTarget, Columns, DataInfo, Image
from fedtrain.errors import TaskError
from fedtrain.tasks import build_task, refuse_batch_statistics
from fedtrain.tasks.models import ARCHITECTURES, Block, choose

CLASSES = tuple("0123456789")


def image(*shape):
    return DataInfo(features=Image(shape=shape), target=ClassTarget(names=CLASSES))


TABLE = DataInfo(features=Columns(shape=(5,)), target=ClassTarget(names=("no", "yes", "perhaps")))


def fresh(model, info, seed=0):
    torch.manual_seed(seed)
    return build_task(TaskConfig(name="tabular" if info.kind == "table" else "vision", model=model), info).model()


FITTING = [
    (model, info)
    for model, info in product(ARCHITECTURES, (image(3, 32, 32), image(1, 28, 28), image(3, 8, 8), TABLE))
    if ARCHITECTURES[model].table or (info.kind == "image" and info.shape[1] >= ARCHITECTURES[model].smallest)
]


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        ("cnn-cifar", (3, 32, 32), 122_570),
        ("resnet-gn", (3, 32, 32), 269_722),
        ("cnn-small", (1, 8, 8), 9_930),
        ("cnn-small", (1, 28, 28), 9_930),
        ("mlp", (1, 8, 8), 4_810),
        ("linear", (1, 8, 8), 650),
        ("linear-no-bias", (1, 8, 8), 640),
    ],
)
def test_parameter_counts(model, shape, parameters):
    assert sum(weight.numel() for weight in fresh(model, image(*shape)).parameters()) == parameters


def test_cnn_cifar_has_the_layers_of_the_keras_tutorial():
    model = fresh("cnn-cifar", image(3, 32, 32))
    shapes = [tuple(weight.shape) for name, weight in model.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 3, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (64, 1024), (10, 64)]


def test_a_block_that_halves_keeps_every_second_pixel_and_adds_empty_channels():
    block = Block(8, 16, stride=2)
    nn.init.zeros_(block.norm2.weight)
    inputs = torch.rand(2, 8, 7, 6)
    outputs = block(inputs)
    assert torch.equal(outputs[:, :8], inputs[:, :, ::2, ::2])
    assert not outputs[:, 8:].any()


def test_initial_weights_are_the_default_draws_from_the_global_generator():
    first, again, other = (fresh("mlp", image(1, 8, 8), seed) for seed in (1, 1, 2))
    torch.manual_seed(1)
    plain = nn.Linear(64, 64)
    assert torch.equal(first[1].weight, plain.weight)
    assert torch.equal(first[3].weight, again[3].weight)
    assert not torch.equal(first[3].weight, other[3].weight)


@pytest.mark.parametrize(("model", "info"), FITTING)
def test_no_model_keeps_state_beside_its_parameters_or_overwrites_values(model, info):
    built = fresh(model, info)
    refuse_batch_statistics(built)
    assert not list(built.buffers())
    assert not any(getattr(layer, "inplace", False) for layer in built.modules())


@pytest.mark.parametrize(("model", "info"), FITTING)
def test_an_empty_batch_passes_forward_and_backward(model, info):
    built = fresh(model, info)
    outputs = built(torch.empty(0, *info.shape))
    assert outputs.shape == (0, len(info.classes))
    outputs.sum().backward()
    assert all(not weight.grad.any() for weight in built.parameters())


# Opacus registers full backward hooks; the first layer's input needs no gradient, which PyTorch remarks on.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize(("model", "info"), FITTING)
def test_per_sample_gradients_are_those_of_each_record_alone(model, info):
    built = fresh(model, info).double()
    draw = torch.Generator().manual_seed(3)
    inputs = torch.rand((4, *info.shape), generator=draw, dtype=torch.float64) * 2 - 1
    labels = torch.randint(len(info.classes), (4,), generator=draw)

    alone = []
    for record in range(4):
        loss = functional.cross_entropy(built(inputs[record : record + 1]), labels[record : record + 1])
        alone.append(torch.autograd.grad(loss, tuple(built.parameters())))

    wrapped = GradSampleModule(built, loss_reduction="mean", strict=True)
    functional.cross_entropy(wrapped(inputs), labels).backward()

    for weight, *singles in zip(wrapped.parameters(), *alone, strict=True):
        torch.testing.assert_close(weight.grad_sample, torch.stack(singles), rtol=1e-7, atol=1e-10)
        assert weight.grad_sample.any()


@pytest.mark.parametrize(
    ("info", "chosen"),
    [
        (image(3, 32, 32), "cnn-cifar"),
        (image(3, 64, 40), "cnn-cifar"),
        (image(3, 64, 31), "cnn-small"),
        (image(1, 28, 28), "cnn-small"),
        (image(1, 8, 8), "cnn-small"),
        (image(1, 7, 30), "mlp"),
        (TABLE, "mlp"),
    ],
)
def test_the_choice_by_size(info, chosen):
    assert choose(info) == chosen
    assert fresh(None, info)(torch.zeros(2, *info.shape)).shape == (2, len(info.classes))


@pytest.mark.parametrize(("model", "smallest"), [("cnn-cifar", 18), ("resnet-gn", 8), ("cnn-small", 8)])
def test_the_smallest_image_that_fits(model, smallest):
    fresh(model, image(1, smallest, smallest))(torch.zeros(1, 1, smallest, smallest))
    with pytest.raises(TaskError, match=f"at least {smallest}x{smallest} pixels"):
        fresh(model, image(1, smallest, smallest - 1))


def test_a_model_that_does_not_fit_is_refused_with_those_that_do():
    with pytest.raises(TaskError) as refused:
        fresh("cnn-cifar", image(1, 8, 8))
    assert str(refused.value) == (
        'task.model = "cnn-cifar" takes images of at least 18x18 pixels, and this data set holds image records of '
        'shape 1x8x8; models that fit it: "resnet-gn", "cnn-small", "mlp", "linear", "linear-no-bias".'
    )


def test_a_table_takes_no_model_of_images():
    with pytest.raises(TaskError, match='models that fit it: "mlp", "linear", "linear-no-bias"'):
        fresh("cnn-small", TABLE)


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(TaskError, match=r'task.model = "cnn-cifer" is not known; did you mean "cnn-cifar"\? Allowed'):
        fresh("cnn-cifer", image(3, 32, 32))
