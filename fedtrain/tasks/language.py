"""Language modelling: predict each token of a text from those before it, and write new texts.

A text has its tokens and, unless it fills all the room that there is, one end, which is the number 0. What stands
before its first token is 0 as well. So an empty text is a record too: its end is what is predicted of it.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.config.sections import TaskConfig
from fedtrain.data.types import DataInfo, Tokens
from fedtrain.errors import TaskError
from fedtrain.tasks.base import Batch, Metric, Metrics, Records
from fedtrain.tasks.intervals import mean
from fedtrain.tasks.supervised import Supervised, encode_tokens

_TOGETHER = 1 << 22  # logits in double precision at once


class Language(Supervised):
    """Predicts the tokens of texts. ``task.model``: ``lstm`` (the default) or ``causal``.

    A batch has ``inputs``, int64 (n, length), 0 and then all tokens but the last, and ``targets``, the tokens.
    The loss of a record is a mean over its own tokens, so that a long text counts as much as a short one, and record
    privacy clips one gradient for each.

    Raises:
        TaskError: the records are no texts, or the encoder makes no tokens of them.
    """

    kinds = ("tokens",)
    target = "text"

    def __init__(self, config: TaskConfig, info: DataInfo) -> None:
        if info.target.kind == self.target and info.kind in {"text", "encoded"}:
            makes = "is not set" if config.encoder is None else f'= "{config.encoder}" makes none of a text'
            raise TaskError(
                f'task.name = "{config.name}" predicts tokens, and task.encoder {makes}; set it to "bytes", or to the '
                "file of a tokenizer"
            )
        super().__init__(config, info)
        assert isinstance(info.features, Tokens)  # of this kind
        self._vocabulary = info.features.vocabulary

    @property
    def outputs(self) -> int:
        """A logit for each token, and for the end of the text."""
        return self._vocabulary

    @property
    def returned(self) -> tuple[int, ...]:
        """The logits of a record, at each place for each token."""
        return (*self.info.shape, self._vocabulary)

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:
        """Return what comes before each place as ``inputs``, and what stands there as ``targets``."""
        tokens = encode_tokens(records.features, generator)
        return {"inputs": functional.pad(tokens[:, :-1], (1, 0)), "targets": tokens}

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of each record in nats, the mean over its tokens and its end, shape (n,)."""
        counted, nats = counted_places(batch["targets"]), _nats(outputs, batch["targets"])
        return torch.where(counted, nats, 0).sum(1) / counted.sum(1)

    def metrics(self) -> Metrics:
        """Return fresh `LanguageMetrics`."""
        return LanguageMetrics(self._vocabulary)


def counted_places(tokens: Tensor) -> Tensor:
    """Return where a token or the end of the text stands, shape (n, length): one place or more of each record."""
    before = functional.pad(tokens[:, :-1] != 0, (1, 0), value=True)
    return before.to(torch.int64).cumprod(1) == 1


def _nats(outputs: Tensor, tokens: Tensor) -> Tensor:
    """Return the cross entropy at each place, shape (n, length)."""
    found = functional.cross_entropy(outputs.flatten(0, 1), tokens.flatten(), reduction="none")
    return found.reshape(tokens.shape)


