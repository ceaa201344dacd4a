"""Attributions of single records, held against what can be computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedtrain.config.sections import TaskConfig
from fedtrain.data.types import ClassTarget, DataInfo, Encoded, Image, Sound, Text, Tokens
from fedtrain.encoders import Encoder, minilm
from fedtrain.encoders.scattering import scattering_encoder
from fedtrain.encoders.tokens import Bytes, HashedWords
from fedtrain.errors import TaskError
from fedtrain.explanation import explaining
from fedtrain.explanation.attribution import integrated_gradients, occlusion, why_no_gradient
from fedtrain.explanation.pieces import pieces_of
from fedtrain.explanation.views import Model, of_inputs, of_minilm, of_tokens, through_encoder
from fedtrain.tasks import build_task
from tests.unit.encoders.test_minilm import tokenizer

CLASSES = ClassTarget(names=("a", "b", "c"))
TARGET = torch.zeros(1, dtype=torch.int64)


def made(module, info, encoder=None, task=None):
    """Return a model of a built-in task, with a network of the test's own in the place of its own."""
    encoded = info if encoder is None else encoder.info
    name = task or {"image": "vision", "text": "text", "tokens": "text", "audio": "speech"}.get(encoded.kind, "vision")
    built = build_task(TaskConfig(name=name), encoded)
    return Model(task=built, module=module.eval(), encoder=encoder, info=info)


def encoder_of(module, info, features):
    return Encoder(
        name="own",
        origin="",
        digest="",
        info=replace(info, features=features),
        module=module.eval().requires_grad_(requires_grad=False),
        device=torch.device("cpu"),
    )


def test_the_values_of_a_linear_model_are_its_weights_times_the_distance_from_the_baseline():
    info = DataInfo(features=Image(shape=(1, 8, 8)), target=CLASSES)
    torch.manual_seed(0)
    linear = nn.Linear(64, 3)
    record = torch.randint(256, (1, 8, 8), dtype=torch.uint8)
    found = of_inputs(made(nn.Sequential(nn.Flatten(), linear), info), record, TARGET)
    chosen = int(found.outputs.argmax())
    expected = (linear.weight[chosen] * (record.flatten() / 127.5)).detach().double().reshape(1, 8, 8).numpy()
    gradients, left_out = found.attributions
    assert gradients.values == pytest.approx(expected, abs=1e-5)
    assert left_out.values == pytest.approx(expected, abs=1e-5)  # its windows have one pixel
    assert gradients.complete
    assert gradients.difference == pytest.approx(expected.sum(), abs=1e-4)
    assert (gradients.steps, left_out.complete) == (50, None)


def test_a_sum_that_is_further_away_than_the_tolerance_is_said_to_be():
    step = lambda some: torch.sigmoid(400 * (some - 0.5133)) * 3 + some
    found = integrated_gradients(step, torch.ones(1, 1), torch.zeros(1, 1), 0)
    assert found.steps == 200
    assert found.complete == (abs(found.sum - 4) <= 0.04)
    kink = lambda some: (some > 0.5).to(some.dtype) * 3 + some  # whose jump no gradient sees
    missed = integrated_gradients(kink, torch.ones(1, 1), torch.zeros(1, 1), 0)
    assert missed.complete is False
    assert (missed.sum, missed.difference) == (pytest.approx(1, abs=1e-4), pytest.approx(4))


