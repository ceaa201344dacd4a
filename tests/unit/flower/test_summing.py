"""An update is quantized in parts, and the sum moves the model in parts: what comes of it is what the whole gives."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord

from fedtrain.errors import TransportError
from fedtrain.flower import summing
from fedtrain.flower.messages.records import to_array
from fedtrain.flower.summing import Layout, to_vector
from fedtrain.secagg import Parameters

SIZE = 200_003
SMALL = 1 << 16  # of which a part has to be a multiple


def record(**values):
    return ArrayRecord({name: to_array(value) for name, value in values.items()})


def models():
    generator = np.random.default_rng(0)
    before = generator.normal(size=(SIZE, 1)).astype(np.float32)
    mask = np.array([-np.inf, 0.5, np.inf], np.float32)
    empty = np.zeros((0, 3), np.float32)
    change = generator.normal(scale=0.01, size=before.shape).astype(np.float32)
    count = np.array(3)
    return (
        record(weight=before, mask=mask, empty=empty, count=count),
        record(weight=before + change, mask=mask, empty=empty, count=count + 1),
    )


@pytest.mark.parametrize(
    "layout",
    [Layout(), Layout(norm=5.0), Layout(counters=("num-examples",), weight="num-examples", heaviest=100)],
    ids=["plain", "clipped", "weighted"],
)
def test_parts_give_the_words_of_the_whole(layout, monkeypatch):
    received, trained = models()
    parameters = Parameters.plan(
        members=5, length=layout.length(received), bits=20, bound=1.0, threshold=None, neighbours=None
    )

    def words(part):
        monkeypatch.setattr(summing, "_PART", part)
        return to_vector(
            layout,
            parameters,
            received=received,
            trained=trained,
            metrics=MetricRecord({"num-examples": 40.0}),
            random=np.random.default_rng(7),
        )

    whole = words(1 << 30)
    assert len(np.unique(whole)) > 1000
    np.testing.assert_array_equal(words(SMALL), whole)
    np.testing.assert_array_equal(words(summing._PART), whole)


@pytest.mark.parametrize("place", [0, SMALL, SIZE - 1])
def test_a_number_that_is_not_finite_is_found_in_every_part(place, monkeypatch):
    monkeypatch.setattr(summing, "_PART", SMALL)
    received, trained = models()
    broken = trained["weight"].numpy()
    broken[place] = np.nan
    trained["weight"] = to_array(broken)
    layout = Layout()
    parameters = Parameters.plan(
        members=5, length=layout.length(received), bits=20, bound=1.0, threshold=None, neighbours=None
    )
    with pytest.raises(TransportError, match="the trained array weight is not finite"):
        to_vector(
            layout,
            parameters,
            received=received,
            trained=trained,
            metrics=MetricRecord(),
            random=np.random.default_rng(7),
        )
