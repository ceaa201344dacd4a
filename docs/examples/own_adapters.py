"""A task of one's own: a network of transformers in a folder, of which adapters and a last layer are trained."""

import peft
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from fedtrain.data.types import DataInfo
from fedtrain.tasks import Batch, ClassificationMetrics, PublicWeights, Records, Task

NETWORK = "network"
ORIGIN = "network/ of example.org, fitted on public encyclopaedias"
DIGEST = "0000000000000000000000000000000000000000000000000000000000000000"


class Adapted(nn.Module):
    """The network with adapters at queries and values, and a linear layer on the mean over the tokens."""

    def __init__(self, classes: int) -> None:
        """Load the network from its folder, and nothing from anywhere else."""
        super().__init__()
        network = transformers.BertModel.from_pretrained(NETWORK, local_files_only=True, add_pooling_layer=False)
        self.network = peft.get_peft_model(network, peft.LoraConfig(r=4, target_modules=["query", "value"]))
        self.dense = nn.Linear(network.config.hidden_size, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to logits (n, classes)."""
        places = torch.arange(tokens.shape[1]).expand(tokens.shape)  # a row for each record
        there = ((tokens != 0) | (places == 0)).to(torch.int64)
        hidden = self.network(input_ids=tokens, attention_mask=there, position_ids=places).last_hidden_state
        weights = there.unsqueeze(2)
        return self.dense((hidden * weights).sum(1) / weights.sum(1))


class Notes(Task):
    """Puts short texts into classes."""

    def __init__(self, info: DataInfo) -> None:
        """Keep the public facts of the data set that the model is built from."""
        self.classes = len(info.classes)

    def model(self) -> nn.Module:
        """Build the model; peft has frozen all of it but the adapters."""
        return Adapted(self.classes)

    def public_weights(self, model: nn.Module) -> PublicWeights:
        """Say where the frozen weights come from; others are refused."""
        del model
        return PublicWeights(origin=ORIGIN, digest=DIGEST)

    def collate(self, records: Records, generator: torch.Generator | None) -> Batch:
        """Give the tokens of each text as the network numbers them: one less than here, where 0 is padding."""
        del generator
        return {"inputs": (records.features.to(torch.int64) - 1).clamp(min=0), "targets": records.targets}

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of each record."""
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self) -> ClassificationMetrics:
        """Use the measurements of the built-in tasks."""
        return ClassificationMetrics(self.classes)
