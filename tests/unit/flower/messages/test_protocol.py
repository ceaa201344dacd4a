import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedtrain.flower.messages.protocol import request_digest


def digest(arrays=None, **config):
    values = {"w": np.zeros(2, dtype=np.float32)} if arrays is None else arrays
    record = ArrayRecord({name: Array(value) for name, value in values.items()})
    return request_digest(record, ConfigRecord({"learning-rate": 0.1, **config}))


def test_only_the_very_same_request_has_the_same_digest():
    zeros = np.zeros(2, dtype=np.float32)
    others = [
        digest(**{"learning-rate": 0.2}),
        digest(extra=1),
        digest({"v": zeros}),
        digest({"w": zeros + 1}),
        digest({"w": zeros.astype(np.float64)}),
        digest({"w": zeros.reshape(2, 1)}),
        digest({"w": zeros, "v": zeros}),
    ]
    assert digest() == digest()
    assert len({digest(), *others}) == 8
