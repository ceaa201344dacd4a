"""Frozen modules that compute the features of records: what a model is then trained on.

An encoder is public. It was fitted on no private record, or epsilon would be false: no accounting covers what it knows
of the records that it was fitted on. So it has a declared origin, and a digest that identifies it.

>>> from fedtrain.config.sections import TaskConfig
>>> from fedtrain.data import ClassTarget, DataInfo, Image
>>> info = DataInfo(features=Image(shape=(3, 32, 32)), target=ClassTarget(names=("cat", "dog")))
>>> open_encoder(TaskConfig(encoder="scattering"), info).info.shape
(243, 8, 8)
"""

from fedtrain.encoders.base import Encoder, open_encoder
from fedtrain.encoders.features import encoded
from fedtrain.encoders.tokens import Tokenizer

__all__ = ["Encoder", "Tokenizer", "encoded", "open_encoder"]