def test_models_that_work_in_place_are_explained_as_others_are():
    torch.manual_seed(1)
    linear, inputs = nn.Linear(6, 2), torch.randn(1, 6)
    outer = nn.Sequential(nn.ReLU(inplace=True), linear)
    same = nn.Sequential(nn.ReLU(), linear)
    found, expected = (integrated_gradients(each, inputs, torch.zeros(1, 6), 1) for each in (outer, same))
    assert found.values == pytest.approx(expected.values)
    assert found.complete
    info = DataInfo(features=Tokens(shape=(5,), vocabulary=9), target=CLASSES)
    embedding, head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 3)

    class Places(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.embedding, self.relu, self.head = embedding, nn.ReLU(inplace=inplace), head

        def forward(self, tokens):
            return self.head(self.relu(self.embedding(tokens)).sum(1))

    record = torch.tensor([3, 1, 4, 0, 0], dtype=torch.int32)
    values = [of_tokens(made(Places(each), info), record, TARGET).attributions[0].values for each in (True, False)]
    assert values[0] == pytest.approx(values[1])
    assert len(values[0]) == 3  # padding is no part of a text


def test_each_word_of_a_bag_adds_what_its_vector_does():
    info = DataInfo(features=Text(shape=(60,)), target=CLASSES)
    words = HashedWords(12)
    task = build_task(
        TaskConfig(name="text", model="bag"), replace(info, features=Tokens(shape=(12,), vocabulary=words.vocabulary))
    )
    torch.manual_seed(2)
    bag = task.model()
    model = Model(
        task=task,
        module=bag.eval(),
        encoder=encoder_of(words, info, Tokens(shape=(12,), vocabulary=words.vocabulary)),
        info=info,
    )
    text = "Rates rise, again!"
    found = of_tokens(model, stored(text, 60), TARGET)
    chosen = int(found.outputs.argmax())
    numbers = torch.tensor(words.numbers(text))
    expected = (bag.embedding(numbers) @ bag.dense.weight[chosen]).detach().numpy() / len(numbers)
    gradients, left_out = found.attributions
    assert [piece.text for piece in found.pieces] == [" rates", " rise", " ,", " again", " !"]
    assert gradients.values == pytest.approx(expected, abs=1e-6)
    assert gradients.complete
    without = [np.delete(expected * len(numbers), place).mean() for place in range(len(numbers))]
    assert left_out.values == pytest.approx(expected.sum() - np.array(without), abs=1e-5)


def test_a_text_without_tokens_and_a_model_of_two_embeddings_have_what_they_can():
    info = DataInfo(features=Tokens(shape=(4,), vocabulary=9), target=CLASSES)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Embedding(9, 3), nn.Embedding(9, 3)

        def forward(self, tokens):
            return (self.one(tokens) * self.other(tokens)).sum(1)

    record = torch.tensor([3, 1, 0, 0], dtype=torch.int32)
    assert [each.method for each in of_tokens(made(Two(), info), record, TARGET).attributions] == ["occlusion"]
    empty = of_tokens(made(build_task(TaskConfig(name="text"), info).model(), info), torch.zeros_like(record), TARGET)
    assert (empty.pieces, empty.attributions) == ((), ())


def stored(text, length):
    features = np.zeros(length, np.uint8)
    features[: len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
    return torch.from_numpy(features)


def test_a_text_is_followed_back_through_minilm_to_its_tokens(monkeypatch):
    monkeypatch.setattr(minilm, "_WORDS", 40)
    info = DataInfo(features=Text(shape=(60,)), target=CLASSES)
    torch.manual_seed(0)
    network = minilm.MiniLM(tokenizer().to_str().encode())
    encoder = encoder_of(network, info, Encoded(shape=(384,)))
    torch.manual_seed(3)
    model = made(nn.Linear(384, 3), info, encoder)
    record = stored("a b, c", 60)
    found = of_minilm(model, record, TARGET)
    with torch.no_grad():
        features = torch.from_numpy(encoder.encode(record.numpy()))
        assert found.outputs.numpy() == pytest.approx(model.module(features).numpy(), abs=1e-5)
    assert [piece.text for piece in found.pieces] == ["[CLS]", "a", " b", ",", " c", " [SEP]"]
    gradients, left_out = found.attributions
    assert gradients.complete
    # The baseline keeps the first token, so that nothing is given to it.
    assert (gradients.values[0], left_out.values[0]) == (0, pytest.approx(0, abs=1e-6))
    assert np.abs(gradients.values[1:]).max() > 0


def test_an_image_is_followed_back_through_scattering_to_its_pixels():
    info = DataInfo(features=Image(shape=(1, 8, 8)), target=CLASSES)
    module = scattering_encoder(info)
    encoder = encoder_of(module, info, Encoded(shape=(81, 2, 2)))
    torch.manual_seed(4)
    model = made(nn.Sequential(nn.Flatten(), nn.Linear(324, 3)), info, encoder)
    record = torch.randint(1, 256, (1, 8, 8), dtype=torch.uint8)
    found = through_encoder(model, record, TARGET)
    assert found.outputs.detach().numpy() == pytest.approx(
        model.module(torch.from_numpy(encoder.encode(record.numpy()))[None])[0].detach().numpy(), abs=1e-5
    )
    assert found.attributions[0].values.shape == (1, 8, 8)
    assert found.attributions[0].complete
    view = explaining._encoded_view(model, encoder, record, TARGET)
    assert view.explained is through_encoder


class Rounded(nn.Module):
    def forward(self, images):
        return (images.to(torch.float32) / 64).round().flatten(1)


class OfIntegers(nn.Module):
    def forward(self, images):
        return (images.to(torch.float32) / (255 if images.dtype == torch.uint8 else 1)).flatten(1)


class Failing(nn.Module):
    def forward(self, images):
        if images.dtype != torch.uint8:
            raise ValueError("pixels only")
        return images.to(torch.float32).flatten(1)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Rounded(), "no output changes with it"),
        (OfIntegers(), "it computes something else of pixels that are floating-point numbers"),
        (Failing(), "pixels only"),
    ],
)
def test_the_features_of_an_encoder_without_gradients_are_explained_and_it_is_said_why(module, why):
    info = DataInfo(features=Image(shape=(1, 4, 4)), target=CLASSES)
    encoder = encoder_of(module, info, Encoded(shape=(16,)))
    torch.manual_seed(5)
    model = made(nn.Linear(16, 3), info, encoder)
    record = torch.randint(256, (1, 4, 4), dtype=torch.uint8)
    view = explaining._encoded_view(model, encoder, record, TARGET)
    assert view.explained is of_inputs
    assert why in view.note
    found = view.explained(model, record, TARGET)
    assert found.attributions[0].values.shape == (16,)
    assert found.attributions[0].complete


