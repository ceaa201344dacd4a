"""What the final model of a language writes, for people to read."""

import logging

import numpy as np
import torch

from fedtrain.encoders.tokens import Tokenizer
from fedtrain.errors import TaskError
from fedtrain.progress import working
from fedtrain.report import TextSample
from fedtrain.seeding import derive_seed
from fedtrain.serverapp.checkpoint import RunState
from fedtrain.serverapp.preparation import Preparation
from fedtrain.tasks import load_weights
from fedtrain.tasks.language import Language, write
from fedtrain.tasks.user_code import telling

TEXTS, TOKENS, TEMPERATURE = 5, 200, 0.8

_log = logging.getLogger(__name__)


def sample_of(preparation: Preparation, state: RunState) -> TextSample | None:
    """Return some texts that the last model writes; ``None`` where it writes none.

    They are made of the released weights and the seed of the run, which are public: no record is looked at. An error
    leaves them out, and is a warning: the run has spent what it spent.
    """
    task, encoder = preparation.task, preparation.encoder
    if not isinstance(task, Language) or encoder is None or not isinstance(encoder.module, Tokenizer):
        return None
    tokenizer, model = encoder.module, preparation.released_model
    weights = preparation.released(state.model)
    load_weights(model, {name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    model.eval()
    length = min(TOKENS, task.info.shape[0])
    generator = torch.Generator().manual_seed(derive_seed(preparation.experiment.seed, "sample"))
    try:
        # A task or a tokenizer of one's own may take no beginning of a text, or write none.
        with working("writing texts with the final model"), telling("writing texts with the final model"):
            drawn = write(model, texts=TEXTS, length=length, temperature=TEMPERATURE, generator=generator)
            written = [text for tokens in drawn if (text := tokenizer.written(tokens)) is not None]
            return TextSample(texts=tuple(written), tokens=length, temperature=TEMPERATURE) if written else None
    except TaskError as error:
        _log.warning("the report has no sample of text: %s", error)
        return None
