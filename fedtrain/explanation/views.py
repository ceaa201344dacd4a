"""What a record is to the one who explains it: what values are given to, and how outputs come of it.

A record is followed back as far as a person can read it: an image to its pixels, through a frozen encoder where that
has gradients; a text to its tokens; a sound to its log-mel spectrogram, or to the features of its encoder.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedtrain.data.types import DataInfo
from fedtrain.encoders import Encoder
from fedtrain.encoders.minilm import MiniLM, WordPieces
from fedtrain.encoders.scattering import ScatteringEncoder
from fedtrain.encoders.tokens import Tokenizer, text_of
from fedtrain.errors import TaskError
from fedtrain.explanation.attribution import Scores, ablation, integrated_gradients, occlusion
from fedtrain.explanation.found import Attribution, Piece
from fedtrain.explanation.pieces import library_of, numbered, pieces_of, pieces_of_minilm
from fedtrain.tasks import Records, Task
from fedtrain.tasks.calls import collate, forward
from fedtrain.tasks.user_code import telling

_ABLATED = 512  # tokens of a record that are left out one by one


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A record with its attributions.

    Attributes:
        outputs: of the model, shape (outputs,); the largest one is explained, the class or label that it is surest of.
        baseline: the same of the baseline.
        attributions: of the largest output.
        pieces: of a text.
        inputs: what the model takes, shape (*shape).
    """

    outputs: Tensor
    baseline: Tensor
    attributions: tuple[Attribution, ...]
    pieces: tuple[Piece, ...]
    inputs: Tensor


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model with what stands before it.

    Attributes:
        task: its task.
        module: the model, in evaluation mode.
        encoder: what computes features of a record first; ``None`` without one.
        info: the schema of a record, as it is stored.
    """

    task: Task
    module: nn.Module
    encoder: Encoder | None
    info: DataInfo

    def features(self, record: Tensor) -> Tensor:
        """Return the features of a stored record, shape (1, *shape)."""
        return record[None] if self.encoder is None else torch.from_numpy(self.encoder.encode(record.numpy()))[None]

    def batch(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return what the task makes of one record, with a target of shape (1, ...).

        Raises:
            TaskError: it makes no ``inputs``.
        """
        with telling("collate of the task"):
            found = collate(self.task, Records(features=features, targets=target), None)
        if "inputs" not in found:
            raise TaskError(
                "collate of the task returns no 'inputs', and explanations are of what the model takes by that name; "
                f"it returns: {', '.join(found)}"
            )
        return found

    def scores(self, batch: dict[str, Tensor]) -> Scores:
        """Return what gives outputs of inputs, all else being as in a batch of one record."""

        def scored(inputs: Tensor) -> Tensor:
            count = len(inputs)
            others = {name: value.expand(count, *value.shape[1:]) for name, value in batch.items() if name != "inputs"}
            with telling("forward of the task"):
                outputs = forward(self.task, self.module, {"inputs": inputs, **others})
            return outputs.reshape(count, -1)

        return scored

    def encoded_scores(self, target: Tensor) -> Scores:
        """Return what gives outputs of stored records in floating point, through the encoder."""
        assert self.encoder is not None
        encode = self.encoder.module

        def scored(records: Tensor) -> Tensor:
            with telling("the encoder"):
                # One of one's own need not take several records.
                one_by_one = (
                    [records] if isinstance(encode, ScatteringEncoder) else [record[None] for record in records]
                )
                features = torch.cat([encode(some) for some in one_by_one]).to(torch.float32)
            targets = target.expand(len(records), *target.shape[1:])
            with telling("the task"):
                batch = collate(self.task, Records(features=features, targets=targets), None)
                return forward(self.task, self.module, batch).reshape(len(records), -1)

        return scored


def of_inputs(model: Model, record: Tensor, target: Tensor) -> Explained:
    """Explain a record by what the model takes: pixels, a spectrogram, or features.

    The baseline is what the task makes of a record of zeros, or features that are zero.
    """
    features = model.features(record)
    batch = model.batch(features, target)
    baseline = model.batch(torch.zeros_like(features), target)["inputs"]
    return _continuous(model.scores(batch), batch["inputs"], baseline)


def through_encoder(model: Model, record: Tensor, target: Tensor) -> Explained:
    """Explain a record by its own numbers, through its encoder. The baseline is a record of zeros."""
    inputs = record[None].to(torch.float32)
    return _continuous(model.encoded_scores(target), inputs, torch.zeros_like(inputs))


def _continuous(scores: Scores, inputs: Tensor, baseline: Tensor) -> Explained:
    shape = inputs.shape[1:]
    if not inputs.is_floating_point():
        raise TaskError("collate of the task returns inputs that are no floating-point numbers, and no tokens")
    dimensions = 3
    if len(shape) > dimensions or not shape:

        def reshaped(some: Tensor) -> Tensor:
            return scores(some.reshape(len(some), *shape))

        return _continuous(reshaped, inputs.reshape(1, -1), baseline.reshape(1, -1))
    with torch.no_grad():
        outputs, reference = scores(torch.cat([inputs, baseline]))
    chosen = int(outputs.argmax())
    found = [integrated_gradients(scores, inputs, baseline, chosen), occlusion(scores, inputs, baseline, chosen)]
    return Explained(
        outputs=outputs,
        baseline=reference,
        attributions=tuple(each for each in found if each is not None),
        pieces=(),
        inputs=inputs[0],
    )


