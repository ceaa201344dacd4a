"""Language models and their task: what is predicted, what is counted, gradients of records alone, and new texts."""

import math

import pytest
import torch
from torch import nn

from fedtrain.config import TaskConfig
from fedtrain.data.types import ClassTarget, DataInfo, Encoded, Text, TextTarget, Tokens
from fedtrain.errors import TaskError
from fedtrain.tasks import build_task
from fedtrain.tasks.language import LanguageMetrics, counted_places, write
from fedtrain.tasks.language_models import LANGUAGE_MODELS
from fedtrain.tasks.trial import try_training
from fedtrain.training.gradients import by_loop, by_vmap, collate_alone
from fedtrain.training.preflight import bookkeeping, preflight
from fedtrain.training.steps import Records

VOCABULARY = 13
INFO = DataInfo(features=Tokens(shape=(9,), vocabulary=VOCABULARY), target=TextTarget())
LENGTHS = (9, 6, 1, 0, 4)
PLACES = (9, 7, 2, 1, 5)  # its tokens, and its end unless it fills the room


def made(name, info=INFO):
    task = build_task(TaskConfig(name="language", model=name), info)
    torch.manual_seed(0)
    return task, task.model()


def records():
    """Return texts of several lengths, one of them empty, and one that fills the room."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (len(LENGTHS), 9), generator=draw, dtype=torch.int32)
    tokens *= torch.arange(9) < torch.tensor(LENGTHS).unsqueeze(1)
    return Records(features=tokens, targets=torch.zeros(len(LENGTHS), 0, dtype=torch.uint8))


def test_a_token_is_predicted_from_those_before_it_and_an_end_is_one():
    task, _ = made(None)
    batch = task.collate(records(), None)
    assert torch.equal(batch["targets"], records().features.long())
    assert not batch["inputs"][:, 0].any()
    assert torch.equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
    counted = counted_places(batch["targets"])
    assert counted.sum(1).tolist() == list(PLACES)
    assert torch.equal(counted.int().cumprod(1), counted.int())


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_loss_is_the_mean_over_the_places_of_a_record(name):
    task, model = made(name)
    batch = task.collate(records(), None)
    outputs = task.forward(model, batch)
    assert outputs.shape == (5, *task.returned) == (5, 9, VOCABULARY)
    logs = outputs.log_softmax(2)
    for row, places in enumerate(PLACES):
        expected = [-logs[row, place, batch["targets"][row, place]] for place in range(places)]
        torch.testing.assert_close(task.losses(outputs, batch)[row], torch.stack(expected).mean())


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_behind_a_place_is_in_what_is_said_of_it(name, training):
    _, model = made(name)
    model.train(training)
    tokens = made(name)[0].collate(records(), None)["inputs"]
    with torch.no_grad():
        before = model(tokens)
        for place in range(1, 9):
            changed = tokens.clone()
            changed[:, place:] = (changed[:, place:] + 1) % VOCABULARY
            after = model(changed)
            torch.testing.assert_close(after[:, :place], before[:, :place])
            assert not torch.allclose(after[:, place:], before[:, place:])
        torch.testing.assert_close(model(tokens[:, :4]), before[:, :4])
        assert model(tokens[:0]).shape == (0, 9, VOCABULARY)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_padding_has_no_part_in_losses_and_gradients(name):
    found = []
    for length in (9, 12):
        info = DataInfo(features=Tokens(shape=(length,), vocabulary=VOCABULARY), target=TextTarget())
        task, model = made(name, info)
        few = records().take(slice(1, None))  # not the one that has an end only where there is more room
        tokens = nn.functional.pad(few.features, (0, length - 9))
        batch = task.collate(Records(features=tokens, targets=few.targets), None)
        losses = task.losses(task.forward(model.double(), batch), batch)
        losses.mean().backward()
        found.append([losses.detach(), *(each.grad for each in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
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


def test_gradients_are_those_of_single_records_by_vmap_where_it_can():
    task, model = made("causal")
    model, ones = model.double(), collate_alone(task, records(), None)
    for one, other in zip(by_vmap(task, model, ones)[1], by_loop(task, model, ones)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_loss_over_all_tokens_of_a_batch_is_refused(monkeypatch):
    task, model = made("lstm")

    def pooled(outputs, batch):
        counted = counted_places(batch["targets"])
        nats = nn.functional.cross_entropy(outputs.flatten(0, 1), batch["targets"].flatten(), reduction="none")
        return (nats.reshape(counted.shape) * counted).sum(1) / counted.sum()

    monkeypatch.setattr(task, "losses", pooled)
    with pytest.raises(TaskError, match="records meet in losses"):
        preflight(model, task, INFO)


def logits(*rows):
    """Return logits of three tokens at two places of each record."""
    return torch.tensor(rows, dtype=torch.float32).log()


def test_metrics_are_of_tokens_and_the_loss_is_of_records():
    tokens = torch.tensor([[1, 0], [2, 1]])
    outputs = logits([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], [[0.25, 0.5, 0.25], [0.125, 0.75, 0.125]])
    metrics = LanguageMetrics(3)
    for row in range(2):
        metrics.update(outputs[row : row + 1], {"targets": tokens[row : row + 1]})
    nats = [math.log(2), math.log(2), math.log(4), -math.log(0.75)]
    found = metrics.compute()
    assert found == {
        "perplexity": pytest.approx(math.exp(sum(nats) / 4)),
        "bits_per_token": pytest.approx(sum(nats) / 4 / math.log(2)),
        "token_accuracy": 0.75,
        "loss": pytest.approx(sum(nats) / 4),
        "tokens": 4,
        "records": 2,
    }
    # An end in the first place: one place of the one record, two of the other.
    tokens = torch.tensor([[0, 0], [2, 1]])
    metrics = LanguageMetrics(3)
    metrics.update(outputs, {"targets": tokens})
    found = metrics.compute()
    assert found["tokens"] == 3
    assert found["loss"] == pytest.approx((math.log(4) + (math.log(4) - math.log(0.75)) / 2) / 2)
    assert math.log(found["perplexity"]) == pytest.approx((2 * math.log(4) - math.log(0.75)) / 3)


def test_measurements_of_resamples_are_those_of_the_drawn_records():
    task, model = made("lstm")
    batch = task.collate(records(), None)
    outputs = task.forward(model, batch).detach()
    metrics = task.metrics()
    counts = torch.tensor([[1, 2], [1, 0], [1, 0], [1, 3], [1, 0]], dtype=torch.float64)
    found = metrics.resampled(metrics.outcomes(outputs, batch), counts)
    for column, rows in enumerate(([0, 1, 2, 3, 4], [0, 0, 3, 3, 3])):
        drawn = task.metrics()
        drawn.update(outputs[rows], {"targets": batch["targets"][rows]})
        expected = drawn.compute()
        for name, values in found.items():
            assert float(values[column]) == pytest.approx(expected[name]), name


def test_the_baseline_is_the_best_one_answer_for_all_places():
    tokens = torch.tensor([[1, 1, 0], [1, 2, 2], [0, 0, 0]], dtype=torch.int32)
    shares = torch.tensor([2 / 7, 3 / 7, 2 / 7])  # ends, and the two tokens
    found = LanguageMetrics(3).baseline(tokens)
    metrics = LanguageMetrics(3)
    metrics.update(shares.log().expand(3, 3, 3), {"targets": tokens.long()})
    measured = metrics.compute()
    assert found == {name: pytest.approx(measured[name], rel=1e-6) for name in found}
    assert found["token_accuracy"] == pytest.approx(3 / 7)


def test_what_is_not_finite_is_null():
    metrics = LanguageMetrics(3)
    metrics.update(torch.full((1, 2, 3), torch.nan), {"targets": torch.ones(1, 2, dtype=torch.int64)})
    found = metrics.compute()
    assert (found["perplexity"], found["bits_per_token"], found["loss"]) == (None, None, None)
    certain = torch.tensor([[[0.0, 1e4, 0.0]] * 2])
    metrics = LanguageMetrics(3)
    metrics.update(certain, {"targets": torch.full((1, 2), 2)})
    assert metrics.compute()["perplexity"] is None
    with pytest.raises(TaskError, match="nothing to measure"):
        LanguageMetrics(3).compute()


class BothWays(nn.Module):
    """Looks at all of a text before it says what stands anywhere in it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.recurrent = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.dense = nn.Linear(16, VOCABULARY)

    def forward(self, before):
        return self.dense(self.recurrent(self.embedding(before))[0])


