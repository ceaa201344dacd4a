"""The local step at a client, plain and private."""

from fedtrain.tasks import Records
from fedtrain.training.plain import PlainTrainer
from fedtrain.training.schedule import learning_rate
from fedtrain.training.steps import RoundSettings, Trainer, check_model

__all__ = ["PlainTrainer", "Records", "RoundSettings", "Trainer", "check_model", "learning_rate"]
