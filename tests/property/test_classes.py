"""Whatever the order of the names, a record keeps the name of its class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtrain.data.sources import Decoded
from fedtrain.data.store import with_classes
from fedtrain.data.types import ClassTarget, Columns, DataInfo, Split
from fedtrain.errors import DataError

NAMES = st.lists(st.text("abcdé ", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@st.composite
def records(draw):
    names = tuple(draw(NAMES))
    labels = st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=12)

    def split():
        drawn = np.array(draw(labels), dtype=np.int64)
        return Split(features=np.zeros((len(drawn), 1), np.float32), targets=drawn, owners=np.zeros_like(drawn))

    info = DataInfo(features=Columns(shape=(1,)), target=ClassTarget(names=names))
    return Decoded(info=info, train=split(), test=draw(st.sampled_from([None, split()])), categorical=("a",))


def called(split, names):
    return [names[label] for label in split.targets]


def occurring(decoded):
    splits = [split for split in (decoded.train, decoded.test) if split is not None]
    return {name for split in splits for name in called(split, decoded.info.classes)}


@given(decoded=records(), more=NAMES, data=st.data())
def test_every_record_keeps_the_name_of_its_class(decoded, more, data):
    names = tuple(data.draw(st.permutations(sorted({*more, *occurring(decoded)}))))
    renumbered = with_classes(decoded, names)
    assert renumbered.info.classes == names
    assert (renumbered.info.kind, renumbered.info.shape, renumbered.categorical) == ("table", (1,), ("a",))
    assert called(renumbered.train, names) == called(decoded.train, decoded.info.classes)
    assert renumbered.train.targets.dtype == np.int64
    assert renumbered.train.features is decoded.train.features
    assert renumbered.train.owners is decoded.train.owners
    assert (renumbered.test is None) == (decoded.test is None)
    if decoded.test is not None:
        assert called(renumbered.test, names) == called(decoded.test, decoded.info.classes)


@given(decoded=records(), more=NAMES)
def test_a_class_that_is_not_named_is_refused(decoded, more):
    left_out = min(occurring(decoded))
    with pytest.raises(DataError, match=r"not in data\.classes") as caught:
        with_classes(decoded, tuple(name for name in more if name != left_out))
    assert repr(left_out) in str(caught.value)


@given(decoded=records())
def test_without_names_nothing_changes(decoded):
    assert with_classes(decoded, None) is decoded


def test_of_many_strange_classes_some_are_named():
    names = tuple(f"c{number:02}" for number in range(15))
    everything = Split(features=np.zeros((15, 1), np.float32), targets=np.arange(15))
    decoded = Decoded(
        info=DataInfo(features=Columns(shape=(1,)), target=ClassTarget(names=names)), train=everything, test=None
    )
    with pytest.raises(DataError, match=r"data.classes = c00: 'c01', .*'c12' and 2 more$"):
        with_classes(decoded, ("c00",))
