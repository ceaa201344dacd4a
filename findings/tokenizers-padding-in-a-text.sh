#!/usr/bin/env bash
# A text that has the words "[PAD]" in it has the tokenizer's own padding in its middle.
#
# Expected: what a person wrote is text; the padding that batches get has a number that no text leads to.
# Seen: special tokens are looked for in texts, so that the third token of a record is the padding. The tokenizer's
# attention mask says that it is a word, and a model that takes its mask from the numbers, as many do, stops or skips
# there. Whoever writes a record can do so. encode_special_tokens = True keeps them words; it is off.
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

TEXT = "how to [PAD] a mat"
tokenizer = Tokenizer(BPE())
tokenizer.pre_tokenizer = Whitespace()
trainer = BpeTrainer(vocab_size=200, special_tokens=["[PAD]"], show_progress=False)
tokenizer.train_from_iterator([TEXT] * 20, trainer)
padding = tokenizer.token_to_id("[PAD]")
tokenizer.enable_padding(pad_id=padding, pad_token="[PAD]", length=8)

print("tokenizers", version("tokenizers"), "- number of the padding:", padding)
as_it_is = tokenizer.encode(TEXT)
print("as it is:              ", as_it_is.tokens, as_it_is.ids, as_it_is.attention_mask)
tokenizer.encode_special_tokens = True
as_words = tokenizer.encode(TEXT)
print("encode_special_tokens: ", as_words.tokens)
assert as_it_is.ids[2] == padding and as_it_is.attention_mask[2] == 1
assert padding not in as_words.ids[:5]
END