def test_a_model_that_looks_at_what_it_predicts_is_refused():
    task, _ = made(None)
    torch.manual_seed(0)
    with pytest.raises(TaskError, match="looks at tokens behind the place"):
        try_training(task, BothWays(), records())


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_model_that_looks_at_what_came_before_is_tried_and_trains(name, length):
    task, model = made(name, DataInfo(features=Tokens(shape=(length,), vocabulary=VOCABULARY), target=TextTarget()))
    found = records()
    try_training(task, model, Records(features=found.features[:, :length], targets=found.targets))
    assert model.training
    assert all(value.grad is not None for value in model.parameters())


class Counting(nn.Module):
    """Says that a token is followed by the next one, and the last by the end."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(100.0))

    def forward(self, before):
        return self.scale * nn.functional.one_hot((before + 1) % 5, 5)


@pytest.mark.parametrize(("length", "expected"), [(2, [1, 2]), (4, [1, 2, 3, 4]), (9, [1, 2, 3, 4])])
def test_a_text_is_written_up_to_its_end_or_its_length(length, expected):
    generator = torch.Generator().manual_seed(0)
    assert write(Counting(), texts=3, length=length, temperature=1.0, generator=generator) == [expected] * 3


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_what_is_written_follows_the_generator_and_the_probabilities(name):
    _, model = made(name)
    with torch.no_grad():
        shares = model(torch.zeros(1, 1, dtype=torch.int64))[0, 0].softmax(0)

    def drawn(seed, temperature):
        found = write(
            model, texts=2000, length=1, temperature=temperature, generator=torch.Generator().manual_seed(seed)
        )
        return torch.bincount(torch.tensor([text[0] if text else 0 for text in found]), minlength=VOCABULARY)

    assert torch.equal(drawn(1, 1.0), drawn(1, 1.0))
    # Five standard deviations of a count; the draws are the same each time.
    for temperature, expected in ((1.0, shares), (0.5, shares.square() / shares.square().sum())):
        off = (drawn(1, temperature) - 2000 * expected).abs()
        assert bool((off <= 5 * (2000 * expected * (1 - expected)).sqrt()).all())


def test_a_model_that_is_not_finite_writes_nothing():
    model = Counting()
    nn.init.constant_(model.scale, torch.nan)
    with pytest.raises(TaskError, match="not finite, and no text can be drawn"):
        write(model, texts=1, length=3, temperature=1.0, generator=torch.Generator())


@pytest.mark.parametrize(
    ("name", "model", "info", "problem"),
    [
        ("language", "bag", INFO, 'task.model = "bag" takes tokens of a text, .* models that fit it: "lstm", "causal"'),
        ("language", "lsmt", INFO, 'did you mean "lstm"'),
        ("text", None, INFO, 'a class as target, .* with a text as target; set task.name = "language"'),
        (
            "text",
            "lstm",
            DataInfo(features=Tokens(shape=(9,), vocabulary=5), target=ClassTarget(names=("a", "b"))),
            'task.model = "lstm" takes tokens of a text with data.target = "text"',
        ),
        (
            "language",
            None,
            DataInfo(features=Tokens(shape=(9,), vocabulary=5), target=ClassTarget(names=("a", "b"))),
            'set task.name = "text"',
        ),
        ("language", None, DataInfo(features=Text(shape=(8,)), target=TextTarget()), "task.encoder is not set; set it"),
        ("language", None, DataInfo(features=Encoded(shape=(8,)), target=TextTarget()), 'set it to "bytes"'),
        ("vision", None, DataInfo(features=Encoded(shape=(8,)), target=TextTarget()), 'set task.name = "language"'),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, model, info, problem):
    with pytest.raises(TaskError, match=problem):
        build_task(TaskConfig(name=name, model=model), info)