def test_a_sound_is_explained_by_its_spectrogram_against_silence():
    info = DataInfo(features=Sound(shape=(800,), rate=8000), target=CLASSES)
    task = build_task(TaskConfig(name="speech", model="linear"), info)
    torch.manual_seed(6)
    model = Model(task=task, module=task.model().eval(), encoder=None, info=info)
    record = torch.sin(torch.arange(800) * 0.3)
    found = of_inputs(model, record, TARGET)
    assert found.attributions[0].values.shape == found.inputs.shape == (1, 40, 8)
    assert found.attributions[0].complete
    silent = of_inputs(model, torch.zeros(800), TARGET)
    assert silent.attributions[0].values == pytest.approx(np.zeros((1, 40, 8)))


def test_a_window_of_occlusion_has_an_eighth_of_each_side_and_all_channels():
    seen = []

    def scores(images):
        seen.extend(images)
        return images.flatten(1).sum(1, keepdim=True)

    found = occlusion(scores, torch.ones(1, 3, 16, 24), torch.zeros(1, 3, 16, 24), 0)
    hidden = {int((image == 0).sum()) for image in seen}
    assert hidden == {0, 3 * 2 * 3}
    assert found.values == pytest.approx(np.full((3, 16, 24), 18.0))
    assert len(seen) < 500


def test_a_gradient_that_is_not_finite_is_named():
    assert why_no_gradient(lambda some: some.sqrt(), torch.zeros(1, 3), 0) == "its gradient is not finite"
    assert integrated_gradients(lambda some: (some - 1).sqrt(), torch.zeros(1, 3), torch.zeros(1, 3), 0) is None


def test_a_batch_without_inputs_is_refused():
    info = DataInfo(features=Image(shape=(1, 4, 4)), target=CLASSES)
    model = made(nn.Linear(16, 3), info)
    own = type("Own", (), {"collate": lambda _, records, __: {"pixels": records.features}})()
    with pytest.raises(TaskError, match=r"returns no 'inputs'.*it returns: pixels"):
        replace(model, task=own).batch(torch.zeros(1, 1, 4, 4), TARGET)


@pytest.mark.parametrize("text", ["plain", "größer €5 🙂", ""])
def test_bytes_are_put_together_to_characters(text):
    tokens = Bytes(64).numbers(text)
    found = pieces_of(Bytes(64), text, tokens)
    assert "".join(piece.text for piece in found) == text
    assert [place for piece in found for place in piece.tokens] == list(range(len(tokens)))
    cut = pieces_of(Bytes(64), text, tokens[:3])
    assert sum(len(piece.tokens) for piece in cut) == len(tokens[:3])


def test_tokens_of_a_model_with_adapters_are_read_with_those_around_the_text():
    words = minilm.WordPieces(5, tokenizer().to_str().encode())
    cases = {
        "a b": ["[CLS]", "a", " b", " [SEP]"],
        "": ["[CLS]", " [SEP]"],
        "a b c a": ["[CLS]", "a", " b", " c", " [SEP]"],
    }
    for text, read in cases.items():
        tokens = words.numbers(text)
        found = pieces_of(words, text, tokens)
        assert [piece.text for piece in found] == read
        assert [piece.tokens for piece in found] == [(place,) for place in range(len(tokens))]
