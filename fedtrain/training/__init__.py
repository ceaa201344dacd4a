"""The local step at a client, plain and private."""

from fedtrain.tasks import Records
from fedtrain.training.steps import PlainTrainer, RoundSettings, Trainer, check_model, learning_rate, refused_alone

__all__ = ["PlainTrainer", "Records", "RoundSettings", "Trainer", "check_model", "learning_rate", "refused_alone"]