def of_tokens(model: Model, record: Tensor, target: Tensor) -> Explained:
    """Explain a record by its tokens. The baseline has padding in the place of each.

    Gradients are those of the vectors that the embedding of the model gives them; a model that has none, or several,
    has the values of occlusion alone.
    """
    features = model.features(record)
    batch = model.batch(features, target)
    inputs, scores = batch["inputs"], model.scores(batch)
    tokens = features[0].tolist()
    count = max((place + 1 for place, token in enumerate(tokens) if token), default=0)
    pieces = numbered(tokens[:count])
    if model.encoder is not None and isinstance(model.encoder.module, Tokenizer):
        pieces = pieces_of(model.encoder.module, text_of(record), tokens[:count])
    padding = torch.zeros_like(inputs)
    if model.encoder is not None and isinstance(model.encoder.module, WordPieces):
        padding[:, 0] = inputs[:, 0]  # the token before every text stays
    with torch.no_grad():
        outputs, reference = scores(torch.cat([inputs, padding]))
    found: list[Attribution | None] = []
    chosen = int(outputs.argmax())
    embedding = _embedding(model.module, inputs)
    if count and embedding is not None:
        with torch.no_grad():
            vectors, none = embedding(inputs), embedding(padding)

        def by_vectors(some: Tensor) -> Tensor:
            with _giving(embedding, some):
                return scores(inputs.expand(len(some), *inputs.shape[1:]))

        found.append(_summed(integrated_gradients(by_vectors, vectors, none, chosen)))
    if 0 < count <= _ABLATED:
        found.append(ablation(scores, inputs, padding, chosen))
    return Explained(
        outputs=outputs,
        baseline=reference,
        attributions=_by_piece(found, pieces),
        pieces=pieces,
        inputs=inputs[0],
    )


def of_minilm(model: Model, record: Tensor, target: Tensor) -> Explained:
    """Explain a text by the tokens of MiniLM, through all of it. The baseline has padding after the first token."""
    assert model.encoder is not None
    module = model.encoder.module
    assert isinstance(module, MiniLM)
    padding = library_of(module.get_buffer("file"), "the tokenizer of MiniLM").get_vocab()["[PAD]"]
    numbers = torch.tensor([module.numbers(text_of(record))])
    reference = torch.full_like(numbers, padding)
    reference[0, 0] = numbers[0, 0]

    def by_vectors(some: Tensor) -> Tensor:
        # As MiniLM computes it of the vectors of words.
        hidden = module.norm(some + module.positions.weight[: some.shape[1]] + module.types.weight[0])
        for block in module.blocks:
            hidden = block(hidden)
        features = nn.functional.normalize(hidden.mean(1))
        targets = target.expand(len(some), *target.shape[1:])
        with telling("the task"):
            batch = collate(model.task, Records(features=features, targets=targets), None)
            return forward(model.task, model.module, batch).reshape(len(some), -1)

    def by_numbers(some: Tensor) -> Tensor:
        return by_vectors(module.words(some))

    with torch.no_grad():
        outputs, base = by_numbers(torch.cat([numbers, reference]))
        vectors, none = module.words(numbers), module.words(reference)
    chosen = int(outputs.argmax())
    found = [
        _summed(integrated_gradients(by_vectors, vectors, none, chosen)),
        ablation(by_numbers, numbers, reference, chosen),
    ]
    pieces = pieces_of_minilm(module, text_of(record), numbers.shape[1])
    return Explained(
        outputs=outputs, baseline=base, attributions=_by_piece(found, pieces), pieces=pieces, inputs=numbers[0]
    )


def _embedding(module: nn.Module, tokens: Tensor) -> nn.Embedding | None:
    """Return the embedding of a model's tokens; ``None`` if there is none, or several that could be it."""
    largest = int(tokens.max())
    found = [part for part in module.modules() if isinstance(part, nn.Embedding) and part.num_embeddings > largest]
    return found[0] if len(found) == 1 else None


def _giving(embedding: nn.Embedding, vectors: Tensor) -> AbstractContextManager[object]:
    """Let an embedding give these vectors, whatever the tokens; a copy, since the model may work in place."""
    return embedding.register_forward_hook(lambda *_: vectors.clone())


def _summed(found: Attribution | None) -> Attribution | None:
    """Return the values of tokens, of those of the numbers of their vectors."""
    if found is None:
        return None
    return Attribution(
        method=found.method,
        values=found.values.sum(axis=1),
        sum=found.sum,
        difference=found.difference,
        steps=found.steps,
    )


def _by_piece(found: list[Attribution | None], pieces: tuple[Piece, ...]) -> tuple[Attribution, ...]:
    """Return the values of the parts of a text, of those of its tokens."""
    return tuple(
        Attribution(
            method=each.method,
            values=np.array([each.values[list(piece.tokens)].sum() for piece in pieces]),
            sum=each.sum,
            difference=each.difference,
            steps=each.steps,
        )
        for each in found
        if each is not None
    )
