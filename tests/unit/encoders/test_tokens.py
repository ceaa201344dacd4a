import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, processors, trainers

from fedtrain.config.sections import TaskConfig
from fedtrain.data import ClassTarget, Columns, DataInfo, Split, Text, Tokens
from fedtrain.encoders import encoded, open_encoder
from fedtrain.encoders.tokens import WORDS, Bytes, HashedWords
from fedtrain.errors import TaskError

INFO = DataInfo(features=Text(shape=(64,)), target=ClassTarget(names=("a", "b")))
CORPUS = ["the cat sat", "the dog sat down", "a cat and a dog"]


def stored(*texts):
    features = np.zeros((len(texts), 64), np.uint8)
    for row, text in enumerate(texts):
        features[row, : len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
    return Split(features=features, targets=np.zeros(len(texts), np.int64))


def saved(path, *, unknown="[UNK]"):
    """Save a small tokenizer with padding, truncation and special tokens of its own."""
    library = Library(models.WordLevel(unk_token=unknown) if unknown else models.BPE())
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [token for token in ("[PAD]", unknown, "[CLS]") if token]
    kind = trainers.WordLevelTrainer if unknown else trainers.BpeTrainer
    library.train_from_iterator(CORPUS, kind(special_tokens=special, show_progress=False))
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", len(special) - 1)]
    )
    library.enable_padding(length=9)
    library.enable_truncation(2)
    library.save(str(path))
    return Library.from_file(str(path))


def of_file(path, **settings):
    return open_encoder(TaskConfig(encoder=str(path), encoder_origin="three sentences", **settings), INFO)


def tokens(encoder, *texts, tmp_path):
    found = encoded(stored(*texts), encoder, tmp_path).features
    assert found.dtype == np.int32
    assert found.shape == (len(texts), *encoder.info.shape)
    return [[int(token) for token in row if token] for row in found]


def test_words_are_hashed_in_public(tmp_path):
    encoder = open_encoder(TaskConfig(encoder="words", max_tokens=5), INFO)
    assert encoder.info.features == Tokens(shape=(5,), vocabulary=WORDS + 1)
    hello, comma, world = 13438, 7216, 4880
    found = tokens(encoder, "Hello, world", "\uff28ELLO ,", "", "a b c d e f g", tmp_path=tmp_path)
    assert found[:3] == [[hello, comma, world], [hello, comma], []]
    assert len(found[3]) == 5
    split = encoded(stored("a b c d e f g", "a"), encoder, tmp_path)
    assert split.cut_texts(encoder.info) == 1


@given(st.text(max_size=30))
def test_numbers_are_of_the_vocabulary(text):
    for tokenizer in (HashedWords(4), Bytes(4)):
        assert all(
            0 < number < tokenizer.vocabulary for number in tokenizer.numbers(text.encode(errors="ignore").decode())
        )


def test_bytes_are_numbers(tmp_path):
    encoder = open_encoder(TaskConfig(encoder="bytes", max_tokens=3), INFO)
    assert tokens(encoder, "aé", "", tmp_path=tmp_path) == [[98, 0xC3 + 1, 0xA9 + 1], []]


def test_a_file_gives_its_numbers_plus_one_without_its_padding_truncation_and_special_tokens(tmp_path):
    library = saved(tmp_path / "own.json")
    encoder = of_file(tmp_path / "own.json", max_tokens=4)
    cat, dog, sat = (library.token_to_id(word) + 1 for word in ("cat", "dog", "sat"))
    unknown = library.token_to_id("[UNK]") + 1
    assert encoder.origin == "three sentences"
    assert encoder.info.features.vocabulary == library.get_vocab_size() + 1
    assert tokens(encoder, "cat dog sat", "cat zebra", "", tmp_path=tmp_path) == [[cat, dog, sat], [cat, unknown], []]


def test_a_special_token_in_a_text_of_a_user_is_text(tmp_path):
    library = saved(tmp_path / "own.json")
    special = {library.token_to_id(token) + 1 for token in ("[PAD]", "[CLS]")}
    for found in tokens(of_file(tmp_path / "own.json"), "cat [PAD] dog", "[CLS]", tmp_path=tmp_path):
        assert len(found) >= 3
        assert not special & set(found)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}", "no file of a tokenizer"),
        (b"\xff\xfe", "no file of a tokenizer"),
        (None, "the tokenizer cannot be read: No such file"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, content, problem):
    file = tmp_path / "own.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TaskError, match=problem):
        of_file(file)


def test_a_tokenizer_that_drops_what_it_does_not_know_is_refused(tmp_path):
    saved(tmp_path / "own.json", unknown=None)
    with pytest.raises(TaskError, match="leaves out characters that it does not know"):
        of_file(tmp_path / "own.json")


def test_the_digest_is_of_the_file_and_of_the_tokens_that_are_kept(tmp_path):
    file = tmp_path / "own.json"
    saved(file)
    digest = of_file(file).digest
    assert of_file(file, encoder_digest=digest).digest == digest
    assert of_file(file, max_tokens=5).digest != digest
    file.write_text(file.read_text().replace('"dog"', '"cow"'))
    with pytest.raises(TaskError, match="another encoder than the experiment declares"):
        of_file(file, encoder_digest=digest)


def test_a_site_has_the_file_in_its_own_folder(tmp_path):
    saved(tmp_path / "own.json")
    config = TaskConfig(encoder="/nowhere/at/the/server/own.json", encoder_origin="three sentences")
    digest = of_file(tmp_path / "own.json").digest
    assert open_encoder(config, INFO, folder=tmp_path).digest == digest


def test_tokenizers_take_texts():
    table = DataInfo(features=Columns(shape=(3,)), target=INFO.target)
    with pytest.raises(TaskError, match="takes texts, and this data set is of kind table"):
        open_encoder(TaskConfig(encoder="words"), table)


def test_without_the_library_the_error_says_what_to_install(tmp_path, monkeypatch):
    saved(tmp_path / "own.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TaskError, match=r'pip install "fedtrain\[text\]"'):
        of_file(tmp_path / "own.json")


def test_a_tokenizer_of_ones_own_whose_numbers_are_too_large_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_tokens.py").write_text(
        "from fedtrain.encoders import Tokenizer\n"
        "class Own(Tokenizer):\n"
        "    def numbers(self, text):\n"
        "        return [len(text) + 9]\n"
        "def build(info):\n"
        "    return Own(4, 12)\n"
    )
    monkeypatch.syspath_prepend(Path(tmp_path))
    encoder = open_encoder(TaskConfig(encoder="own_tokens:build", encoder_origin="nothing"), INFO)
    assert encoder.info.features == Tokens(shape=(4,), vocabulary=12)
    assert tokens(encoder, "ab", tmp_path=tmp_path) == [[11]]
    with pytest.raises(TaskError, match="not from 0 to 11"):
        tokens(encoder, "abc", tmp_path=tmp_path)
    sys.modules.pop("own_tokens")


def test_a_text_of_tokens_is_written_where_they_say_it(tmp_path):
    text = "O! \u00e9\U0001f642"
    found = Bytes(64)
    assert found.written(found.numbers(text)) == text
    assert found.written(found.numbers(text)[:-1]) == "O! \u00e9\ufffd"
    assert found.written([]) == ""
    saved(tmp_path / "own.json")
    words = of_file(tmp_path / "own.json").module
    assert words.written(words.numbers("the cat [PAD]")) == "the cat [UNK] [UNK] [UNK]"
    assert HashedWords(5).written([1, 2]) is None
