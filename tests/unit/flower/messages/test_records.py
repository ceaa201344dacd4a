"""Arrays of a message are what Flower itself writes, byte for byte."""

import numpy as np
import pytest
from flwr.app import Array

from fedtrain.flower.messages.records import to_array, view

VALUES = {
    "single": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.linspace(0, 1, 5, dtype=np.float16),
    "whole": np.arange(-3, 3, dtype=np.int64),
    "booleans": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
    "swapped": np.arange(4, dtype=">f8"),
    "scalar": np.array(7.5),
    "empty": np.zeros((0, 3), np.float32),
    "every second": np.arange(10, dtype=np.uint8)[::2],
    "read-only": np.frombuffer(bytes(16), np.float32),
    "text": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_array_is_what_flower_writes(name):
    ours, theirs = to_array(VALUES[name]), Array(np.asarray(VALUES[name], order="C"))
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    assert ours.data == theirs.data
    np.testing.assert_array_equal(view(name, ours), VALUES[name])


def test_values_that_are_a_view_of_what_was_sent_are_not_written_anew():
    sent = to_array(np.arange(12, dtype=np.float32).reshape(3, 4))
    seen = view("w", sent)
    assert to_array(seen).data is sent.data
    assert to_array(seen.reshape(3, 4)[:]).data is sent.data
    for other in (seen[:2], seen[:, :2], seen.T, seen.reshape(4, 3), seen.view(np.int32), seen + 0):
        written = to_array(other)
        assert written.data is not sent.data
        assert written.data == Array(np.asarray(other, order="C")).data
    fortran = Array(np.asfortranarray(seen))
    assert to_array(view("w", fortran)).data == sent.data
    empty = to_array(np.zeros((0, 3), np.float32))
    assert to_array(view("w", empty)).data == empty.data
