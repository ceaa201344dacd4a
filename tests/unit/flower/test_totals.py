"""What a sum says is made of its words a block after the other, and is what the whole gives, bit for bit."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import ArrayRecord

from fedtrain.flower import totals
from fedtrain.flower.messages.records import to_array, view
from fedtrain.flower.summing import Layout
from fedtrain.flower.totals import from_total
from fedtrain.privacy.clipping import moved
from fedtrain.secagg import Parameters, dequantize

BLOCK = totals._BLOCK
PLAIN, WEIGHTED = Layout(), Layout(counters=("num-examples",), weight="num-examples", heaviest=100)


def record(**values):
    return ArrayRecord({name: to_array(value) for name, value in values.items()})


def plan(layout, sent):
    return Parameters.plan(members=5, length=layout.length(sent), bits=20, bound=1.0)


def drawn(layout, sent):
    """Return words as of a sum of three clients, whose weights sum to 70 where they have some."""
    words = np.random.default_rng(1).integers(-(1 << 19), 1 << 19, layout.length(sent), dtype=np.int32)
    words[::7] = 0
    if layout.weight:
        words[-1] = 70
    return words.view(np.uint32)


@pytest.mark.parametrize("layout", [PLAIN, WEIGHTED], ids=["plain", "weighted"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", ">f4"])
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3])
def test_an_average_in_blocks_is_that_of_the_whole(size, dtype, layout):
    generator = np.random.default_rng(0)
    sent = record(
        before=generator.normal(size=5).astype(dtype),
        weight=generator.normal(size=(size, 1)).astype(dtype),
        turned=np.asfortranarray(generator.normal(size=(3, 4)).astype(dtype)),
        mask=np.array([-np.inf, 0.5, np.inf], dtype),
        one=np.array(0.25, dtype),
        count=np.array(3),
    )
    words = drawn(layout, sent)
    words[-4 - len(layout.counters) : -1 - len(layout.counters)] = 0  # what is not finite does not change
    total = from_total(layout, plan(layout, sent), words=words, clients=3, sent=sent)
    average = total.average(sent)

    values = dequantize(words, parameters=plan(layout, sent))
    if layout.weight:
        values *= 100
    assert total.weight == (70.0 if layout.weight else 3.0)
    start = 0
    for name in ("before", "weight", "turned", "mask", "one"):
        before = view(name, sent[name])
        whole = values[start : start + before.size].reshape(before.shape)
        np.testing.assert_array_equal(total.update[name], whole)
        expected = np.asarray(moved(before, whole / total.weight), dtype=before.dtype)
        assert average[name].data == to_array(expected).data
        assert average[name].dtype == sent[name].dtype
        start += before.size
    assert average["mask"].data == sent["mask"].data
    assert average["count"].data == sent["count"].data
    assert list(total.update) == ["before", "weight", "turned", "mask", "one"]
    assert len(total.update) == 5


def test_an_average_takes_no_second_model_in_memory():
    size = 64 * BLOCK
    sent = record(weight=np.ones(size, np.float32))
    words = drawn(PLAIN, sent)
    parameters = plan(PLAIN, sent)
    tracemalloc.start()
    try:
        average = from_total(PLAIN, parameters, words=words, clients=3, sent=sent).average(sent)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    model = len(average["weight"].data)
    assert model < peak < 1.25 * model  # the average itself; in double precision, the sum alone has two
