"""The local step at a client, plain and private."""

from fedtrain.training.plain import train_plain
from fedtrain.training.schedule import learning_rate
from fedtrain.training.steps import Records, RoundSettings

__all__ = ["Records", "RoundSettings", "learning_rate", "train_plain"]