class LanguageMetrics:
    """Accumulates the measurements of a model of a language over batches. Batches of any sizes give the same result.

    ``compute`` returns

    - ``perplexity``: e to the mean cross entropy over all tokens: the model is as unsure as of so many equally likely
      ones. Every token of every text counts as much, and so does the end of a text;
    - ``bits_per_token``: the same mean in bits. Of ``bytes`` a token is a byte, and of English text a letter;
    - ``token_accuracy``: the fraction of the tokens that had the largest logit;
    - ``loss``: the mean over the records of their losses in nats, which is what is trained: in it a short text counts
      as much as a long one, so that it is not the logarithm of the perplexity;
    - ``tokens``: how many tokens and ends were measured;
    - ``records``: how many records.

    Where it is not finite, a measurement is ``None``, because JSON has no such number.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._records = 0
        self._sums = torch.zeros(4, dtype=torch.float64)

    @property
    def described(self) -> tuple[Metric, ...]:
        """What is a single number, the perplexity first."""
        return (
            Metric(name="perplexity", direction="lower", format="number"),
            Metric(name="bits_per_token", direction="lower", format="number"),
            Metric(name="token_accuracy", direction="higher", format="percent"),
            Metric(name="loss", direction="lower", format="number"),
        )

    def baseline(self, tokens: Tensor) -> dict[str, float]:
        """Return what the frequencies of tokens reach as one answer for all places of texts, shape (n, length)."""
        found = tokens.to(torch.int64)
        shares = torch.bincount(found[counted_places(found)], minlength=self._vocabulary).to(torch.float64)
        shares /= shares.sum()
        nats = float(torch.special.entr(shares).sum())
        return {
            "perplexity": math.exp(nats),
            "bits_per_token": nats / math.log(2),
            "token_accuracy": float(shares.max()),
        }

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch of logits, (n, length, vocabulary), and its ``targets``, tokens (n, length), on any device."""
        for name, values in self.outcomes(outputs, batch).items():
            self._sums[_SUMS.index(name)] += values.sum()
        self._records += len(outputs)

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return of each record its loss, the sum of its cross entropies, its tokens, and how many it got right."""
        parts = []
        together = max(1, _TOGETHER // max(1, outputs[:1].numel()))
        for start in range(0, len(outputs), together):
            some = slice(start, start + together)
            logits, tokens = outputs[some].detach().to("cpu", torch.float64), batch["targets"][some].to("cpu")
            counted = counted_places(tokens)
            nats = torch.where(counted, _nats(logits, tokens), 0).sum(1)
            right = ((logits.argmax(2) == tokens) & counted).sum(1)
            numbers = counted.sum(1)
            parts.append(torch.stack([nats / numbers, nats, numbers, right]))
        return dict(zip(_SUMS, torch.cat(parts, dim=1) if parts else torch.zeros(4, 0), strict=True))

    def resampled(self, outcomes: Mapping[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Return the measurements on each resample of the records."""
        nats, numbers, right = (outcomes[name] @ counts for name in _SUMS[1:])
        return {
            "perplexity": (nats / numbers).exp(),
            "bits_per_token": nats / numbers / math.log(2),
            "token_accuracy": right / numbers,
            "loss": mean(outcomes["loss"], counts),
        }

    def compute(self) -> dict[str, object]:
        """Return the measurements; see the class.

        Raises:
            TaskError: no record was added.
        """
        if not self._records:
            raise TaskError("there is nothing to measure: no test record was evaluated; give test data with records.")
        loss, nats, numbers, right = self._sums.tolist()
        entropy = nats / numbers
        return {
            "perplexity": _finite(float(torch.tensor(entropy, dtype=torch.float64).exp())),
            "bits_per_token": _finite(entropy / math.log(2)),
            "token_accuracy": right / numbers,
            "loss": _finite(loss / self._records),
            "tokens": int(numbers),
            "records": self._records,
        }


_SUMS = ("loss", "nats", "tokens", "right")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write(
    model: nn.Module, *, texts: int, length: int, temperature: float, generator: torch.Generator
) -> list[list[int]]:
    """Return new texts, as tokens: each is drawn from what the model says of what was drawn before.

    Args:
        model: a model of this module, whose mode is left as it is.
        texts: how many.
        length: the most tokens of each; a text whose end is drawn is shorter.
        temperature: what logits are divided by: lower than 1 writes what is more likely.
        generator: of the draws, on the CPU.

    Raises:
        TaskError: the model does not return numbers that are finite.
    """
    device = next(model.parameters()).device
    written = torch.zeros(texts, 1, dtype=torch.int64)
    going = torch.ones(texts, 1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(length):
            logits = model(written.to(device))[:, -1].to("cpu", torch.float64) / temperature
            if not bool(logits.isfinite().all()):
                raise TaskError("the model returns numbers that are not finite, and no text can be drawn from them")
            drawn = torch.multinomial(logits.softmax(1), 1, generator=generator) * going
            written, going = torch.cat([written, drawn], dim=1), going * (drawn != 0)
    # Once the end of a text is drawn, nothing but zeros follows.
    return [[token for token in row if token] for row in written.tolist()]
