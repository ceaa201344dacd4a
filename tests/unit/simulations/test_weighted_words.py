"""The features of words that experiments with texts learn from without a pretrained model."""

import pytest
import torch

from fedtrain.data import ClassTarget, DataInfo, Image, Text
from fedtrain.errors import TaskError

TARGET = ClassTarget(names=("a", "b"))
INFO = DataInfo(features=Text(shape=(64,)), target=TARGET)


@pytest.fixture(params=["build", "build_with_pairs"])
def features(script, request):
    """Give a function that returns the features of a text."""
    encoder = getattr(script("weighted_words"), request.param)(INFO)

    def of(text):
        stored = torch.tensor([[*text.encode(), 0, 0]], dtype=torch.uint8)
        return encoder(stored)[0]

    of.pairs = request.param == "build_with_pairs"
    return of


def test_a_text_has_norm_1_and_one_without_words_no_features(features):
    assert features("Stocks rise, again!").norm().item() == pytest.approx(1)
    for text in ("", " ", "?! -"):
        assert not features(text).any()


def test_words_are_found_whatever_their_case_signs_and_composition(features):
    assert torch.equal(features("Übung - macht"), features("u\u0308bung MACHT..."))


def test_a_long_word_has_more_weight_than_a_short_one(features):
    both, short, long = (features(text) for text in ("in investment", "in", "investment"))
    of_short, of_long = both[(short > 0) & (long == 0)], both[(long > 0) & (short == 0)]
    assert of_long.min().item() == pytest.approx(4 * of_short.max().item())  # 8 letters and more, and 2


def test_forms_of_a_word_have_their_beginning_in_common(features):
    assert features("investors") @ features("investment") == pytest.approx(0.5)
    assert features("inventors") @ features("investment") == pytest.approx(0)


def test_the_order_of_words_counts_where_there_are_pairs(features):
    assert torch.equal(features("market opens"), features("opens market")) != features.pairs


def test_words_after_the_first_64_are_not_read(features):
    assert torch.equal(features("market " * 64), features("market " * 64 + "opens"))


def test_what_is_no_text_is_refused(script):
    with pytest.raises(TaskError, match="takes texts"):
        script("weighted_words").build(DataInfo(features=Image(shape=(1, 8, 8)), target=TARGET))
