"""Fuzz a target with atheris: ``python -m tests.fuzz.fuzz FOLDER TARGET [option of libFuzzer ...]``.

What is learned is kept in FOLDER/TARGET, so that the next run goes on from there; what crashes is written there, too.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fedtrain"]):
    from tests.fuzz.targets import TARGETS, WORDS


def main(folder: str, name: str, *options: str) -> None:
    """Fuzz a target until it crashes or its time is over."""
    target, seeds = TARGETS[name]
    corpus = Path(folder) / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.parent / "words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    atheris.Setup(
        [sys.argv[0], f"-dict={words}", f"-artifact_prefix={corpus.parent}/", *options, str(corpus)],
        target,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
