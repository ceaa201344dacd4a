import pytest
import torch

from fedtrain.config import TaskConfig
from fedtrain.data.types import ClassTarget, DataInfo, Image, Text, Tokens
from fedtrain.errors import TaskError
from fedtrain.tasks import build_task
from fedtrain.tasks.text_models import TEXT_MODELS
from fedtrain.training.gradients import by_loop, collate_alone
from fedtrain.training.preflight import bookkeeping, preflight
from fedtrain.training.steps import Records

CLASSES = ClassTarget(names=("a", "b", "c"))
INFO = DataInfo(features=Tokens(shape=(11,), vocabulary=50), target=CLASSES)
LENGTHS = (11, 7, 1, 0, 4)


def made(name, info=INFO):
    task = build_task(TaskConfig(name="text", model=name), info)
    torch.manual_seed(0)
    return task, task.model()


def records(length=11):
    """Return texts of several lengths, one of them empty, with words that occur twice."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 6, (len(LENGTHS), length), generator=draw, dtype=torch.int32)
    tokens *= torch.arange(length) < torch.tensor(LENGTHS).unsqueeze(1)
    return Records(features=tokens, targets=torch.tensor([0, 1, 2, 0, 1]))


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_gradients_are_those_of_single_records_by_book_keeping(name):
    task, model = made(name)
    assert preflight(model, task, INFO).way == "book-keeping"
    model = model.double()
    _, alone = by_loop(task, model, collate_alone(task, records(), None))
    with bookkeeping(model) as run:
        found = run(task, task.collate(records(), None))[1]
    for one, other in zip(found.rows(slice(None)), alone, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-9, atol=1e-12)
    lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in alone]).norm(dim=0)
    torch.testing.assert_close(found.squares().sqrt().double(), lengths)


@pytest.mark.parametrize("name", TEXT_MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_padding_is_nothing_and_an_empty_text_is_a_record(name, training):
    _, model = made(name)
    model = model.train(training)
    longer, longest = records().features.long(), torch.zeros(5, 11, dtype=torch.int64)
    short = longer[:, :7]
    longest[:, :7] = short
    with torch.no_grad():
        outputs = model(longest)
        other = made(name, DataInfo(features=Tokens(shape=(7,), vocabulary=50), target=CLASSES))[1].train(training)
        torch.testing.assert_close(outputs, other(short))
        assert outputs.isfinite().all()
        assert model(longest[:0]).shape == (0, 3)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_padding_has_no_gradient(name):
    task, model = made(name)
    batch = task.collate(records(), None)
    task.losses(task.forward(model, batch), batch).mean().backward()
    assert not model.embedding.weight.grad[0].any()
    assert model.embedding.weight.grad[1:6].any()


def test_the_order_of_words_matters_to_the_transformer_alone():
    tokens = torch.arange(1, 12).unsqueeze(0)
    for name, same in (("bag", True), ("transformer", False)):
        model = made(name)[1].eval()
        with torch.no_grad():
            assert torch.allclose(model(tokens), model(tokens.flip(1)), atol=1e-6) == same


@pytest.mark.parametrize(
    ("name", "model", "info", "problem"),
    [
        ("text", "cnn-cifar", INFO, 'this data set holds tokens records of shape 11; models that fit it: "bag", "tr'),
        ("text", "bga", INFO, 'did you mean "bag"'),
        ("vision", None, INFO, 'set task.name = "text"'),
        ("vision", "bag", DataInfo(features=Image(shape=(1, 8, 8)), target=CLASSES), 'task.model = "bag" takes tokens'),
        ("text", None, DataInfo(features=Text(shape=(8,)), target=CLASSES), "set task.encoder to"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, model, info, problem):
    with pytest.raises(TaskError, match=problem):
        build_task(TaskConfig(name=name, model=model), info)
