"""What a trained model's outputs depend on: attributions of central test records, and the columns of a table.

from fedtrain import load_run
from fedtrain.explanation import explain, render_explanation

explanation = explain(load_run("runs/first"), examples=4)
page = render_explanation(explanation)
"""

from fedtrain.explanation.explaining import MOST, explain
from fedtrain.explanation.found import Attribution, Example, Explanation, Importance, Piece
from fedtrain.explanation.page import render_explanation

__all__ = [
    "MOST",
    "Attribution",
    "Example",
    "Explanation",
    "Importance",
    "Piece",
    "explain",
    "render_explanation",
]
