#!/usr/bin/env bash
# A byte-pair tokenizer without an unknown token drops the characters that its training texts did not have.
#
# Expected: an error, or a token for what is unknown, as WordLevel has one or refuses; two texts that differ are not one.
# Seen: tokenizers leaves such characters out, and says nothing. A text of such characters has no tokens at all, and a
# word without its first letter is another word.
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
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer

tokenizer = Tokenizer(BPE())
tokenizer.pre_tokenizer = Whitespace()
tokenizer.train_from_iterator(["the cat sat on the mat"] * 20, BpeTrainer(vocab_size=60, show_progress=False))

print("tokenizers", version("tokenizers"))
found = {text: tokenizer.encode(text).tokens for text in ("the cat sat", "the çat sat", "the at sat", "5 + 7")}
for text, tokens in found.items():
    print(f"{text!r:14} {tokens}")
assert found["the çat sat"] == found["the at sat"] == ["the", "at", "sat"]
assert found["5 + 7"] == []
END
