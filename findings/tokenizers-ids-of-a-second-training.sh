#!/usr/bin/env bash
# Training a WordPiece or Unigram tokenizer twice on the same texts gives other numbers to the tokens.
#
# Expected: the same texts and settings give the same tokenizer, as with BPE, so that sites which train it by themselves
# can share a model, or a digest can tell whether they did.
# Seen: six trainings in one process give six numberings. WordPiece has other tokens too, Unigram the same ones in
# another order. There is no seed to set.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv "$folder/venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$folder/venv/bin/pip" install --quiet --no-compile tokenizers==0.23.3

"$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "sphinx of black quartz judge my vow",
] * 10
KINDS = {
    "BPE": (lambda: BPE(unk_token="[UNK]"), BpeTrainer, {}),
    "WordPiece": (lambda: WordPiece(unk_token="[UNK]"), WordPieceTrainer, {}),
    "Unigram": (Unigram, UnigramTrainer, {"unk_token": "[UNK]"}),
}


def trained(model, trainer, more):
    tokenizer = Tokenizer(model())
    tokenizer.pre_tokenizer = Whitespace()
    settings = {"vocab_size": 80, "special_tokens": ["[UNK]"], "show_progress": False, **more}
    tokenizer.train_from_iterator(TEXTS, trainer(**settings))
    return tokenizer


print("tokenizers", version("tokenizers"))
for name, kind in KINDS.items():
    found = [trained(*kind) for _ in range(6)]
    vocabularies = {tuple(sorted(each.get_vocab().items())) for each in found}
    tokens = {tuple(sorted(each.get_vocab())) for each in found}
    ids = {tuple(each.encode(TEXTS[0]).ids) for each in found}
    print(f"{name:9} trained 6 times: {len(tokens)} sets of tokens, {len(vocabularies)} numberings,", end=" ")
    print(f"{len(ids)} encodings of one text")
    if name == "BPE":
        assert len(tokens) == len(vocabularies) == len(ids) == 1
    else:
        assert len(vocabularies) > 1 and len(ids) > 1
END
